//! Buckets with several owners, and owners that copy before they lead: deaths, moves, and
//! members that go and come back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use rota_core::pool::Handoff;
use rota_protocol::http::{HistoryBody, MemberBody, PoolBody, PoolChange, PoolKind, RowBody};
use rota_tests::{Call, Cluster, ExecWorker, LIVENESS, Pool, Settings, eventually};
use rota_worker::monotonic_ns;

const BUCKETS: usize = 12;
/// Beyond its session's timeout, how long a dead worker's bucket may be idle.
const TAKEOVER: Duration = Duration::from_millis(300);
/// How long a bucket may be idle that passes between living workers.
const HANDOFF: Duration = Duration::from_millis(300);
/// Work that lasts until it is told to stop.
const LAST: &str = "exec sleep 1000000";

async fn cluster_and_pool(settings: PoolChange, timeout: Duration) -> (Cluster, Pool) {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let buckets = Some(u32::try_from(BUCKETS).unwrap());
    let settings = PoolChange { buckets, ..settings };
    let pool = Pool::create(&cluster, "data", PoolKind::Hashed, settings, timeout).await;
    (cluster, pool)
}

/// A worker that writes down what it copies, and from whom, in a file; it takes a while.
fn start(pool: &Pool, name: &str, copies: &Path) -> ExecWorker {
    let prepare =
        format!("sleep 0.3; echo $ROTA_MEMBER $ROTA_BUCKET from $ROTA_PRIMARY >> {}", copies.display());
    pool.start_worker_with(name, LAST, &["--address", &format!("{name}:1"), "--prepare", &prepare])
}

