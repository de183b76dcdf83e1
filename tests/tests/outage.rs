//! All coordinators are stopped for a minute: the workers of a pool that says `stop` stop when
//! their leases end; those of one that says `continue` go on as if nothing had happened.

use std::time::Duration;

use anyhow::ensure;
use rota_core::pool::OnLeaseExpiry;
use rota_protocol::http::{PoolChange, PoolKind};
use rota_tests::{Cluster, LIVENESS, Pool, eventually};
use rota_worker::monotonic_ns;

const BUCKETS: usize = 6;
const TIMEOUT: Duration = Duration::from_secs(3);
const OUTAGE: Duration = Duration::from_secs(60);

async fn pool(cluster: &Cluster, name: &str, on_lease_expiry: OnLeaseExpiry) -> Pool {
    let buckets = Some(u32::try_from(BUCKETS).unwrap());
    let settings = PoolChange { buckets, on_lease_expiry: Some(on_lease_expiry), ..PoolChange::default() };
    Pool::create(cluster, name, PoolKind::Hashed, settings, TIMEOUT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_stop_or_go_on_as_their_pool_says() {
    let mut cluster = Cluster::start(3).await;
    let stops = pool(&cluster, "stops", OnLeaseExpiry::Stop).await;
    let goes_on = pool(&cluster, "goes-on", OnLeaseExpiry::KeepRunning).await;
    let _stopping = ["s1", "s2"].map(|name| stops.start_worker(name, "exec sleep 1000000"));
    let _going = ["g1", "g2"].map(|name| goes_on.start_worker(name, "exec sleep 1000000"));
    stops.is_shared_by(&["s1", "s2"], BUCKETS).await;
    goes_on.is_shared_by(&["g1", "g2"], BUCKETS).await;

    let killed_ns = cluster.ids().into_iter().map(|id| cluster.kill9(id)).max().unwrap();
    eventually("those who are to stop have stopped", TIMEOUT + LIVENESS, async || {
        let shares = stops.histories().shares(&[]);
        ensure!(shares.is_empty(), "{shares:?}");
        Ok(())
    })
    .await;
    // The others go on for as long as it lasts: nothing happens that could be waited for.
    eventually("the outage is over", OUTAGE + LIVENESS, async || {
        let lasted = Duration::from_nanos(monotonic_ns() - killed_ns);
        let working: usize = goes_on.histories().shares(&[]).values().sum();
        assert_eq!(working, BUCKETS, "after {lasted:?}");
        ensure!(lasted >= OUTAGE, "{lasted:?}");
        Ok(())
    })
    .await;

    cluster.ids().into_iter().for_each(|id| cluster.restart(id));
    cluster.all_follow_one_leader().await;
    stops.is_shared_by(&["s1", "s2"], BUCKETS).await;
    goes_on.is_shared_by(&["g1", "g2"], BUCKETS).await;
    let (stops, goes_on) = (stops.histories(), goes_on.histories());
    stops.check();
    goes_on.check();
    // Whoever went on still does what it did, by the same grants.
    assert_eq!(goes_on.idle_since(killed_ns), []);
    let longest = stops.idle_since(killed_ns)[0].lasted;
    println!("coordinators away for {} s: stopped for {} s", OUTAGE.as_secs(), longest.as_secs());
    assert!(longest > OUTAGE / 2, "{longest:?}");
}
