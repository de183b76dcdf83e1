//! Workers die, stop and freeze, and so do the coordinators: no bucket ever has
//! two owners, and none is idle for longer than it must.

use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::CheckpointBody;
use rota_tests::{Call, Cluster, ExecWorker, LIVENESS, Pool, Settings, eventually};
use rota_worker::monotonic_ns;

const BUCKETS: usize = 24;
/// Beyond its session's timeout, how long a dead worker's bucket may be idle.
const TAKEOVER: Duration = Duration::from_millis(300);
/// How late a worker may notice on a busy machine that its lease is over.
const SLOWNESS: Duration = Duration::from_millis(250);
/// Work that lasts until it is told to stop.
const LAST: &str = "exec sleep 1000000";

async fn cluster_and_pool(timeout: Duration) -> (Cluster, Pool) {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let pool = Pool::hashed(&cluster, "work", u32::try_from(BUCKETS).unwrap(), timeout).await;
    (cluster, pool)
}

async fn three_workers(pool: &Pool, command: &str) -> [ExecWorker; 3] {
    let workers = ["w1", "w2", "w3"].map(|name| pool.start_worker(name, command));
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    workers
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// Those of the processes that live, one number on each line.
fn alive(pids: &str) -> Vec<String> {
    let lives = |pid: &&str| std::path::Path::new("/proc").join(pid).exists();
    pids.lines().filter(lives).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_buckets_run_elsewhere_within_its_timeout() {
    let (cluster, pool) = cluster_and_pool(Duration::from_millis(1_500)).await;
    let pids = cluster.dir().join("pids-of-w1");
    // The work is done by what the command has started, as in most scripts.
    let command = format!("sh -c '[ $ROTA_MEMBER = w1 ] && echo $$ >> {}; {LAST}'; true", pids.display());
    let [mut w1, _w2, _w3] = three_workers(&pool, &command).await;
    // Those of buckets that it owned while it was the first alone have ended.
    let commands = eventually("every command of w1 runs", LIVENESS, async || {
        let commands = alive(&std::fs::read_to_string(&pids)?);
        ensure!(commands.len() == BUCKETS / 3, "{commands:?} run");
        Ok(commands)
    })
    .await;

    let killed_ns = w1.kill9();
    pool.is_shared_by(&["w2", "w3"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    let orphans = histories.of_member_at("w1", killed_ns);
    assert_eq!(orphans.len(), BUCKETS / 3);
    let idle = histories.idle_since(killed_ns);
    assert_eq!(idle.len(), BUCKETS / 3, "only the dead worker's buckets moved");
    let longest = &idle[0];
    println!(
        "worker killed: {} to {} ms until its buckets ran elsewhere (timeout {} ms)",
        idle.last().unwrap().lasted.as_millis(),
        longest.lasted.as_millis(),
        pool.timeout().as_millis()
    );
    assert!(longest.lasted <= pool.timeout() + TAKEOVER, "{longest:?}");

    // Its commands died with it: nobody works on without a lease.
    eventually("the dead worker's commands are gone", LIVENESS, async || {
        let alive = alive(&commands.join("\n"));
        ensure!(alive.is_empty(), "{alive:?} run");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_loses_its_buckets_and_does_no_harm_when_it_wakes() {
    let (cluster, pool) = cluster_and_pool(Duration::from_millis(1_500)).await;
    // The commands go on while their worker is frozen, and try to put down where
    // they are: their fence.
    let command = "while :; do echo checkpoint $ROTA_FENCE; sleep 0.2; done";
    let [mut w1, _w2, _w3] = three_workers(&pool, command).await;
    let frozen_ns = w1.pause();
    pool.has_shares(&[("w2", BUCKETS / 2), ("w3", BUCKETS / 2)], &["w1"]).await;
    // Whoever took over has put something down.
    let moved: Vec<String> =
        pool.histories().of_member_at("w1", frozen_ns).iter().map(|stint| stint.bucket.clone()).collect();
    assert_eq!(moved.len(), BUCKETS / 3);
    let mut newest = Vec::new();
    for bucket in &moved {
        let path = pool.path(&format!("checkpoints/{bucket}"));
        let old = pool
            .histories()
            .of_member_at("w1", frozen_ns)
            .iter()
            .find(|s| s.bucket == *bucket)
            .unwrap()
            .fence;
        let fence = eventually("the new owner puts down where it is", LIVENESS, async || {
            let checkpoint: CheckpointBody = cluster.send(1, Call::get(&path)).await?.ok()?;
            let fence: u64 = checkpoint.data.parse()?;
            ensure!(fence > old, "{fence} is the old owner's");
            Ok(fence)
        })
        .await;
        newest.push((path, fence));
    }

    w1.resume();
    // It learns that its session is over, and ends with an error.
    let mut looks = 0;
    while w1.process().runs() {
        for (path, fence) in &newest {
            let checkpoint: CheckpointBody = cluster.ask(1, Call::get(path)).await.ok().unwrap();
            assert_eq!(checkpoint.data, fence.to_string(), "a zombie's checkpoint was taken");
        }
        looks += 1;
        assert!(looks < 1_000, "the frozen worker goes on");
    }
    assert_eq!(w1.process().ended(LIVENESS).await.code(), Some(1), "{}", w1.process().said());
    assert!(w1.process().said().contains("session has ended"), "{}", w1.process().said());
    let histories = pool.histories();
    histories.check();
    let longest = histories.zombies().iter().max().expect("it had work when it was frozen");
    println!("worker frozen: it noticed its lease's end {} ms after it woke", longest.as_millis());
    assert!(*longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_stop_by_their_own_clock_when_all_coordinators_are_dead() {
    let timeout = Duration::from_secs(2);
    let (mut cluster, pool) = cluster_and_pool(timeout).await;
    let _workers = three_workers(&pool, LAST).await;
    let before = pool.table().await.unwrap();
    let killed_ns = monotonic_ns();
    for id in [1, 2, 3] {
        cluster.kill9(id);
    }
    eventually("everybody stops", LIVENESS, async || {
        let left = pool.histories().shares(&[]);
        ensure!(left.is_empty(), "{left:?} are at work");
        Ok(())
    })
    .await;
    let histories = pool.histories();
    histories.check();
    let ends: Vec<u64> = histories.stints().filter_map(|s| s.ended_ns).filter(|at| *at > killed_ns).collect();
    assert_eq!(ends.len(), BUCKETS);
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    println!(
        "all coordinators killed: work stopped {} to {} ms later (timeout {} ms)",
        (first - killed_ns) / 1_000_000,
        (last - killed_ns) / 1_000_000,
        timeout.as_millis()
    );
    assert!(last <= killed_ns + ns(timeout + SLOWNESS), "after {} ms", (last - killed_ns) / 1_000_000);
    assert!(first > killed_ns + ns(timeout / 2), "a worker goes on while its lease lasts");

    for id in [1, 2, 3] {
        cluster.restart(id);
    }
    let restarted_ns = monotonic_ns();
    cluster.all_follow_one_leader().await;
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    println!("work resumed {} ms after the restart", (monotonic_ns() - restarted_ns) / 1_000_000);
    pool.histories().check();
    let after = pool.table().await.unwrap();
    assert_eq!(after.rows, before.rows, "they have what they had: nothing was moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_pool_is_deleted_says_so() {
    let (cluster, pool) = cluster_and_pool(Duration::from_secs(3)).await;
    let mut worker = pool.start_worker("w1", LAST);
    pool.is_shared_by(&["w1"], BUCKETS).await;
    let deleted = cluster.ask(1, Call::delete("/v1/pools/work")).await;
    assert!(deleted.status.is_success(), "{}", deleted.text());
    assert_eq!(worker.process().ended(LIVENESS).await.code(), Some(1));
    assert!(worker.process().said().contains("no member any more"), "{}", worker.process().said());
    let gone = async || cluster.send(1, Call::get("/v1/pools/work?consistent=true")).await;
    eventually("the pool is gone", LIVENESS, async || {
        ensure!(gone().await?.status == 404, "it is there");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaders_death_alone_stops_nobody() {
    let (mut cluster, pool) = cluster_and_pool(Duration::from_secs(3)).await;
    let _workers = three_workers(&pool, LAST).await;
    let before = monotonic_ns();
    for _ in 0..3 {
        let leader = cluster.all_follow_one_leader().await;
        cluster.kill9(leader);
        cluster.leader_after(leader).await;
        cluster.restart(leader);
    }
    cluster.all_follow_one_leader().await;
    // Longer than any lease that was held when the first leader died.
    cluster.outlasts(pool.timeout()).await;
    let histories = pool.histories();
    histories.check();
    let ended: Vec<_> = histories.stints().filter(|s| s.ended_ns.is_some_and(|at| at > before)).collect();
    assert!(ended.is_empty(), "these were stopped for nothing: {ended:?}");
}
