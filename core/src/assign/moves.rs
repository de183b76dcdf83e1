//! Which of the moves that are needed go into the plan now: within the pool's bounds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Owner, Reconciler, handoff};
use crate::pool::{
    AwaitingRejoin, Balance, Blocked, Bucket, Move, Plan, PoolView, Reason, Report, Row, Spec,
};

impl Reconciler<'_> {
    /// The moves that are needed for a bucket whose row is this now.
    pub(super) fn moves_of(&self, bucket: &Bucket, row: &Row) -> Vec<Move> {
        if row.owners.iter().all(|owner| !self.pool.is_living(owner)) {
            return Vec::new();
        }
        let wanted = self.desired_owners(bucket);
        if row.owners.len() == wanted.len() && row.owners.iter().zip(wanted).all(|(a, b)| a.is_same(b)) {
            return Vec::new();
        }
        let standing = |owner: &Owner| self.member_status(owner);
        let living: Vec<Owner> = wanted.iter().filter(|owner| self.pool.is_living(owner)).cloned().collect();
        let planned = self.pending.get(bucket).map_or(&[][..], Vec::as_slice);
        let reason = |from: Option<&Owner>| self.reason_of_move(bucket, from);
        let mut moves = handoff::moves_of(bucket, &self.rules(&standing), row, &living, planned, reason);
        // Nobody lets go for somebody who is away.
        let owns = |owner: &Owner| row.owners.iter().any(|other| other.member == owner.member);
        let mut away = wanted.iter().filter(|owner| !self.pool.is_living(owner) && !owns(owner)).count();
        moves.retain(|mv| {
            let waits = mv.to.is_none() && away > 0;
            away -= usize::from(waits);
            !waits
        });
        moves
    }

    /// Why a move is needed: for what its owner is, or for what has changed last.
    fn reason_of_move(&self, bucket: &Bucket, from: Option<&Owner>) -> Reason {
        let pool = self.pool;
        let member = from.and_then(|from| pool.members.get(&from.member)).map(|entry| &entry.member);
        match member {
            _ if self.desired_owners(bucket).is_empty() => Reason::Removed,
            Some(member) if member.draining => Reason::Drained,
            Some(member) if !member.has_labels(&pool.affinity_of(bucket).require) => Reason::Barred,
            Some(_) if from.is_some_and(|from| self.target.is_leaving(bucket, from)) => Reason::Stuck,
            Some(_) if pool.spec.balance == Balance::Load && !self.known.loads.is_empty() => Reason::Load,
            _ => pool.causes.last(),
        }
    }
}

/// Whether a move is for something that changes by itself, and might change back.
pub(super) fn is_churn(spec: &Spec, has_weights: bool, mv: &Move) -> bool {
    let is_asked_for = matches!(mv.reason, Reason::Drained | Reason::Barred | Reason::Removed);
    let is_paced = has_weights && spec.is_evened_out_slowly();
    match mv.reason {
        Reason::Stuck => true,
        _ => is_paced && mv.from.is_some() && mv.to.is_some() && !mv.promote && !is_asked_for,
    }
}

/// The plan that should stand now.
pub(super) struct Next {
    pub(super) plan: Plan,
    /// The moves that it adds.
    pub(super) added: Vec<Move>,
    /// The present one will not do.
    pub(super) is_news: bool,
}

