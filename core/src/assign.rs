//! From what is to what should be: the next step for one pool.
//!
//! [`plan_step`] is level-triggered: it looks at the whole pool, not at what
//! happened, so a missed event, a new leader and a restart are all the same to
//! it. What it returns are multis whose operations are guarded by fences; one
//! that comes too late is refused and the next look makes another.
//!
//! How a bucket passes on (handoff `exclusive`):
//!
//! ```text
//!            planned                 its owner releases           granted
//!  owned by A ───────► owned by A, ───────────────────► vacant ───────────► owned by B
//!      │               move pending                       ▲
//!      └──────────────── A's session has ended ───────────┘   (granted in the same write)
//! ```
//!
//! A row is granted only when it is vacant: no owner is written in it, or the
//! one written is no longer a member with the same `joined`. The first is done
//! by the owner itself, the second by the committed end of its session. So at
//! no time does a bucket have two owners.

use std::collections::{BTreeMap, BTreeSet};

use crate::placement::{self, Problem};
use crate::pool::{Bucket, Move, Owner, Plan, PoolView, Report, Row, RowEntry, layout, to_json};
use crate::state::{Op, Tree, perms};

/// Most operations in one multi. At 200 bytes each it stays well below the
/// largest entry, and other writes are not kept waiting for it.
pub const OPS_MAX: usize = 512;

/// The next step for a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// To be proposed, each on its own, in order. Empty when nothing is to do.
    pub multis: Vec<Vec<Op>>,
    /// Vacant buckets that these multis grant.
    pub grants: u32,
    /// Moves that the new plan adds.
    pub moves_planned: u32,
    /// What the planner says.
    pub report: Report,
}

/// What a planner's answer cannot be trusted for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the planner's answer for pool {pool} is wrong: {fault}")]
pub struct PlanFault {
    /// The pool.
    pub pool: String,
    /// What is wrong.
    pub fault: String,
}

/// The next step for `pool`, which `tree` holds.
///
/// # Errors
/// When the planner's answer fails its independent check. That is a bug, and
/// nothing is moved on account of it.
pub fn plan_step(tree: &Tree, pool: &PoolView) -> Result<Step, PlanFault> {
    let wanted: BTreeSet<Bucket> = pool.wanted_buckets().collect();
    let target = Target::of(pool, &wanted)?;
    // Each with its guard: the two stay in one multi.
    let mut writes: Vec<Vec<Op>> = Vec::new();
    let mut step = Step { report: target.report.clone(), ..Step::default() };

    for bucket in &wanted {
        let owner = target.owners.get(bucket);
        match pool.rows.get(bucket) {
            None => writes.push(vec![create_row(pool, bucket, owner)]),
            Some(entry) if !is_owned(pool, entry) => writes.push(fill_row(pool, bucket, entry, owner)),
            Some(_) => continue,
        }
        step.grants += u32::from(owner.is_some());
    }
    for (bucket, entry) in &pool.rows {
        if !wanted.contains(bucket) && !is_owned(pool, entry) {
            let delete = Op::Delete { path: row_path(pool, bucket), version: Some(entry.version) };
            writes.push(vec![fenced(pool, bucket, entry), delete]);
        }
    }
    for write in writes {
        match step.multis.last_mut() {
            Some(multi) if multi.len() + write.len() <= OPS_MAX => multi.extend(write),
            _ if write.is_empty() => {}
            _ => step.multis.push(write),
        }
    }
    if let Some((plan, added)) = next_plan(pool, &wanted, &target) {
        step.moves_planned = added;
        step.multis.push(vec![write_plan(pool, &plan)]);
    }
    if pool.spec.deleting && pool.rows.is_empty() {
        step.multis = vec![take_apart(tree, pool)];
    }
    Ok(step)
}

/// Who should own each bucket.
struct Target {
    owners: BTreeMap<Bucket, Owner>,
    report: Report,
}

impl Target {
    /// Poses the pool as a problem in numbers, and translates the answer back.
    fn of(pool: &PoolView, wanted: &BTreeSet<Bucket>) -> Result<Self, PlanFault> {
        let members: Vec<Owner> =
            pool.members.iter().map(|(name, m)| Owner { member: name.clone(), joined: m.joined }).collect();
        let index: BTreeMap<&str, usize> =
            members.iter().enumerate().map(|(i, owner)| (owner.member.as_str(), i)).collect();
        let planned: BTreeMap<&Bucket, &Move> = pool.plan.moves.iter().map(|m| (&m.bucket, m)).collect();

        let problem = Problem {
            weights: pool
                .members
                .values()
                .map(|m| if m.member.draining { 0 } else { m.member.weight })
                .collect(),
            owners: wanted
                .iter()
                .map(|bucket| {
                    let owner = expected_owner(pool, bucket, planned.get(bucket).copied());
                    owner.and_then(|name| index.get(name).copied())
                })
                .collect(),
        };
        let answer = placement::solve(&problem);
        let report = placement::check::check(&problem, &answer)
            .map_err(|fault| PlanFault { pool: pool.name.clone(), fault })?;
        let owners = wanted
            .iter()
            .zip(&answer.owners)
            .filter_map(|(bucket, owner)| Some((bucket.clone(), members[(*owner)?].clone())))
            .collect();
        Ok(Self { owners, report })
    }
}

