//! Who should own each bucket of a pool: the pool as a problem in numbers, and the answer
//! in names.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64;

use super::{InvalidPlan, PlannerInputs};
use crate::placement::ring::Names;
use crate::placement::{
    self, Answer, Candidate, Demand, LabelGroup, MoveInProgress, Owners, Problem, Quotas, check, load,
    weighted,
};
use crate::pool::{
    Affinity, AwaitingRejoin, Balance, Bucket, Kind, Labels, Member, Move, Owner, PoolView, Reason, Report,
    Row, RowEntry, Shortage, ShortageReason, Spread, Strategy,
};

/// A bucket that there should be a row for, and the row that there is.
pub(super) struct DesiredBucket<'a> {
    pub(super) bucket: Bucket,
    pub(super) entry: Option<&'a RowEntry>,
}

/// The buckets that there should be rows for, in order, and the rows that there should not be.
pub(super) fn desired_buckets(pool: &PoolView) -> (Vec<DesiredBucket<'_>>, Vec<(&Bucket, &RowEntry)>) {
    let mut rows = pool.rows.iter().peekable();
    let (mut all, mut others) = (Vec::new(), Vec::new());
    // Nearly always there is a row for each bucket already.
    let last = pool.rows.get_max().map(|(bucket, _)| bucket);
    if let Kind::Hashed { buckets } = pool.spec.kind
        && !pool.spec.deleting
        && pool.rows.len() == buckets as usize
        && last == Some(&Bucket::number(buckets - 1))
    {
        let all = rows.map(|(bucket, entry)| DesiredBucket { bucket: bucket.clone(), entry: Some(entry) });
        return (all.collect(), others);
    }
    let mut buckets: Vec<Bucket> = pool.wanted_buckets().collect();
    // Items are in another order than buckets if some of them look like numbers.
    buckets.sort_unstable();
    for bucket in buckets {
        while let Some((before, entry)) = rows.next_if(|(row, _)| **row < bucket) {
            others.push((before, entry));
        }
        let entry = rows.next_if(|(row, _)| **row == bucket).map(|(_, entry)| entry);
        all.push(DesiredBucket { bucket, entry });
    }
    others.extend(rows);
    (all, others)
}

/// Who should own each bucket.
pub(super) struct Target {
    /// Buckets whose rows are not as they should be, by their places among those that are wanted.
    pub(super) unsettled: Vec<usize>,
    /// Their owners, in order, as they are to be granted.
    pub(super) owners: BTreeMap<Bucket, Vec<Owner>>,
    /// How many buckets each member is to own, and of how many it is to be the primary.
    pub(super) shares: BTreeMap<String, (u32, u32)>,
    pub(super) report: Report,
    /// Who is left, since it is stuck.
    leaving: BTreeSet<(Bucket, String)>,
    /// How many others prepare a bucket instead.
    pub(super) released_grants: usize,
    /// Buckets have weights or loads.
    pub(super) has_weights: bool,
}

/// Most buckets that leave stuck owners at once: each takes a little of the planner's time.
const LEAVING_MAX: usize = 16;

