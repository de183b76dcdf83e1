//! What connections have done so far, one by one and all together.

use std::sync::Mutex;
use std::time::Duration;

use rota_core::Zxid;

/// How long answers took, in ZooKeeper's sense: from the request's arrival until its
/// answer is ready to leave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
    last: Duration,
}

impl Latency {
    fn record(&mut self, took: Duration) {
        self.min = if self.count == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.last = took;
        self.sum += took;
        self.count += 1;
    }

    pub(super) fn min_ms(&self) -> u128 {
        self.min.as_millis()
    }

    pub(super) fn max_ms(&self) -> u128 {
        self.max.as_millis()
    }

    pub(super) fn last_ms(&self) -> u128 {
        self.last.as_millis()
    }

    /// 0 before the first answer.
    pub(super) fn mean_ms(&self) -> f64 {
        let count = u32::try_from(self.count.max(1)).unwrap_or(u32::MAX);
        self.sum.as_secs_f64() * 1000.0 / f64::from(count)
    }
}

/// Counts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Packets that came.
    pub(crate) received: u64,
    /// Answers and events that left.
    pub(crate) sent: u64,
    /// The number of the last request that was answered.
    pub(super) last_xid: i32,
    /// The last write that the client was shown.
    pub(super) last_zxid: Zxid,
    /// How long answers took.
    pub(super) latency: Latency,
}

impl Counts {
    pub(super) fn answered(&mut self, xid: i32, zxid: Zxid, took: Option<Duration>) {
        self.sent += 1;
        self.last_xid = xid;
        self.last_zxid = zxid;
        if let Some(took) = took {
            self.latency.record(took);
        }
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
