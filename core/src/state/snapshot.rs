//! A state as bytes: a format version, then blocks, each with its checksum,
//! ending with a record that says how much there must have been.
//!
//! Block: `[length: u32 le][crc32 of the payload: u32 le][payload]`; payload: a
//! postcard sequence of [`Record`]s. The first block begins with [`MAGIC`] and
//! [`FORMAT`]. Records only ever grow at the end of their enum; a change of
//! meaning is a new format number. The head comes first, and sessions before nodes.

use std::collections::BTreeMap;

use bytes::Bytes;
use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use super::acl::{Acl, AclEntry};
use super::check::{check_node, check_sessions};
use super::node::{Node, NodeKind, Stamps};
use super::session::{Password, Session, SessionId};
use super::timestamp::Timestamp;
use super::tree::Links;
use super::{ServerEndpoints, State, Submitted};
use crate::Zxid;
use crate::path::NodePath;

const MAGIC: &[u8; 8] = b"ROTASNAP";
const FORMAT: u32 = 6;
/// A block is closed when it has grown to this many bytes.
const BLOCK_BYTES: usize = 256 * 1024;
/// The largest block that is read: one node of the largest size in a block that
/// was nearly full. A longer length is damage, not data.
pub const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Different lists that are remembered while a snapshot is read.
const LISTS_MAX: usize = 10_000;
/// Nodes with one parent that are put into the tree at a time.
const SIBLINGS_MAX: usize = 256;
/// Bytes before a block's payload.
pub const BLOCK_HEADER_BYTES: usize = 8;

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It does not begin as one of ours does.
    #[error("not a snapshot of Rota")]
    Foreign,
    /// It was written by another version.
    #[error("snapshot format {0} is not the one that this version knows ({FORMAT})")]
    Format(u32),
    /// A block's checksum or length is wrong.
    #[error("block {block} of the snapshot is damaged")]
    Damaged {
        /// Which one, from 0.
        block: u64,
    },
    /// The bytes do not decode.
    #[error("the snapshot does not decode")]
    Decode(#[from] postcard::Error),
    /// It ends before its last record.
    #[error("the snapshot is cut off")]
    CutOff,
    /// It decodes to a state that breaks an invariant.
    #[error("the snapshot breaks an invariant: {0}")]
    Unsound(String),
}

#[derive(Serialize, Deserialize)]
enum Record<'a> {
    Head { zxid: Zxid, wall_ms: u64, cluster_ms: u64 },
    Session { id: SessionId, password: Password, timeout_ms: u32, opened: Zxid, connection: u32 },
    Submitted { server: u64, boot: u64, seq: u64 },
    ServerEndpoints { server: u64, http: &'a str, zookeeper: Option<&'a str> },
    Node(#[serde(borrow)] NodeRecord<'a>),
    End { sessions: u64, nodes: u64, digest: u64 },
    Importing,
}

#[derive(Serialize, Deserialize)]
struct NodeRecord<'a> {
    path: &'a str,
    data: Option<&'a [u8]>,
    kind: NodeKind,
    /// None for the open list.
    acl: Option<Vec<AclEntry>>,
    stamps: Stamps,
    modified_cluster_ms: u64,
}

/// The blocks of `state`'s snapshot, made one at a time as they are asked for.
pub fn encode(state: &State) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut records = records(state).peekable();
    let mut prefix = Some([&MAGIC[..], &FORMAT.to_le_bytes()].concat());
    std::iter::from_fn(move || {
        records.peek()?;
        let mut payload = Vec::with_capacity(BLOCK_BYTES + 4096);
        while payload.len() < BLOCK_BYTES {
            let Some(record) = records.next() else { break };
            payload = postcard::to_extend(&record, payload).expect("records have no fallible part");
        }
        let mut block = prefix.take().unwrap_or_default();
        block.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        block.extend(crc32fast::hash(&payload).to_le_bytes());
        block.extend(payload);
        Some(block)
    })
}

