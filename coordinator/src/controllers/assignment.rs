//! Hands out the buckets of every pool: looks at a pool that changed, asks
//! [`plan_step`] for the next step, proposes it, and looks again.

use std::collections::BTreeSet;
use std::time::Duration;

use rota_core::assign::{Step, plan_step};
use rota_core::state::{Actor, Command};

use super::Term;

/// Every pool is looked at this often, changed or not.
const PERIOD: Duration = Duration::from_secs(5);
/// Pause after a step that could not be proposed.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Multis in one Raft entry: with [`rota_core::assign::OPS_MAX`] operations each
/// it stays below a megabyte, so that other writes wait little.
const MULTIS_MAX: usize = 8;

pub(super) async fn run(term: Term) {
    let replica = &term.control.replica;
    let mut pools = all_pools(&term);
    loop {
        for pool in std::mem::take(&mut pools) {
            if !advance(&term, &pool).await {
                pools.insert(pool);
            }
        }
        if pools.is_empty() {
            tokio::select! {
                () = replica.dirtied() => {}
                () = tokio::time::sleep(PERIOD) => pools = all_pools(&term),
            }
        } else {
            tokio::time::sleep(RETRY_AFTER).await;
        }
        pools.extend(replica.take_dirty());
    }
}

fn all_pools(term: &Term) -> BTreeSet<String> {
    term.control.replica.read().pools.iter().map(|pool| pool.name.clone()).collect()
}

/// Takes one step in one pool. What it changes makes the pool dirty, so that it
/// is looked at again. False if the step could not be taken.
async fn advance(term: &Term, pool: &str) -> bool {
    let (tree, view) = {
        let applied = term.control.replica.read();
        let Some(view) = applied.pools.get(pool) else {
            term.control.liveness.forget_pool(pool);
            return true;
        };
        term.control.liveness.forget_members(pool, |name| view.members.contains_key(name));
        (applied.state.tree().clone(), view.clone())
    };
    // Large pools take long enough to hold up heartbeats.
    let planned = tokio::task::spawn_blocking(move || plan_step(&tree, &view)).await;
    let step = match planned.map_err(|e| e.to_string()).and_then(|step| step.map_err(|e| e.to_string())) {
        Ok(step) => step,
        // Nor does a planner that panics touch the other pools.
        Err(fault) => {
            tracing::error!(pool, %fault, "nothing is moved in this pool");
            metrics::counter!(crate::metrics::PLAN_FAULTS).increment(1);
            return true;
        }
    };
    let mut refused = 0;
    for some in step.multis.chunks(MULTIS_MAX) {
        let commands: Vec<Command> =
            some.iter().map(|ops| Command::Multi { by: Actor::rota(None), ops: ops.clone() }).collect();
        match term.propose(&commands).await {
            Ok(some) => refused += some,
            Err(error) => {
                tracing::debug!(pool, %error, "a step could not be proposed");
                return false;
            }
        }
    }
    tell(pool, &step, refused);
    true
}

fn tell(pool: &str, step: &Step, refused: u32) {
    if refused > 0 {
        // Nothing that was refused makes the pool dirty: the next look at all pools
        // tries again.
        tracing::info!(pool, refused, "a part of a step was refused: the pool has changed meanwhile");
    }
    metrics::counter!(crate::metrics::STEPS_REFUSED).increment(u64::from(refused));
    if step.grants > 0 || step.moves_planned > 0 {
        let report = &step.report;
        tracing::info!(
            pool,
            grants = step.grants,
            moves_planned = step.moves_planned,
            moves = report.moves,
            moves_lower_bound = report.moves_lower_bound,
            "assignment"
        );
    }
    metrics::counter!(crate::metrics::GRANTS).increment(u64::from(step.grants));
    metrics::counter!(crate::metrics::MOVES_PLANNED).increment(u64::from(step.moves_planned));
}
