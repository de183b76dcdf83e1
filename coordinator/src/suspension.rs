//! Whether the machine was suspended. Time that is measured does not count suspension
//! (CLOCK_MONOTONIC), so a leader that comes back believes that a quorum has just
//! answered, while another leads for an hour.

use std::sync::Mutex;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the clocks may drift apart between two looks without suspension: they are read one
/// after the other.
const DRIFT_MAX: Duration = Duration::from_millis(50);

/// Notices suspension of the machine.
#[derive(Debug)]
pub(crate) struct Suspension {
    /// How long the machine was suspended since it was started, when that was last accepted.
    accepted: Mutex<Duration>,
}

/// How long the machine was suspended since it was started.
fn suspended() -> Duration {
    let [alive, running] = [ClockId::Boottime, ClockId::Monotonic].map(|clock| {
        let at = clock_gettime(clock);
        Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0))
    });
    alive.saturating_sub(running)
}

impl Suspension {
    pub(crate) fn new() -> Self {
        Self { accepted: Mutex::new(suspended()) }
    }

    /// How long the machine was suspended in all, if it was since that was last accepted.
    pub(crate) fn noticed(&self) -> Option<Duration> {
        self.noticed_at(suspended())
    }

    fn noticed_at(&self, now: Duration) -> Option<Duration> {
        let accepted = *self.accepted.lock().expect("no code panics while it holds this");
        (now > accepted + DRIFT_MAX).then_some(now)
    }

    /// What was measured before that suspension does not count any more: go on from here.
    pub(crate) fn accept(&self, suspended: Duration) {
        *self.accepted.lock().expect("no code panics while it holds this") = suspended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspension_is_noticed_until_it_is_accepted() {
        let suspension = Suspension::new();
        assert_eq!(suspension.noticed(), None);
        let later = suspended() + Duration::from_secs(60);
        assert_eq!(suspension.noticed_at(later), Some(later));
        assert_eq!(suspension.noticed_at(later), Some(later));
        suspension.accept(later);
        assert_eq!(suspension.noticed_at(later), None);
    }
}
