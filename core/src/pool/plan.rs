//! Plans: what is to be moved from living members now.
//!
//! A plan is an immutable value with a number and its parent's number. What has
//! become of its moves is not written into it but read off the rows: a move is
//! pending as long as its bucket's row has the fence that the move names.

use serde::{Deserialize, Serialize};

use super::Bucket;
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

/// One bucket that its living owner is asked to let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Move {
    /// Which one.
    pub bucket: Bucket,
    /// The owner.
    pub from: String,
    /// Who is to have it next; nobody, when the bucket itself goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The fence of the grant that ends. The move is pending while the row
    /// still has it.
    pub fence: Zxid,
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
    /// Buckets without an owner that get one.
    pub placements: u32,
    /// Buckets without an owner that stay so, since no member can take them.
    pub unplaced: u32,
    /// The largest difference between a member's buckets and its exact share
    /// by weight, in thousandths of a bucket.
    pub imbalance_milli: u32,
}