impl Target {
    pub(super) fn of(
        pool: &PoolView,
        wanted: &[DesiredBucket<'_>],
        absent: &BTreeMap<String, AwaitingRejoin>,
        known: &PlannerInputs,
    ) -> Result<Self, InvalidPlan> {
        let crew = Candidates::new(pool, absent);
        let Evictions { leaving, released_grants, churn_left } = evictions(pool, known);
        let posed = ProblemBuilder::new(pool, wanted, &crew, known, (&leaving, churn_left));
        let problem = &posed.problem;
        let answer = match pool.spec.strategy {
            Strategy::Balanced if !problem.weights.is_empty() => weighted::solve(problem),
            Strategy::Balanced => placement::solve(problem),
            strategy => {
                let members = crew.owners.iter().map(|owner| owner.member.as_str()).collect();
                let buckets = wanted.iter().map(|wanted| wanted.bucket.as_str()).collect();
                let names = Names { members, buckets };
                match strategy {
                    Strategy::Ring => placement::ring::solve(problem, &names),
                    _ => placement::range::solve(problem),
                }
            }
        };
        let checked = match pool.spec.strategy {
            Strategy::Balanced if problem.weights.is_empty() => check::check(problem, &answer),
            _ => check::check_fixed(problem, &answer),
        };
        let mut report = checked.map_err(|fault| InvalidPlan { pool: pool.name.clone(), fault })?;
        if pool.spec.strategy == Strategy::Balanced && !problem.weights.is_empty() {
            let (busiest, bound) = load::busiest(problem, &answer);
            (report.busiest_milli, report.busiest_bound_milli) = (Some(busiest), Some(bound));
        }
        report.short = posed.shortages(&answer);
        let shares = crew.shares(&answer);
        let is_unsettled = |at: &usize| {
            let (demand, row) = (&posed.problem.buckets[*at], &answer.owners[*at]);
            let settled = |entry: &RowEntry| is_settled(&entry.row, demand, row, posed.problem.replicas);
            !wanted[*at].entry.is_some_and(settled)
        };
        let unsettled: Vec<usize> = (0..wanted.len()).filter(is_unsettled).collect();
        let named = |owners: &Owners| owners.iter().map(|at| crew.owners[at].clone()).collect();
        let owners = unsettled.iter().map(|at| (wanted[*at].bucket.clone(), named(&answer.owners[*at])));
        let owners = owners.collect();
        let has_weights = !posed.problem.weights.is_empty();
        Ok(Self { unsettled, owners, shares, report, leaving, released_grants, has_weights })
    }

    /// Whether an owner is left, since it is stuck.
    pub(super) fn is_leaving(&self, bucket: &Bucket, owner: &Owner) -> bool {
        self.leaving.contains(&(bucket.clone(), owner.member.clone()))
    }
}

/// Whether a row is as it should be: its owners all live, and are those, in that order.
fn is_settled(row: &Row, demand: &Demand, owners: &Owners, replicas: usize) -> bool {
    row.preparing.is_empty()
        && row.owners.len() == demand.owners.len()
        && demand.returning.is_empty()
        && demand.owners == *owners
        && row.degraded == (!owners.is_empty() && owners.len() < replicas)
}

/// Which buckets leave whoever is stuck with them: those that are on their way, and so many more
/// that the churn keeps within its bound. With that, what is left of the churn.
fn evictions(pool: &PoolView, known: &PlannerInputs) -> Evictions {
    if known.stuck.is_empty() {
        return Evictions { leaving: BTreeSet::new(), released_grants: 0, churn_left: known.churn_left };
    }
    let is_stuck = |mv: &Move| Some((mv.bucket.clone(), mv.from.clone()?));
    let begun: BTreeSet<(Bucket, String)> =
        pool.pending_moves().filter(|mv| mv.reason == Reason::Stuck).filter_map(is_stuck).collect();
    let works = |(bucket, member): &&(Bucket, String)| {
        let row = pool.rows.get(bucket).map(|entry| &entry.row);
        let mut works = row.into_iter().flat_map(|row| row.primary().into_iter().chain(&row.preparing));
        works.any(|owner| owner.member == *member && pool.is_living(owner))
    };
    let (begun, others): (Vec<_>, Vec<_>) =
        known.stuck.iter().filter(works).partition(|mv| begun.contains(mv));
    let room = LEAVING_MAX.saturating_sub(begun.len()).min(known.churn_left.unwrap_or(usize::MAX));
    let more = room.min(others.len());
    let prepares = |(bucket, member): &&(Bucket, String)| {
        let row = pool.rows.get(bucket).map(|entry| &entry.row);
        row.is_some_and(|row| row.preparing.iter().any(|owner| owner.member == *member))
    };
    let released_grants = others.iter().take(more).copied().filter(prepares).count();
    let leaving = begun.into_iter().chain(others.into_iter().take(more)).cloned().collect();
    Evictions { leaving, released_grants, churn_left: known.churn_left.map(|left| left.saturating_sub(more)) }
}

/// Which buckets leave whoever is stuck with them.
struct Evictions {
    leaving: BTreeSet<(Bucket, String)>,
    /// Of those, new ones that are only prepared there: there is no move that tells.
    released_grants: usize,
    /// What is left of the churn.
    churn_left: Option<usize>,
}

/// Those who may own buckets, by number: the members, and those who are away and may be back.
struct Candidates<'a> {
    members: Vec<&'a Member>,
    /// Those who keep what they have, and get nothing: cordoned, or away.
    is_closed: Vec<bool>,
    is_away: Vec<bool>,
    owners: Vec<Owner>,
    /// The hashes of their names, in order: names are looked up by the hundred thousand.
    index: Vec<(u64, usize)>,
}

