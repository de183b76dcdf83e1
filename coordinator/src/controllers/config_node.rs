//! Keeps `/zookeeper/config` up to date.

use std::time::Duration;

use rota_core::state::{Actor, Command};
use tokio::time::{Instant, sleep};

use super::LeaderTerm;
use crate::zk;

/// Shortest time between two comparisons.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the first text waits for all servers of a new cluster to announce their client addresses.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long a difference must last before it is corrected: `reconfig` writes the text itself, with
/// the ports that its client gave.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn run(term: LeaderTerm) {
    let replica = &term.control.replica;
    let mut progress = replica.progress();
    let began = Instant::now();
    let mut differs_since: Option<Instant> = None;
    loop {
        let (correction, is_ready) = {
            let applied = replica.read();
            let correction = zk::correction(&applied);
            let is_new = zk::configuration_version(&applied).is_none();
            let since = *differs_since.get_or_insert_with(Instant::now);
            let is_ready = match is_new {
                true => zk::all_have_faces(&applied) || began.elapsed() >= FIRST_PATIENCE,
                false => since.elapsed() >= PATIENCE,
            };
            (correction, is_ready)
        };
        match correction {
            None => {
                differs_since = None;
                // The sender is gone when the server stops.
                if progress.changed().await.is_err() {
                    return;
                }
            }
            Some(next) if is_ready => {
                let write = Command::Write { by: Actor::rota(None), op: next.op() };
                if let Err(error) = term.propose(&[write]).await {
                    tracing::debug!(%error, "cannot write the cluster configuration; will retry");
                }
            }
            Some(_) => {}
        }
        sleep(PAUSE).await;
    }
}
