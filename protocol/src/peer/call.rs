//! Questions that one server asks another, mostly the leader, on behalf of its
//! clients.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rota_core::state::{Password, SessionId};
use serde::{Deserialize, Serialize};

use super::raft::{ServerEndpoint, TransferRequest, VoteReply, VoteRequest};
use crate::http::MemberReport;

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// Raft: a vote.
    Vote(VoteRequest),
    /// Raft: would you vote?
    PreVote(VoteRequest),
    /// Raft: take over.
    Transfer(TransferRequest),
    /// A client gave a sign of life.
    KeepAlive {
        /// Its session.
        session: SessionId,
        /// The session's password.
        password: Password,
        /// What its members say.
        reports: Vec<MemberReport>,
        /// The last write that the asking server has applied. The leader waits
        /// for it: the session may have been opened a moment ago.
        seen: rota_core::Zxid,
    },
    /// Clients gave signs of life.
    Touch {
        /// Their sessions.
        sessions: Vec<SessionId>,
        /// As for a single one.
        seen: rota_core::Zxid,
    },
    /// How far must I have applied the log so that a read is not stale?
    ReadIndex,
    /// What have the members of this pool said?
    GetReports {
        /// The pool.
        pool: String,
    },
    /// Change the cluster's members.
    ChangeMembership {
        /// The change.
        change: MembershipChange,
        /// The members that the change was decided on, and whether each votes; any, if `None`.
        /// The leader refuses the change when they are others by now.
        expected: Option<BTreeMap<u64, bool>>,
    },
    /// Check that a majority of these servers, the voters of an intended configuration, answers.
    CheckVoters(BTreeSet<u64>),
    /// Let this server lead.
    TransferTo(u64),
    /// Nothing: the round trip is measured, and the connection kept.
    Ping,
}

/// A change of who belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipChange {
    /// Add a server that is given the log and has no vote.
    AddLearner {
        /// Its number.
        server: u64,
        /// Where it is reached.
        peer_address: String,
        /// Add it although nobody, or another server, is at that address.
        force: bool,
    },
    /// Give a learner a vote.
    Promote(u64),
    /// Take a server out.
    Remove(u64),
    /// A member is reached elsewhere, or was reached for the first time.
    UpdateEndpoint {
        /// Its number.
        server: u64,
        /// How it is reached from now on.
        endpoint: ServerEndpoint,
    },
}

/// What the leader heard of a member.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatestReport {
    /// How busy it is.
    pub load: Option<f32>,
    /// What it said last of each bucket.
    pub progress: BTreeMap<String, String>,
    /// How busy each bucket keeps it.
    pub loads: BTreeMap<String, f64>,
    /// How far it is behind with each bucket.
    pub lags: BTreeMap<String, f64>,
}

/// What the leader heard in a pool, and made of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolReports {
    /// What was heard of members, by name.
    pub members: BTreeMap<String, Arc<LatestReport>>,
    /// By member, the buckets of which it has said nothing new for longer than its pool allows.
    pub stuck: BTreeMap<String, Vec<String>>,
    /// Of those, buckets that were stuck with their owner before as well: it is not the owner.
    pub stuck_anywhere: BTreeSet<String>,
    /// How busy each bucket keeps whoever leads it, in thousandths of the members' unit, as was
    /// said last, by this primary or the one before: in pools that are shared by load.
    pub loads: Arc<BTreeMap<String, u64>>,
    /// That is known of every bucket that is led, or has been waited for long enough.
    pub loads_known: bool,
    /// Moves that were planned in the last minute and count as churn.
    pub churned: u32,
    /// The cluster clock, in milliseconds.
    pub now_ms: u64,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Call::Vote`] and [`Call::PreVote`].
    Vote(VoteReply),
    /// To [`Call::Transfer`]: taken, or why not.
    Transfer(Result<(), String>),
    /// To [`Call::KeepAlive`]: the session's timeout.
    KeptAlive {
        /// In milliseconds.
        timeout_ms: u32,
    },
    /// To [`Call::Touch`].
    Touched {
        /// The sessions for which it is too late.
        gone: Vec<SessionId>,
    },
    /// To [`Call::ReadIndex`]: this log index.
    ReadIndex(u64),
    /// To [`Call::GetReports`].
    Reports(PoolReports),
    /// It is done; also to [`Call::Ping`].
    Done,
    /// It is not.
    Error(CallError),
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CallError {
    /// The server asked does not lead, or is not sure that it still does.
    #[error("this server does not lead")]
    NotLeader,
    /// There is no such session, or there was.
    #[error("the session is gone")]
    SessionExpired,
    /// The password is another one.
    #[error("the session's password is wrong")]
    BadPassword,
    /// The cluster has no such server.
    #[error("the cluster has no server {0}")]
    NoServer(u64),
    /// The cluster has a server of that number.
    #[error("the cluster has a server {0} already")]
    ServerExists(u64),
    /// The members are not those that the change was decided on.
    #[error("the cluster's members have changed meanwhile: read them again, and try again")]
    MembershipChanged,
    /// It cannot be done now.
    #[error("{0}")]
    Refused(String),
}