impl<'a> Candidates<'a> {
    fn new(pool: &'a PoolView, absent: &'a BTreeMap<String, AwaitingRejoin>) -> Self {
        let there = pool.members.iter().map(|(name, entry)| (name.as_str(), &entry.member, entry.joined));
        let away = absent.iter().map(|(name, away)| (name.as_str(), &away.member, away.joined));
        let mut all: Vec<(&str, &Member, u64)> = there.chain(away).collect();
        all.sort_by_key(|(name, ..)| *name);
        let mut index: Vec<(u64, usize)> =
            all.iter().map(|(name, ..)| xxh3_64(name.as_bytes())).zip(0..).collect();
        index.sort_unstable();
        Self {
            is_closed: all.iter().map(|(name, m, _)| m.cordoned || absent.contains_key(*name)).collect(),
            is_away: all.iter().map(|(name, ..)| absent.contains_key(*name)).collect(),
            members: all.iter().map(|(_, member, _)| *member).collect(),
            owners: all.iter().map(|(name, _, joined)| Owner::new(name, *joined)).collect(),
            index,
        }
    }

    fn at(&self, name: &str) -> Option<usize> {
        let hash = xxh3_64(name.as_bytes());
        let first = self.index.partition_point(|(other, _)| *other < hash);
        let alike = self.index[first..].iter().take_while(|(other, _)| *other == hash);
        alike.map(|(_, at)| *at).find(|at| self.owners[*at].member == name)
    }

    /// Whether an owner, whose number that is, is a member as it joined then.
    fn is_living(&self, at: usize, owner: &Owner) -> bool {
        !self.is_away[at] && self.owners[at].joined == owner.joined
    }

    fn shares(&self, answer: &Answer) -> BTreeMap<String, (u32, u32)> {
        let mut counts = vec![(0, 0); self.owners.len()];
        for row in &answer.owners {
            row.iter().for_each(|owner| counts[owner].0 += 1);
            row.primary().into_iter().for_each(|owner| counts[owner].1 += 1);
        }
        self.owners.iter().map(|owner| owner.member.clone()).zip(counts).collect()
    }

    /// The number of each one's zone.
    fn zones(&self, spread: Spread) -> Vec<usize> {
        let zone = |member: &&'a Member| match spread {
            Spread::Zone => member.zone.as_str(),
            Spread::None => "",
        };
        let names: BTreeSet<&str> = self.members.iter().map(zone).collect();
        let numbers: BTreeMap<&str, usize> = names.into_iter().zip(0..).collect();
        self.members.iter().map(|member| numbers[zone(member)]).collect()
    }
}

/// A pool as a problem in numbers.
struct ProblemBuilder {
    problem: Problem,
    /// What the buckets of each class ask for, and the numbers of members that they are to leave.
    asked: Vec<(Affinity, Vec<usize>)>,
}

