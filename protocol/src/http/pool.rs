//! Pools over HTTP: specs, members, items, the table, plans, checkpoints.

use std::collections::BTreeMap;

use rota_core::pool::history::Event;
use rota_core::pool::{
    Affinity, Balance, Handoff, Item, Kind, Labels, Member, Move, OnLeaseExpiry, Owner, Plan, Report, Spec,
    SpecError, Spread, Strategy, WhenStuck,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Creates a pool. Beside `name` and `kind` it takes what [`PoolChange`] does, but for the version.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "Map<String, Value>")]
pub struct PoolCreate {
    /// Its name.
    pub name: String,
    /// `hashed` (keys are hashed to a fixed number of buckets) or `named` (one
    /// bucket for each item).
    pub kind: PoolKind,
    /// All else. What is left out is as by default.
    #[serde(flatten)]
    pub settings: PoolChange,
}

/// Fields that are not known are refused by name: `flatten` and `deny_unknown_fields` do not go
/// together.
impl TryFrom<Map<String, Value>> for PoolCreate {
    type Error = serde_json::Error;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, Self::Error> {
        let name = fields.remove("name").ok_or_else(|| serde::de::Error::missing_field("name"))?;
        let kind = fields.remove("kind").ok_or_else(|| serde::de::Error::missing_field("kind"))?;
        for (field, value) in &fields {
            read::<PoolChange>(field, Value::Object([(field.clone(), value.clone())].into_iter().collect()))?;
        }
        Ok(Self {
            name: read("name", name)?,
            kind: read("kind", kind)?,
            settings: serde_json::from_value(Value::Object(fields))?,
        })
    }
}

/// Reads a field; an error names it.
fn read<T: DeserializeOwned>(field: &str, value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value).map_err(|error| serde::de::Error::custom(format!("{field}: {error}")))
}

/// The kinds of pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PoolKind {
    /// Keys are hashed to a fixed number of buckets.
    #[default]
    Hashed,
    /// One bucket for each item.
    Named,
}

impl PoolCreate {
    /// The spec that is asked for.
    ///
    /// # Errors
    /// When a named pool is given buckets.
    pub fn spec(&self) -> Result<Spec, SpecError> {
        let kind = match self.kind {
            PoolKind::Hashed => {
                Kind::Hashed { buckets: self.settings.buckets.unwrap_or(rota_core::pool::BUCKETS_DEFAULT) }
            }
            PoolKind::Named => Kind::Named,
        };
        self.settings.applied(&Spec::new(kind))
    }
}

/// Changes a pool. What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolChange {
    /// Buckets of a hashed pool. Default: 1,024. Fixed for the pool's life: in a change it is
    /// accepted only if it is what the pool has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<u32>,
    /// How the buckets are shared. Default: `balanced`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// How a bucket passes from one living member to another. Default: `exclusive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handoff: Option<Handoff>,
    /// Owners of each bucket, from 1 to 7. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How the owners of one bucket lie to each other. Default: `zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// Most planned moves under way at once. Default: 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_moves: Option<u32>,
    /// Of those, most from or to one member; null for no bound.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_concurrent_moves_per_member: Option<Option<u32>>,
    /// Of those, most from or to one zone; null for no bound.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_concurrent_moves_per_zone: Option<Option<u32>>,
    /// Most members that are being emptied or are away at once; null for no bound.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_unavailable: Option<Option<u32>>,
    /// How long the rows of a member that has gone wait for one of the same name, in
    /// milliseconds; 0 for not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin_grace_ms: Option<u64>,
    /// What members do when their lease ends and no coordinator is heard. Default: `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lease_expiry: Option<OnLeaseExpiry>,
    /// What counts when buckets are shared in balance. Default: `weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// Where buckets have weights or loads: nothing is moved to even out for less, in percent.
    /// Default: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imbalance_threshold_percent: Option<u32>,
    /// Most buckets that are moved in a minute to even out loads or weights, or away from stuck
    /// owners; null for 10 of those that follow from loads and stuck owners, and no bound for those
    /// that follow from weights.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_rebalances_per_minute: Option<Option<u32>>,
    /// An owner that says nothing new of its work for so long counts as stuck, in milliseconds;
    /// null for never.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub stuck_ms: Option<Option<u64>>,
    /// What becomes of its bucket. Default: `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_stuck: Option<WhenStuck>,
    /// No planned move begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Only members with all of these labels have its buckets; none of them, if empty. The zone
    /// counts as a label `zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<Labels>,
    /// Of those, only members with all of these labels too, as long as these can take
    /// all that ask for it; none of them, if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Labels>,
    /// The version that the spec must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i32>,
}

