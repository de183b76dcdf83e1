//! Gathers units into batches, each of which is one Raft entry.
//!
//! An entry costs the cluster the same whatever its size, so few and large ones
//! are wanted: while one is under way, what arrives waits and leaves together. An idle
//! server's write leaves at once.

use std::sync::Arc;

use bytes::Bytes;
use rota_core::batch::{Header, encode_batch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::group::Group;
use super::types::CallOnce;
use crate::parts::Clock;
use crate::replica::Replica;

/// Entries under way at once. A second one would hide some of a far network's delay
/// and make all entries smaller, which costs a quarter of the throughput
/// (`docs/decisions/0013-one-entry-one-thread.md`).
const IN_FLIGHT: usize = 1;
/// Bytes of units in one entry.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Units that wait for the next entry. Their senders then wait too, and TCP
/// tells the other servers' senders.
const QUEUE_LEN_MAX: usize = 8192;

/// Where units are handed to the proposer, and where it says that it lost some.
#[derive(Clone)]
pub(crate) struct ProposerQueue {
    pub(crate) units: mpsc::Sender<Bytes>,
    /// Counts losses. Whoever sent units sends them again after one.
    pub(crate) losses: watch::Receiver<u64>,
}

/// The task that proposes.
pub(crate) struct Proposer {
    queue: mpsc::Receiver<Bytes>,
    losses: Arc<watch::Sender<u64>>,
    group: Group,
    replica: Arc<Replica>,
    clock: Arc<dyn Clock>,
    permits: Arc<Semaphore>,
}

impl Proposer {
    pub(crate) fn new(group: Group, replica: Arc<Replica>, clock: Arc<dyn Clock>) -> (Self, ProposerQueue) {
        let (units, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let losses = Arc::new(watch::Sender::new(0));
        let handle = ProposerQueue { units, losses: losses.subscribe() };
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        (Self { queue, losses, group, replica, clock, permits }, handle)
    }

    /// Runs until the server stops, or Raft has.
    pub(crate) async fn run(mut self) -> Result<(), super::GroupError> {
        while let Some(first) = self.queue.recv().await {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { break };
            let units = self.gather(first);
            let header = Header { time_ms: self.clock.now_ms(), checkpoint: self.replica.last_digest() };
            let batch = encode_batch(header, units.iter());
            metrics::histogram!(crate::metrics::BATCH_BYTES).record(batch.len() as f64);
            self.group.propose(batch, self.settle(permit)).await?;
        }
        Ok(())
    }

    fn gather(&mut self, first: Bytes) -> Vec<Bytes> {
        let mut bytes = first.len();
        let mut units = vec![first];
        while bytes < BATCH_BYTES_MAX {
            let Ok(unit) = self.queue.try_recv() else { break };
            bytes += unit.len();
            units.push(unit);
        }
        units
    }

    /// Called when the entry is applied, or known to be lost, or when nothing
    /// more can be known of it.
    fn settle<T: 'static, E: 'static>(&self, permit: OwnedSemaphorePermit) -> CallOnce<Result<T, E>> {
        let losses = Arc::clone(&self.losses);
        CallOnce::new(move |outcome| {
            drop(permit);
            if !matches!(outcome, Some(Ok(_))) {
                losses.send_modify(|count| *count += 1);
            }
        })
    }
}