/// Whose the bucket is to be taken for: its owner's, even one that is asked to
/// let go (so that a plan can still be taken back) or that died (its name may
/// have joined again); for a vacant row, whom the plan destined it for, if that
/// one can still take it.
fn expected_owner<'a>(pool: &'a PoolView, bucket: &Bucket, planned: Option<&'a Move>) -> Option<&'a str> {
    let entry = pool.rows.get(bucket)?;
    let destined = || {
        let to = planned?.to.as_deref()?;
        pool.members.get(to).is_some_and(|m| !m.member.draining).then_some(to)
    };
    match entry.row.primary() {
        Some(owner) => Some(&owner.member),
        None => destined(),
    }
}

fn is_owned(pool: &PoolView, entry: &RowEntry) -> bool {
    entry.row.primary().is_some_and(|owner| pool.is_living(owner))
}

fn row_path(pool: &PoolView, bucket: &Bucket) -> String {
    layout::row(&pool.name, bucket.as_str())
}

fn row_for(owner: Option<&Owner>) -> Row {
    owner.cloned().map_or_else(Row::vacant, Row::owned_by)
}

fn create_row(pool: &PoolView, bucket: &Bucket, owner: Option<&Owner>) -> Op {
    let data = to_json(&row_for(owner));
    // Clients write there only to release: see `pool::guard`.
    layout::create(row_path(pool, bucket), data, perms::READ | perms::WRITE)
}

/// Grants a vacant row, or wipes a dead owner's name from it if nobody can take
/// it.
fn fill_row(pool: &PoolView, bucket: &Bucket, entry: &RowEntry, owner: Option<&Owner>) -> Vec<Op> {
    let row = row_for(owner);
    if row == entry.row {
        return Vec::new();
    }
    let write = Op::set(row_path(pool, bucket), to_json(&row), None);
    vec![fenced(pool, bucket, entry), write]
}

fn fenced(pool: &PoolView, bucket: &Bucket, entry: &RowEntry) -> Op {
    Op::CheckFence { path: row_path(pool, bucket), fence: entry.fence }
}

/// The plan that should stand now, and how many moves it adds; `None` if the
/// present one will do.
fn next_plan(pool: &PoolView, wanted: &BTreeSet<Bucket>, target: &Target) -> Option<(Plan, u32)> {
    let needed: BTreeMap<&Bucket, Move> = pool
        .rows
        .iter()
        .filter(|(_, entry)| is_owned(pool, entry))
        .filter_map(|(bucket, entry)| {
            let from = entry.row.primary()?;
            let to = target.owners.get(bucket).map(|owner| owner.member.clone());
            let stays = wanted.contains(bucket) && to.as_ref().is_none_or(|to| *to == from.member);
            let from = from.member.clone();
            (!stays).then(|| (bucket, Move { bucket: bucket.clone(), from, to, fence: entry.fence }))
        })
        .collect();

    let pending: Vec<&Move> = pool.pending_moves().collect();
    let kept: Vec<Move> = pending.iter().filter_map(|m| needed.get(&m.bucket)).cloned().collect();
    let room = (pool.spec.max_moving as usize).saturating_sub(kept.len());
    let kept_buckets: BTreeSet<&Bucket> = kept.iter().map(|m| &m.bucket).collect();
    let added: Vec<Move> =
        needed.values().filter(|m| !kept_buckets.contains(&m.bucket)).take(room).cloned().collect();

    let unchanged =
        added.is_empty() && kept.len() == pending.len() && kept.iter().eq(pending.iter().copied());
    if unchanged {
        return None;
    }
    let added_count = u32::try_from(added.len()).unwrap_or(u32::MAX);
    let mut moves = [kept, added].concat();
    moves.sort_by(|a, b| a.bucket.cmp(&b.bucket));
    let parent = pool.plan.number;
    let plan = Plan { number: parent + 1, parent, moves, report: target.report.clone() };
    Some((plan, added_count))
}

fn write_plan(pool: &PoolView, plan: &Plan) -> Op {
    let (path, data) = (layout::plan(&pool.name), to_json(plan));
    match pool.plan_version {
        Some(version) => Op::set(path, data, Some(version)),
        None => layout::create(path, data, perms::READ),
    }
}

/// The paths below `path`, children before their parents, until there are
/// [`OPS_MAX`].
fn list_below(tree: &Tree, path: &str, found: &mut Vec<String>) {
    for child in tree.paths_below(path) {
        list_below(tree, child.as_str(), found);
        if found.len() >= OPS_MAX {
            return;
        }
        found.push(child.to_string());
    }
}

/// Removes what is left of a pool that is being deleted, once it has no rows:
/// what its folders hold, [`OPS_MAX`] nodes at a time; then, all at once, the
/// folders, the plan and the pool itself.
fn take_apart(tree: &Tree, pool: &PoolView) -> Vec<Op> {
    let delete = |path: String| Op::Delete { path, version: None };
    let root = layout::pool(&pool.name);
    // The pool may have been made again, or the deletion taken back, since.
    let guard = Op::Check { path: root.clone(), version: Some(pool.spec_version) };
    let folders = layout::FOLDERS.map(|folder| format!("{root}/{folder}"));
    let mut held = Vec::new();
    for folder in &folders {
        list_below(tree, folder, &mut held);
    }
    let held: Vec<Op> = held.into_iter().map(delete).collect();
    let last: Vec<Op> =
        tree.paths_below(&root).map(ToString::to_string).chain([root.clone()]).map(delete).collect();
    let deletes = if held.is_empty() { last } else { held };
    std::iter::once(guard).chain(deletes).collect()
}
