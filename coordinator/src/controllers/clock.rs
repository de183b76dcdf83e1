//! Stamps the cluster clock into the log of an idle cluster while a timeout runs, so that a
//! server that restarts knows it. Without a write, all restarted servers would lose the time since
//! the last one.

use std::time::Duration;

use rota_core::state::{Actor, Command, NodeKind};

use super::Term;

/// Most time of the cluster clock that restarts of all servers, one after the other, can lose.
const STAMP_PERIOD: Duration = Duration::from_secs(30);

pub(super) async fn run(term: Term) {
    let replica = &term.control.replica;
    let mut period = tokio::time::interval(STAMP_PERIOD);
    loop {
        period.tick().await;
        let applied_ms = replica.read().state.last_timestamp().cluster_ms;
        let behind_ms = replica.cluster_clock().now_ms().saturating_sub(applied_ms);
        if Duration::from_millis(behind_ms) < STAMP_PERIOD / 2 || !timeout_runs(&term).await {
            continue;
        }
        // A command that changes nothing but the timestamp.
        let stamp = Command::Multi { by: Actor::rota(None), ops: Vec::new() };
        if let Err(error) = term.propose(&[stamp]).await {
            tracing::debug!(%error, "could not stamp the cluster clock");
        }
    }
}

/// Whether a grace period or the TTL of a node is under way.
async fn timeout_runs(term: &Term) -> bool {
    let (state, waits) = {
        let applied = term.control.replica.read();
        (applied.state.clone(), applied.pools.iter().any(|pool| !pool.away.is_empty()))
    };
    let has_ttl = move || {
        let kind = |path: &rota_core::path::NodePath| state.tree().get(path.as_str()).map(|node| node.kind);
        state.mortal().filter_map(kind).any(|kind| matches!(kind, NodeKind::Ttl(_)))
    };
    waits || tokio::task::spawn_blocking(has_ttl).await.unwrap_or(false)
}
