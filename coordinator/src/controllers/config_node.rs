//! Keeps `/zookeeper/config` true.

use std::time::Duration;

use rota_core::state::{Actor, Command};

use super::Term;
use crate::zk;

/// How often it is compared.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) async fn run(term: Term) {
    let mut period = tokio::time::interval(PERIOD);
    loop {
        period.tick().await;
        let correction = zk::correction(&term.control.replica.read());
        let Some(op) = correction else { continue };
        if let Err(error) = term.propose(&[Command::Write { by: Actor::rota(None), op }]).await {
            tracing::debug!(%error, "could not say who belongs to the cluster: tried again");
        }
    }
}
