//! The time of day jumps, ahead and back, and nothing waits longer or shorter for it: neither
//! nodes with a time to live nor the buckets of members that have gone. What is shown is right
//! again as soon as the clock is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rota_protocol::http::{NodeBody, NodeCreate, PoolChange, PoolKind};
use rota_tests::{Call, Cluster, LIVENESS, Pool, Settings, eventually};

/// Sleeps for as long as it may.
const LINGER: &str = "exec sleep 1000";
const HOUR_MS: i64 = 3_600_000;

/// A cluster whose servers' times of day can be set, and that reaps often.
async fn cluster(count: u64) -> Cluster {
    let flags = ["--reap-period-ms", "100"].map(str::to_owned).to_vec();
    Cluster::start_with(count, Settings { flags, time_of_day: true, ..Settings::default() }).await
}

/// Makes a node, and returns how far its `ctime` is off the time of day.
async fn create(cluster: &Cluster, path: &str, ttl_ms: Option<u64>) -> i64 {
    let call = Call::post(path, &NodeCreate { ttl_ms, ..NodeCreate::default() });
    let leader = cluster.leader().await;
    let _made: serde_json::Value = cluster.ask(leader, call).await.ok().unwrap();
    let node: NodeBody = cluster.ask(leader, Call::get(path)).await.ok().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    node.stat.ctime_ms.cast_signed() - i64::try_from(now).unwrap()
}

async fn is_reaped(cluster: &Cluster, path: &str) {
    eventually("the node is reaped", LIVENESS, async || {
        let answer = cluster.send(1, Call::get(path)).await?;
        anyhow::ensure!(answer.status == 404, "it is there: {}", answer.text());
        Ok(())
    })
    .await;
}

/// How far a time may be off that was read a moment ago.
const A_MOMENT_MS: i64 = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_ends_whatever_the_leaders_clock_shows() {
    let cluster = cluster(3).await;
    let leader = cluster.leader().await;
    assert!(create(&cluster, "/v1/nodes/before", Some(60_000)).await.abs() < A_MOMENT_MS);
    cluster.set_time_of_day(leader, "+1h");
    let off = create(&cluster, "/v1/nodes/ahead", Some(1_000)).await;
    assert!((off - HOUR_MS).abs() < A_MOMENT_MS, "the leader stamps its own time of day: {off} ms");
    // It is the leader that reaps: its hour ahead ends no life of a minute.
    is_reaped(&cluster, "/v1/nodes/ahead").await;
    cluster.set_time_of_day(leader, "+0");
    let off = create(&cluster, "/v1/nodes/right", Some(1_000)).await;
    assert!(off.abs() < A_MOMENT_MS, "it is right again as soon as the clock is: {off} ms");
    is_reaped(&cluster, "/v1/nodes/right").await;
    cluster.set_time_of_day(leader, "-1h");
    let off = create(&cluster, "/v1/nodes/behind", Some(1_000)).await;
    assert!((off + HOUR_MS).abs() < A_MOMENT_MS, "{off} ms");
    is_reaped(&cluster, "/v1/nodes/behind").await;
    let _lives: NodeBody = cluster.ask(1, Call::get("/v1/nodes/before")).await.ok().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_ends_when_the_clock_jumped_and_the_leader_with_it() {
    let mut cluster = cluster(3).await;
    let leader = cluster.leader().await;
    let settings = PoolChange { buckets: Some(8), grace_ms: Some(2_000), ..PoolChange::default() };
    let pool = Pool::create(&cluster, "grace", PoolKind::Hashed, settings, Duration::from_secs(2)).await;
    let mut a = pool.start_worker("a", LINGER);
    let mut b = pool.start_worker("b", LINGER);
    pool.is_shared_by(&["a", "b"], 8).await;
    // A month ahead for one write, which every server then knows.
    cluster.set_time_of_day(leader, "+30d");
    create(&cluster, "/v1/nodes/ahead", None).await;
    cluster.set_time_of_day(leader, "+0");
    a.kill9();
    pool.is_shared_by(&["b"], 8).await;
    // Nor does the next leader wait for a month, whose own clock is an hour behind.
    let _c = pool.start_worker("c", LINGER);
    pool.is_shared_by(&["b", "c"], 8).await;
    for id in cluster.ids() {
        cluster.set_time_of_day(id, if id == leader { "+30d" } else { "-1h" });
    }
    create(&cluster, "/v1/nodes/ahead-again", None).await;
    b.kill9();
    cluster.kill9(leader);
    pool.is_shared_by(&["c"], 8).await;
}
