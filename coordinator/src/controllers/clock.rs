//! Stamps the cluster clock into the log of an idle cluster while a timeout runs. Without a write,
//! servers that restart one after the other would lose the time since the last one.

use std::time::Duration;

use rota_core::state::{Actor, Command};

use super::LeaderTerm;

/// Age of the last stamp at which another is written, and pause between two checks: together the
/// most that restarts of all servers can lose.
const STAMP_AGE_MAX: Duration = Duration::from_secs(15);

pub(super) async fn run(term: LeaderTerm) {
    let replica = &term.control.replica;
    let mut period = tokio::time::interval(STAMP_AGE_MAX);
    loop {
        period.tick().await;
        let applied_ms = replica.read().state.last_timestamp().cluster_ms;
        let age_ms = replica.cluster_clock().now_ms().saturating_sub(applied_ms);
        if Duration::from_millis(age_ms) < STAMP_AGE_MAX || !has_running_timeout(&term).await {
            continue;
        }
        // A command that changes nothing but the timestamp.
        let stamp = Command::Multi { by: Actor::rota(None), ops: Vec::new() };
        if let Err(error) = term.propose(&[stamp]).await {
            tracing::debug!(%error, "cluster clock stamp failed; will retry");
        }
    }
}

/// Whether a grace period or the TTL of a node is under way.
async fn has_running_timeout(term: &LeaderTerm) -> bool {
    let (state, has_away) = {
        let applied = term.control.replica.read();
        (applied.state.clone(), applied.pools.iter().any(|pool| !pool.awaiting_rejoin.is_empty()))
    };
    has_away || tokio::task::spawn_blocking(move || state.has_ttl_nodes()).await.unwrap_or(false)
}