fn records(state: &State) -> impl Iterator<Item = Record<'_>> {
    let Timestamp { wall_ms, cluster_ms } = state.timestamp;
    let head = Record::Head { zxid: state.zxid, wall_ms, cluster_ms };
    let sessions = state.sessions().map(|(id, s)| Record::Session {
        id,
        password: s.password,
        timeout_ms: s.timeout_ms,
        opened: s.opened,
        connection: s.connection,
    });
    let submitted = state.submitted.iter().map(|(server, unit)| Record::Submitted {
        server: *server,
        boot: unit.boot,
        seq: unit.seq,
    });
    let endpoints = state.server_endpoints.iter().map(|(server, endpoints)| Record::ServerEndpoints {
        server: *server,
        http: &endpoints.http,
        zookeeper: endpoints.zookeeper.as_deref(),
    });
    let nodes = state.tree.parents_first().map(|(path, node)| {
        Record::Node(NodeRecord {
            path: path.as_str(),
            data: node.data.as_deref(),
            kind: node.kind,
            acl: (!node.acl.is_open()).then(|| node.acl.entries()),
            stamps: node.stamps,
            modified_cluster_ms: node.modified_cluster_ms,
        })
    });
    let end = Record::End {
        sessions: state.sessions.len() as u64,
        nodes: state.tree.len() as u64,
        digest: state.digest(),
    };
    let importing = state.importing.then_some(Record::Importing);
    std::iter::once(head)
        .chain(importing)
        .chain(sessions)
        .chain(submitted)
        .chain(endpoints)
        .chain(nodes)
        .chain(std::iter::once(end))
}

