//! What can be asked of the state.
//!
//! Commands are replicated and stored, so these enums only ever grow at their
//! ends; the batch that carries them names the format (see [`crate::batch`]).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::acl::{AclEntry, Identity};
use super::import::Import;
use super::session::{Password, SessionId};
use crate::Zxid;

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
        /// Who asks for it.
        by: Actor,
        /// The operation.
        op: Op,
    },
    /// Several operations, all or none of which take effect.
    Multi {
        /// Who asks for them.
        by: Actor,
        /// The operations, each of which sees what those before it did.
        ops: Vec<Op>,
    },
    /// Go on with a session on another connection. What the connections before it
    /// still have under way is refused from now on.
    ResumeSession {
        /// The session.
        session: SessionId,
        /// Must be the session's.
        password: Password,
        /// Its timeout from now on; already within the cluster's bounds.
        timeout_ms: u32,
    },
    /// A server says how clients reach it.
    Announce {
        /// The server.
        server: u64,
        /// Where.
        endpoints: ServerEndpoints,
    },
    /// End a session that gave no sign of life, unless it was resumed since.
    ExpireSession {
        /// The session to end.
        session: SessionId,
        /// The connection that was not heard of.
        connection: u32,
    },
    /// A part of what another cluster held.
    Import(Import),
}

/// How clients reach a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEndpoints {
    /// By HTTP: HOST:PORT.
    pub http: String,
    /// By ZooKeeper's protocol, if it speaks that: HOST:PORT.
    pub zookeeper: Option<String>,
}

/// In whose name something is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The session, which must live.
    pub session: Option<SessionId>,
    /// The session's connection, which must be its last one, if it matters.
    pub connection: Option<u32>,
    /// What it may do.
    pub privilege: Privilege,
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// Rota's own code, which has looked at what it does: everything.
    Rota,
    /// A client, who is all of these besides being anyone: what the nodes' access
    /// control lists and the layout of Rota's own part of the tree allow.
    Client(Vec<Identity>),
}

impl Actor {
    /// Rota's own code, in the name of a session if there is one.
    #[must_use]
    pub fn rota(session: Option<SessionId>) -> Self {
        Self { session, connection: None, privilege: Privilege::Rota }
    }

    /// A client without a connection of its session's.
    #[must_use]
    pub fn client(session: Option<SessionId>, identities: Vec<Identity>) -> Self {
        Self { session, connection: None, privilege: Privilege::Client(identities) }
    }

    /// Who it is; empty for Rota itself.
    #[must_use]
    pub fn identities(&self) -> &[Identity] {
        match &self.privilege {
            Privilege::Rota => &[],
            Privilege::Client(identities) => identities,
        }
    }
}

/// One operation on the tree, as ZooKeeper's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a node below an existing one.
    Create {
        /// The path; for a sequential node, ten digits are added to it.
        path: String,
        /// The node's data.
        data: Option<Bytes>,
        /// Its kind.
        mode: CreateMode,
        /// Who may do what with it; everybody everything, if `None`.
        acl: Option<Vec<AclEntry>>,
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
        data: Option<Bytes>,
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
    /// Replace the list of who may do what with a node.
    SetAcl {
        /// The path.
        path: String,
        /// The new list.
        acl: Vec<AclEntry>,
        /// The `aversion` it must have, if any.
        version: Option<i32>,
    },
    /// Make a persistent node, unless there is one.
    Ensure {
        /// The path.
        path: String,
        /// Its list, if it is made.
        acl: Option<Vec<AclEntry>>,
    },
    /// Remove a container that has lost its last child, or a node whose time to
    /// live is over.
    Reap {
        /// The path.
        path: String,
    },
}

impl Op {
    /// Makes a node with these data, open to all.
    #[must_use]
    pub fn create(path: String, data: Bytes, mode: CreateMode) -> Self {
        Self::Create { path, data: Some(data), mode, acl: None }
    }

    /// Replaces a node's data.
    #[must_use]
    pub fn set(path: String, data: Bytes, version: Option<i32>) -> Self {
        Self::SetData { path, data: Some(data), version }
    }
}

/// Kind of a node to be created. Source: ZooKeeper's `CreateMode.java`.
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
    /// Reaped when its last child is gone.
    Container,
    /// Reaped when it went without children and change for a time.
    PersistentWithTtl {
        /// That time, in milliseconds: 1 to [`TTL_MS_MAX`](super::node::TTL_MS_MAX).
        ttl_ms: u64,
    },
    /// As `PersistentWithTtl`, with a number added to its name.
    PersistentSequentialWithTtl {
        /// That time, in milliseconds.
        ttl_ms: u64,
    },
}

impl CreateMode {
    /// Whether a number is added to the name.
    #[must_use]
    pub fn is_sequential(self) -> bool {
        matches!(
            self,
            Self::PersistentSequential | Self::EphemeralSequential | Self::PersistentSequentialWithTtl { .. }
        )
    }

    /// Whether the node dies with its session.
    #[must_use]
    pub fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }
}
