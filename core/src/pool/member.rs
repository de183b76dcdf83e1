//! Members (workers that joined a pool) and items (what makes a named bucket
//! exist: a log source, a partition, a task).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Affinity, Labels};
use crate::Zxid;

/// Largest weight of a member or an item.
pub const WEIGHT_MAX: u32 = 1_000_000;
const LABELS_MAX: usize = 64;
const TEXT_LEN_MAX: usize = 1024;

/// A member, as its node says. The node is ephemeral: it goes with the
/// member's session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Member {
    /// Where others reach it, in whatever form they expect; may be empty.
    #[serde(default)]
    pub address: String,
    /// Its share of the work, relative to the other members' weights.
    #[serde(default = "one")]
    pub weight: u32,
    /// Where it stands; members of one zone may fail together.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Anything else that is known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Most buckets that it takes; as many as are its share, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// It is to be emptied: it gets no bucket and gives back those it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// It gets no more buckets than it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// While it is emptied: the member that is to get what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

/// A member that has gone, and whose rows wait for it for a while: see `rejoin_grace_ms` of the
/// pool's spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AwaitingRejoin {
    /// What it said of itself.
    #[serde(flatten)]
    pub member: Member,
    /// When it had joined.
    pub joined: Zxid,
    /// Cluster clock at its departure, in milliseconds.
    pub since_cluster_ms: u64,
}

/// An item of a named pool, as its node says. There is one bucket for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Item {
    /// Where its owner reaches it; may be empty.
    #[serde(default)]
    pub address: String,
    /// Anything else that is known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How much work it is, relative to the other items'.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// Which members may have its bucket, besides what its pool says.
    #[serde(flatten)]
    pub affinity: Affinity,
}

/// Why a member or item is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// No share, or an absurd one.
    #[error("weight is {0}: it must be from 1 to {WEIGHT_MAX}")]
    Weight(u32),
    /// Too many labels.
    #[error("{0} labels: at most {LABELS_MAX} are allowed")]
    Labels(usize),
    /// An address, zone or label is too long.
    #[error("{0} is longer than {TEXT_LEN_MAX} bytes")]
    TooLong(&'static str),
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

impl Default for Item {
    fn default() -> Self {
        let (address, labels, affinity) = Default::default();
        Self { address, labels, weight: 1, affinity }
    }
}

impl Default for Member {
    fn default() -> Self {
        Self {
            address: String::new(),
            weight: 1,
            zone: String::new(),
            labels: BTreeMap::new(),
            capacity: None,
            draining: false,
            cordoned: false,
            successor: None,
        }
    }
}

impl Member {
    /// Checks the member's bounds.
    ///
    /// # Errors
    /// [`MemberError`] names the first bound that is broken.
    pub fn check(&self) -> Result<(), MemberError> {
        if self.weight == 0 || self.weight > WEIGHT_MAX {
            return Err(MemberError::Weight(self.weight));
        }
        check_text("zone", &self.zone)?;
        check_described(&self.address, &self.labels)
    }
}

impl Item {
    /// Checks the item's bounds.
    ///
    /// # Errors
    /// [`MemberError`] names the first bound that is broken.
    pub fn check(&self) -> Result<(), MemberError> {
        if self.weight == 0 || self.weight > WEIGHT_MAX {
            return Err(MemberError::Weight(self.weight));
        }
        check_described(&self.address, &self.labels)?;
        self.affinity.check()
    }
}

impl Affinity {
    /// Checks the bounds of both.
    ///
    /// # Errors
    /// [`MemberError`] names the first bound that is broken.
    pub fn check(&self) -> Result<(), MemberError> {
        check_labels(&self.require)?;
        check_labels(&self.prefer)
    }
}

fn check_described(address: &str, labels: &BTreeMap<String, String>) -> Result<(), MemberError> {
    check_text("address", address)?;
    check_labels(labels)
}

fn check_labels(labels: &Labels) -> Result<(), MemberError> {
    if labels.len() > LABELS_MAX {
        return Err(MemberError::Labels(labels.len()));
    }
    labels.iter().try_for_each(|(key, value)| {
        check_text("a label's key", key)?;
        check_text("a label's value", value)
    })
}

fn check_text(what: &'static str, text: &str) -> Result<(), MemberError> {
    if text.len() > TEXT_LEN_MAX { Err(MemberError::TooLong(what)) } else { Ok(()) }
}
