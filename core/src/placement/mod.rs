//! Which members should own which bucket: plain problem in, plain answer out.
//!
//! A [`Problem`] and its [`Answer`] know only numbers; [`crate::assign`]
//! translates names. There are four ways to solve one: [`solve`] ([`balanced`]), [`weighted`],
//! [`range`] and [`ring`]. None has memory and no chance in it: the same
//! problem always has the same answer, and an answer that is posed again as the
//! problem changes nothing. [`check`](check::check) verifies an answer without
//! the code that made it.
//!
//! The rules of `balanced`, each before the next:
//!
//! 1. A bucket's owners are distinct members that it may have (weight, labels).
//! 2. As many replicas as there can be: first one for every bucket, then a second.
//! 3. No more than [`Quotas::spread`] of them in one zone: one, wherever there are zones
//!    enough.
//! 4. Every member has its fair share by weight, to within one bucket: see [`Quotas`].
//! 5. The fewest moves.
//! 6. Every member is the primary of its fair share of buckets, as far as its buckets
//!    allow it, with few changes: see `primaries`.

mod balanced;
pub mod check;
mod exchange;
pub mod load;
mod network;
mod owners;
mod primaries;
mod quotas;
pub mod range;
pub mod ring;
mod room;
mod rows;
pub mod weighted;

pub use balanced::{place_all, solve};
pub use owners::{Owners, REPLICAS_MAX};
pub use quotas::Quotas;

/// Buckets and the members that may own them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problem {
    /// The members.
    pub members: Vec<Candidate>,
    /// Owners that each bucket is to have, from 1 to [`REPLICAS_MAX`].
    pub replicas: usize,
    /// Kinds of buckets: which members may own one. At least one, if there are buckets.
    pub classes: Vec<LabelGroup>,
    /// The buckets.
    pub buckets: Vec<Demand>,
    /// How busy each bucket keeps its owners; empty, if all do alike.
    pub weights: Vec<u64>,
    /// For weighted buckets: nothing is evened out if the busiest member is so near to the
    /// bound, in percent.
    pub trigger_percent: u64,
    /// For weighted buckets: most of them that pass on only to even out.
    pub budget: Option<usize>,
    /// For weighted buckets: what is passing on already to even out.
    pub in_progress: Vec<MoveInProgress>,
    /// Members that get no bucket which they do not own already; empty, if there are none.
    pub cordoned: Vec<bool>,
}

/// A bucket that is passing from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveInProgress {
    /// Which.
    pub bucket: usize,
    /// Who gives it up.
    pub from: usize,
    /// Who is to get it.
    pub to: usize,
}

/// A member that may own buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its share of the work; 0 for one that is to be emptied.
    pub weight: u32,
    /// Most buckets that it may own.
    pub capacity: Option<u32>,
    /// The number of its zone.
    pub zone: usize,
}

/// Buckets that ask for the same labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelGroup {
    /// For each member, whether it may own them.
    pub allowed: Vec<bool>,
}

/// A bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Its kind, as an index into the problem's classes.
    pub class: usize,
    /// Its living owners now, and those with a claim to it.
    pub owners: Owners,
    /// Those of them who do not hold it, but have a claim: a dead owner's name that has
    /// joined again, or whoever a vacant bucket is destined for. If they may not have it,
    /// they do not keep it.
    pub returning: Owners,
    /// Who is destined for it already; it is given to them if that is as good.
    pub reserved_for: Owners,
}

/// Who should own each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Each bucket's owners.
    pub owners: Vec<Owners>,
    /// The search has ended early: it may be less even, or move more, than is needed. Posed
    /// again after some of its moves, it gets better.
    pub is_approximate: bool,
}

impl Demand {
    /// Those who hold the bucket now.
    pub fn holders(&self) -> impl Iterator<Item = usize> + '_ {
        self.owners.iter().filter(|owner| !self.returning.contains(*owner))
    }
}

impl Problem {
    /// A problem of equal buckets that any member may own, one each, and that nobody
    /// owns yet.
    #[must_use]
    pub fn simple(weights: &[u32], buckets: usize) -> Self {
        let members = weights.iter().map(|weight| Candidate { weight: *weight, capacity: None, zone: 0 });
        Self {
            members: members.collect(),
            replicas: 1,
            classes: vec![LabelGroup { allowed: vec![true; weights.len()] }],
            buckets: vec![Demand::default(); buckets],
            ..Self::default()
        }
    }

    /// How many zones there are.
    #[must_use]
    pub fn zones(&self) -> usize {
        self.members.iter().map(|member| member.zone + 1).max().unwrap_or(0)
    }

    /// Whether a member may own buckets of a class.
    #[must_use]
    pub fn may_own(&self, class: usize, member: usize) -> bool {
        self.members[member].weight > 0 && self.classes[class].allowed[member]
    }

    /// Whether a member gets buckets, or owns this one already.
    #[must_use]
    pub fn accepts(&self, member: usize, demand: &Demand) -> bool {
        !self.is_cordoned(member) || demand.owners.contains(member)
    }

    /// Whether a member gets no bucket which it does not own already.
    #[must_use]
    pub fn is_cordoned(&self, member: usize) -> bool {
        self.cordoned.get(member).copied().unwrap_or(false)
    }

    /// How busy a bucket keeps its owners.
    #[must_use]
    pub fn weight(&self, bucket: usize) -> u64 {
        self.weights.get(bucket).copied().unwrap_or(1)
    }

    /// The most buckets that a member may own.
    #[must_use]
    pub fn limit(&self, member: usize) -> u64 {
        self.members[member].capacity.map_or(u64::MAX, u64::from)
    }
}

/// An owner that should not have a bucket keeps it while a place is left that no other member
/// can take, and so does the last of those that have no room. A rough answer takes no place away.
fn keep_irreplaceable(problem: &Problem, answer: &mut Answer) {
    let is_rough = answer.is_approximate;
    for (demand, row) in problem.buckets.iter().zip(&mut answer.owners) {
        let holders = demand.holders().count();
        for owner in demand.holders() {
            let is_barred = !problem.may_own(demand.class, owner);
            // Free places count, not holders: a member that is granted a place becomes a holder, and
            // the answer must stay the same then.
            let has_place = row.len() < problem.replicas;
            if row.contains(owner) {
                continue;
            }
            let is_less = row.len() < holders.min(problem.replicas);
            if row.is_empty() || is_barred && has_place || is_rough && is_less {
                row.push(owner);
            }
        }
    }
}

/// How many buckets each of `members` owners has.
#[must_use]
pub fn count<'a>(rows: impl IntoIterator<Item = &'a Owners>, members: usize) -> Vec<u64> {
    let mut counts = vec![0; members];
    rows.into_iter().flat_map(Owners::iter).for_each(|owner| counts[owner] += 1);
    counts
}
