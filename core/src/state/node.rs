//! A node of the tree and its Stat, field for field as ZooKeeper's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::session::SessionId;
use crate::Zxid;

/// How long a node lives. Room is left for container and TTL nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// Until it is deleted.
    Persistent,
    /// Until it is deleted or its session ends, whichever comes first.
    Ephemeral(SessionId),
}

/// A node: its data, its kind, and what its Stat is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node's data.
    pub data: Bytes,
    /// How long it lives.
    pub kind: NodeKind,
    /// zxid of the write that created it.
    pub czxid: Zxid,
    /// zxid of the last change of its data.
    pub mzxid: Zxid,
    /// zxid of the last creation or removal of a child.
    pub pzxid: Zxid,
    /// Milliseconds since 1970 of its creation, by the leader's clock.
    pub ctime_ms: u64,
    /// Milliseconds since 1970 of the last change of its data.
    pub mtime_ms: u64,
    /// How often the data has changed.
    pub version: i32,
    /// How many children have ever been created. Sequential names count on it.
    pub child_creations: u32,
    /// How many children there are now.
    pub child_count: u32,
}

/// ZooKeeper's Stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// zxid of the write that created the node.
    pub czxid: Zxid,
    /// zxid of the last change of the data.
    pub mzxid: Zxid,
    /// zxid of the last creation or removal of a child.
    pub pzxid: Zxid,
    /// Creation, in milliseconds since 1970.
    pub ctime_ms: u64,
    /// Last change of the data, in milliseconds since 1970.
    pub mtime_ms: u64,
    /// Changes of the data.
    pub version: i32,
    /// Creations and removals of children.
    pub cversion: i32,
    /// Changes of the access control list (none yet).
    pub aversion: i32,
    /// The session that owns an ephemeral node; 0 for a persistent one.
    pub ephemeral_owner: u64,
    /// Bytes of data.
    pub data_length: u32,
    /// Children now.
    pub num_children: u32,
}

impl Node {
    /// A new node with no children, created at (`zxid`, `time_ms`).
    #[must_use]
    pub fn new(data: Bytes, kind: NodeKind, zxid: Zxid, time_ms: u64) -> Self {
        Self {
            data,
            kind,
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime_ms: time_ms,
            mtime_ms: time_ms,
            version: 0,
            child_creations: 0,
            child_count: 0,
        }
    }

    /// The owning session of an ephemeral node.
    #[must_use]
    pub fn owner(&self) -> Option<SessionId> {
        match self.kind {
            NodeKind::Persistent => None,
            NodeKind::Ephemeral(session) => Some(session),
        }
    }

    /// The node's Stat. ZooKeeper counts creations of children only and derives
    /// what it reports: `cversion = 2 * creations - children` (`DataNode.java`).
    #[must_use]
    pub fn stat(&self) -> Stat {
        let changes = self.child_creations.wrapping_mul(2).wrapping_sub(self.child_count);
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            pzxid: self.pzxid,
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            cversion: changes.cast_signed(),
            aversion: 0,
            ephemeral_owner: self.owner().map_or(0, |s| s.0),
            data_length: u32::try_from(self.data.len()).unwrap_or(u32::MAX),
            num_children: self.child_count,
        }
    }

    /// This node's share of the state's digest. Shares are added up, so that the
    /// digest of the tree follows every change in constant time.
    pub(super) fn digest(&self, path: &str) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(path.as_bytes());
        hash.update(&[0]);
        for number in [
            self.czxid,
            self.mzxid,
            self.pzxid,
            self.ctime_ms,
            self.mtime_ms,
            u64::from(self.version.cast_unsigned()),
            u64::from(self.child_creations),
            u64::from(self.child_count),
            self.owner().map_or(0, |s| s.0),
        ] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(&self.data);
        hash.digest()
    }
}
