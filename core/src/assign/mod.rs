//! From what is to what should be: the next step for one pool.
//!
//! [`reconcile_step`] is level-triggered: it looks at the whole pool, not at what
//! happened, so a missed event, a new leader and a restart are all the same to
//! it. What it returns are multis whose operations are guarded by the rows' zxids;
//! one that comes too late is refused and the next look makes another.
//!
//! How a bucket passes on in an exclusive pool; [`handoff`] has the whole table:
//!
//! ```text
//!            planned                 its owner releases           granted
//!  owned by A ───────► owned by A, ───────────────────► vacant ───────────► owned by B
//!      │               move pending                       ▲
//!      └──────────────── A's session has ended ───────────┘   (granted in the same write)
//! ```
//!
//! An owner is taken out of a row only by itself, or when it is no longer a member
//! with the same `joined`: by the committed end of its session. So at no time does
//! a bucket have two primaries.

mod handoff;
mod moves;
mod target;
mod writer;

use std::collections::{BTreeMap, BTreeSet};

use handoff::{HandoffRules, MemberStatus};
use target::{DesiredBucket, Target};
use writer::Writer;

use crate::pool::{
    AwaitingRejoin, Bucket, Member, Move, Owner, Plan, PoolView, Reason, Report, Row, RowEntry, layout,
    to_json,
};
use crate::state::{Op, Tree, perms};

/// Most operations in one multi. At 200 bytes each it stays well below the
/// largest entry, and other writes are not kept waiting for it.
pub const OPS_MAX: usize = 512;

/// The next step for a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// To be proposed, each on its own, in order. Empty when nothing is to do.
    pub multis: Vec<Vec<Op>>,
    /// Buckets without a primary that these multis give one.
    pub grants: u32,
    /// Moves that the new plan adds.
    pub added: Vec<Move>,
    /// What the planner says.
    pub report: Report,
    /// The plan that these multis write; `None` if the one that there is stands.
    pub plan: Option<Plan>,
    /// How many of them count as churn.
    pub churned: u32,
    /// When to look again at the latest, though nothing changes: milliseconds of the cluster's
    /// clock.
    pub recheck_after_ms: Option<u64>,
}

/// What a planner's answer cannot be trusted for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the planner's answer for pool {pool} is wrong: {fault}")]
pub struct InvalidPlan {
    /// The pool.
    pub pool: String,
    /// What is wrong.
    pub fault: String,
}

/// What is known besides the tree. A plan follows from the two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlannerInputs {
    /// The cluster clock, in milliseconds: see [`Timestamp`](crate::state::Timestamp).
    pub now_ms: u64,
    /// How busy buckets keep their owners, in any unit; of buckets that are not named here it
    /// is not known.
    pub loads: BTreeMap<Bucket, u64>,
    /// How many buckets may be moved now for what changes by itself: see
    /// [`Spec::max_rebalances_per_minute`](crate::pool::Spec::max_rebalances_per_minute).
    pub churn_left: Option<usize>,
    /// Buckets that are to leave a member: it leads them or prepares to, and says nothing new of
    /// its work.
    pub stuck: BTreeSet<(Bucket, String)>,
}

/// The next step for `pool`, which `tree` holds.
///
/// # Errors
/// When the planner's answer fails its independent check. That is a bug, and
/// nothing is moved on account of it.
pub fn reconcile_step(tree: &Tree, pool: &PoolView, known: &PlannerInputs) -> Result<Step, InvalidPlan> {
    let absent = in_grace_period(pool, known.now_ms);
    let (wanted, others) = target::desired_buckets(pool);
    let target = Target::of(pool, &wanted, &absent, known)?;
    Ok(step_to(&target, (&wanted, &others), &absent, known, tree, pool))
}

