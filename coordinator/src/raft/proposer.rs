//! Gathers units into batches, each of which is one Raft entry.
//!
//! An entry costs the cluster the same whatever its size, so few and large ones
//! are wanted: while one is under way, what arrives waits and leaves together. An idle
//! server's write leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rota_core::batch::{Header, encode_batch};
use rota_protocol::peer::BATCH_CLOSED_BYTES;
use tokio::sync::{Notify, mpsc, watch};

use super::node::RaftNode;
use super::types::CallOnce;
use crate::replica::Replica;

/// Delay of a majority for which one more entry is under way. In one network the delay is
/// much less: one entry at a time, since a second one would make all of them smaller and cost
/// a quarter of the throughput (`docs/decisions/0013-one-entry-one-thread.md`). Over a far
/// network it would leave the way empty for most of the time.
const DELAY_PER_ENTRY: Duration = Duration::from_millis(2);
/// Entries under way at once, however far the majority is.
pub(super) const IN_FLIGHT_MAX: usize = 64;
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
    group: RaftNode,
    replica: Arc<Replica>,
    in_flight: Arc<InFlight>,
}

/// Counts the entries under way.
#[derive(Default)]
struct InFlight {
    entries: AtomicUsize,
    fewer: Notify,
}

/// One entry under way, until it is dropped.
struct Entry(Arc<InFlight>);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.entries.fetch_sub(1, Ordering::AcqRel);
        self.0.fewer.notify_one();
    }
}

/// How many entries keep the way to a majority full that is so far away.
pub(super) fn entries_in_flight(round_trip: Duration) -> usize {
    let more = round_trip.as_micros() / DELAY_PER_ENTRY.as_micros();
    usize::try_from(more).unwrap_or(IN_FLIGHT_MAX).saturating_add(1).min(IN_FLIGHT_MAX)
}

impl Proposer {
    pub(crate) fn new(group: RaftNode, replica: Arc<Replica>) -> (Self, ProposerQueue) {
        let (units, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let losses = Arc::new(watch::Sender::new(0));
        let handle = ProposerQueue { units, losses: losses.subscribe() };
        (Self { queue, losses, group, replica, in_flight: Arc::default() }, handle)
    }

    /// Runs until the server stops, or Raft has.
    pub(crate) async fn run(mut self) -> Result<(), super::RaftNodeError> {
        while let Some(first) = self.queue.recv().await {
            let entry = self.next_entry().await;
            let units = self.gather(first);
            let header = Header {
                timestamp: self.replica.cluster_clock().timestamp(),
                checkpoint: self.replica.last_digest(),
            };
            let batch = encode_batch(header, units.iter());
            metrics::histogram!(crate::metrics::BATCH_BYTES).record(batch.len() as f64);
            self.group.propose(batch, self.settle(entry)).await?;
        }
        Ok(())
    }

    /// Waits until one more entry may be under way.
    async fn next_entry(&self) -> Entry {
        while self.in_flight.entries.load(Ordering::Acquire)
            >= entries_in_flight(self.group.majority_round_trip())
        {
            self.in_flight.fewer.notified().await;
        }
        self.in_flight.entries.fetch_add(1, Ordering::AcqRel);
        Entry(Arc::clone(&self.in_flight))
    }

    fn gather(&mut self, first: Bytes) -> Vec<Bytes> {
        let mut bytes = first.len();
        let mut units = vec![first];
        while bytes < BATCH_CLOSED_BYTES {
            let Ok(unit) = self.queue.try_recv() else { break };
            bytes += unit.len();
            units.push(unit);
        }
        units
    }

    /// Called when the entry is applied, or known to be lost, or when nothing
    /// more can be known of it.
    fn settle<T: 'static, E: 'static>(&self, entry: Entry) -> CallOnce<Result<T, E>> {
        let losses = Arc::clone(&self.losses);
        let (replica, began) = (Arc::clone(&self.replica), Instant::now());
        CallOnce::new(move |outcome| {
            drop(entry);
            match outcome {
                Some(Ok(_)) => replica.timings().proposal.record(began.elapsed()),
                _ => losses.send_modify(|count| *count += 1),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_flight_follow_the_distance() {
        let at = |micros| entries_in_flight(Duration::from_micros(micros));
        assert_eq!([at(0), at(300), at(1_999)], [1, 1, 1], "one in a local network");
        assert_eq!([at(2_000), at(50_000), at(100_000)], [2, 26, 51]);
        assert_eq!(at(10_000_000), IN_FLIGHT_MAX);
    }
}
