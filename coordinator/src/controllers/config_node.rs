//! Keeps `/zookeeper/config` true.

use std::time::Duration;

use rota_core::state::{Actor, Command};
use tokio::time::{Instant, sleep};

use super::Term;
use crate::zk;

/// Between two looks, when something was applied in between.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the servers of a new cluster have to say how clients reach them: it is written once.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long it may be untrue before it is corrected. Whoever changes the cluster by `reconfig`
/// writes it within that, as it was given.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) async fn run(term: Term) {
    let replica = &term.control.replica;
    let mut progress = replica.progress();
    let began = Instant::now();
    let mut untrue_since: Option<Instant> = None;
    loop {
        let (correction, is_ready) = {
            let applied = replica.read();
            let correction = zk::correction(&applied);
            let is_new = zk::configuration_version(&applied).is_none();
            let since = *untrue_since.get_or_insert_with(Instant::now);
            let is_ready = match is_new {
                true => zk::all_have_faces(&applied) || began.elapsed() >= FIRST_PATIENCE,
                false => since.elapsed() >= PATIENCE,
            };
            (correction, is_ready)
        };
        match correction {
            None => {
                untrue_since = None;
                // Nobody tells any more when the server is stopping.
                if progress.changed().await.is_err() {
                    return;
                }
            }
            Some(next) if is_ready => {
                let write = Command::Write { by: Actor::rota(None), op: next.op() };
                if let Err(error) = term.propose(&[write]).await {
                    tracing::debug!(%error, "could not say who belongs to the cluster: tried again");
                }
            }
            Some(_) => {}
        }
        sleep(PAUSE).await;
    }
}