/// What can be done without planning: buckets that their owners have let go of, as the plan
/// asked, are granted to whom the plan says; and where a primary is gone, the first of its backups
/// leads. That is what a bucket waits for; all else can wait for [`reconcile_step`].
#[must_use]
pub fn fast_path_step(pool: &PoolView) -> FastPathStep {
    let is_able = |name: &str, bucket: &Bucket| {
        let entry = pool.members.get(name)?;
        let Member { draining, cordoned, .. } = entry.member;
        let may = entry.member.has_labels(&pool.affinity_of(bucket).require);
        (!draining && !cordoned && may).then_some(entry)
    };
    let mut granted: BTreeMap<&Bucket, (&RowEntry, Row, Reason)> = BTreeMap::new();
    for mv in &pool.plan.moves {
        let Some((to, entry)) = mv.to.as_ref().zip(pool.rows.get(&mv.bucket)) else { continue };
        if let Some(member) = is_able(to, &mv.bucket)
            && pool.is_wanted(&mv.bucket)
            && entry.row.owners.is_empty()
            && entry.row.preparing.is_empty()
        {
            let row = Row::owned_by(Owner::new(to, member.joined));
            granted.entry(&mv.bucket).or_insert((entry, row, mv.reason));
        }
    }
    for (bucket, entry) in pool.departed_members().flat_map(|name| pool.held_by(name)) {
        let lives = |owner: &&Owner| pool.is_living(owner);
        let primary = entry.row.primary();
        if primary.is_none_or(|primary| pool.is_living(primary)) {
            continue;
        }
        let living = |owners: &[Owner]| owners.iter().filter(lives).cloned().collect::<Vec<_>>();
        let (mut owners, mut preparing) = (living(&entry.row.owners), living(&entry.row.preparing));
        // Of those who could lead, whoever is to go does not, if another can.
        owners.sort_by_key(|owner| pool.members.get(&owner.member).is_some_and(|m| m.member.draining));
        // Whoever may be back keeps its place until a plan takes it away.
        let may_be_back = |owner: &&Owner| pool.may_rejoin(owner) && !lives(owner);
        preparing.extend(entry.row.owners.iter().chain(&entry.row.preparing).filter(may_be_back).cloned());
        if !owners.is_empty() {
            let row = Row { owners, preparing, degraded: false };
            granted.entry(bucket).or_insert((entry, row, Reason::Died));
        }
    }
    if granted.is_empty() {
        return FastPathStep::default();
    }
    let mut writer = Writer::new(pool);
    for (bucket, (entry, row, reason)) in &granted {
        let row = row.clone().transition_from(&entry.row, pool.spec.replicas as usize);
        writer.replace(bucket, entry, &row, *reason);
    }
    FastPathStep { multis: writer.finish_grants(), grants: u32::try_from(granted.len()).unwrap_or(u32::MAX) }
}

/// What can be done without planning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FastPathStep {
    /// To be proposed, each on its own, in order.
    pub multis: Vec<Vec<Op>>,
    /// Buckets that these give another primary.
    pub grants: u32,
}

/// The members that have gone and whose rows wait for them.
fn in_grace_period(pool: &PoolView, now_ms: u64) -> BTreeMap<String, AwaitingRejoin> {
    let rejoin_grace_ms = pool.spec.rejoin_grace_ms;
    if rejoin_grace_ms == 0 || pool.spec.deleting {
        return BTreeMap::new();
    }
    let waits = |away: &AwaitingRejoin| now_ms < away.since_cluster_ms.saturating_add(rejoin_grace_ms);
    let known = pool.awaiting_rejoin.iter().filter(|(_, entry)| waits(&entry.away));
    let known = known.map(|(name, entry)| (name.clone(), entry.away.clone()));
    let gone = pool.recently_left.iter().map(|(name, entry)| {
        let away =
            AwaitingRejoin { member: entry.member.clone(), joined: entry.joined, since_cluster_ms: now_ms };
        (name.clone(), away)
    });
    // One that was back for a moment, and had got nothing, is still away as before; otherwise it
    // counts anew.
    let is_waited_for = |(name, away): &(String, AwaitingRejoin)| {
        let names = |owner: &Owner| owner.member == *name && owner.joined == away.joined;
        let mut rows = pool.held_by(name);
        !pool.members.contains_key(name)
            && !away.member.draining
            && rows.any(|(_, entry)| entry.row.owners.iter().chain(&entry.row.preparing).any(names))
    };
    known.chain(gone).filter(is_waited_for).collect()
}

