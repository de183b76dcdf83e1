//! Buckets pass between living workers: one that stops, one that is drained, one
//! that joins; also when the leader dies in the middle of it.

use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::{MemberBody, PlanBody};
use rota_tests::{Call, Cluster, Idle, LIVENESS, Pool, Rng, Settings, eventually};
use rota_worker::monotonic_ns;

const BUCKETS: usize = 24;
/// How long a bucket may be idle that passes between living workers.
const HANDOFF: Duration = Duration::from_millis(300);
/// Work that ends at once when it is told to.
const LAST: &str = "exec sleep 1000000";
/// Work that takes a while to end.
const LINGER: &str = "trap 'sleep 0.2; exit 0' TERM; while :; do sleep 0.02; done";

async fn cluster_and_pool() -> (Cluster, Pool) {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let pool = Pool::hashed(&cluster, "work", u32::try_from(BUCKETS).unwrap(), Duration::from_secs(5)).await;
    (cluster, pool)
}

/// The idle times since then, of which none may be longer than a handoff's.
fn check_idle(pool: &Pool, since_ns: u64, what: &str, from: &str) -> Vec<Idle> {
    let histories = pool.histories();
    histories.check();
    let idle = histories.idle_since(since_ns);
    let longest = idle.first().map_or(Duration::ZERO, |idle| idle.lasted);
    println!("{what}: {} buckets passed on, none idle longer than {} ms", idle.len(), longest.as_millis());
    assert!(longest <= HANDOFF, "{what}: {:?}", idle[0]);
    assert!(idle.iter().all(|idle| idle.between.0 == from), "only {from}'s buckets pass on: {idle:?}");
    idle
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_hands_over_first() {
    let (_cluster, pool) = cluster_and_pool().await;
    let [mut w1, _w2, _w3] = ["w1", "w2", "w3"].map(|name| pool.start_worker(name, LAST));
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let told_ns = monotonic_ns();
    w1.process().term();
    let status = w1.process().ended(LIVENESS).await;
    println!("worker told to stop: it took {} ms to end", (monotonic_ns() - told_ns) / 1_000_000);
    assert!(status.success(), "{status}: {}", w1.process().said());
    pool.is_shared_by(&["w2", "w3"], BUCKETS).await;
    assert_eq!(check_idle(&pool, told_ns, "worker told to stop", "w1").len(), BUCKETS / 3);
    let members = pool.members().await.unwrap();
    assert!(members.iter().all(|member| member.name != "w1"), "it left: {members:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_worker_is_emptied_and_can_be_taken_back() {
    let (cluster, pool) = cluster_and_pool().await;
    let _workers = ["w1", "w2", "w3"].map(|name| pool.start_worker(name, LAST));
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let drained_ns = monotonic_ns();
    let drain = pool.path("members/w2/drain");
    let member: MemberBody = cluster.ask(2, Call::post(&drain, &())).await.ok().unwrap();
    assert!(member.member.draining);
    pool.is_shared_by(&["w1", "w3"], BUCKETS).await;
    assert_eq!(check_idle(&pool, drained_ns, "worker drained", "w2").len(), BUCKETS / 3);
    let w2 = pool.members().await.unwrap().into_iter().find(|member| member.name == "w2").unwrap();
    assert_eq!((w2.buckets, w2.member.draining), (0, true), "it is still a member");

    let back_ns = monotonic_ns();
    let member: MemberBody = cluster.ask(3, Call::delete(&drain)).await.ok().unwrap();
    assert!(!member.member.draining);
    pool.is_shared_by(&["w1", "w2", "w3"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    let idle = histories.idle_since(back_ns);
    println!("worker taken back: none idle longer than {} ms", idle[0].lasted.as_millis());
    assert_eq!(idle.len(), BUCKETS / 3, "no more moves than it takes");
    assert!(idle[0].lasted <= HANDOFF, "{:?}", idle[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_during_a_handoff() {
    let mut chance = Rng::seeded("handoff");
    let (mut cluster, pool) = cluster_and_pool().await;
    let mut workers = vec![pool.start_worker("w0", LINGER), pool.start_worker("w1", LINGER)];
    pool.is_shared_by(&["w0", "w1"], BUCKETS).await;
    let mut members = vec!["w0".to_owned(), "w1".to_owned()];
    for round in 2..6 {
        let leader = cluster.all_follow_one_leader().await;
        let joined = format!("w{round}");
        if round % 2 == 0 {
            workers.push(pool.start_worker(&joined, LINGER));
            members.push(joined);
        } else {
            workers[0].process().term();
            members.remove(0);
        }
        let plan = async || -> anyhow::Result<PlanBody> {
            cluster.send(leader, Call::get(&pool.path("plan"))).await?.ok()
        };
        let moves = eventually("a handoff is under way", LIVENESS, async || {
            let plan = plan().await?;
            ensure!(!plan.pending.is_empty(), "{plan:?}");
            Ok(plan.pending.len())
        })
        .await;
        // At whichever of its moves.
        let left = usize::try_from(chance.below(moves as u64 + 1)).unwrap();
        eventually("so many of the moves are left", LIVENESS, async || {
            let pending = plan().await?.pending.len();
            ensure!(pending <= left, "{pending} of {left}");
            Ok(())
        })
        .await;
        cluster.kill9(leader);
        let names: Vec<&str> = members.iter().map(String::as_str).collect();
        pool.is_shared_by(&names, BUCKETS).await;
        if round % 2 == 1 {
            assert!(workers[0].process().ended(LIVENESS).await.success());
            drop(workers.remove(0));
        }
        cluster.restart(leader);
        let histories = pool.histories();
        histories.check();
        let plan: PlanBody = cluster
            .ask(cluster.leader().await, Call::get(&pool.path("plan?consistent=true")))
            .await
            .ok()
            .unwrap();
        assert!(plan.pending.is_empty(), "everything that was planned is done: {plan:?}");
    }
    let longest = &pool.histories().idle_since(0)[0];
    println!("leader killed during handoffs: no bucket idle longer than {} ms", longest.lasted.as_millis());
    assert!(longest.lasted < Duration::from_secs(10), "{longest:?}");
}
