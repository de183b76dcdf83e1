//! Pools over HTTP: specs, members, items, the table, plans, checkpoints.

use std::collections::BTreeMap;

use rota_core::pool::{Handoff, Item, Kind, Member, Move, Owner, Plan, Report, Spec, Strategy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::node::Encoding;

/// Creates a pool.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolCreate {
    /// Its name.
    pub name: String,
    /// `hashed` (keys are hashed to a fixed number of buckets) or `named` (one
    /// bucket for each item).
    pub kind: PoolKind,
    /// Buckets of a hashed pool. Default: 1,024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
    /// How the buckets are shared.
    #[serde(default)]
    pub strategy: Strategy,
    /// How a bucket passes from one living member to another.
    #[serde(default)]
    pub handoff: Handoff,
    /// Most planned moves under way at once. Default: 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_moving: Option<u32>,
}

/// The kinds of pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// Keys are hashed to a fixed number of buckets.
    Hashed,
    /// One bucket for each item.
    Named,
}

impl PoolCreate {
    /// The spec that is asked for; `None` if a named pool is given buckets.
    #[must_use]
    pub fn spec(&self) -> Option<Spec> {
        let kind = match (self.kind, self.buckets) {
            (PoolKind::Hashed, buckets) => {
                Kind::Hashed { buckets: buckets.unwrap_or(rota_core::pool::BUCKETS_DEFAULT) }
            }
            (PoolKind::Named, None) => Kind::Named,
            (PoolKind::Named, Some(_)) => return None,
        };
        let mut spec = Spec::new(kind);
        spec.strategy = self.strategy;
        spec.handoff = self.handoff;
        spec.max_moving = self.max_moving.unwrap_or(spec.max_moving);
        Some(spec)
    }
}

/// Changes a pool. What is left out stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolChange {
    /// Fixed for the pool's life; accepted only if it is what the pool has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
    /// Most planned moves under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_moving: Option<u32>,
    /// The version that the spec must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
}

/// A pool.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PoolBody {
    /// Its name.
    pub name: String,
    /// Its spec.
    pub spec: Spec,
    /// The version of the spec.
    pub version: i32,
    /// The version of its table.
    pub table_version: u64,
    /// How many members it has.
    pub members: u32,
    /// How many buckets it has.
    pub buckets: u32,
    /// How many of them nobody owns.
    pub vacant: u32,
    /// How many planned moves are pending.
    pub moving: u32,
}

/// Joins a pool, in the name of the session in the header `rota-session`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinPool {
    /// The member's name, unique in the pool.
    pub name: String,
    /// Where others reach it, in whatever form they expect.
    #[serde(default)]
    pub address: String,
    /// Its share of the work, relative to the other members' weights. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Where it stands; members of one zone may fail together.
    #[serde(default)]
    pub zone: String,
    /// Anything else that is known of it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl JoinPool {
    /// The member that this makes.
    #[must_use]
    pub fn member(&self) -> Member {
        Member {
            address: self.address.clone(),
            weight: self.weight.unwrap_or(1),
            zone: self.zone.clone(),
            labels: self.labels.clone(),
            draining: false,
        }
    }
}

/// A member.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MemberBody {
    /// Its name.
    pub name: String,
    /// What it said of itself.
    #[serde(flatten)]
    pub member: Member,
    /// The zxid at which it joined: part of its identity as an owner.
    pub joined: u64,
    /// The session that keeps it.
    pub session: Option<String>,
    /// How many buckets it owns.
    pub buckets: u32,
    /// How busy it says it is, if the leader has heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f32>,
    /// What it said last of each bucket, if the leader has heard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub progress: BTreeMap<String, String>,
}

/// Adds an item to a named pool, or replaces it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemCreate {
    /// Its name, unique in the pool; its bucket has the same.
    pub name: String,
    /// Where its owner reaches it.
    #[serde(default)]
    pub address: String,
    /// Anything else that is known of it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// It stays until it is deleted. Otherwise it goes with the session in the
    /// header `rota-session`, which is then needed.
    #[serde(default)]
    pub persistent: bool,
}

impl ItemCreate {
    /// The item that this makes.
    #[must_use]
    pub fn item(&self) -> Item {
        Item { address: self.address.clone(), labels: self.labels.clone() }
    }
}

/// An item.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ItemBody {
    /// Its name.
    pub name: String,
    /// What is known of it.
    #[serde(flatten)]
    pub item: Item,
}

/// A bucket's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowBody {
    /// Which bucket.
    pub bucket: String,
    /// Its owners in order; none while it is vacant.
    pub owners: Vec<Owner>,
    /// The fence of the grant: larger than that of every earlier one of the
    /// bucket.
    pub fence: u64,
    /// The version of the row's node, for `check` in a multi.
    pub version: i32,
}

/// A pool's table, or what changed in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableBody {
    /// The zxid of the last change to any row. Never goes back.
    pub version: u64,
    /// All rows are here. Otherwise, only those that changed.
    pub whole: bool,
    /// The pool's number of buckets, if it is hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashed: Option<u32>,
    /// The rows.
    pub rows: Vec<RowBody>,
    /// Buckets whose rows are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Addresses of the members that the rows name.
    pub addresses: BTreeMap<String, String>,
}

/// Who owns a key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OwnerOfKey {
    /// The key.
    pub key: String,
    /// The table's version.
    pub version: u64,
    /// Its bucket's row.
    pub row: RowBody,
    /// The primary's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A pool's plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlanBody {
    /// 1 for a pool's first plan, one more for each next, 0 if there was none.
    pub number: u64,
    /// The number of the plan that it replaced.
    pub parent: u64,
    /// What the planner said of it.
    pub report: Report,
    /// Its moves that are still pending.
    pub pending: Vec<Move>,
    /// How many of its moves are done.
    pub done: u32,
}

impl PlanBody {
    /// The plan, with those of its moves that are still pending.
    #[must_use]
    pub fn new(plan: &Plan, pending: Vec<Move>) -> Self {
        Self {
            number: plan.number,
            parent: plan.parent,
            report: plan.report.clone(),
            done: u32::try_from(plan.moves.len() - pending.len()).unwrap_or(u32::MAX),
            pending,
        }
    }
}

/// What a member owns and what it is asked to let go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// The zxid at which the member joined. Another one means that another has
    /// taken its name.
    pub joined: u64,
    /// The pool's last change that is taken in here.
    pub version: u64,
    /// The buckets that the member owns.
    pub grants: Vec<Grant>,
    /// Of those, the ones that the plan asks it to release.
    pub release: Vec<String>,
    /// The member is being drained.
    pub draining: bool,
}

/// One bucket that a member owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// Which.
    pub bucket: String,
    /// The fence of the grant.
    pub fence: u64,
    /// The item of that name, in a named pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
}

/// Lets go of a bucket.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The fence of the grant that ends.
    pub fence: u64,
}

/// Writes a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointPut {
    /// The fence of the writer's grant.
    pub fence: u64,
    /// The position, in whatever form the work has.
    pub data: String,
    /// The `zxid` of the checkpoint that this one replaces, 0 if there is none
    /// yet: refused with `bad_version` when another one is there. It keeps a
    /// request that was delayed on its way from putting an older position over
    /// a newer one. Absent: whichever is there is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
    /// How the position is written.
    #[serde(default)]
    pub encoding: Encoding,
}

/// A bucket's checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckpointBody {
    /// The bucket.
    pub bucket: String,
    /// The position, encoded as `encoding` says.
    pub data: String,
    /// How.
    #[serde(default)]
    pub encoding: Encoding,
    /// The write that put it there.
    pub zxid: u64,
}
