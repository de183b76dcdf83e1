//! Wall clock jumps, ahead and back, delay and trigger no timeout: neither TTLs nor grace periods.
//! Timestamps are right again as soon as the clock is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rota_protocol::http::{NodeBody, NodeCreate, PoolChange, PoolKind};
use rota_tests::{Call, Cluster, LIVENESS, Pool, Settings, eventually};

const SLEEP: &str = "exec sleep 1000";
const HOUR_MS: i64 = 3_600_000;

/// A cluster whose servers' wall clocks can be set, and that reaps often.
async fn cluster(count: u64) -> Cluster {
    let flags = ["--reap-period-ms", "100"].map(str::to_owned).to_vec();
    Cluster::start_with(count, Settings { flags, fake_wall_clock: true, ..Settings::default() }).await
}

/// Makes a node, and returns how far its `ctime` is off the wall clock.
async fn create(cluster: &Cluster, path: &str, ttl_ms: Option<u64>) -> i64 {
    let call = Call::post(path, &NodeCreate { ttl_ms, ..NodeCreate::default() });
    let leader = cluster.leader().await;
    let _made: serde_json::Value = cluster.ask(leader, call).await.ok().unwrap();
    let node: NodeBody = cluster.ask(leader, Call::get(path)).await.ok().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    node.stat.ctime_ms.cast_signed() - i64::try_from(now).unwrap()
}

async fn assert_reaped(cluster: &Cluster, path: &str) {
    eventually("the node is reaped", LIVENESS, async || {
        let answer = cluster.send(1, Call::get(path)).await?;
        anyhow::ensure!(answer.status == 404, "it is there: {}", answer.text());
        Ok(())
    })
    .await;
}

/// Tolerance of timestamps, for slow machines.
const TOLERANCE_MS: i64 = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn ttl_expires_despite_wall_clock_jumps() {
    let cluster = cluster(3).await;
    let leader = cluster.leader().await;
    assert!(create(&cluster, "/v1/nodes/before", Some(60_000)).await.abs() < TOLERANCE_MS);
    cluster.set_wall_clock_offset(leader, "+1h");
    let off = create(&cluster, "/v1/nodes/ahead", Some(1_000)).await;
    assert!((off - HOUR_MS).abs() < TOLERANCE_MS, "the leader stamps its own wall clock: {off} ms");
    // It is the leader that reaps: its hour ahead ends no life of a minute.
    assert_reaped(&cluster, "/v1/nodes/ahead").await;
    cluster.set_wall_clock_offset(leader, "+0");
    let off = create(&cluster, "/v1/nodes/right", Some(1_000)).await;
    assert!(off.abs() < TOLERANCE_MS, "it is right again as soon as the clock is: {off} ms");
    assert_reaped(&cluster, "/v1/nodes/right").await;
    cluster.set_wall_clock_offset(leader, "-1h");
    let off = create(&cluster, "/v1/nodes/behind", Some(1_000)).await;
    assert!((off + HOUR_MS).abs() < TOLERANCE_MS, "{off} ms");
    assert_reaped(&cluster, "/v1/nodes/behind").await;
    let _lives: NodeBody = cluster.ask(1, Call::get("/v1/nodes/before")).await.ok().unwrap();
}

/// A server that restarts knows the cluster clock from the last stamp.
#[tokio::test(flavor = "multi_thread")]
async fn idle_cluster_stamps_its_clock_while_a_ttl_runs() {
    let cluster = cluster(1).await;
    create(&cluster, "/v1/nodes/lives", Some(3_600_000)).await;
    let zxid = async || anyhow::Ok(cluster.view(1).await?.zxid);
    let before = zxid().await.unwrap();
    eventually("the clock is stamped", LIVENESS * 3, async || {
        let now = zxid().await?;
        anyhow::ensure!(now > before, "nothing was written since {before}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_ends_after_a_wall_clock_jump_and_a_leader_change() {
    let mut cluster = cluster(3).await;
    let leader = cluster.leader().await;
    let settings = PoolChange { buckets: Some(8), rejoin_grace_ms: Some(2_000), ..PoolChange::default() };
    let pool = Pool::create(&cluster, "grace", PoolKind::Hashed, settings, Duration::from_secs(2)).await;
    let mut a = pool.start_worker("a", SLEEP);
    let mut b = pool.start_worker("b", SLEEP);
    pool.is_shared_by(&["a", "b"], 8).await;
    // A month ahead for one write, which every server then knows.
    cluster.set_wall_clock_offset(leader, "+30d");
    create(&cluster, "/v1/nodes/ahead", None).await;
    cluster.set_wall_clock_offset(leader, "+0");
    a.kill9();
    pool.is_shared_by(&["b"], 8).await;
    // Nor does the next leader wait for a month, whose own clock is an hour behind.
    let _c = pool.start_worker("c", SLEEP);
    pool.is_shared_by(&["b", "c"], 8).await;
    for id in cluster.ids() {
        cluster.set_wall_clock_offset(id, if id == leader { "+30d" } else { "-1h" });
    }
    create(&cluster, "/v1/nodes/ahead-again", None).await;
    b.kill9();
    cluster.kill9(leader);
    pool.is_shared_by(&["c"], 8).await;
}