/// Lines `MEMBER BUCKET from ADDRESS`.
fn copied(copies: &Path) -> Vec<String> {
    std::fs::read_to_string(copies).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn members(row: &RowBody) -> Vec<&str> {
    row.owners.iter().map(|owner| owner.member.as_str()).collect()
}

/// Waits until every bucket has so many owners, all distinct, and nobody prepares any more.
async fn every_bucket_has(pool: &Pool, replicas: usize) -> Vec<RowBody> {
    eventually(&format!("every bucket has {replicas} owners"), LIVENESS, async || {
        let rows = pool.table().await?.rows;
        ensure!(rows.len() == BUCKETS);
        for row in &rows {
            let distinct: BTreeSet<&str> = members(row).into_iter().collect();
            ensure!(distinct.len() == replicas && row.owners.len() == replicas, "{row:?}");
            ensure!(row.preparing.is_empty() && !row.degraded, "{row:?}");
        }
        Ok(rows)
    })
    .await
}

fn copies_in(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("copies")
}

/// A pool in which every bucket has two of three workers as its owners.
struct Replicated {
    cluster: Cluster,
    pool: Pool,
    workers: [ExecWorker; 3],
    rows: Vec<RowBody>,
}

async fn replicated() -> Replicated {
    let settings = PoolChange { replicas: Some(2), handoff: Some(Handoff::Warm), ..PoolChange::default() };
    let (cluster, pool) = cluster_and_pool(settings, Duration::from_millis(1_500)).await;
    let workers = ["w1", "w2", "w3"].map(|name| start(&pool, name, &copies_in(&cluster)));
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let rows = every_bucket_has(&pool, 2).await;
    Replicated { cluster, pool, workers, rows }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_primarys_backup_leads_at_once_and_then_the_missing_one_is_copied() {
    let Replicated { cluster, pool, workers: [mut w1, _w2, _w3], rows: before } = replicated().await;
    let (led, held): (Vec<&RowBody>, Vec<&RowBody>) = {
        let held: Vec<&RowBody> = before.iter().filter(|row| members(row).contains(&"w1")).collect();
        (held.iter().copied().filter(|row| members(row)[0] == "w1").collect(), held)
    };
    assert_eq!((led.len(), held.len()), (4, 8), "{before:?}");
    let copies = copies_in(&cluster);
    let copied_before = copied(&copies).len();

    let killed_ns = w1.kill9();
    pool.is_shared_by(&["w2", "w3"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    // Whoever was a backup leads, and did not copy for it: it took no longer than the timeout.
    let idle = histories.idle_since(killed_ns);
    let longest = idle.iter().filter(|idle| idle.between.0 == "w1").map(|idle| idle.lasted).max().unwrap();
    println!("primary killed: at most {} ms until its backups led (timeout 1500 ms)", longest.as_millis());
    assert!(longest <= pool.timeout() + TAKEOVER, "{longest:?}");
    let after = every_bucket_has(&pool, 2).await;
    for row in &led {
        let now = after.iter().find(|other| other.bucket == row.bucket).unwrap();
        assert!(members(now).contains(&members(row)[1]), "{row:?} {now:?}");
    }
    // What w1 had is copied by others, once each, from whoever leads it.
    let copied = copied(&copies).split_off(copied_before);
    let buckets: BTreeSet<&str> = copied.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    let wanted: BTreeSet<&str> = held.iter().map(|row| row.bucket.as_str()).collect();
    assert_eq!((buckets, copied.len()), (wanted, held.len()), "{copied:?}");
    assert!(
        copied.iter().all(|line| line.ends_with("from w2:1") || line.ends_with("from w3:1")),
        "{copied:?}"
    );

    let history = pool.path(&format!("buckets/{}/history", led[0].bucket));
    let told: HistoryBody = cluster.ask(2, Call::get(&history)).await.ok().unwrap();
    let reasons: Vec<String> = told.events.iter().map(|event| format!("{:?}", event.reason)).collect();
    assert!(reasons.contains(&"Died".to_owned()), "{told:?}");
    let ran = cluster.operate(&["why", "data", &led[0].bucket]).await;
    assert!(ran.out.contains("died"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primarys_backups_lead_and_it_does_no_harm_when_it_wakes() {
    let Replicated { cluster: _cluster, pool, workers: [mut w1, _w2, _w3], rows: before } =
        replicated().await;
    let led: Vec<&RowBody> = before.iter().filter(|row| members(row)[0] == "w1").collect();

    let frozen_ns = w1.pause();
    pool.has_shares(&[("w2", BUCKETS / 2), ("w3", BUCKETS / 2)], &["w1"]).await;
    let after = every_bucket_has(&pool, 2).await;
    for row in &led {
        let now = after.iter().find(|other| other.bucket == row.bucket).unwrap();
        assert!(members(now).contains(&members(row)[1]) && now.fence > row.fence, "{row:?} {now:?}");
    }
    assert_eq!(pool.histories().of_member_at("w1", frozen_ns).len(), led.len());

    w1.resume();
    assert_eq!(w1.process().ended(LIVENESS).await.code(), Some(1), "{}", w1.process().said());
    let histories = pool.histories();
    histories.check();
    let longest = histories.zombies().iter().max().expect("it had work when it was frozen");
    println!("primary frozen: it noticed its lease's end {} ms after it woke", longest.as_millis());
    assert!(*longest < Duration::from_secs(1), "{longest:?}");
    // It has said nothing that changed a row.
    let rows = pool.table().await.unwrap().rows;
    assert!(rows.iter().zip(&after).all(|(now, then)| now.fence == then.fence), "{rows:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_move_is_copied_first_and_leaves_no_gap() {
    let settings = PoolChange { handoff: Some(Handoff::Warm), ..PoolChange::default() };
    let (cluster, pool) = cluster_and_pool(settings, Duration::from_secs(5)).await;
    let copies = copies_in(&cluster);
    let [mut w1, _w2] = ["w1", "w2"].map(|name| start(&pool, name, &copies));
    pool.is_shared_by(&["w1", "w2"], BUCKETS).await;
    let _w3 = start(&pool, "w3", &copies);
    let joined_ns = monotonic_ns();
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    every_bucket_has(&pool, 1).await;
    let told_ns = monotonic_ns();
    w1.process().term();
    let status = w1.process().ended(LIVENESS).await;
    assert!(status.success(), "{status}: {}", w1.process().said());
    pool.is_shared_by(&["w2", "w3"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    for (since_ns, what) in [(joined_ns, "a member joined"), (told_ns, "a member left")] {
        let longest = histories.idle_since(since_ns).first().map_or(Duration::ZERO, |idle| idle.lasted);
        println!("warm, {what}: no bucket idle longer than {} ms, copying took 300", longest.as_millis());
        assert!(longest <= HANDOFF, "{what}: {longest:?}");
    }
    // All that w3 got from w1 and w2, and what the two got from w1, was copied once.
    let copied = copied(&copies);
    assert!(copied.iter().filter(|line| line.starts_with("w3 ")).count() >= 4, "{copied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_member_that_restarts_wait_for_it() {
    let settings = PoolChange { rejoin_grace_ms: Some(60_000), ..PoolChange::default() };
    let (cluster, pool) = cluster_and_pool(settings, Duration::from_secs(5)).await;
    let [mut w1, _w2, _w3] = ["w1", "w2", "w3"].map(|name| pool.start_worker(name, LAST));
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let before = pool.table().await.unwrap();
    let restarted_ns = monotonic_ns();
    w1.process().term();
    assert!(w1.process().ended(LIVENESS).await.success());
    // The next leader knows of it.
    let leader = cluster.all_follow_one_leader().await;
    eventually("the tree keeps that w1 is away", LIVENESS, async || {
        let ran = cluster.operate(&["node", "ls", "/rota/pools/data/away"]).await;
        ensure!(ran.out.contains("w1"), "{} {}", ran.out, ran.err);
        Ok(())
    })
    .await;
    let seen: PoolBody = cluster.ask(leader, Call::get("/v1/pools/data")).await.ok().unwrap();
    let away: Vec<&str> = seen.away.keys().map(String::as_str).collect();
    assert_eq!((away, seen.vacant as usize, seen.members), (vec!["w1"], BUCKETS / 3, 2));
    let mut cluster = cluster;
    cluster.kill9(leader);
    let _w1 = pool.start_worker("w1", LAST);
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let after = pool.table().await.unwrap();
    let owners = |rows: &[RowBody]| rows.iter().map(|row| members(row).join(",")).collect::<Vec<_>>();
    assert_eq!(owners(&before.rows), owners(&after.rows), "nobody else has had them");
    let histories = pool.histories();
    histories.check();
    let idle = histories.idle_since(restarted_ns);
    assert!(idle.iter().all(|idle| idle.between == ("w1".to_owned(), "w1".to_owned())), "{idle:?}");
    assert_eq!(idle.len(), BUCKETS / 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_stays_until_others_have_copied() {
    let settings = PoolChange { handoff: Some(Handoff::Warm), ..PoolChange::default() };
    let (_cluster, pool) = cluster_and_pool(settings, Duration::from_secs(5)).await;
    let slowly = |name: &str| pool.start_worker_with(name, LAST, &["--prepare", "sleep 3"]);
    let [mut w1, _w2] = ["w1", "w2"].map(slowly);
    pool.is_shared_by(&["w1", "w2"], BUCKETS).await;
    let told_ns = monotonic_ns();
    w1.process().term();
    assert!(w1.process().ended(LIVENESS).await.success(), "{}", w1.process().said());
    let took = Duration::from_nanos(monotonic_ns() - told_ns);
    assert!(took >= Duration::from_secs(3), "it did not wait for the copies: {took:?}");
    pool.is_shared_by(&["w2"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    let longest = histories.idle_since(told_ns).first().map_or(Duration::ZERO, |idle| idle.lasted);
    assert!(longest <= HANDOFF, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_successor_dies_while_it_stops_works_on() {
    let settings = PoolChange { handoff: Some(Handoff::Warm), ..PoolChange::default() };
    let (_cluster, pool) = cluster_and_pool(settings, Duration::from_millis(1_500)).await;
    // It takes longer to stop than it takes to see that the other is dead.
    let linger = "trap 'sleep 4; exit 0' TERM; while :; do sleep 0.05; done";
    let _w1 = pool.start_worker_with("w1", linger, &["--grace", "20s"]);
    pool.is_shared_by(&["w1"], BUCKETS).await;
    let before = pool.table().await.unwrap();
    let mut w2 = pool.start_worker("w2", LAST);
    eventually("w1 is asked to let go", LIVENESS, async || {
        let rows = pool.table().await?.rows;
        let ready = rows.iter().filter(|row| members(row) == ["w1", "w2"]).count();
        ensure!(ready == BUCKETS / 2, "{rows:?}");
        Ok(())
    })
    .await;
    w2.kill9();
    eventually("w1 has all, by the same grants, and works on all", LIVENESS, async || {
        let rows = pool.table().await?.rows;
        ensure!(rows.iter().all(|row| members(row) == ["w1"]), "{rows:?}");
        let shares = pool.histories().shares(&[]);
        ensure!(shares.get("w1") == Some(&BUCKETS), "{shares:?}");
        // Those that it was asked for have stopped once, and begun again.
        let stints = pool.histories().stints().filter(|stint| stint.ended_ns.is_some()).count();
        ensure!(stints == BUCKETS / 2, "{stints} have stopped");
        Ok(())
    })
    .await;
    let fences = |rows: &[RowBody]| rows.iter().map(|row| row.fence).collect::<Vec<_>>();
    assert_eq!(fences(&pool.table().await.unwrap().rows), fences(&before.rows));
    pool.histories().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_leave_together_take_turns_and_each_is_copied() {
    let settings =
        PoolChange { handoff: Some(Handoff::Warm), max_unavailable: Some(Some(1)), ..PoolChange::default() };
    let (cluster, pool) = cluster_and_pool(settings, Duration::from_secs(5)).await;
    let copies = copies_in(&cluster);
    let [mut w1, mut w2, _w3] = ["w1", "w2", "w3"].map(|name| start(&pool, name, &copies));
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let copied_before = copied(&copies).len();
    let told_ns = monotonic_ns();
    w1.process().term();
    w2.process().term();
    assert!(w1.process().ended(LIVENESS).await.success(), "{}", w1.process().said());
    assert!(w2.process().ended(LIVENESS).await.success(), "{}", w2.process().said());
    pool.is_shared_by(&["w3"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    let longest = histories.idle_since(told_ns).iter().map(|idle| idle.lasted).max();
    assert!(longest.unwrap_or_default() <= HANDOFF, "{longest:?}");
    let copied = copied(&copies).split_off(copied_before);
    for line in ["from w1:1", "from w2:1"] {
        let count = copied.iter().filter(|copy| copy.starts_with("w3") && copy.ends_with(line)).count();
        assert_eq!(count, BUCKETS / 3, "{copied:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_prepare_is_shown_with_the_reason() {
    let settings = PoolChange { handoff: Some(Handoff::Warm), ..PoolChange::default() };
    let (cluster, pool) = cluster_and_pool(settings, Duration::from_secs(3)).await;
    let _w1 = pool.start_worker("w1", LAST);
    pool.is_shared_by(&["w1"], BUCKETS).await;
    let _w2 = pool.start_worker_with("w2", LAST, &["--prepare", "exit 7"]);
    eventually("w2 says why it is not ready", LIVENESS, async || {
        let w2: MemberBody = cluster.send(1, Call::get(&pool.path("members/w2"))).await?.ok()?;
        let failed = w2.progress.values().filter(|text| text.starts_with("failed: ")).count();
        ensure!(failed == BUCKETS / 2 && w2.progress.values().all(|text| text.contains('7')), "{w2:?}");
        Ok(())
    })
    .await;
    assert_eq!(pool.histories().shares(&[]).get("w1"), Some(&BUCKETS));
}
