//! What the leader does by itself. A controller looks at the state, decides by a
//! pure function what is to be done next, and proposes it in the name of its
//! term; it is woken by changes and by time, takes no other input, and keeps
//! nothing that it could not find out again.

mod assignment;
mod clock;
mod config_node;
mod expiry;
mod reaper;

use std::sync::Arc;
use std::time::Duration;

use rota_core::batch::Header;
use rota_core::state::Command;
use tokio::time::Instant;

pub(crate) use reaper::Reaping;

use crate::raft::{Leadership, ProposeError, RaftNode};
use crate::replica::{Replica, live_sessions};
use crate::session_leases::SessionLeases;

/// What controllers work with.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) group: RaftNode,
    pub(crate) replica: Arc<Replica>,
    pub(crate) session_leases: Arc<SessionLeases>,
    /// How long a leader that was deposed without knowing may still answer
    /// keep-alives, when a server that voted for it was restarted and votes for
    /// another at once. A new leader waits so much longer.
    pub(crate) lease_grace: Duration,
    pub(crate) reaping: Reaping,
}

/// One term of this server's leadership.
#[derive(Clone)]
struct LeaderTerm {
    control: Control,
    term: u64,
    /// Since when.
    began: Instant,
}

impl LeaderTerm {
    /// Gives every session its full timeout, from `now` on.
    fn reset_session_leases(&self, now: Instant) {
        // While this is held, no session comes or goes.
        let applied = self.control.replica.read();
        self.control.session_leases.reset(self.term, live_sessions(&applied.state), now);
    }

    /// Proposes commands in the name of this term and waits until they are
    /// applied. Returns how many were refused.
    async fn propose(&self, commands: &[Command]) -> Result<u32, ProposeError> {
        let Control { group, replica, .. } = &self.control;
        let header =
            Header { timestamp: replica.cluster_clock().timestamp(), checkpoint: replica.last_digest() };
        group.propose_as_leader(self.term, header, commands).await
    }
}

/// Runs the controllers whenever this server leads, until it stops.
pub(crate) async fn run(control: Control) {
    let mut leadership = control.group.leadership();
    loop {
        let now = *leadership.borrow_and_update();
        match now {
            Leadership::Own { term } => {
                let term = LeaderTerm { control: control.clone(), term, began: Instant::now() };
                let changed = tokio::select! {
                    () = lead(term) => return,
                    changed = leadership.changed() => changed,
                };
                control.session_leases.end();
                if changed.is_err() {
                    return;
                }
            }
            // Nobody tells any more who leads: the server is stopping.
            _ if leadership.changed().await.is_err() => return,
            _ => {}
        }
    }
}

/// Leads until it is cancelled.
async fn lead(mut term: LeaderTerm) {
    caught_up(&term).await;
    let replica = Arc::clone(&term.control.replica);
    let _leading = replica.cluster_clock().start_leading();
    term.reset_session_leases(Instant::now() + term.control.lease_grace);
    // What members said before is forgotten: it is waited for from here on.
    term.began = Instant::now();
    tracing::info!(term = term.term, "this server leads");
    tokio::join!(
        expiry::run(term.clone()),
        assignment::run(term.clone()),
        reaper::run(term.clone()),
        clock::run(term.clone()),
        config_node::run(term),
    );
}

/// Waits until this server has applied an entry of its own term, and with it
/// everything that earlier leaders committed.
async fn caught_up(term: &LeaderTerm) {
    let mut progress = term.control.replica.progress();
    while term.control.replica.head().last.is_none_or(|last| last.term < term.term) {
        drop(progress.changed().await);
    }
}
