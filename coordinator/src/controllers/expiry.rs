//! Ends sessions that gave no sign of life for their timeout.
//!
//! A leader that stumbled (its loop was late, or it was not sure of its lead for a
//! moment) first takes in what arrived meanwhile, for a short, bounded time of running,
//! and then judges. Only a new leader gives new deadlines. Time in which this server ran
//! without a majority does not count, since nobody's sign of life could be answered:
//! deadlines are put off by just that.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rota_core::state::{Command, SessionId};
use tokio::time::Instant;

use super::LeaderTerm;

/// How often the clock is looked at when nothing is due.
const PERIOD: Duration = Duration::from_millis(250);
/// How often while the leader catches up with what arrived.
const GRACE_PERIOD: Duration = Duration::from_millis(50);
/// How much later than asked for the loop may run without having stumbled.
const LATE_MAX: Duration = Duration::from_millis(250);
/// How long a leader that stumbled runs before it judges.
const GRACE: Duration = Duration::from_millis(500);
/// What one turn of the loop counts at most as running.
const COUNTED_PER_TURN_MAX: Duration = Duration::from_millis(100);
/// A time without a majority that is shorter is covered by the grace.
const UNSURE_MIN: Duration = Duration::from_millis(250);
/// Sessions ended by one entry.
const CLOSED_MAX: usize = 256;

/// Whether the leader may judge sessions now.
#[derive(Debug, Default)]
struct Grace {
    /// What is left of it.
    left: Duration,
}

impl Grace {
    /// One turn of the loop took `elapsed` and was to take `asked`; `is_sure` says whether this
    /// server is sure that it leads. True when sessions may be judged.
    fn turn(&mut self, elapsed: Duration, asked: Duration, is_sure: bool) -> bool {
        let stumbled = !is_sure || elapsed > asked + LATE_MAX;
        if self.left.is_zero() {
            // One that stumbles again meanwhile begins no new grace: it ends.
            self.left = if stumbled { GRACE } else { Duration::ZERO };
        } else if is_sure {
            self.left = self.left.saturating_sub(elapsed.min(COUNTED_PER_TURN_MAX));
        }
        is_sure && self.left.is_zero()
    }
}

pub(super) async fn run(term: LeaderTerm) {
    let control = &term.control;
    let mut grace = Grace::default();
    let (mut turned_at, mut asked) = (Instant::now(), Duration::ZERO);
    let mut unsure = Duration::ZERO;
    // Not waited for: without a majority they take as long as that lasts.
    let mut closing = FuturesUnordered::new();
    loop {
        let is_sure = control.group.holds_lease().await;
        let now = Instant::now();
        let was_graceful = !grace.left.is_zero();
        match is_sure {
            false => unsure += (now - turned_at).min(COUNTED_PER_TURN_MAX),
            true if unsure >= UNSURE_MIN => {
                tracing::info!(
                    unsure_ms = unsure.as_millis(),
                    "without a majority for a while: sessions are put off"
                );
                control.session_leases.postpone(std::mem::take(&mut unsure));
            }
            true => unsure = Duration::ZERO,
        }
        if grace.turn(now - turned_at, asked, is_sure) {
            let over = control.session_leases.take_expired(now);
            closing.extend(over.chunks(CLOSED_MAX).map(|some| close(&term, some.to_vec())));
        } else if !was_graceful {
            tracing::debug!(
                late_ms = (now - turned_at).as_millis(),
                is_sure,
                "sessions are judged a moment later"
            );
        }
        turned_at = Instant::now();
        let period = if grace.left.is_zero() { PERIOD } else { GRACE_PERIOD };
        let due = control.session_leases.next_deadline().map_or(period, |at| (at - turned_at).min(period));
        asked = if grace.left.is_zero() { due } else { period };
        tokio::select! {
            () = tokio::time::sleep(asked) => {}
            () = control.session_leases.deadline_moved_up() => {}
            Some(()) = closing.next(), if !closing.is_empty() => {}
        }
    }
}

/// Proposes the end of sessions. If it is not known whether that will be
/// committed, they stay as they are here, neither kept alive nor closed, until
/// it is: by this leader's next attempt or by its successor.
async fn close(term: &LeaderTerm, sessions: Vec<(SessionId, u32)>) {
    let commands: Vec<Command> = sessions
        .iter()
        .map(|(session, connection)| Command::ExpireSession { session: *session, connection: *connection })
        .collect();
    tracing::info!(sessions = sessions.len(), "sessions expire");
    metrics::counter!(crate::metrics::SESSIONS_EXPIRED).increment(sessions.len() as u64);
    let mut logged = false;
    while let Err(error) = term.propose(&commands).await {
        if !logged {
            tracing::warn!(%error, "cannot end sessions: retrying");
            logged = true;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Turns until sessions may be judged again, each as long as was asked for.
    fn turns_until_judged(grace: &mut Grace) -> u32 {
        (1..).find(|_| grace.turn(50 * MS, 50 * MS, true)).unwrap()
    }

    #[test]
    fn a_leader_that_runs_judges_at_every_turn() {
        let mut grace = Grace::default();
        assert!(grace.turn(250 * MS, 250 * MS, true));
        assert!(grace.turn(400 * MS, 250 * MS, true), "a little late is no stumble");
    }

    #[test]
    fn after_a_stumble_it_runs_for_a_moment_first() {
        let mut grace = Grace::default();
        assert!(!grace.turn(1200 * MS, 250 * MS, true));
        assert_eq!(turns_until_judged(&mut grace), 10);
        assert!(!grace.turn(250 * MS, 250 * MS, false), "it is not sure that it leads");
        assert!(!grace.turn(250 * MS, 250 * MS, false));
        assert_eq!(turns_until_judged(&mut grace), 10);
    }

    #[test]
    fn however_often_it_stumbles_it_judges() {
        let mut grace = Grace::default();
        let judged = (0..60).filter(|_| grace.turn(1200 * MS, 50 * MS, true)).count();
        assert_eq!(judged, 10, "every sixth time");
        let every_other = (0..60).filter(|turn| grace.turn(50 * MS, 50 * MS, turn % 2 == 0)).count();
        assert!(every_other >= 1, "{every_other}");
    }
}
