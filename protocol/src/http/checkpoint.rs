//! Checkpoints over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::node::Encoding;

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
