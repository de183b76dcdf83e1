//! What ZooKeeper's servers keep on disk: snapshots and transaction logs.
//!
//! Sources: `FileSnap.java`, `SerializeUtils.java`, `DataTree.java`,
//! `ReferenceCountedACLCache.java`; `FileTxnLog.java`, `TxnHeader`, `txn/*` of
//! `zookeeper.jute`.

use bytes::{Buf, Bytes};
use rota_core::state::{AclEntry, NodeKind, Stamps};

use super::jute::{DecodeError, Record, records};
use super::records::{SetAcl, SetData};

const SNAPSHOT_MAGIC: i32 = i32::from_be_bytes(*b"ZKSN");
const LOG_MAGIC: i32 = i32::from_be_bytes(*b"ZKLG");
const VERSION: i32 = 2;
/// What stands in a log for something that was refused.
const ERROR: i32 = -1;
/// After every entry of a log.
const END_OF_RECORD: u8 = b'B';

/// Bytes that are no such file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// It begins otherwise.
    #[error("it begins as no such file does")]
    Foreign,
    /// Of another version.
    #[error("it is of version {0}, and {VERSION} is known")]
    Version(i32),
    /// Bytes that do not decode.
    #[error("it is damaged: {0}")]
    Damaged(#[from] DecodeError),
    /// The checksum is another.
    #[error("it is damaged: a checksum is wrong")]
    Checksum,
    /// A node's list of who may do what is not there.
    #[error("it is damaged: access control list {0} is missing")]
    NoAcl(i64),
}

records! {
    /// A session in a snapshot.
    StoredSession {
        /// Its id.
        session: u64,
        /// Its timeout in milliseconds.
        timeout_ms: i32,
    }

    /// A node in a snapshot, after its path.
    StoredNode {
        /// Its data.
        data: Option<Bytes>,
        /// The number of its list.
        acl: i64,
        /// As in its Stat.
        czxid: u64,
        /// As in its Stat.
        mzxid: u64,
        /// As in its Stat.
        ctime_ms: u64,
        /// As in its Stat.
        mtime_ms: u64,
        /// As in its Stat.
        version: i32,
        /// How many children were ever created.
        child_creations: i32,
        /// As in its Stat.
        aversion: i32,
        /// The session that owns it, or what stands for another kind.
        owner: u64,
        /// As in its Stat.
        pzxid: u64,
    }

    /// Before every transaction of a log.
    TxnHeader {
        /// Whose it is.
        session: u64,
        /// The client's number for it.
        cxid: i32,
        /// Its number.
        zxid: u64,
        /// When, in milliseconds since 1970.
        time_ms: u64,
        /// What it is.
        kind: i32,
    }
}

/// A snapshot.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The sessions.
    pub sessions: Vec<StoredSession>,
    /// The nodes with their paths; the root's path is "/".
    pub nodes: Vec<(String, Node)>,
}

/// A node of a server of ZooKeeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its data.
    pub data: Option<Bytes>,
    /// Who may do what with it.
    pub acl: Vec<AclEntry>,
    /// The session that owns it, or what stands for another kind.
    pub owner: u64,
    /// Its changes.
    pub stamps: Stamps,
}

impl StoredNode {
    fn with(self, acl: Vec<AclEntry>) -> Node {
        let stamps = Stamps {
            czxid: self.czxid,
            mzxid: self.mzxid,
            pzxid: self.pzxid,
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            aversion: self.aversion,
            child_creations: self.child_creations,
        };
        Node { data: self.data, acl, owner: self.owner, stamps }
    }
}

impl Snapshot {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// When it is none, or damaged.
    pub fn read(mut from: Bytes) -> Result<Self, DiskError> {
        let whole = from.clone();
        check_head(&mut from, SNAPSHOT_MAGIC)?;
        let sessions = Vec::<StoredSession>::read(&mut from)?;
        let mut acls = std::collections::BTreeMap::new();
        for _ in 0..i32::read(&mut from)? {
            acls.insert(i64::read(&mut from)?, Vec::<AclEntry>::read(&mut from)?);
        }
        let mut nodes = Vec::new();
        loop {
            let path = String::read(&mut from)?;
            // The root is called "", and "/" stands after the last node.
            if path == "/" {
                break;
            }
            let node = StoredNode::read(&mut from)?;
            let acl = match node.acl {
                // `OPEN_UNSAFE_ACL_ID`.
                -1 => rota_core::state::Acl::open().entries(),
                number => acls.get(&number).cloned().ok_or(DiskError::NoAcl(number))?,
            };
            let path = if path.is_empty() { "/".to_owned() } else { path };
            nodes.push((path, node.with(acl)));
        }
        let checked = whole.len() - from.len();
        // What may follow the checksum, a digest of the tree, is not needed.
        if i64::read(&mut from)? != i64::from(adler2::adler32_slice(&whole[..checked])) {
            return Err(DiskError::Checksum);
        }
        Ok(Self { sessions, nodes })
    }
}

