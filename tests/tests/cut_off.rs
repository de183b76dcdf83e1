//! A worker is cut off from all coordinators while the others are not. In a pool that says `stop` it
//! has stopped before anybody else begins; in one that says `continue` it goes on, and what it writes
//! is refused once another has the bucket.

use std::time::Duration;

use anyhow::ensure;
use rota_core::pool::OnLeaseExpiry;
use rota_protocol::http::{CheckpointBody, CheckpointPut, Code, Encoding, PoolChange, PoolKind, RowBody};
use rota_tests::{Call, Cluster, Gate, LIVENESS, Pool, eventually};
use rota_worker::monotonic_ns;

const BUCKETS: usize = 6;
const TIMEOUT: Duration = Duration::from_secs(2);
const LAST: &str = "exec sleep 1000000";

async fn pool(cluster: &Cluster, on_lease_expiry: OnLeaseExpiry) -> Pool {
    let buckets = Some(u32::try_from(BUCKETS).unwrap());
    let settings = PoolChange { buckets, on_lease_expiry: Some(on_lease_expiry), ..PoolChange::default() };
    Pool::create(cluster, "work", PoolKind::Hashed, settings, TIMEOUT).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_to_stop_has_stopped_before_anybody_else_begins() {
    let cluster = Cluster::start(3).await;
    let pool = pool(&cluster, OnLeaseExpiry::Stop).await;
    let gate = Gate::before(&cluster.addresses()).await;
    let _near = pool.start_worker("near", LAST);
    let mut far = pool.start_worker_at(gate.addresses(), "far", LAST, &[]);
    pool.is_shared_by(&["near", "far"], BUCKETS).await;
    let cut_ns = monotonic_ns();
    gate.cut();
    pool.is_shared_by(&["near"], BUCKETS).await;
    let histories = pool.histories();
    histories.check();
    let moved = histories.idle_since(cut_ns);
    assert_eq!(moved.len(), BUCKETS / 2, "{moved:?}");
    // Let through again, it hears that its session is over, and ends.
    gate.reopen();
    assert!(!far.process().ended(LIVENESS).await.success(), "its session has ended");
    pool.histories().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_is_refused_once_another_has_the_bucket() {
    let cluster = Cluster::start(3).await;
    let pool = pool(&cluster, OnLeaseExpiry::KeepRunning).await;
    let gate = Gate::before(&cluster.addresses()).await;
    let _near = pool.start_worker("near", LAST);
    let mut far = pool.start_worker_at(gate.addresses(), "far", LAST, &[]);
    pool.is_shared_by(&["near", "far"], BUCKETS).await;
    let before = pool.table().await.unwrap().rows;
    let held: Vec<&RowBody> = before.iter().filter(|row| row.owners[0].member == "far").collect();
    gate.cut();
    eventually("near has been granted all", LIVENESS, async || {
        let rows = pool.table().await?.rows;
        ensure!(rows.iter().all(|row| row.owners.first().is_some_and(|o| o.member == "near")), "{rows:?}");
        Ok(())
    })
    .await;
    pool.has_shares(&[("near", BUCKETS), ("far", BUCKETS / 2)], &[]).await;
    // What it would write with its fence is refused; what its successor writes is not.
    for row in held {
        let path = pool.path(&format!("checkpoints/{}", row.bucket));
        let put =
            |fence| CheckpointPut { fence, data: "7".to_owned(), replaces: None, encoding: Encoding::Utf8 };
        let refused = cluster.ask(1, Call::put(&path, &put(row.fence))).await;
        let fence = refused.refused(Code::StaleFence, &["fence"]).details["fence"].as_u64().unwrap();
        assert!(fence > row.fence);
        let _: CheckpointBody = cluster.ask(2, Call::put(&path, &put(fence))).await.ok().unwrap();
    }
    gate.reopen();
    assert!(!far.process().ended(LIVENESS).await.success(), "it hears that its session has ended");
    pool.has_shares(&[("near", BUCKETS)], &[]).await;
}
