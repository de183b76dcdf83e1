//! Assignments over HTTP: what a member owns, and what it does with it.

use rota_core::pool::{Item, OnLeaseExpiry, OwnerAction, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a member owns and what it is asked to let go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// The zxid at which the member joined. Another one means that another has
    /// taken its name.
    pub joined: u64,
    /// The pool's last change that is taken in here.
    pub version: u64,
    /// The buckets that the member owns or prepares to own.
    pub grants: Vec<Grant>,
    /// Of those, the ones that the plan asks it to release.
    pub release: Vec<String>,
    /// Of those, the ones that the plan asks it to lead no longer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step_down: Vec<String>,
    /// How many of its buckets are to pass on, those that it is not asked for yet among them.
    #[serde(default)]
    pub leaving: u32,
    /// The member is being drained.
    pub draining: bool,
    /// Its rows wait so long for it, or for one of its name, when it has gone, in milliseconds.
    #[serde(default)]
    pub rejoin_grace_ms: u64,
    /// What it does when its lease ends and no coordinator is heard.
    #[serde(default)]
    pub on_lease_expiry: OnLeaseExpiry,
}

impl Assignment {
    /// What the plan asks the member to do about a bucket.
    #[must_use]
    pub fn asked(&self, bucket: &str) -> Option<OwnerAction> {
        let names = |buckets: &[String]| buckets.iter().any(|other| other == bucket);
        match () {
            () if names(&self.release) => Some(OwnerAction::Release),
            () if names(&self.step_down) => Some(OwnerAction::StepDown),
            () => None,
        }
    }
}

/// One bucket that a member owns or prepares to own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// Which.
    pub bucket: String,
    /// The fence of the grant.
    pub fence: u64,
    /// What the member is to it.
    #[serde(default)]
    pub role: Role,
    /// The others that own it or prepare to, the primary first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// The item of that name, in a named pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Item>,
}

/// Another member that owns a bucket or prepares to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its name.
    pub member: String,
    /// Where it is reached; empty if it gave no address.
    #[serde(default)]
    pub address: String,
    /// What it is to the bucket.
    pub role: Role,
}

/// A member does something with a bucket that it owns or prepares to own.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfGrant {
    /// The fence of its grant.
    pub fence: u64,
}