impl ProblemBuilder {
    fn new(
        pool: &PoolView,
        wanted: &[DesiredBucket<'_>],
        crew: &Candidates<'_>,
        known: &PlannerInputs,
        (leaving, churn_left): (&BTreeSet<(Bucket, String)>, Option<usize>),
    ) -> Self {
        let mut left: BTreeMap<&Bucket, Vec<usize>> = BTreeMap::new();
        for (bucket, member) in leaving {
            left.entry(bucket).or_default().extend(crew.at(member));
        }
        let mut planned: BTreeMap<&Bucket, Vec<&Move>> = BTreeMap::new();
        pool.plan.moves.iter().for_each(|mv| planned.entry(&mv.bucket).or_default().push(mv));
        // What buckets ask for, and the numbers of members that they are to leave.
        let mut classes: BTreeMap<(Affinity, Vec<usize>), usize> = BTreeMap::new();
        let mut buckets = Vec::with_capacity(wanted.len());
        let replicas = pool.spec.replicas as usize;
        let mut most_class = None;
        for DesiredBucket { bucket, entry } in wanted {
            let next = classes.len();
            let is_like_most = pool.items.is_empty() && !left.contains_key(bucket);
            let class = most_class.filter(|_| is_like_most).unwrap_or_else(|| {
                let leaves = left.get(bucket).cloned().unwrap_or_default();
                *classes.entry((pool.affinity_of(bucket), leaves)).or_insert(next)
            });
            most_class = most_class.or(is_like_most.then_some(class));
            let planned = planned.get(bucket).map_or(&[][..], Vec::as_slice);
            let row = entry.map(|entry| &entry.row);
            buckets.push(row.map_or_else(Demand::default, |row| demand(row, planned, crew, replicas)));
            if let Some(demand) = buckets.last_mut() {
                demand.class = class;
            }
        }
        let owned = placement::count(buckets.iter().map(|bucket| &bucket.owners), crew.members.len());
        let mut all_asked = vec![(Affinity::default(), Vec::new()); classes.len()];
        classes.into_iter().for_each(|(asked, class)| all_asked[class] = asked);
        let zones = crew.zones(pool.spec.spread);
        let candidates = crew.members.iter().zip(&crew.is_closed).zip(owned).zip(zones);
        let candidates = candidates
            .map(|(((member, is_closed), owned), zone)| candidate(member, is_closed.then_some(owned), zone));
        let members = candidates.collect();
        let mut problem = Problem { members, replicas, buckets, ..Problem::default() };
        let having = |labels: fn(&Affinity) -> &Labels, affinity: &Affinity| -> Vec<bool> {
            crew.members.iter().map(|member| member.has_labels(labels(affinity))).collect()
        };
        let required = all_asked.iter().map(|(affinity, leaves)| {
            let mut allowed = having(|a| &a.require, affinity);
            leaves.iter().for_each(|member| allowed[*member] = false);
            LabelGroup { allowed }
        });
        let required: Vec<LabelGroup> = required.collect();
        let preferred = all_asked.iter().zip(&required).map(|((affinity, _), required)| {
            let preferred = having(|a| &a.prefer, affinity);
            let both = preferred.iter().zip(&required.allowed).map(|(a, b)| *a && *b);
            LabelGroup { allowed: both.collect() }
        });
        let preferred: Vec<LabelGroup> = preferred.collect();
        problem.classes = required;
        problem.cordoned.clone_from(&crew.is_closed);
        prefer(&mut problem, &preferred);
        problem.weights = weights(pool, wanted, known);
        problem.in_progress = moves_in_progress(pool, wanted, crew);
        problem.trigger_percent = u64::from(pool.spec.imbalance_threshold_percent);
        problem.budget = churn_left.filter(|_| pool.spec.is_evened_out_slowly());
        Self { problem, asked: all_asked }
    }

    /// Why buckets have too few owners, or such as should not have them.
    fn shortages(&self, answer: &Answer) -> Vec<Shortage> {
        let problem = &self.problem;
        let mut short = vec![0u32; self.asked.len()];
        let mut taken = vec![0u64; problem.members.len()];
        for (demand, owners) in problem.buckets.iter().zip(&answer.owners) {
            owners.iter().for_each(|owner| taken[owner] += 1);
            let is_good = |owner: &usize| {
                problem.may_own(demand.class, *owner) && taken[*owner] <= problem.limit(*owner)
            };
            short[demand.class] += u32::from(owners.iter().filter(is_good).count() < problem.replicas);
        }
        let told = self.asked.iter().zip(short).enumerate().filter(|(_, (_, buckets))| *buckets > 0);
        told.map(|(class, ((affinity, _), buckets))| Shortage {
            require: affinity.require.clone(),
            buckets,
            reason: self.reason(class),
        })
        .collect()
    }

    fn reason(&self, class: usize) -> ShortageReason {
        let problem = &self.problem;
        let could = (0..problem.members.len()).filter(|member| problem.may_own(class, *member)).count();
        match could {
            _ if problem.members.iter().all(|member| member.weight == 0) => ShortageReason::NoMembers,
            0 if self.asked[class].1.is_empty() => ShortageReason::NoMemberWithLabels,
            could if could < problem.replicas => ShortageReason::FewMembers,
            _ => ShortageReason::Capacity,
        }
    }
}

/// How busy each bucket keeps its owners; empty, if all do alike. What is not known is as the
/// median of what is.
fn weights(pool: &PoolView, wanted: &[DesiredBucket<'_>], known: &PlannerInputs) -> Vec<u64> {
    if pool.spec.balance == Balance::Load {
        let mut all: Vec<u64> = known.loads.values().copied().collect();
        all.sort_unstable();
        let median = all.get(all.len() / 2).map_or(1, |median| (*median).max(1));
        let load = |wanted: &DesiredBucket<'_>| {
            known.loads.get(&wanted.bucket).map_or(median, |load| (*load).max(1))
        };
        return wanted.iter().map(load).collect();
    }
    if pool.items.values().all(|item| item.weight == 1) {
        return Vec::new();
    }
    let weight = |wanted: &DesiredBucket<'_>| {
        pool.items.get(wanted.bucket.as_str()).map_or(1, |item| u64::from(item.weight))
    };
    wanted.iter().map(weight).collect()
}