pub(super) fn next_plan(
    pool: &PoolView,
    absent: &BTreeMap<String, AwaitingRejoin>,
    needed: &[Move],
    report: &Report,
) -> Next {
    let pending: Vec<&Move> = pool.pending_moves().collect();
    let is_same = |a: &Move, b: &Move| {
        a.bucket == b.bucket
            && a.from == b.from
            && a.promote == b.promote
            && (a.from.is_some() || a.to == b.to)
    };
    let mut by_bucket: BTreeMap<&Bucket, Vec<&Move>> = BTreeMap::new();
    pending.iter().for_each(|mv| by_bucket.entry(&mv.bucket).or_default().push(mv));
    let is_begun =
        |mv: &Move| by_bucket.get(&mv.bucket).is_some_and(|all| all.iter().any(|p| is_same(p, mv)));
    let (kept, waiting): (Vec<&Move>, Vec<&Move>) = needed.iter().partition(|mv| is_begun(mv));
    let mut budget = Budget::new(pool, absent);
    kept.iter().for_each(|mv| budget.take(mv));
    let (mut added, mut waits) = (Vec::new(), BTreeMap::<Blocked, u32>::new());
    // What lacks an owner comes first.
    let (lacking, moving): (Vec<&Move>, Vec<&Move>) = waiting.into_iter().partition(|mv| mv.from.is_none());
    for mv in lacking.into_iter().chain(moving) {
        match budget.waits_for(mv) {
            None => {
                budget.take(mv);
                added.push(mv);
            }
            Some(wait) => *waits.entry(wait).or_default() += 1,
        }
    }
    let mut moves: Vec<Move> = kept.iter().chain(&added).map(|mv| (*mv).clone()).collect();
    moves.sort_by(|a, b| (&a.bucket, &a.from, &a.to).cmp(&(&b.bucket, &b.from, &b.to)));

    // Who waits for something is to see for what.
    let before = &pool.plan.report;
    let says_the_same = before.short == report.short && before.waiting.keys().eq(waits.keys());
    let is_news = !says_the_same || !added.is_empty() || !moves.iter().eq(pending.iter().copied());
    let added = added.into_iter().cloned().collect();
    let parent = pool.plan.number;
    let report = Report { waiting: waits, ..report.clone() };
    Next { plan: Plan { number: parent + 1, parent, moves, report }, added, is_news }
}

/// What may still be begun.
struct Budget<'a> {
    spec: &'a Spec,
    pool: &'a PoolView,
    moving: u32,
    members: BTreeMap<&'a str, u32>,
    zones: BTreeMap<&'a str, u32>,
    /// Members that are being emptied or are away.
    out: BTreeSet<&'a str>,
}

impl<'a> Budget<'a> {
    fn new(pool: &'a PoolView, absent: &'a BTreeMap<String, AwaitingRejoin>) -> Self {
        let out = absent.keys().map(String::as_str).collect();
        let (members, zones) = (BTreeMap::new(), BTreeMap::new());
        Self { spec: &pool.spec, pool, moving: 0, members, zones, out }
    }

    fn is_draining(&self, name: &str) -> bool {
        self.pool.members.get(name).is_some_and(|entry| entry.member.draining)
    }

    fn ends(mv: &'a Move) -> impl Iterator<Item = &'a str> {
        mv.from.iter().chain(&mv.to).map(String::as_str)
    }

    /// The zones of both ends; one that is the same, once.
    fn zones(&self, mv: &'a Move) -> BTreeSet<&'a str> {
        let entries = Self::ends(mv).filter_map(|name| self.pool.members.get(name));
        entries.map(|entry| entry.member.zone.as_str()).collect()
    }

    fn take(&mut self, mv: &'a Move) {
        self.moving += 1;
        Self::ends(mv).for_each(|name| *self.members.entry(name).or_default() += 1);
        for zone in self.zones(mv) {
            *self.zones.entry(zone).or_default() += 1;
        }
        if let Some(from) = mv.from.as_deref().filter(|from| self.is_draining(from)) {
            self.out.insert(from);
        }
    }

    /// What a move waits for, if it may not begin now.
    fn waits_for(&self, mv: &'a Move) -> Option<Blocked> {
        let is_full = |counts: &BTreeMap<&str, u32>, name: &str, most: Option<u32>| {
            most.is_some_and(|most| counts.get(name).is_some_and(|count| *count >= most))
        };
        let from = mv.from.as_deref();
        let is_one_more = || from.is_some_and(|from| self.is_draining(from) && !self.out.contains(from));
        let out = u32::try_from(self.out.len()).unwrap_or(u32::MAX);
        match self.spec {
            // A bucket that goes away, or lacks an owner, does not wait for the operator.
            spec if spec.paused && from.is_some() && mv.to.is_some() => Some(Blocked::Paused),
            spec if spec.max_unavailable.is_some_and(|most| out >= most) && is_one_more() => {
                Some(Blocked::MaxUnavailable)
            }
            spec if self.moving >= spec.max_concurrent_moves => Some(Blocked::Moving),
            spec if Self::ends(mv)
                .any(|n| is_full(&self.members, n, spec.max_concurrent_moves_per_member)) =>
            {
                Some(Blocked::Member)
            }
            spec if self
                .zones(mv)
                .iter()
                .any(|z| is_full(&self.zones, z, spec.max_concurrent_moves_per_zone)) =>
            {
                Some(Blocked::Zone)
            }
            _ => None,
        }
    }
}
