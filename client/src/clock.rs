//! The clock by which leases are judged: it goes on while the machine is suspended.
//!
//! `std` and tokio count with `CLOCK_MONOTONIC`, which stands still in suspend: a laptop or a
//! virtual machine that wakes after an hour would take its lease for held, and it expired long
//! ago. `CLOCK_BOOTTIME` (clock_gettime(2)) counts that hour. Nothing in here reads the wall clock.

use std::ops::{Add, Sub};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The clock. Where there is no `CLOCK_BOOTTIME`, the monotonic one counts suspend as well
/// (macOS).
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// How often a sleeper looks at the clock: tokio's timers do not count the time for which the
/// machine was suspended, so nobody who sleeps on one alone would learn of it. After a suspend, a
/// sleeper that is due wakes so much later at most.
const SUSPEND_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A point in time on a monotonic clock that also counts while the machine is suspended
/// (`CLOCK_BOOTTIME`). All processes of one machine share the clock; it means nothing on another
/// machine or after a reboot.
///
/// Arithmetic saturates: there is nothing before the boot, and nothing after 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant {
    nanos: u64,
}

impl BootInstant {
    /// The boot: earlier than any other instant.
    pub const BOOT: Self = Self { nanos: 0 };

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        // It fails for no clock that the kernel has, and Linux has this one since 2.6.39.
        let now = clock_gettime(CLOCK).map_or(Duration::ZERO, Duration::from);
        Self::BOOT + now + suspended()
    }

    /// The instant so many nanoseconds after the boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// How long there is until then; zero if it is past.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.saturating_duration_since(Self::now())
    }

    /// Whether the instant is reached.
    #[must_use]
    pub fn is_past(self) -> bool {
        self <= Self::now()
    }

    /// Sleeps until the instant; returns at once if it is past. Time in which the machine is
    /// suspended counts.
    pub async fn reached(self) {
        loop {
            let remaining = self.remaining();
            if remaining.is_zero() {
                return;
            }
            tokio::time::sleep(remaining.min(SUSPEND_CHECK_INTERVAL)).await;
        }
    }
}

impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(saturating_nanos(duration)) }
    }
}

impl Sub<Duration> for BootInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self { nanos: self.nanos.saturating_sub(saturating_nanos(duration)) }
    }
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(not(test))]
const fn suspended() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
pub(crate) use simulated::{suspend, suspended};

/// Tests suspend the machine without suspending it: for the test's own thread, the clock leaps.
#[cfg(test)]
mod simulated {
    use std::cell::Cell;
    use std::time::Duration;

    thread_local! {
        static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(crate) fn suspended() -> Duration {
        SUSPENDED.get()
    }

    /// From now on the clock of this thread has counted a suspend of this length.
    pub(crate) fn suspend(duration: Duration) {
        SUSPENDED.set(SUSPENDED.get() + duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let second = BootInstant::BOOT + Duration::from_secs(1);
        assert_eq!(second.as_nanos(), 1_000_000_000);
        assert_eq!(second - Duration::from_secs(5), BootInstant::BOOT);
        assert_eq!(second + Duration::MAX, BootInstant::from_nanos(u64::MAX));
        assert_eq!(BootInstant::BOOT.saturating_duration_since(second), Duration::ZERO);
        assert!(BootInstant::BOOT.is_past() && !BootInstant::from_nanos(u64::MAX).is_past());
    }

    #[test]
    fn it_is_the_clock_that_counts_suspend() {
        // /proc/uptime is the time since the boot with suspend, in hundredths of a second.
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
            BootInstant::BOOT + Duration::from_secs_f64(seconds)
        };
        let hundredth = Duration::from_millis(10);
        let (before, now, after) = (uptime(), BootInstant::now(), uptime() + hundredth);
        assert!(before <= now && now <= after, "{before:?} {now:?} {after:?}");
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_machine_was_suspended_past_its_time() {
        let hour = Duration::from_secs(3600);
        let sleeper = (BootInstant::now() + hour).reached();
        let suspend_later = async {
            tokio::task::yield_now().await;
            suspend(hour);
        };
        let both = async { tokio::join!(sleeper, suspend_later) };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("it slept on");
    }
}
