//! What the state answers to a command, or why it refuses it, and the events that
//! the command caused.

use serde::{Deserialize, Serialize};

use super::acl::Acl;
use super::node::Stat;
use super::session::SessionId;
use crate::Zxid;
use crate::path::PathError;

/// What a command brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The session is open.
    SessionOpened {
        /// Which one.
        session: SessionId,
        /// Its timeout.
        timeout_ms: u32,
    },
    /// The session is closed.
    SessionClosed {
        /// Which one.
        session: SessionId,
    },
    /// The session goes on.
    SessionResumed {
        /// Which one.
        session: SessionId,
        /// Its timeout from now on.
        timeout_ms: u32,
        /// The number of its connection.
        connection: u32,
    },
    /// Everybody knows how that server is reached.
    Announced,
    /// The part is there.
    Imported {
        /// Whether nothing is as it was: sessions, nodes and what was watched.
        anew: bool,
    },
    /// A single operation's answer.
    Op(OpReply),
    /// One answer for each operation of a multi.
    Multi(Vec<OpReply>),
}

/// What one operation brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpReply {
    /// The node stands at this path (with its number, if sequential).
    Created {
        /// The path it got.
        path: String,
        /// Its Stat.
        stat: Stat,
    },
    /// The node is gone.
    Deleted,
    /// The data, or the list of who may do what, is replaced.
    Set {
        /// The node's new Stat.
        stat: Stat,
    },
    /// The check held.
    Checked {
        /// The node's Stat.
        stat: Stat,
    },
    /// The node is there.
    Ensured,
}

/// Why a command did nothing. Every replica refuses alike: a refusal depends on
/// the state and the command alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no node at the path (for a create: no parent).
    #[error("no node at {path}")]
    NoNode {
        /// Where one was expected.
        path: String,
    },
    /// There is a node at the path already.
    #[error("a node exists at {path}")]
    NodeExists {
        /// Where it is.
        path: String,
    },
    /// The node has another version.
    #[error("{path} has version {actual}, not {expected}")]
    BadVersion {
        /// The node.
        path: String,
        /// The version that was asked for.
        expected: i32,
        /// The version it has.
        actual: i32,
    },
    /// The node was changed by another write since.
    #[error("{path} has fence {current}, not {given}")]
    StaleFence {
        /// The node.
        path: String,
        /// The fence that was shown.
        given: Zxid,
        /// The node's `mzxid` now; 0 when there is no such node.
        current: Zxid,
    },
    /// The node has children.
    #[error("{path} has children")]
    NotEmpty {
        /// The node.
        path: String,
    },
    /// An ephemeral node cannot have children.
    #[error("{path} is ephemeral and cannot have children")]
    NoChildrenForEphemerals {
        /// The ephemeral node.
        path: String,
    },
    /// The session in whose name this was asked does not live.
    #[error("session {session} is gone")]
    SessionExpired {
        /// The session.
        session: SessionId,
    },
    /// The id of a session to be opened is taken.
    #[error("session {session} exists")]
    SessionExists {
        /// The session.
        session: SessionId,
    },
    /// An ephemeral node was asked for without a session.
    #[error("an ephemeral node needs a session")]
    SessionNeeded,
    /// The session has moved to another connection.
    #[error("session {session} has moved to another connection")]
    SessionMoved {
        /// The session.
        session: SessionId,
    },
    /// The session has another password.
    #[error("session {session} has another password")]
    BadPassword {
        /// The session.
        session: SessionId,
    },
    /// The access control list of a node does not allow it.
    #[error("the access control list of {path} does not allow it")]
    NoAuth {
        /// The node.
        path: String,
    },
    /// An access control list is empty, or names nobody.
    #[error("the access control list for {path} is empty or names nobody")]
    InvalidAcl {
        /// The node.
        path: String,
    },
    /// A hard quota would be exceeded.
    #[error("the quota of {path} would be exceeded")]
    QuotaExceeded {
        /// Whose quota.
        path: String,
    },
    /// A time to live is out of bounds.
    #[error("a time to live is from 1 to {max} milliseconds, not {ttl_ms}", max = super::node::TTL_MS_MAX)]
    BadTtl {
        /// What was given.
        ttl_ms: u64,
    },
    /// The node lives on: it is none that is reaped, or its time has not come.
    #[error("{path} is not to be reaped")]
    NotDue {
        /// The node.
        path: String,
    },
    /// The node is Rota's own and not changed in this way.
    #[error("{path} is Rota's own: {hint}")]
    Reserved {
        /// The node.
        path: String,
        /// How it is changed.
        hint: String,
    },
    /// What was written is not what belongs there.
    #[error("{path}: {fault}")]
    BadContent {
        /// The node.
        path: String,
        /// What is wrong.
        fault: String,
    },
    /// The root and ZooKeeper's own folders cannot be deleted.
    #[error("{path} cannot be deleted")]
    Permanent {
        /// Which it is.
        path: String,
    },
    /// The cluster is being filled with what another one held.
    #[error(
        "an import is under way: nobody else can write until it ends or is given up (`rota import abandon`)"
    )]
    Importing,
    /// A part of an import came that nobody has begun.
    #[error("no import has begun")]
    NotImporting,
    /// A number of a write in an import is beyond all that there can be.
    #[error("zxid {zxid} is no write's: the source is damaged")]
    BadZxid {
        /// It.
        zxid: Zxid,
    },
    /// Only an empty cluster can be filled with what another one held.
    #[error("the cluster is not empty: it has {nodes} nodes besides the first ones")]
    NotEmptyCluster {
        /// Nodes that nobody may lose.
        nodes: u64,
    },
    /// The path breaks a rule.
    #[error("{path:?} is not a path: {cause}")]
    BadPath {
        /// What was given.
        path: String,
        /// The rule it breaks.
        cause: PathError,
    },
    /// An operation of a multi was refused, so none took effect.
    #[error("operation {index} of the multi was refused: {cause}")]
    Multi {
        /// Which one, from 0.
        index: usize,
        /// Why.
        cause: Box<Refusal>,
    },
}

impl Refusal {
    /// The refusal itself, whether or not it happened inside a multi.
    #[must_use]
    pub fn cause(&self) -> &Refusal {
        match self {
            Self::Multi { cause, .. } => cause,
            other => other,
        }
    }
}

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// It was created.
    Created,
    /// It was deleted.
    Deleted,
    /// Its data was replaced.
    DataChanged,
    /// A child was created or deleted.
    ChildrenChanged,
}

/// One change of the tree, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The write that caused it.
    pub zxid: Zxid,
    /// What happened.
    pub kind: EventKind,
    /// To which node.
    pub path: crate::path::NodePath,
    /// Who may read that node, and so may be told.
    pub acl: Acl,
}

impl Event {
    /// Bytes of its path and list, which it may be the last one to refer to.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.path.as_str().len() + self.acl.bytes()
    }
}

/// All that one command did: the answer for its sender, and the events for
/// whoever watches. A refused command has no events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer.
    pub reply: Result<Reply, Refusal>,
    /// The changes, in order.
    pub events: Vec<Event>,
}