/// What a transaction changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As in `zookeeper.jute`.
pub enum Txn {
    /// The owner is what is stored; `None` for the transaction's session.
    Create {
        path: String,
        data: Option<Bytes>,
        acl: Vec<AclEntry>,
        owner: Option<u64>,
        parent_creations: i32,
    },
    Delete {
        path: String,
    },
    SetData(SetData),
    SetAcl(SetAcl),
    OpenSession {
        timeout_ms: i32,
    },
    CloseSession,
    Multi(Vec<Txn>),
    /// It changes nothing.
    Nothing,
}

impl Txn {
    fn read(kind: i32, from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 | 15 | 19 | 21 => {
                let (path, data, acl) = (String::read(from)?, Option::read(from)?, Vec::read(from)?);
                // `None`: of the transaction's session.
                let owner = match kind {
                    19 => Some(NodeKind::Container),
                    21 => None,
                    _ => (!bool::read(from)?).then_some(NodeKind::Persistent),
                };
                let parent_creations = i32::read(from)?;
                let owner = match kind {
                    21 => Some(NodeKind::Ttl(u64::read(from)?)),
                    _ => owner,
                };
                let owner = owner.map(NodeKind::ephemeral_owner);
                Self::Create { path, data, acl, owner, parent_creations }
            }
            2 | 20 => Self::Delete { path: String::read(from)? },
            5 | 16 => Self::SetData(SetData::read(from)?),
            7 => Self::SetAcl(SetAcl::read(from)?),
            -10 => Self::OpenSession { timeout_ms: i32::read(from)? },
            -11 => Self::CloseSession,
            14 => {
                let mut txns = Vec::new();
                let mut refused = false;
                for _ in 0..i32::read(from)? {
                    let kind = i32::read(from)?;
                    refused |= kind == ERROR;
                    let mut body = Option::<Bytes>::read(from)?.unwrap_or_default();
                    txns.push(Self::read(kind, &mut body)?);
                }
                // What one that was refused would have done before stands in the log.
                if refused { Self::Nothing } else { Self::Multi(txns) }
            }
            // A check.
            ERROR | 13 => Self::Nothing,
            other => return Err(DecodeError::Unknown(other)),
        })
    }
}

/// A transaction log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// What is whole of it.
    pub txns: Vec<(TxnHeader, Txn)>,
    /// Whether it ends within a record.
    pub is_torn: bool,
}

/// Reads a transaction log: what is whole of it, since a server that was killed
/// leaves one that is cut off.
///
/// # Errors
/// When it is none, or damaged before its end.
pub fn read_log(mut from: Bytes) -> Result<Log, DiskError> {
    check_head(&mut from, LOG_MAGIC)?;
    let mut txns = Vec::new();
    // Logs are allocated ahead, with zeros.
    while from.iter().any(|byte| *byte != 0) {
        let checksum = i64::read(&mut from);
        let entry = Option::<Bytes>::read(&mut from);
        let (Ok(checksum), Ok(Some(mut entry)), Some(&END_OF_RECORD)) = (checksum, entry, from.first())
        else {
            return Ok(Log { txns, is_torn: true });
        };
        from.advance(1);
        if checksum != i64::from(adler2::adler32_slice(&entry)) {
            return Err(DiskError::Checksum);
        }
        let header = TxnHeader::read(&mut entry)?;
        let txn = Txn::read(header.kind, &mut entry)?;
        txns.push((header, txn));
    }
    Ok(Log { txns, is_torn: false })
}

fn check_head(from: &mut Bytes, magic: i32) -> Result<(), DiskError> {
    if i32::read(from)? != magic {
        return Err(DiskError::Foreign);
    }
    match i32::read(from)? {
        VERSION => {}
        other => return Err(DiskError::Version(other)),
    }
    // The database's number, which means nothing.
    i64::read(from)?;
    Ok(())
}
