//! The cluster clock, in milliseconds. Grace periods and TTLs are measured by it, because the wall
//! clock can jump.
//!
//! The leader stamps every batch with it and ignores other clocks. Every other server follows the
//! stamps that it applies, and advances the last one by its own monotonic clock until the next, so
//! a new leader continues from there and an election delays no timeout. The clock stops while no
//! server runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rota_core::state::Timestamp;
use tokio::time::Instant;

use crate::env::Clock;

/// Source of the timestamps of proposals.
pub(crate) struct ClusterClock {
    wall: Arc<dyn Clock>,
    state: Mutex<ClockState>,
}

#[derive(Debug, Default)]
struct ClockState {
    /// `None` before the first stamp: time in which a server belongs to no cluster does not count.
    last: Option<Reading>,
    /// Whether this server leads: its own stamps, applied later, do not set it back.
    is_leader: bool,
}

/// While it exists, no applied stamp sets the clock back.
pub(crate) struct LeaderGuard<'a>(&'a ClusterClock);

impl Drop for LeaderGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().is_leader = false;
    }
}

/// A value of the clock and the local instant at which it was taken.
#[derive(Debug, Clone, Copy)]
struct Reading {
    cluster_ms: u64,
    taken_at: Instant,
}

impl ClusterClock {
    pub(crate) fn new(wall: Arc<dyn Clock>) -> Self {
        Self { wall, state: Mutex::default() }
    }

    /// Sets the clock to an applied stamp; on the leader, only forward.
    pub(crate) fn observe_applied(&self, cluster_ms: u64) {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.is_leader || state.last.is_none_or(|last| cluster_ms > last.value_at(now)) {
            state.last = Some(Reading { cluster_ms, taken_at: now });
        }
    }

    /// This server leads from now on, and has applied what earlier leaders stamped.
    pub(crate) fn start_leading(&self) -> LeaderGuard<'_> {
        let mut state = self.lock();
        state.is_leader = true;
        state.last.get_or_insert(Reading { cluster_ms: 0, taken_at: Instant::now() });
        LeaderGuard(self)
    }

    /// Whether a [`LeaderGuard`] exists.
    pub(crate) fn is_leader(&self) -> bool {
        self.lock().is_leader
    }

    /// The value now.
    pub(crate) fn now_ms(&self) -> u64 {
        self.lock().value_at(Instant::now())
    }

    /// The local instant at which the clock reaches `cluster_ms`; now if it already has.
    pub(crate) fn instant_of(&self, cluster_ms: u64) -> Instant {
        let now = Instant::now();
        now + Duration::from_millis(cluster_ms.saturating_sub(self.lock().value_at(now)))
    }

    /// The timestamp of a command proposed now.
    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp { wall_ms: self.wall.now_ms(), cluster_ms: self.now_ms() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ClockState> {
        self.state.lock().expect("no code panics while it holds this")
    }
}

impl ClockState {
    fn value_at(&self, now: Instant) -> u64 {
        self.last.map_or(0, |last| last.value_at(now))
    }
}

impl Reading {
    fn value_at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.taken_at).as_millis();
        self.cluster_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A wall clock that is set by hand.
    #[derive(Default)]
    struct ManualWallClock(AtomicU64);

    impl Clock for ManualWallClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clock_continues_from_applied_stamps_and_ignores_the_wall_clock() {
        let wall = Arc::new(ManualWallClock::default());
        let shared: Arc<dyn Clock> = Arc::<ManualWallClock>::clone(&wall);
        let clock = ClusterClock::new(shared);
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        clock.observe_applied(5_000);
        pass(50).await;
        wall.0.store(3_600_000, Ordering::Relaxed);
        assert_eq!(clock.timestamp(), Timestamp { wall_ms: 3_600_000, cluster_ms: 5_050 });
        wall.0.store(7, Ordering::Relaxed);
        assert_eq!(clock.timestamp(), Timestamp { wall_ms: 7, cluster_ms: 5_050 });
        assert_eq!(clock.instant_of(5_100), Instant::now() + Duration::from_millis(50));
        assert_eq!(clock.instant_of(3), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_runs_ahead_of_what_is_applied() {
        let clock = ClusterClock::new(Arc::new(ManualWallClock::default()));
        let pass = |ms| tokio::time::advance(Duration::from_millis(ms));
        // It waits to be added for days.
        pass(300_000_000).await;
        assert_eq!(clock.now_ms(), 0);
        clock.observe_applied(1_000);
        pass(90_000).await;
        // Its own clock is faster than the leader's.
        clock.observe_applied(90_000);
        assert_eq!(clock.now_ms(), 90_000, "a follower follows");
        let leading = clock.start_leading();
        pass(500).await;
        clock.observe_applied(90_100);
        assert_eq!(clock.now_ms(), 90_500, "its own stamps, applied later, do not set a leader back");
        clock.observe_applied(95_000);
        assert_eq!(clock.now_ms(), 95_000);
        drop(leading);
        clock.observe_applied(94_000);
        assert_eq!(clock.now_ms(), 94_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_leader_starts_the_clock() {
        let clock = ClusterClock::new(Arc::new(ManualWallClock::default()));
        tokio::time::advance(Duration::from_secs(100)).await;
        let _leading = clock.start_leading();
        tokio::time::advance(Duration::from_millis(30)).await;
        assert_eq!(clock.now_ms(), 30);
    }
}
