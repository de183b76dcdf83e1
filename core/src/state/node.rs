//! A node of the tree and its Stat, field for field as ZooKeeper's.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::acl::Acl;
use super::session::SessionId;
use super::timestamp::Timestamp;
use super::tree::{DataBefore, Links};
use crate::Zxid;
use crate::path::NodePath;

/// What ZooKeeper shows as the owner of a container (`EphemeralType.java`).
const CONTAINER_OWNER: u64 = 1 << 63;
/// The highest byte of what ZooKeeper shows as the owner of a node with a time to
/// live; that time is in the lowest five bytes.
const TTL_OWNER: u64 = 0xff << 56;
/// The longest time to live, in milliseconds: what fits in five bytes.
pub const TTL_MS_MAX: u64 = (1 << 40) - 1;

/// How long a node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// Until it is deleted.
    Persistent,
    /// Until it is deleted or its session ends, whichever comes first.
    Ephemeral(SessionId),
    /// Until it is deleted, or reaped some time after its last child is gone.
    Container,
    /// Until it is deleted, or reaped some time after it went without children and
    /// without a change of its data for so many milliseconds.
    Ttl(u64),
}

impl NodeKind {
    /// The number that stands for it where ZooKeeper stores a node.
    #[must_use]
    pub fn ephemeral_owner(self) -> u64 {
        match self {
            Self::Persistent => 0,
            Self::Ephemeral(session) => session.0,
            Self::Container => CONTAINER_OWNER,
            Self::Ttl(ttl_ms) => TTL_OWNER | ttl_ms,
        }
    }

    /// The kind that such a number stands for.
    #[must_use]
    pub fn of_ephemeral_owner(owner: u64) -> Self {
        match owner {
            0 => Self::Persistent,
            CONTAINER_OWNER => Self::Container,
            ttl if ttl & TTL_OWNER == TTL_OWNER => Self::Ttl(ttl & TTL_MS_MAX),
            session => Self::Ephemeral(SessionId(session)),
        }
    }

    /// Whether it may be reaped.
    #[must_use]
    pub fn is_reapable(self) -> bool {
        matches!(self, Self::Container | Self::Ttl(_))
    }
}

/// When a node was changed, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// zxid of the write that created it.
    pub czxid: Zxid,
    /// zxid of the last change of its data.
    pub mzxid: Zxid,
    /// zxid of the last creation or removal of a child.
    pub pzxid: Zxid,
    /// Leader's wall clock at its creation, in milliseconds since the Unix epoch.
    pub ctime_ms: u64,
    /// Leader's wall clock at the last change of its data, in milliseconds since the Unix epoch.
    pub mtime_ms: u64,
    /// How often the data has changed.
    pub version: i32,
    /// How often the list of who may do what has changed.
    pub aversion: i32,
    /// How many children have been created. Sequential names count on it.
    pub child_creations: i32,
}

impl Stamps {
    /// Those of a node that is created at (`zxid`, `wall_ms`).
    #[must_use]
    pub fn new(zxid: Zxid, wall_ms: u64) -> Self {
        Self {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime_ms: wall_ms,
            mtime_ms: wall_ms,
            version: 0,
            aversion: 0,
            child_creations: 0,
        }
    }
}

/// A node: its data, its kind, and what its Stat is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node's data. ZooKeeper tells none from empty.
    pub data: Option<Bytes>,
    /// How long it lives.
    pub kind: NodeKind,
    /// Who may do what with it.
    pub acl: Acl,
    /// Its changes.
    pub stamps: Stamps,
    /// Cluster clock at the last change of its data, from which its TTL counts. `stamps` has the
    /// wall clock, which can jump.
    pub modified_cluster_ms: u64,
    /// The hash of its data and list, so that a change of its counts does not cost what
    /// they are long.
    pub(super) content: u64,
    pub(super) links: Links,
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
    /// Changes of the access control list.
    pub aversion: i32,
    /// The session that owns an ephemeral node; 0 for every other one.
    pub ephemeral_owner: u64,
    /// Bytes of data.
    pub data_length: u32,
    /// Children now.
    pub num_children: u32,
}

impl Stat {
    /// The changes of a node that shows this. ZooKeeper counts creations of children and
    /// derives what it reports: `cversion = 2 * creations - children` (`DataNode.java`).
    #[must_use]
    pub fn stamps(&self) -> Stamps {
        Stamps {
            czxid: self.czxid,
            mzxid: self.mzxid,
            pzxid: self.pzxid,
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            aversion: self.aversion,
            child_creations: self.cversion.saturating_add_unsigned(self.num_children) / 2,
        }
    }
}