/// Reads a snapshot back, bytes in any portions, and checks all of it.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Nodes with one parent that are not in the tree yet.
    siblings: Vec<(NodePath, Node)>,
    /// Lists of nodes that were read.
    lists: BTreeMap<Vec<AclEntry>, Acl>,
    buffer: Vec<u8>,
    prefix_seen: bool,
    has_head: bool,
    blocks: u64,
    ended: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::empty(),
            siblings: Vec::new(),
            lists: BTreeMap::new(),
            buffer: Vec::new(),
            prefix_seen: false,
            has_head: false,
            blocks: 0,
            ended: false,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as anything is found wrong; the decoder is of no use then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.buffer.extend_from_slice(bytes);
        let mut at = 0;
        if !self.prefix_seen {
            let Some(prefix) = self.buffer.get(..12) else { return Ok(()) };
            check_prefix(prefix)?;
            self.prefix_seen = true;
            at = 12;
        }
        while let Some(end) = self.block_end(at)? {
            if self.ended {
                return Err(SnapshotError::Unsound("blocks after the end".to_owned()));
            }
            let block = self.buffer[at + BLOCK_HEADER_BYTES..end].to_vec();
            let crc = le_u32(&self.buffer[at + 4..at + 8]);
            if crc32fast::hash(&block) != crc {
                return Err(SnapshotError::Damaged { block: self.blocks });
            }
            self.take_block(&block)?;
            self.blocks += 1;
            at = end;
        }
        self.buffer.drain(..at);
        Ok(())
    }

    /// Where the block at `at` ends, once all of it is there.
    fn block_end(&self, at: usize) -> Result<Option<usize>, SnapshotError> {
        let Some(header) = self.buffer.get(at..at + BLOCK_HEADER_BYTES) else { return Ok(None) };
        let len = le_u32(&header[..4]) as usize;
        if len > BLOCK_BYTES_MAX {
            return Err(SnapshotError::Damaged { block: self.blocks });
        }
        let end = at + BLOCK_HEADER_BYTES + len;
        Ok((self.buffer.len() >= end).then_some(end))
    }

    fn take_block(&mut self, mut payload: &[u8]) -> Result<(), SnapshotError> {
        while !payload.is_empty() {
            let (record, rest) = postcard::take_from_bytes::<Record<'_>>(payload)?;
            self.take(record)?;
            payload = rest;
        }
        Ok(())
    }

    fn take(&mut self, record: Record<'_>) -> Result<(), SnapshotError> {
        let out_of_place = match record {
            _ if self.ended => Some("records after the end"),
            Record::Head { .. } if self.has_head => Some("a second head"),
            Record::Head { .. } => None,
            _ if !self.has_head => Some("records before the head"),
            Record::Session { id, .. } if self.state.sessions.contains_key(&id) => Some("a session twice"),
            Record::Session { .. } if !self.siblings.is_empty() || !self.state.tree.is_empty() => {
                Some("a session after the first node")
            }
            _ => None,
        };
        if let Some(fault) = out_of_place {
            return Err(SnapshotError::Unsound(fault.to_owned()));
        }
        match record {
            Record::Head { zxid, wall_ms, cluster_ms } => {
                self.has_head = true;
                self.state.zxid = zxid;
                self.state.timestamp = Timestamp { wall_ms, cluster_ms };
            }
            Record::Session { id, password, timeout_ms, opened, connection } => {
                let ephemerals = OrdSet::new();
                let session = Session { password, timeout_ms, opened, connection, ephemerals };
                self.state.insert_session(id, session);
            }
            Record::Submitted { server, boot, seq } => {
                self.state.record_submitted(server, Submitted { boot, seq });
            }
            Record::ServerEndpoints { server, http, zookeeper } => {
                let endpoints =
                    ServerEndpoints { http: http.to_owned(), zookeeper: zookeeper.map(str::to_owned) };
                self.state.set_endpoints(server, endpoints);
            }
            Record::Node(node) => self.take_node(&node)?,
            Record::Importing => self.state.importing = true,
            Record::End { sessions, nodes, digest } => {
                self.settle()?;
                let state = &self.state;
                let whole = sessions == state.sessions.len() as u64
                    && nodes == state.tree.len() as u64
                    && digest == state.digest();
                if !whole {
                    return Err(SnapshotError::Unsound("its counts or digest differ".to_owned()));
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    fn take_node(&mut self, record: &NodeRecord<'_>) -> Result<(), SnapshotError> {
        let path = NodePath::parse(record.path)
            .map_err(|e| SnapshotError::Unsound(format!("{:?}: {e}", record.path)))?;
        let acl = record.acl.as_ref().map_or_else(Acl::open, |entries| self.list(entries));
        let node = Node {
            data: record.data.map(Bytes::copy_from_slice),
            kind: record.kind,
            acl,
            stamps: record.stamps,
            modified_cluster_ms: record.modified_cluster_ms,
            content: 0,
            links: Links::default(),
        }
        .sealed();
        if let Some(session) = node.owner() {
            self.state.add_ephemeral(session, &path);
        }
        if node.kind.is_reapable() {
            self.state.reapable.insert(path.clone());
        }
        let mut faults = Vec::new();
        check_node(&self.state, &path, &node, &mut faults);
        first_of(faults)?;
        let first = self.siblings.first();
        if first.is_some_and(|(first, _)| first.parent_ref() != path.parent_ref())
            || self.siblings.len() == SIBLINGS_MAX
        {
            self.settle()?;
        }
        self.siblings.push((path, node));
        Ok(())
    }

    /// Puts the nodes that came last, which have one parent, into the tree.
    fn settle(&mut self) -> Result<(), SnapshotError> {
        let siblings = std::mem::take(&mut self.siblings);
        let Some(parent) = siblings.first().map(|(first, _)| first.parent()) else { return Ok(()) };
        match self.state.tree.add_children(parent.as_ref(), siblings) {
            true => Ok(()),
            false => {
                let below = parent.map_or_else(String::new, |parent| format!(" below {parent}"));
                Err(SnapshotError::Unsound(format!("a node{below} comes twice, or before its parent")))
            }
        }
    }

    /// Nodes with the same list share it, as far as that is remembered.
    fn list(&mut self, entries: &[AclEntry]) -> Acl {
        if let Some(known) = self.lists.get(entries) {
            return known.clone();
        }
        let list = Acl::new(entries.to_vec());
        if self.lists.len() < LISTS_MAX {
            self.lists.insert(entries.to_vec(), list.clone());
        }
        list
    }

    /// The state, if all of it came and it is sound.
    ///
    /// # Errors
    /// When the bytes ended early, or the state breaks an invariant.
    pub fn finish(self) -> Result<State, SnapshotError> {
        if !self.ended || !self.buffer.is_empty() {
            return Err(SnapshotError::CutOff);
        }
        let mut faults = Vec::new();
        check_sessions(&self.state, &mut faults);
        first_of(faults)?;
        Ok(self.state)
    }
}

fn first_of(faults: Vec<String>) -> Result<(), SnapshotError> {
    faults.into_iter().next().map_or(Ok(()), |fault| Err(SnapshotError::Unsound(fault)))
}

fn check_prefix(prefix: &[u8]) -> Result<(), SnapshotError> {
    if &prefix[..8] != MAGIC {
        return Err(SnapshotError::Foreign);
    }
    match le_u32(&prefix[8..12]) {
        FORMAT => Ok(()),
        other => Err(SnapshotError::Format(other)),
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, &b| (n << 8) | u32::from(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a snapshot of these records, whose checksums are right.
    fn fault(records: &[Record<'_>]) -> String {
        let payload =
            records.iter().flat_map(|record| postcard::to_stdvec(record).unwrap()).collect::<Vec<_>>();
        let mut bytes = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(crc32fast::hash(&payload).to_le_bytes());
        bytes.extend(payload);
        let mut decoder = Decoder::new();
        match decoder.push(&bytes).and_then(|()| decoder.finish()) {
            Err(SnapshotError::Unsound(fault)) => fault,
            other => panic!("{:?}", other.map(|state| state.digest())),
        }
    }

    fn node<'a>(path: &'a str, kind: NodeKind, czxid: Zxid) -> Record<'a> {
        Record::Node(NodeRecord {
            path,
            data: None,
            kind,
            acl: None,
            stamps: Stamps::new(czxid, 1),
            modified_cluster_ms: 1,
        })
    }

    #[test]
    fn what_no_state_can_be_is_refused() {
        let head = || Record::Head { zxid: 5, wall_ms: 1, cluster_ms: 1 };
        let root = || node("/", NodeKind::Persistent, 0);
        let end = || Record::End { sessions: 0, nodes: 0, digest: 0 };
        let a = |kind| node("/a", kind, 5);
        let session = |opened| {
            let password = Password([0; 16]);
            Record::Session { id: SessionId(1), password, timeout_ms: 1, opened, connection: 0 }
        };
        let of_session = NodeKind::Ephemeral(SessionId(1));
        for (records, told) in [
            (vec![head(), root(), root(), end()], "a node comes twice"),
            (
                vec![head(), root(), a(NodeKind::Container), a(NodeKind::Container), end()],
                "a node below / comes twice",
            ),
            (
                vec![head(), a(NodeKind::Persistent), end()],
                "a node below / comes twice, or before its parent",
            ),
            (vec![head(), root(), node("a", NodeKind::Persistent, 5)], "starts with '/'"),
            (vec![head(), root(), node("/a", NodeKind::Persistent, 6)], "/a: czxid 6 is out of order"),
            (vec![head(), root(), a(of_session)], "which is gone"),
            (vec![head(), root(), end()], "its counts or digest differ"),
            (vec![root(), head()], "records before the head"),
            (vec![head(), root(), head()], "a second head"),
            (vec![head(), session(5), session(5)], "a session twice"),
            (vec![head(), root(), session(5)], "a session after the first node"),
        ] {
            let fault = fault(&records);
            assert!(fault.contains(told), "{told:?} is wanted, and told is {fault:?}");
        }

        // With the right counts: what only the whole can tell.
        let sound = |records: Vec<Record<'_>>, nodes: u64, sessions: u64| {
            let mut decoder = Decoder::new();
            for record in records {
                decoder.take(record).unwrap();
            }
            decoder.settle().unwrap();
            let digest = decoder.state.digest();
            decoder.take(Record::End { sessions, nodes, digest }).unwrap();
            decoder.finish().err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(sound(vec![head(), session(5), root(), a(of_session)], 2, 1), "");
        assert!(sound(vec![head()], 0, 0).contains("there is no root"));
        assert!(sound(vec![head(), session(6), root()], 1, 1).contains("was opened in the future"));
        let below = node("/a/b", NodeKind::Persistent, 5);
        let told = sound(vec![head(), session(5), root(), a(of_session), below], 3, 1);
        assert!(told.contains("ephemeral node /a is gone or has children"), "{told}");
    }
}