/// Has buckets go to whom they would rather go to, as far as nothing is without an owner for that:
/// all of a kind, or none.
fn prefer(problem: &mut Problem, preferred: &[LabelGroup]) {
    let is_possible = |class: &LabelGroup| class.allowed.contains(&true);
    let differs =
        |class: &usize| preferred[*class] != problem.classes[*class] && is_possible(&preferred[*class]);
    let classes: Vec<usize> = (0..preferred.len()).filter(differs).collect();
    if classes.is_empty() {
        return;
    }
    // What those have who get nothing, they keep: it is about the others.
    let mut open = problem.clone();
    let members = open.members.iter_mut().zip(&problem.cordoned);
    members.filter(|(_, is_closed)| **is_closed).for_each(|(member, _)| member.weight = 0);
    open.buckets.retain(|demand| demand.owners.iter().all(|owner| !problem.is_cordoned(owner)));
    let all = Quotas::of(&open).total;
    // All of them nearly always; otherwise the first half of them, as far as possible, and so on.
    let mut rest = vec![classes];
    while let Some(mut some) = rest.pop() {
        let before = open.classes.clone();
        for class in &some {
            open.classes[*class] = preferred[*class].clone();
        }
        if Quotas::of(&open).total == all {
            continue;
        }
        open.classes = before;
        if some.len() > 1 {
            let others = some.split_off(some.len() / 2);
            rest.extend([others, some]);
        }
    }
    problem.classes = open.classes;
}

/// What passes on already to even out.
fn moves_in_progress(
    pool: &PoolView,
    wanted: &[DesiredBucket<'_>],
    crew: &Candidates<'_>,
) -> Vec<MoveInProgress> {
    // What is asked for may be taken back.
    let is_to_even_out = |mv: &&Move| {
        let is_asked_for =
            matches!(mv.reason, Reason::Drained | Reason::Barred | Reason::Removed | Reason::Stuck);
        !is_asked_for && !mv.promote
    };
    let moves = pool.pending_moves().filter(is_to_even_out);
    let under_way = moves.filter_map(|mv| {
        let (from, to) = (crew.at(mv.from.as_ref()?)?, crew.at(mv.to.as_ref()?)?);
        let bucket = wanted.binary_search_by(|wanted| wanted.bucket.cmp(&mv.bucket)).ok()?;
        Some(MoveInProgress { bucket, from, to })
    });
    under_way.collect()
}

/// A member as a candidate; of one that gets nothing, what it has.
fn candidate(member: &Member, owned: Option<u64>, zone: usize) -> Candidate {
    let owned = owned.map(|owned| u32::try_from(owned).unwrap_or(u32::MAX));
    let limits = [member.capacity, owned];
    Candidate {
        weight: if member.draining { 0 } else { member.weight },
        capacity: limits.into_iter().flatten().min(),
        zone,
    }
}

/// Whose the bucket is to be taken for: its owners', even one that is asked to let go (so that a
/// plan can still be taken back) or that has gone (its name may have joined again, or may yet);
/// for a vacant row, whom the plan destined it for, if that one can still take it.
fn demand(row: &Row, planned: &[&Move], crew: &Candidates<'_>, replicas: usize) -> Demand {
    let mut demand = Demand::default();
    let add = |owners: &mut Owners, at: usize| {
        if !owners.contains(at) && owners.len() < placement::REPLICAS_MAX {
            owners.push(at);
        }
    };
    let mut successors = Vec::new();
    for owner in &row.owners {
        if let Some(at) = crew.at(&owner.member) {
            add(&mut demand.owners, at);
            if !crew.is_living(at, owner) {
                add(&mut demand.returning, at);
            }
            // Whoever is replaced has a successor.
            let member = crew.members[at];
            successors.extend(member.successor.as_deref().filter(|_| member.draining));
        }
    }
    let preparing = row.preparing.iter().map(|owner| owner.member.as_str());
    let destined = planned.iter().filter_map(|mv| mv.to.as_deref()).chain(preparing).chain(successors);
    for at in destined.filter_map(|name| crew.at(name)) {
        add(&mut demand.reserved_for, at);
        // A place that is free is taken for whoever is destined for it, so that others are not.
        let is_there = !crew.is_away[at] || row.mentions(&crew.owners[at].member);
        let can_take = !crew.members[at].draining && is_there;
        if can_take && demand.owners.len() < replicas && !demand.owners.contains(at) {
            demand.owners.push(at);
            demand.returning.push(at);
        }
    }
    demand
}
