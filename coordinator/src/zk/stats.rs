//! What connections have done so far, one by one and all together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rota_core::Zxid;
use tokio::time::Instant;

use crate::timings::Latency;

/// Counts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Packets that came.
    pub(crate) received: u64,
    /// Answers and events that left.
    pub(crate) sent: u64,
    /// The number of the last request that was answered.
    pub(super) last_xid: i32,
    /// Its operation, as ZooKeeper abbreviates it.
    pub(super) last_op: Option<&'static str>,
    /// The last write that the client was shown.
    pub(super) last_zxid: Zxid,
    /// How long answers took: from the request's arrival until its answer is ready to leave.
    pub(super) latency: Latency,
    /// When the last one was.
    pub(super) answered_at: Option<Instant>,
}

impl Counts {
    pub(super) fn answered(&mut self, xid: i32, zxid: Zxid, now: Instant, took: Option<Duration>) {
        self.sent += 1;
        // Pings, auth and setWatches have negative ones, which say nothing.
        if xid >= 0 {
            self.last_xid = xid;
        }
        self.last_zxid = zxid;
        if let Some(took) = took {
            self.latency.record(took);
        }
        self.answered_at = Some(now);
    }
}

/// The counts of all connections together, of those that are gone too.
#[derive(Debug, Default)]
pub(crate) struct Totals(Mutex<Counts>);

impl Totals {
    /// What they are now.
    pub(crate) fn counts(&self) -> Counts {
        *self.lock()
    }

    /// Begins to count anew.
    pub(super) fn reset(&self) {
        *self.lock() = Counts::default();
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.0.lock().expect("no code panics while it holds this")
    }
}

/// Counters of all connections since this server started, or since `srst`.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounters {
    /// Connection requests for a session.
    pub(super) session_requests: AtomicU64,
    /// Connections closed at once because a limit was reached.
    pub(super) rejected: AtomicU64,
    /// Failed authentications.
    pub(super) auth_failed: AtomicU64,
    /// Packets over the size limit.
    pub(super) too_large: AtomicU64,
    /// Bytes of requests.
    pub(super) bytes_received: AtomicU64,
    /// Bytes of answers and events.
    pub(super) bytes_sent: AtomicU64,
}

impl ConnectionCounters {
    /// Begins to count anew.
    pub(super) fn reset(&self) {
        let Self { session_requests, rejected, auth_failed, too_large, bytes_received, bytes_sent } = self;
        for counter in [session_requests, rejected, auth_failed, too_large, bytes_received, bytes_sent] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}
