//! Hands out the buckets of every pool: looks at a pool that changed, asks
//! [`reconcile_step`] for the next step, proposes it, and looks again.

use std::collections::BTreeMap;
use std::time::Duration;

use rota_core::assign::{PlannerInputs, Step, fast_path_step, reconcile_step};
use rota_core::pool::{Causes, PoolView};
use rota_core::state::{Actor, Command, Op};

use tokio::time::Instant;

use rota_protocol::peer::PoolReports;

use super::{Control, LeaderTerm};
use crate::member_reports::{StuckDetector, gather_loads, planner_inputs};

/// Every pool is looked at this often, changed or not.
const PERIOD: Duration = Duration::from_secs(5);
/// While moves are under way a pool is planned this often at most: each of a thousand that let go
/// of a bucket would have it planned once more, and wait for that.
const PLAN_PERIOD: Duration = Duration::from_millis(100);
/// Pause after a step that could not be proposed.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Multis in one Raft entry: with [`rota_core::assign::OPS_MAX`] operations each
/// it stays below a megabyte, so that other writes wait little.
const MULTIS_MAX: usize = 8;

pub(super) async fn run(term: LeaderTerm) {
    let replica = &term.control.replica;
    // Of an earlier term, when it is not in the list of all pools, too.
    drop(replica.take_changed_pools());
    let mut pools: BTreeMap<String, Trigger> = all_pools(&term);
    // When pools are to be looked at again though nothing changes, by the cluster clock.
    let mut due: BTreeMap<String, u64> = BTreeMap::new();
    let mut memories: BTreeMap<String, PoolState> = BTreeMap::new();
    let mut all_at = Instant::now() + PERIOD;
    loop {
        for (pool, occasion) in std::mem::take(&mut pools) {
            match reconcile(&term, &pool, occasion, memories.entry(pool.clone()).or_default()).await {
                Ok(Some(at_ms)) => drop(due.insert(pool, at_ms)),
                Ok(None) => drop(due.remove(&pool)),
                Err(NotProposed) => drop(pools.insert(pool, Trigger::Due)),
            }
        }
        let dirty = |pools: &mut BTreeMap<String, Trigger>| {
            for pool in replica.take_changed_pools() {
                pools.entry(pool).or_insert(Trigger::Changed);
            }
        };
        dirty(&mut pools);
        if pools.is_empty() {
            let next = due.values().min().map(|at| replica.cluster_clock().instant_of(*at));
            let soonest = next.map_or(all_at, |next| all_at.min(next));
            tokio::select! {
                () = replica.changed() => {}
                () = tokio::time::sleep_until(soonest) => {}
            }
        } else if pools.values().any(|occasion| *occasion == Trigger::Due) {
            tokio::time::sleep(RETRY_AFTER).await;
        }
        dirty(&mut pools);
        if Instant::now() >= all_at {
            all_at = Instant::now() + PERIOD;
            pools.extend(all_pools(&term));
        }
        let now_ms = now_ms(&term);
        let is_due = due.iter().filter(|(_, at)| **at <= now_ms);
        pools.extend(is_due.map(|(pool, _)| (pool.clone(), Trigger::Due)));
        memories.retain(|pool, _| replica.read().pools.get(pool).is_some());
    }
}

/// Why a pool is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// It has changed.
    Changed,
    /// It is time, or the last step could not be taken.
    Due,
}

/// What is remembered of a pool.
#[derive(Default)]
struct PoolState {
    planned: Option<Planned>,
    watch: StuckDetector,
}

/// When a pool was planned last, and on account of what.
struct Planned {
    at: Instant,
    causes: Causes,
    /// When it is to be looked at again, by the cluster clock.
    look_again_ms: Option<u64>,
}

/// Looks at a pool: grants at once what can be granted without planning; and plans, unless all
/// that has changed since the last plan is what that plan asked for, a moment ago. Returns when it
/// is to be looked at again though nothing changes.
async fn reconcile(
    term: &LeaderTerm,
    pool: &str,
    occasion: Trigger,
    memory: &mut PoolState,
) -> Result<Option<u64>, NotProposed> {
    fast_path_grants(term, pool).await?;
    let (causes, moves) = {
        let applied = term.control.replica.read();
        let view = applied.pools.get(pool);
        (view.map(|view| view.causes), view.map_or(0, |view| view.pending_moves().count()))
    };
    if let (Trigger::Changed, Some(last)) = (occasion, &memory.planned)
        && Some(last.causes) == causes
        && moves > 0
        && last.at.elapsed() < PLAN_PERIOD
    {
        let soon_ms = now_ms(term) + u64::try_from(PLAN_PERIOD.as_millis()).unwrap_or(u64::MAX);
        return Ok(Some(last.look_again_ms.map_or(soon_ms, |at_ms| at_ms.min(soon_ms))));
    }
    let at = Instant::now();
    let look_again_ms = reconcile_pool(term, pool, &mut memory.watch).await?;
    memory.planned = causes.map(|causes| Planned { at, causes, look_again_ms });
    Ok(look_again_ms)
}

/// The step could not be proposed: it is to be tried again.
struct NotProposed;

/// The cluster clock, in milliseconds.
fn now_ms(term: &LeaderTerm) -> u64 {
    term.control.replica.cluster_clock().now_ms()
}

fn all_pools(term: &LeaderTerm) -> BTreeMap<String, Trigger> {
    term.control.replica.read().pools.iter().map(|pool| (pool.name.clone(), Trigger::Due)).collect()
}