struct Reconciler<'a> {
    pool: &'a PoolView,
    absent: &'a BTreeMap<String, AwaitingRejoin>,
    known: &'a PlannerInputs,
    target: &'a Target,
    /// The plan's moves of each bucket that are pending.
    pending: BTreeMap<&'a Bucket, Vec<&'a Move>>,
}

impl Step {
    /// How many moves the new plan adds.
    #[must_use]
    pub fn moves_planned(&self) -> u32 {
        u32::try_from(self.added.len()).unwrap_or(u32::MAX)
    }
}

impl Reconciler<'_> {
    fn member_status(&self, owner: &Owner) -> MemberStatus {
        if self.pool.is_living(owner) {
            return MemberStatus::Living;
        }
        match self.absent.get(&owner.member) {
            Some(away) if away.joined == owner.joined => MemberStatus::Away,
            _ => MemberStatus::Gone,
        }
    }

    /// The row that should stand now.
    fn next_row(&self, bucket: &Bucket, row: &Row) -> Row {
        let planned = self.pending.get(bucket).map_or(&[][..], Vec::as_slice);
        let standing = |owner: &Owner| self.member_status(owner);
        handoff::next_row(&self.rules(&standing), row, self.desired_owners(bucket), planned)
    }

    fn rules<'s>(&self, standing: &'s dyn Fn(&Owner) -> MemberStatus) -> HandoffRules<'s> {
        HandoffRules { handoff: self.pool.spec.handoff, replicas: self.pool.spec.replicas as usize, standing }
    }

    fn desired_owners(&self, bucket: &Bucket) -> &[Owner] {
        self.target.owners.get(bucket).map_or(&[], Vec::as_slice)
    }

    /// Why a row becomes another.
    fn reason(&self, bucket: &Bucket, before: &Row, after: &Row) -> Reason {
        let planned = || self.pool.plan.moves.iter().find(|mv| mv.bucket == *bucket);
        let is_gone = |owner: &&Owner| self.member_status(owner) != MemberStatus::Living;
        let mut gone = before.owners.iter().filter(is_gone).peekable();
        if gone.peek().is_none() {
            return planned().map_or(Reason::Vacant, |mv| mv.reason);
        }
        // Whoever is back under its name has joined anew.
        let is_back = |owner: &Owner| {
            after.owners.iter().any(|other| other.member == owner.member && !other.is_same(owner))
        };
        if gone.all(is_back) { Reason::Joined } else { Reason::Died }
    }
}

