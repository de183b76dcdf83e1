//! Sessions over HTTP.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Opens a session.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenSession {
    /// How long the session is to outlive the last sign of its client, in
    /// milliseconds; brought within the server's bounds. Default: 10,000.
    #[serde(default)]
    pub timeout_ms: Option<u32>,
}

/// A session that was opened.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionOpened {
    /// Its id: 16 hexadecimal digits.
    pub session: String,
    /// Its password: 32 hexadecimal digits. `session:password` goes in the
    /// header `rota-session` of whatever is done in its name, on any server.
    pub password: String,
    /// The timeout that it got.
    pub timeout_ms: u32,
}

/// Keeps a session alive. What it carries is kept in the leader's memory only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepAlive {
    /// What the session's members have to say.
    #[serde(default)]
    pub reports: Vec<MemberReport>,
}

/// What a member says of its work. It may be lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberReport {
    /// The pool.
    pub pool: String,
    /// The member.
    pub member: String,
    /// How busy it is, 1.0 being as much as it can do.
    #[serde(default)]
    pub load: Option<f32>,
    /// Progress, by bucket: what is new since the last report.
    #[serde(default)]
    pub progress: BTreeMap<String, String>,
}

/// The session lives, and its full timeout runs from when the request that is
/// hereby answered was sent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeptAlive {
    /// The session's timeout.
    pub timeout_ms: u32,
}

/// A session, as shown to operators.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SessionBody {
    /// Its id.
    pub session: String,
    /// Its timeout, in milliseconds.
    pub timeout_ms: u32,
    /// The write that opened it.
    pub opened: u64,
    /// The ephemeral nodes that it keeps.
    pub ephemerals: Vec<String>,
}
