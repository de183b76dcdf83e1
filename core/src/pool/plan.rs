//! Plans: what is to be moved from living members now.
//!
//! A plan is an immutable value with a number and its parent's number. What has
//! become of its moves is not written into it but read off the rows: see
//! [`Move::is_pending`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bucket, Handoff, Labels, Row};
use crate::Zxid;

/// A numbered set of moves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Plan {
    /// 1 for a pool's first plan, and one more for each next.
    pub number: u64,
    /// The number of the plan that this one replaces; 0 for the first.
    pub parent: u64,
    /// The moves, by bucket.
    pub moves: Vec<Move>,
    /// What the planner said when it made the plan.
    pub report: Report,
}

/// One owner of a bucket that is to be another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Move {
    /// Which bucket.
    pub bucket: Bucket,
    /// The owner that lets go; nobody, when the bucket lacks an owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Who is to be an owner next; nobody, when the bucket is to have one less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Both are owners and stay: only the lead passes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promote: bool,
    /// The fence of the grant that ends, `from`'s; 0 if there is none.
    #[serde(default)]
    pub fence: Zxid,
    /// Why.
    #[serde(default)]
    pub reason: Reason,
}

/// Why an owner becomes another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The bucket is new, or had no owner.
    Vacant,
    /// An owner died or left.
    Died,
    /// An owner let go of its own accord.
    Left,
    /// An owner is emptied.
    Drained,
    /// A member has joined.
    Joined,
    /// Items have come or gone.
    Items,
    /// The owner may not have the bucket: labels.
    Barred,
    /// To even out how busy the members are.
    Load,
    /// Its owner says nothing new of its work.
    Stuck,
    /// The operator has changed the pool or its members: weights, capacities, replicas.
    #[default]
    Operator,
    /// The bucket's item or the pool is gone.
    Removed,
}

impl Move {
    /// Whether it is still to happen: whoever gives the bucket up has it by the same grant,
    /// or whoever is to get it has not got it yet.
    #[must_use]
    pub fn is_pending(&self, row: &Row) -> bool {
        let is_owner = |name: &str| row.owners.iter().find(|owner| owner.member == name);
        match (&self.from, &self.to) {
            (Some(from), _) => is_owner(from).is_some_and(|owner| owner.fence == self.fence),
            (None, Some(to)) => !row.owners.is_empty() && is_owner(to).is_none(),
            (None, None) => false,
        }
    }

    /// Whether `from` is asked to let go or step down now. In a warm pool it is not before
    /// the next owner is ready.
    #[must_use]
    pub fn is_due(&self, row: &Row, handoff: Handoff) -> bool {
        let Some(to) = &self.to else { return true };
        let is_ready = row.owners.iter().any(|owner| owner.member == *to);
        is_ready || handoff == Handoff::Exclusive && !self.promote
    }
}

/// What a planner says of its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Report {
    /// Buckets in all.
    pub buckets: u32,
    /// Members that may own buckets.
    pub members: u32,
    /// Buckets that pass from one living member to another, from here to the
    /// target: those under way and those that wait for their turn.
    pub moves: u32,
    /// The fewest moves with which any plan could reach this balance.
    pub moves_lower_bound: u32,
    /// Owners that buckets lack and get.
    pub placements: u32,
    /// Owners that buckets lack and do not get, since no member can take them.
    pub unplaced: u32,
    /// Buckets of which another of their owners becomes the primary.
    #[serde(default)]
    pub promotions: u32,
    /// The largest difference between a member's buckets and its exact fair share, in
    /// thousandths of a bucket.
    pub imbalance_milli: u32,
    /// Where buckets have weights or loads: how busy the busiest member is for its weight, in
    /// thousandths of a unit of theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busiest_milli: Option<u64>,
    /// No plan could have a busiest member with less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busiest_bound_milli: Option<u64>,
    /// The planner has ended its search early: the plan keeps the rules, but may be less even,
    /// place less or move more than is needed. Planned again after its moves it gets better.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rough: bool,
    /// Why buckets have fewer owners than they should, or such as should not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub short: Vec<Shortage>,
    /// What further moves wait for, and how many do.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waiting: BTreeMap<Blocked, u32>,
}

/// What a move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Blocked {
    /// The pool is paused.
    Paused,
    /// As many members are being emptied or are away as may be at once (`max_unavailable`).
    MaxUnavailable,
    /// As many moves are under way as may be at once (`max_concurrent_moves`).
    Moving,
    /// As many are under way from or to one of its members (`max_concurrent_moves_per_member`).
    Member,
    /// As many are under way from or to one of its zones (`max_concurrent_moves_per_zone`).
    Zone,
}

/// Buckets that have too few owners, or such as should not have them, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Shortage {
    /// What the buckets ask of their owners.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub require: Labels,
    /// How many buckets.
    pub buckets: u32,
    /// Why.
    pub reason: ShortageReason,
}

/// Why nobody can take a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ShortageReason {
    /// There is no member that is not drained.
    NoMembers,
    /// No member that is not drained has the labels that are required.
    NoMemberWithLabels,
    /// There are fewer members that could than a bucket is to have owners.
    FewMembers,
    /// Those that could have as many as they take: their capacity, or what they had when
    /// they were cordoned.
    Capacity,
}
