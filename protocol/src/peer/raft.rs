//! Raft's values in forms of our own, for the wire and for the disk, so that a
//! new version of the Raft library changes neither.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::handshake::{ClusterId, DiskId};

/// Position in the log, and who led when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogId {
    /// The leader's term.
    pub term: u64,
    /// The leader.
    pub leader: u64,
    /// Place in the log, from 0.
    pub index: u64,
}

/// Whom a server follows, or votes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The candidate or leader.
    pub leader: u64,
    /// A quorum has granted it.
    pub committed: bool,
}

/// Who belongs to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The voters: one set, or two while they change.
    pub configs: Vec<BTreeSet<u64>>,
    /// Every server, learners included.
    pub servers: BTreeMap<u64, ServerEndpoint>,
    /// The cluster; `None` only where there are no servers.
    pub cluster_id: Option<ClusterId>,
}

impl Membership {
    /// The servers, and whether each votes.
    #[must_use]
    pub fn roles(&self) -> BTreeMap<u64, bool> {
        let votes = |id: &u64| self.configs.iter().any(|config| config.contains(id));
        self.servers.keys().map(|id| (*id, votes(id))).collect()
    }
}

/// How a server is reached, and how it is told from another at the same address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEndpoint {
    /// Where other servers reach it: HOST:PORT.
    pub peer_address: String,
    /// Its data directory; `None` until it was first reached.
    pub disk: Option<DiskId>,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands.
    pub log_id: LogId,
    /// What it says.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A batch of commands (`rota_core::batch`).
    Batch(Bytes),
    /// Who belongs to the cluster from here on.
    Membership(Membership),
}

/// A leader's entries for a follower.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendRequest {
    /// The leader's vote.
    pub vote: Vote,
    /// What must stand before the entries.
    pub prev: Option<LogId>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// What the leader knows to be committed.
    pub commit: Option<LogId>,
}

/// The answer to the next `count` requests: that of the last of them, which
/// speaks for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendReply {
    /// How many requests are answered.
    pub count: u32,
    /// The last one's result.
    pub result: AppendResult,
}

/// A follower's answer to entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendResult {
    /// It has everything up to here.
    Stored(Option<LogId>),
    /// It has something else, or nothing, at this position.
    Conflict(LogId),
    /// It follows somebody with a higher vote.
    HigherVote(Vote),
}

/// Asks for a vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRequest {
    /// The vote that is asked for.
    pub vote: Vote,
    /// The candidate's last entry.
    pub last: Option<LogId>,
    /// The leader itself asked this candidate to take over.
    pub transfer: bool,
}

/// The answer to a request for a vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteReply {
    /// The voter's vote now.
    pub vote: Vote,
    /// Whether it was granted.
    pub granted: bool,
    /// The voter's last entry.
    pub last: Option<LogId>,
}

/// A leader asks a follower to take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// The leader's vote.
    pub from: Vote,
    /// Who is to take over.
    pub to: u64,
    /// What it must have first.
    pub last: Option<LogId>,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// The sender's vote.
    pub vote: Vote,
    /// The last entry that is in it.
    pub last: Option<LogId>,
    /// The entry of the membership that holds there.
    pub membership_at: Option<LogId>,
    /// That membership.
    pub membership: Membership,
}