/// Something that is there, and null, are not the same as nothing (RFC 7396).
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl PoolChange {
    /// What becomes of a spec.
    ///
    /// # Errors
    /// When a named pool is given buckets.
    pub fn applied(&self, spec: &Spec) -> Result<Spec, SpecError> {
        let kind = match (&spec.kind, self.buckets) {
            (Kind::Hashed { .. }, Some(buckets)) => Kind::Hashed { buckets },
            (Kind::Named, Some(_)) => return Err(SpecError::NamedBuckets),
            (kind, None) => kind.clone(),
        };
        let before = spec.clone();
        let affinity = Affinity {
            require: self.require.clone().unwrap_or(before.affinity.require),
            prefer: self.prefer.clone().unwrap_or(before.affinity.prefer),
        };
        Ok(Spec {
            kind,
            strategy: self.strategy.unwrap_or(before.strategy),
            handoff: self.handoff.unwrap_or(before.handoff),
            replicas: self.replicas.unwrap_or(before.replicas),
            spread: self.spread.unwrap_or(before.spread),
            affinity,
            max_concurrent_moves: self.max_concurrent_moves.unwrap_or(before.max_concurrent_moves),
            max_concurrent_moves_per_member: self
                .max_concurrent_moves_per_member
                .unwrap_or(before.max_concurrent_moves_per_member),
            max_concurrent_moves_per_zone: self
                .max_concurrent_moves_per_zone
                .unwrap_or(before.max_concurrent_moves_per_zone),
            max_unavailable: self.max_unavailable.unwrap_or(before.max_unavailable),
            rejoin_grace_ms: self.rejoin_grace_ms.unwrap_or(before.rejoin_grace_ms),
            on_lease_expiry: self.on_lease_expiry.unwrap_or(before.on_lease_expiry),
            balance: self.balance.unwrap_or(before.balance),
            imbalance_threshold_percent: self
                .imbalance_threshold_percent
                .unwrap_or(before.imbalance_threshold_percent),
            max_rebalances_per_minute: self
                .max_rebalances_per_minute
                .unwrap_or(before.max_rebalances_per_minute),
            stuck_ms: self.stuck_ms.unwrap_or(before.stuck_ms),
            when_stuck: self.when_stuck.unwrap_or(before.when_stuck),
            paused: self.paused.unwrap_or(before.paused),
            deleting: before.deleting,
        })
    }
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
    /// Those who have gone and whose buckets wait for them: since when, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub away: BTreeMap<String, u64>,
    /// How many of them no member leads.
    pub vacant: u32,
    /// How many have fewer owners than they should, but not none.
    pub degraded: u32,
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
    pub labels: Labels,
    /// Most buckets that it takes. Default: as many as are its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// It gets no bucket before it is told that it may, or takes another's place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
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
            capacity: self.capacity,
            draining: false,
            cordoned: self.cordoned,
            successor: None,
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
    /// Of how many it is the primary.
    pub primaries: u32,
    /// How busy it says it is, if the leader has heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<f32>,
    /// What it said last of each bucket, if the leader has heard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub progress: BTreeMap<String, String>,
    /// How busy each bucket keeps it, if the leader has heard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loads: BTreeMap<String, f64>,
    /// How far it is behind with each bucket, if the leader has heard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lags: BTreeMap<String, f64>,
    /// Buckets of which it has said nothing new for longer than the pool's `stuck_ms`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<String>,
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
    pub labels: Labels,
    /// Only members with all of these labels have its bucket, besides those that its pool
    /// asks for.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub require: Labels,
    /// Of those, only members with all of these labels too, as long as these can take
    /// all that ask for it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub prefer: Labels,
    /// How much work it is, relative to the other items'. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// It stays until it is deleted. Otherwise it goes with the session in the
    /// header `rota-session`, which is then needed.
    #[serde(default)]
    pub persistent: bool,
}

impl ItemCreate {
    /// The item that this makes.
    #[must_use]
    pub fn item(&self) -> Item {
        let affinity = Affinity { require: self.require.clone(), prefer: self.prefer.clone() };
        let weight = self.weight.unwrap_or(1);
        Item { address: self.address.clone(), labels: self.labels.clone(), weight, affinity }
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowBody {
    /// Which bucket.
    pub bucket: String,
    /// Its owners in order, each with the fence of its grant; none while it is vacant.
    pub owners: Vec<Owner>,
    /// Those who copy it from its primary, to own it next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preparing: Vec<Owner>,
    /// It has owners, but fewer than its pool wants: a store would refuse writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub degraded: bool,
    /// The fence of the primary's grant: larger than that of every earlier primary of the
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

/// Who owned a bucket when, and why that changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HistoryBody {
    /// The bucket.
    pub bucket: String,
    /// Its row now; none, if the bucket is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<RowBody>,
    /// What happened, the last of it last. A bounded part of it is remembered.
    pub events: Vec<Event>,
    /// Of the moment that was asked for, what had happened last; none, if that is not
    /// remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Event>,
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

/// Has a member take another's place.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// Who takes it.
    pub by: String,
}
