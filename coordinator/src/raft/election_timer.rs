//! When a server that does not hear from a leader asks the others for their votes. A pure
//! state machine: time and chance are arguments.
//!
//! Silence counts only while this server runs: one that was itself stopped, or whose
//! processor was taken away, first takes in what arrived meanwhile. Silence alone is
//! waited out; a leader whose process is known to have ended is replaced at once.

use std::time::Duration;

/// How often the timer is looked at.
pub(super) const TICK: Duration = Duration::from_millis(25);
/// What one look may add to the silence. A longer time between two looks says that this
/// server did not run.
const COUNTED_PER_TICK_MAX: Duration = Duration::from_millis(75);
/// Pause before another attempt to be elected, and what chance adds to it, so that two
/// servers do not keep each other from being elected.
const RETRY_MIN: Duration = Duration::from_millis(150);
const RETRY_SPREAD: Duration = Duration::from_millis(350);
/// What chance adds before a known death is answered. The log decides which server is
/// elected; the first one that asks saves a round.
const QUICK_SPREAD: Duration = Duration::from_millis(20);
/// Pause between attempts after a known death, while the others find out as well, and what
/// chance adds to it.
const QUICK_RETRY: Duration = Duration::from_millis(20);
/// How many attempts are quick.
const QUICK_ATTEMPTS: u32 = 20;
/// Round trips that an election needs at least, and that the timeout must be longer than:
/// the Raft paper's "broadcast time is much less than the election timeout".
const ROUND_TRIPS: u32 = 10;

/// The bounds between which chance sets the timeout of an election.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

/// Decides when to campaign.
#[derive(Debug)]
pub(super) struct ElectionTimer {
    bounds: Bounds,
    /// How long the leader was silent while this server ran.
    silence: Duration,
    /// How long it may be.
    timeout: Duration,
    /// This server campaigned since it last heard from a leader.
    campaigned: bool,
    /// Attempts that are still made in quick succession.
    quick_attempts: u32,
}

impl ElectionTimer {
    pub(super) fn new(bounds: Bounds, chance: f64) -> Self {
        let mut timer = Self {
            bounds,
            silence: Duration::ZERO,
            timeout: Duration::ZERO,
            campaigned: false,
            quick_attempts: 0,
        };
        timer.draw(Duration::ZERO, chance);
        timer
    }

    /// Sets the next timeout. The far network's delay raises it.
    fn draw(&mut self, round_trip: Duration, chance: f64) {
        let raised = self.bounds.min.max(round_trip * ROUND_TRIPS);
        self.timeout = raised + (self.bounds.max - self.bounds.min).mul_f64(chance);
    }

    /// The leader gave a sign of life, or this server leads.
    pub(super) fn contact(&mut self, round_trip: Duration, chance: f64) {
        if self.silence > Duration::ZERO || self.campaigned || self.quick_attempts > 0 {
            (self.silence, self.campaigned, self.quick_attempts) = (Duration::ZERO, false, 0);
            self.draw(round_trip, chance);
        }
    }

    /// The leader's process has ended.
    pub(super) fn leader_died(&mut self, chance: f64) {
        self.silence = Duration::ZERO;
        self.timeout = QUICK_SPREAD.mul_f64(chance);
        self.quick_attempts = QUICK_ATTEMPTS;
    }

    /// `elapsed` has passed. Whether to campaign now.
    pub(super) fn tick(&mut self, elapsed: Duration, round_trip: Duration, chance: f64) -> bool {
        self.silence += elapsed.min(COUNTED_PER_TICK_MAX);
        if self.silence < self.timeout {
            return false;
        }
        (self.silence, self.campaigned) = (Duration::ZERO, true);
        self.timeout = match self.quick_attempts.checked_sub(1) {
            Some(left) => {
                self.quick_attempts = left;
                QUICK_RETRY + round_trip * 2 + QUICK_SPREAD.mul_f64(chance)
            }
            None => RETRY_MIN.max(round_trip * 3) + RETRY_SPREAD.mul_f64(chance),
        };
        true
    }

    /// How long until the timer is to be looked at again.
    pub(super) fn next_look(&self) -> Duration {
        self.timeout.saturating_sub(self.silence).clamp(Duration::from_millis(1), TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn timer(chance: f64) -> ElectionTimer {
        ElectionTimer::new(Bounds { min: ms(1000), max: ms(2000) }, chance)
    }

    /// How long the timer runs before it campaigns.
    fn waits(timer: &mut ElectionTimer, round_trip: Duration, chance: f64) -> Duration {
        let mut waited = Duration::ZERO;
        loop {
            let step = timer.next_look();
            waited += step;
            if timer.tick(step, round_trip, chance) {
                return waited;
            }
        }
    }

    #[test]
    fn silence_is_waited_out_between_the_bounds() {
        assert_eq!(waits(&mut timer(0.0), NEAR, 0.5), ms(1000));
        assert_eq!(waits(&mut timer(0.999_999), NEAR, 0.5).as_millis(), 1999);
    }

    #[test]
    fn a_sign_of_life_begins_the_wait_anew() {
        let mut timer = timer(0.0);
        for _ in 0..100 {
            assert!(!timer.tick(ms(25), NEAR, 0.0));
            timer.contact(NEAR, 0.25);
        }
        assert_eq!(waits(&mut timer, NEAR, 0.0), ms(1250));
    }

    #[test]
    fn a_server_that_did_not_run_waits_for_what_arrived_meanwhile() {
        let mut timer = timer(0.0);
        assert!(!timer.tick(ms(60_000), NEAR, 0.0), "it was stopped for a minute");
        assert!(waits(&mut timer, NEAR, 0.0) > ms(900));
    }

    #[test]
    fn a_known_death_is_answered_at_once_and_for_a_while_again_and_again() {
        let mut timer = timer(0.5);
        timer.leader_died(0.5);
        assert_eq!(waits(&mut timer, NEAR, 0.5), ms(10));
        for _ in 1..QUICK_ATTEMPTS {
            assert_eq!(waits(&mut timer, NEAR, 0.5), ms(30));
        }
        waits(&mut timer, NEAR, 0.5);
        assert!(waits(&mut timer, NEAR, 0.5) >= RETRY_MIN);
        timer.contact(NEAR, 0.0);
        assert_eq!(waits(&mut timer, NEAR, 0.0), ms(1000));
    }

    #[test]
    fn a_far_network_raises_the_timeout() {
        let mut timer = timer(0.0);
        timer.tick(ms(1), NEAR, 0.0);
        timer.contact(ms(250), 0.0);
        assert_eq!(waits(&mut timer, ms(250), 0.0), ms(2500));
        assert!(waits(&mut timer, ms(250), 0.0) >= ms(750), "an attempt has time to be answered");
    }
}
