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

/// How progress begins that says why work has failed; it counts as none.
pub const FAILED: &str = "failed: ";

/// What a member says of its work. It may be lost. Servers forward it in a format without field
/// names: no field may be skipped when it is written.
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
    /// How busy each bucket keeps the member: a rate, in any unit that is the same for all members
    /// of the pool, from 0 to 1e9.
    #[serde(default)]
    pub loads: BTreeMap<String, f64>,
    /// How far it is behind with each bucket, in any unit, from 0 to 1e9.
    #[serde(default)]
    pub lags: BTreeMap<String, f64>,
}

/// Largest load or lag that a member can report.
pub const LOAD_MAX: f64 = 1e9;

impl MemberReport {
    /// Takes in what was said later.
    pub fn extend(&mut self, later: Self) {
        self.load = later.load.or(self.load);
        self.progress.extend(later.progress);
        self.loads.extend(later.loads);
        self.lags.extend(later.lags);
    }

    /// What is out of bounds, if anything is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let is_sound = |value: f64| (0.0..=LOAD_MAX).contains(&value);
        let sound = self.load.is_none_or(|load| is_sound(f64::from(load)));
        let of_buckets =
            self.loads.iter().map(|pair| ("loads", pair)).chain(self.lags.iter().map(|pair| ("lags", pair)));
        let bad = of_buckets.into_iter().find(|(_, (_, value))| !is_sound(**value));
        match bad {
            Some((what, (bucket, value))) => {
                Some(format!("{what} of bucket {bucket:?} is {value}: it must be from 0 to {LOAD_MAX:e}"))
            }
            None if !sound => Some(format!("load is {:?}: it must be from 0 to {LOAD_MAX:e}", self.load)),
            None => None,
        }
    }
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
