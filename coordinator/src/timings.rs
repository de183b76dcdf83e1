//! Durations of a server's operations, for `mntr`.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base2histogram::Histogram;

/// Durations of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
    last: Duration,
}

impl Latency {
    pub(crate) fn record(&mut self, took: Duration) {
        self.min = if self.count == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.last = took;
        self.sum += took;
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Rounded up, so that it is at least the longest.
    pub(crate) fn sum_ms(&self) -> u128 {
        ceil_ms(self.sum)
    }

    pub(crate) fn min_ms(&self) -> u128 {
        self.min.as_millis()
    }

    /// Rounded up, so that it is at least the mean.
    pub(crate) fn max_ms(&self) -> u128 {
        ceil_ms(self.max)
    }

    pub(crate) fn last_ms(&self) -> u128 {
        self.last.as_millis()
    }

    /// 0 before the first.
    pub(crate) fn mean_ms(&self) -> f64 {
        let count = u32::try_from(self.count.max(1)).unwrap_or(u32::MAX);
        self.sum.as_secs_f64() * 1000.0 / f64::from(count)
    }
}

fn ceil_ms(duration: Duration) -> u128 {
    duration.as_micros().div_ceil(1000)
}

/// Durations of one kind, with their distribution. To be recorded from any thread.
#[derive(Debug, Default)]
pub(crate) struct Timing(Mutex<Distribution>);

#[derive(Debug, Default)]
struct Distribution {
    latency: Latency,
    /// In microseconds.
    histogram: Histogram,
}

impl Timing {
    fn lock(&self) -> MutexGuard<'_, Distribution> {
        self.0.lock().expect("no code panics while it holds this")
    }

    pub(crate) fn record(&self, took: Duration) {
        let mut inner = self.lock();
        inner.latency.record(took);
        inner.histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn reset(&self) {
        *self.lock() = Distribution::default();
    }

    pub(crate) fn latency(&self) -> Latency {
        self.lock().latency
    }

    /// Quantiles in milliseconds, given in thousandths; 0 before the first duration.
    pub(crate) fn permille_ms(&self, permille: [u16; 4]) -> [u64; 4] {
        let inner = self.lock();
        let max_ms = u64::try_from(inner.latency.max_ms()).unwrap_or(u64::MAX);
        // A bucket's upper end can be beyond the longest.
        permille.map(|of_thousand| {
            inner.histogram.percentile(f64::from(of_thousand) / 1000.0).div_ceil(1000).min(max_ms)
        })
    }
}

/// The operations that are timed.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    /// From an append to the log until it is on the disk.
    pub(crate) fsync: Timing,
    /// Taking a snapshot of the state.
    pub(crate) snapshot: Timing,
    /// From the loss of the leader, or the start, until one is known.
    pub(crate) election: Timing,
    /// From a proposal of this server, as leader, until it is applied here.
    pub(crate) proposal: Timing,
    /// Since when this server leads, if it does.
    leads_since: Mutex<Option<Instant>>,
    /// Reads of ZooKeeper's clients, from arrival until the answer is in the output.
    pub(crate) read: Timing,
    /// Their writes, likewise.
    pub(crate) write: Timing,
}

impl Timings {
    /// How long this server has led, if it does.
    pub(crate) fn leads_for(&self) -> Option<Duration> {
        self.lock_leads().map(|since| since.elapsed())
    }

    /// Forgets all durations.
    pub(crate) fn reset(&self) {
        let Self { fsync, snapshot, election, proposal, leads_since: _, read, write } = self;
        [fsync, snapshot, election, proposal, read, write].into_iter().for_each(Timing::reset);
    }

    /// Notes that this server begins to lead, or stops.
    pub(crate) fn note_leads(&self, leads: bool) {
        *self.lock_leads() = leads.then(Instant::now);
    }

    fn lock_leads(&self) -> MutexGuard<'_, Option<Instant>> {
        self.leads_since.lock().expect("no code panics while it holds this")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_tell_their_tails() {
        let timing = Timing::default();
        assert_eq!(timing.permille_ms([500, 950, 990, 999]), [0; 4]);
        (1..=1000).for_each(|ms| timing.record(Duration::from_millis(ms)));
        let latency = timing.latency();
        assert_eq!((latency.count(), latency.min_ms(), latency.max_ms()), (1000, 1, 1000));
        assert_eq!((latency.sum_ms(), latency.mean_ms()), (500_500, 500.5));
        let tails = timing.permille_ms([500, 950, 990, 999]);
        // To within the width of a bucket.
        for (tail, expected) in tails.into_iter().zip([500, 950, 990, 999]) {
            assert!(tail.abs_diff(expected) <= expected / 5, "{tails:?}");
        }
    }
}