/// Takes one step in one pool. What it changes makes the pool dirty, so that it
/// is looked at again. Returns when it is to be looked at again though nothing changes.
async fn reconcile_pool(
    term: &LeaderTerm,
    pool: &str,
    watch: &mut StuckDetector,
) -> Result<Option<u64>, NotProposed> {
    let Control { replica, session_leases, .. } = &term.control;
    let now = Instant::now();
    // Before the pool is looked at: it knows of every grant that something was said of.
    let said = session_leases.member_reports.pool_reports(pool, now);
    let (tree, view) = {
        let applied = replica.read();
        let Some(view) = applied.pools.get(pool) else {
            session_leases.member_reports.remove_pool(pool);
            return Ok(None);
        };
        (applied.state.tree().clone(), view.clone())
    };
    let at = At { now, now_ms: now_ms(term), waited: now.duration_since(term.began) };
    let (control, mut watching) = (term.control.clone(), std::mem::take(watch));
    // Large pools take long enough to hold up heartbeats, and what members let go of meanwhile.
    let mut planning = tokio::task::spawn_blocking(move || {
        let known = collect_inputs(&control, &view, said, &mut watching, at);
        (reconcile_step(&tree, &view, &known), watching)
    });
    let planned = loop {
        tokio::select! {
            planned = &mut planning => break planned,
            () = replica.changed() => {
                for pool in replica.dirty() {
                    // If it cannot be proposed now, neither can the plan: that is seen below.
                    drop(fast_path_grants(term, &pool).await);
                }
            }
        }
    };
    let planned = planned.map_err(|e| e.to_string()).and_then(|(step, watching)| {
        *watch = watching;
        step.map_err(|e| e.to_string())
    });
    let step = match planned {
        Ok(step) => step,
        // Nor does a planner that panics touch the other pools.
        Err(fault) => {
            tracing::error!(pool, %fault, "nothing is moved in this pool");
            metrics::counter!(crate::metrics::INVALID_PLANS).increment(1);
            return Ok(None);
        }
    };
    let refused = propose(term, pool, &step.multis).await?;
    session_leases.member_reports.churned(pool, step.churned, Instant::now());
    record_metrics(pool, &step, refused);
    Ok(step.recheck_after_ms)
}

/// When something is looked at.
#[derive(Debug, Clone, Copy)]
struct At {
    now: Instant,
    /// By the cluster clock.
    now_ms: u64,
    /// Since this server leads.
    waited: Duration,
}

/// What is known besides the tree; what is known of what is no more is forgotten.
fn collect_inputs(
    control: &Control,
    view: &PoolView,
    mut said: PoolReports,
    watch: &mut StuckDetector,
    at: At,
) -> PlannerInputs {
    let (member_reports, now) = (&control.session_leases.member_reports, at.now);
    member_reports.drop_outdated(view, &said);
    match view.spec.stuck_ms {
        Some(after_ms) => watch.observe(view, &mut said, Duration::from_millis(after_ms), now),
        None => {
            *watch = StuckDetector::default();
            said.stuck.clear();
            said.stuck_anywhere.clear();
        }
    }
    gather_loads(view, &mut said, at.waited);
    member_reports.found(&view.name, &said);
    planner_inputs(view, &said, at.now_ms)
}

/// Does what can be done without planning.
async fn fast_path_grants(term: &LeaderTerm, pool: &str) -> Result<(), NotProposed> {
    let quick = term.control.replica.read().pools.get(pool).map(fast_path_step).unwrap_or_default();
    // What is refused is seen by the next plan.
    if propose(term, pool, &quick.multis).await? == 0 {
        metrics::counter!(crate::metrics::GRANTS).increment(u64::from(quick.grants));
    }
    Ok(())
}

/// Proposes multis, each on its own. Returns how many were refused.
async fn propose(term: &LeaderTerm, pool: &str, multis: &[Vec<Op>]) -> Result<u32, NotProposed> {
    let mut refused = 0;
    for some in multis.chunks(MULTIS_MAX) {
        let commands: Vec<Command> =
            some.iter().map(|ops| Command::Multi { by: Actor::rota(None), ops: ops.clone() }).collect();
        match term.propose(&commands).await {
            Ok(some) => refused += some,
            Err(error) => {
                tracing::debug!(pool, %error, "a step could not be proposed");
                return Err(NotProposed);
            }
        }
    }
    Ok(refused)
}

fn record_metrics(pool: &str, step: &Step, refused: u32) {
    if refused > 0 {
        // Nothing that was refused makes the pool dirty: the next look at all pools
        // tries again.
        tracing::info!(pool, refused, "a part of a step was refused: the pool has changed meanwhile");
    }
    metrics::counter!(crate::metrics::CONFLICTS).increment(u64::from(refused));
    if refused > 0 {
        // What of it is still to be done is in the next step, and counted there.
        return;
    }
    if step.grants > 0 || step.moves_planned() > 0 {
        let report = &step.report;
        tracing::info!(
            pool,
            grants = step.grants,
            moves_planned = step.moves_planned(),
            moves = report.moves,
            moves_lower_bound = report.moves_lower_bound,
            "assignment"
        );
    }
    metrics::counter!(crate::metrics::GRANTS).increment(u64::from(step.grants));
    metrics::counter!(crate::metrics::MOVES_PLANNED).increment(u64::from(step.moves_planned()));
}