fn step_to(
    target: &Target,
    (wanted, others): (&[DesiredBucket<'_>], &[(&Bucket, &RowEntry)]),
    absent: &BTreeMap<String, AwaitingRejoin>,
    known: &PlannerInputs,
    tree: &Tree,
    pool: &PoolView,
) -> Step {
    let mut pending: BTreeMap<&Bucket, Vec<&Move>> = BTreeMap::new();
    pool.pending_moves().for_each(|mv| pending.entry(&mv.bucket).or_default().push(mv));
    let stepper = Reconciler { pool, absent, known, target, pending };
    let mut step = Step { report: target.report.clone(), ..Step::default() };
    step.recheck_after_ms =
        absent.values().map(|away| away.since_cluster_ms.saturating_add(pool.spec.rejoin_grace_ms)).min();

    let mut writer = Writer::new(pool);
    let mut needed: Vec<Move> = Vec::new();
    // All others are as they should be.
    for DesiredBucket { bucket, entry } in target.unsettled.iter().map(|at| &wanted[*at]) {
        let Some(entry) = entry else {
            let row = stepper.next_row(bucket, &Row::vacant());
            step.grants += u32::from(row.primary().is_some());
            writer.create(bucket, &row);
            continue;
        };
        let row = stepper.next_row(bucket, &entry.row);
        let led =
            entry.row.primary().is_some_and(|owner| stepper.member_status(owner) == MemberStatus::Living);
        step.grants += u32::from(!led && row.primary().is_some_and(|owner| pool.is_living(owner)));
        needed.extend(stepper.moves_of(bucket, &row));
        writer.replace(bucket, entry, &row, stepper.reason(bucket, &entry.row, &row));
    }
    for (bucket, entry) in others {
        let row = stepper.next_row(bucket, &entry.row);
        match row.owners.is_empty() {
            true => writer.delete(bucket, entry),
            false => {
                needed.extend(stepper.moves_of(bucket, &row));
                writer.replace(bucket, entry, &row, Reason::Removed);
            }
        }
    }
    step.multis = writer.finish();
    step.multis.extend(record_grace_periods(pool, absent));
    let moves::Next { plan, added, is_news } = moves::next_plan(pool, absent, &needed, &target.report);
    step.report.waiting.clone_from(&plan.report.waiting);
    if is_news {
        let is_churn = |mv: &&Move| moves::is_churn(&pool.spec, target.has_weights, mv);
        let churned = target.released_grants + added.iter().filter(is_churn).count();
        step.churned = u32::try_from(churned).unwrap_or(u32::MAX);
        step.added = added;
        step.multis.push(vec![write_plan(pool, &plan)]);
        step.plan = Some(plan);
    }
    if pool.spec.deleting && pool.rows.is_empty() {
        step.multis = vec![deletion_ops(tree, pool)];
    }
    step
}

/// What is to come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// The plan that will stand after the next step, with what the planner says now.
    pub plan: Plan,
    /// How many buckets each member will own in the end.
    pub shares: BTreeMap<String, u32>,
    /// Of how many it will be the primary.
    pub primaries: BTreeMap<String, u32>,
}

/// What is to come; of a pool that was changed in thought, what would come of the change.
///
/// # Errors
/// As [`reconcile_step`].
pub fn preview(tree: &Tree, pool: &PoolView, known: &PlannerInputs) -> Result<Preview, InvalidPlan> {
    let absent = in_grace_period(pool, known.now_ms);
    let (wanted, others) = target::desired_buckets(pool);
    let target = Target::of(pool, &wanted, &absent, known)?;
    let step = step_to(&target, (&wanted, &others), &absent, known, tree, pool);
    let plan = step.plan.unwrap_or_else(|| Plan { report: step.report, ..(*pool.plan).clone() });
    let none = || pool.members.keys().map(|name| (name.clone(), 0)).collect::<BTreeMap<String, u32>>();
    let (mut shares, mut primaries) = (none(), none());
    for (name, (share, leads)) in target.shares.into_iter().filter(|(_, (share, _))| *share > 0) {
        shares.insert(name.clone(), share);
        primaries.insert(name, leads);
    }
    Ok(Preview { plan, shares, primaries })
}

fn row_path(pool: &PoolView, bucket: &Bucket) -> String {
    layout::row(&pool.name, bucket.as_str())
}

/// The tree keeps who is away and since when, so that the next leader knows.
fn record_grace_periods(pool: &PoolView, absent: &BTreeMap<String, AwaitingRejoin>) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    for (name, away) in absent {
        let (path, data) = (layout::awaiting_rejoin(&pool.name, name), to_json(away));
        match pool.awaiting_rejoin.get(name) {
            Some(known) if known.away == *away => {}
            Some(_) => ops.push(Op::set(path, data, None)),
            None => ops.push(layout::create(path, data, perms::READ)),
        }
    }
    if !ops.is_empty() {
        let folder = layout::pool(&pool.name) + "/away";
        ops.insert(0, ensure(folder));
    }
    for name in pool.awaiting_rejoin.keys().filter(|name| !absent.contains_key(*name)) {
        ops.push(Op::Delete { path: layout::awaiting_rejoin(&pool.name, name), version: None });
    }
    ops.truncate(OPS_MAX);
    (!ops.is_empty()).then_some(ops)
}

fn public_acl() -> Option<Vec<crate::state::AclEntry>> {
    Some(crate::state::Acl::for_anyone(perms::READ).entries())
}

fn ensure(path: String) -> Op {
    Op::Ensure { path, acl: public_acl() }
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
fn deletion_ops(tree: &Tree, pool: &PoolView) -> Vec<Op> {
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
