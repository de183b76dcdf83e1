//! The cluster's clock: how long the cluster has been at work, in milliseconds. Every wait
//! (grace, times to live, reaping) is counted by it, since the time of day jumps.
//!
//! The leader stamps each batch with it, and every server keeps the last stamp that it applied
//! and adds what passed since by its own monotonic clock. A new leader goes on from there, so an
//! election costs no waiting time; while no server runs, the clock stands still.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rota_core::state::Timestamp;
use tokio::time::Instant;

use crate::parts::Clock;

/// Tells the time to those who propose.
pub(crate) struct ClusterClock {
    wall: Arc<dyn Clock>,
    last: Mutex<Reading>,
}

/// What the clock showed, and when that was.
#[derive(Debug, Clone, Copy)]
struct Reading {
    clock_ms: u64,
    at: Instant,
}

impl ClusterClock {
    pub(crate) fn new(wall: Arc<dyn Clock>) -> Self {
        Self { wall, last: Mutex::new(Reading { clock_ms: 0, at: Instant::now() }) }
    }

    /// Takes note of a time that was applied. What this server counted alone may be ahead of it.
    pub(crate) fn applied(&self, clock_ms: u64) {
        let now = Instant::now();
        let mut last = self.lock();
        if clock_ms > last.at(now) {
            *last = Reading { clock_ms, at: now };
        }
    }

    /// The cluster's clock now.
    pub(crate) fn now_ms(&self) -> u64 {
        self.lock().at(Instant::now())
    }

    /// When the cluster's clock shows `clock_ms`, by this server's.
    pub(crate) fn instant_of(&self, clock_ms: u64) -> Instant {
        let now = Instant::now();
        now + Duration::from_millis(clock_ms.saturating_sub(self.lock().at(now)))
    }

    /// What a command is stamped with that is proposed now.
    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp { wall_ms: self.wall.now_ms(), clock_ms: self.now_ms() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Reading> {
        self.last.lock().expect("no code panics while it holds this")
    }
}

impl Reading {
    fn at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.at).as_millis();
        self.clock_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A time of day that is set by hand.
    #[derive(Default)]
    struct Wall(AtomicU64);

    impl Clock for Wall {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_on_from_what_was_applied_and_follows_no_time_of_day() {
        let wall = Arc::new(Wall::default());
        let clock = ClusterClock::new(wall.clone());
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        pass(100).await;
        assert_eq!(clock.timestamp(), Timestamp { wall_ms: 0, clock_ms: 100 });
        clock.applied(5_000);
        pass(50).await;
        wall.0.store(3_600_000, Ordering::Relaxed);
        assert_eq!(clock.timestamp(), Timestamp { wall_ms: 3_600_000, clock_ms: 5_050 });
        wall.0.store(7, Ordering::Relaxed);
        assert_eq!(clock.timestamp(), Timestamp { wall_ms: 7, clock_ms: 5_050 });
        // What is applied was stamped a moment ago.
        clock.applied(5_020);
        pass(10).await;
        assert_eq!(clock.now_ms(), 5_060);
        assert_eq!(clock.instant_of(5_100), Instant::now() + Duration::from_millis(40));
        assert_eq!(clock.instant_of(3), Instant::now());
    }
}