impl Node {
    /// A new node with no children, created at (`zxid`, `now`).
    #[must_use]
    pub fn new(data: Option<Bytes>, kind: NodeKind, acl: Acl, zxid: Zxid, now: Timestamp) -> Self {
        let (stamps, links) = (Stamps::new(zxid, now.wall_ms), Links::default());
        Self { data, kind, acl, stamps, modified_cluster_ms: now.cluster_ms, content: 0, links }.sealed()
    }

    /// The node with the hash of its data and list as they are now.
    #[must_use]
    pub(super) fn sealed(mut self) -> Self {
        self.content = self.content_hash();
        self
    }

    /// Puts other data in, and says what was there.
    pub(super) fn set_data(&mut self, data: Option<Bytes>) -> DataBefore {
        let before = std::mem::replace(&mut self.data, data);
        self.content = self.content_hash();
        DataBefore::Was(before)
    }

    pub(super) fn set_acl(&mut self, acl: Acl) {
        self.acl = acl;
        self.content = self.content_hash();
    }

    /// What [`Node::content`] must be.
    pub(super) fn content_hash(&self) -> u64 {
        let data = self.data.as_ref().map_or(0, |data| xxh3_64(data).wrapping_add(1));
        data.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.acl.digest())
    }

    /// How many children there are now.
    #[must_use]
    pub fn child_count(&self) -> u32 {
        u32::try_from(self.links.len()).unwrap_or(u32::MAX)
    }

    /// The owning session of an ephemeral node.
    #[must_use]
    pub fn owner(&self) -> Option<SessionId> {
        match self.kind {
            NodeKind::Ephemeral(session) => Some(session),
            NodeKind::Persistent | NodeKind::Container | NodeKind::Ttl(_) => None,
        }
    }

    /// Whether it is to be reaped at `cluster_ms` of the cluster clock, if it has no children:
    /// a container that has had one, a node that was not changed for its time to live.
    #[must_use]
    pub fn is_due(&self, cluster_ms: u64) -> bool {
        match self.kind {
            NodeKind::Container => self.stamps.child_creations > 0,
            NodeKind::Ttl(ttl_ms) => cluster_ms.saturating_sub(self.modified_cluster_ms) > ttl_ms,
            NodeKind::Persistent | NodeKind::Ephemeral(_) => false,
        }
    }

    /// The node's data; none is empty.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.data.as_deref().unwrap_or_default()
    }

    /// The node's Stat, from which [`Stat::stamps`] leads back.
    #[must_use]
    pub fn stat(&self) -> Stat {
        Stat {
            czxid: self.stamps.czxid,
            mzxid: self.stamps.mzxid,
            pzxid: self.stamps.pzxid,
            ctime_ms: self.stamps.ctime_ms,
            mtime_ms: self.stamps.mtime_ms,
            version: self.stamps.version,
            cversion: self.stamps.child_creations.wrapping_mul(2).wrapping_sub_unsigned(self.child_count()),
            aversion: self.stamps.aversion,
            // ZooKeeper, too, does not show containers and times to live
            // (`DataNode.getClientEphemeralOwner`).
            ephemeral_owner: self.owner().map_or(0, |session| session.0),
            data_length: u32::try_from(self.bytes().len()).unwrap_or(u32::MAX),
            num_children: self.child_count(),
        }
    }

    /// This node's share of the state's digest; its children are in it by theirs. Shares
    /// are added up, so that the digest of the tree follows every change in constant time.
    /// Batches and snapshots tell digests: another formula is a new format of both.
    pub(super) fn digest(&self, path: &NodePath) -> u64 {
        let numbers = [
            path.hash64(),
            self.stamps.czxid,
            self.stamps.mzxid,
            self.stamps.pzxid,
            self.stamps.ctime_ms,
            self.stamps.mtime_ms,
            u64::from(self.stamps.version.cast_unsigned()),
            u64::from(self.stamps.aversion.cast_unsigned()),
            u64::from(self.stamps.child_creations.cast_unsigned()),
            self.kind.ephemeral_owner(),
            self.content,
            self.modified_cluster_ms,
        ];
        let mut bytes = [0; 96];
        for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        xxh3_64(&bytes)
    }
}
