//! What can be asked of the state, and what it answers.
//!
//! Commands are replicated and stored, so these enums only ever grow at their
//! ends; the batch that carries them names the format (see [`crate::batch`]).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::node::Stat;
use super::session::{Password, SessionId};
use crate::Zxid;
use crate::path::PathError;

/// One change of the state. Ids, passwords and chance are stamped by the server
/// that took the request; the time by the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Begin a session.
    OpenSession {
        /// Chosen at random by the server that took the request.
        session: SessionId,
        /// Chosen at random by the server that took the request.
        password: Password,
        /// Already within the cluster's bounds.
        timeout_ms: u32,
    },
    /// End a session: its ephemeral nodes go with it.
    CloseSession {
        /// The session to end.
        session: SessionId,
    },
    /// One operation on the tree.
    Write {
        /// The session in whose name it is done. It must live.
        session: Option<SessionId>,
        /// The operation.
        op: Op,
    },
    /// Several operations, all or none of which take effect.
    Multi {
        /// The session in whose name it is done. It must live.
        session: Option<SessionId>,
        /// The operations, each of which sees what those before it did.
        ops: Vec<Op>,
    },
}

/// One operation on the tree, as ZooKeeper's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a node below an existing one.
    Create {
        /// The path; for a sequential node, ten digits are added to it.
        path: String,
        /// The node's data.
        data: Bytes,
        /// Its kind.
        mode: CreateMode,
    },
    /// Remove a node that has no children.
    Delete {
        /// The path.
        path: String,
        /// The version it must have, if any.
        version: Option<i32>,
    },
    /// Replace a node's data.
    SetData {
        /// The path.
        path: String,
        /// The new data.
        data: Bytes,
        /// The version it must have, if any.
        version: Option<i32>,
    },
    /// Only check that a node exists, with this version if one is given.
    Check {
        /// The path.
        path: String,
        /// The version it must have, if any.
        version: Option<i32>,
    },
    /// Only check that a node's last change is this one. Unlike a version, a
    /// fence is never used twice, even when the node is removed and made again
    /// (docs/decisions/0005-fence.md).
    CheckFence {
        /// The path.
        path: String,
        /// The `mzxid` it must have.
        fence: Zxid,
    },
}

/// Kind of a node to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateMode {
    /// Lives until deleted.
    Persistent,
    /// As `Persistent`, with a number added to its name.
    PersistentSequential,
    /// Lives at most as long as the session that creates it.
    Ephemeral,
    /// As `Ephemeral`, with a number added to its name.
    EphemeralSequential,
}

impl CreateMode {
    /// Whether a number is added to the name.
    #[must_use]
    pub fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential)
    }

    /// Whether the node dies with its session.
    #[must_use]
    pub fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }
}

/// What a command brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The session is open.
    SessionOpened,
    /// The session is closed.
    SessionClosed,
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
    /// The data is replaced.
    Set {
        /// The node's new Stat.
        stat: Stat,
    },
    /// The check held.
    Checked,
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
    /// The root and Rota's own folders cannot be deleted.
    #[error("{path} cannot be deleted")]
    Permanent {
        /// Which it is.
        path: String,
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
