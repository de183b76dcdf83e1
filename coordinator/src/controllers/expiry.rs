//! Ends sessions that gave no sign of life for their timeout.

use std::time::Duration;

use rota_core::state::{Command, SessionId};
use tokio::time::Instant;

use super::Term;

/// How often the clock is looked at when nothing is due.
const PERIOD: Duration = Duration::from_millis(250);
/// When this server itself did not run for so long, it cannot know who gave a
/// sign of life meanwhile, so everyone gets a full timeout again.
const ASLEEP: Duration = Duration::from_secs(1);
/// Sessions ended by one entry.
const CLOSED_MAX: usize = 256;

pub(super) async fn run(term: Term) {
    let control = &term.control;
    let mut slept_from = Instant::now();
    let mut was_cut_off = false;
    loop {
        // Without a majority, nobody's sign of life could be taken (`Desk::touch`).
        if !control.group.holds_lease().await {
            was_cut_off = true;
            tokio::time::sleep(PERIOD).await;
            continue;
        }
        let now = Instant::now();
        // Slow commits are no reason: signs of life are taken while they last.
        if now - slept_from > ASLEEP || was_cut_off {
            tracing::warn!(
                "this server did not run, or had no majority, for a while: every session gets its full timeout again"
            );
            term.begin_counting(now);
        }
        was_cut_off = false;
        let over = control.liveness.take_expired(now);
        for some in over.chunks(CLOSED_MAX) {
            was_cut_off |= !close(&term, some).await;
        }
        slept_from = Instant::now();
        let due = control.liveness.next_deadline().map_or(now + PERIOD, |at| at.min(now + PERIOD));
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = control.liveness.sooner() => {}
        }
    }
}

/// Proposes the end of sessions. If it is not known whether that will be
/// committed, they stay as they are here, neither kept alive nor closed, until
/// it is: by this leader's next attempt or by its successor. False if the first
/// attempt failed, since nobody's signs of life could be taken then either.
async fn close(term: &Term, sessions: &[(SessionId, u32)]) -> bool {
    let commands: Vec<Command> = sessions
        .iter()
        .map(|(session, connection)| Command::ExpireSession { session: *session, connection: *connection })
        .collect();
    tracing::info!(sessions = sessions.len(), "sessions expire");
    metrics::counter!(crate::metrics::SESSIONS_EXPIRED).increment(sessions.len() as u64);
    let mut told = false;
    while let Err(error) = term.propose(&commands).await {
        if !told {
            tracing::warn!(%error, "could not end sessions: tried until it can");
            told = true;
        }
        tokio::time::sleep(PERIOD).await;
    }
    !told
}
