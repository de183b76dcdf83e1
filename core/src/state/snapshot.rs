//! A state as bytes: a format version, then blocks, each with its checksum,
//! ending with a record that says how much there must have been.
//!
//! Block: `[length: u32 le][crc32 of the payload: u32 le][payload]`; payload: a
//! postcard sequence of [`Record`]s. The first block begins with [`MAGIC`] and
//! [`FORMAT`]. Records only ever grow at the end of their enum; a change of
//! meaning is a new format number and a migration from the one before.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use super::acl::{Acl, AclEntry};
use super::check::check_nodes;
use super::node::{Node, NodeKind, Stamps};
use super::session::{Password, Session, SessionId};
use super::tree::Links;
use super::{Faces, State, Submitted};
use crate::Zxid;
use crate::path::NodePath;

const MAGIC: &[u8; 8] = b"ROTASNAP";
const FORMAT: u32 = 4;
/// A block is closed when it has grown to this many bytes.
const BLOCK_BYTES: usize = 256 * 1024;
/// The largest block that is read: one node of the largest size in a block that
/// was nearly full. A longer length is damage, not data.
pub const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Different lists that are remembered while a snapshot is read.
const LISTS_MAX: usize = 10_000;
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
    Head { zxid: Zxid, time_ms: u64 },
    Session { id: SessionId, password: Password, timeout_ms: u32, opened: Zxid, connection: u32 },
    Submitted { server: u64, boot: u64, seq: u64 },
    Faces { server: u64, http: &'a str, zookeeper: Option<&'a str> },
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
    child_count: u32,
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
    let head = Record::Head { zxid: state.zxid, time_ms: state.time_ms };
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
    let faces = state.faces.iter().map(|(server, faces)| Record::Faces {
        server: *server,
        http: &faces.http,
        zookeeper: faces.zookeeper.as_deref(),
    });
    let nodes = state.tree.parents_first().map(|(path, node)| {
        Record::Node(NodeRecord {
            path: path.as_str(),
            data: node.data.as_deref(),
            kind: node.kind,
            acl: (!node.acl.is_open()).then(|| node.acl.entries()),
            stamps: node.stamps,
            child_count: node.child_count,
        })
    });
    let end = Record::End {
        sessions: state.sessions.len() as u64,
        nodes: state.tree.len() as u64,
        digest: state.tree.digest(),
    };
    let importing = state.importing.then_some(Record::Importing);
    std::iter::once(head)
        .chain(importing)
        .chain(sessions)
        .chain(submitted)
        .chain(faces)
        .chain(nodes)
        .chain(std::iter::once(end))
}

/// Reads a snapshot back, bytes in any portions, and checks all of it.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Lists of nodes that were read.
    lists: BTreeMap<Vec<AclEntry>, Acl>,
    buffer: Vec<u8>,
    prefix_seen: bool,
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
            lists: BTreeMap::new(),
            buffer: Vec::new(),
            prefix_seen: false,
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
        if self.ended {
            return Err(SnapshotError::Unsound("records after the end".to_owned()));
        }
        match record {
            Record::Head { zxid, time_ms } => {
                self.state.zxid = zxid;
                self.state.time_ms = time_ms;
            }
            Record::Session { id, password, timeout_ms, opened, connection } => {
                let ephemerals = OrdSet::new();
                let session = Session { password, timeout_ms, opened, connection, ephemerals };
                self.state.sessions.insert(id, Arc::new(session));
            }
            Record::Submitted { server, boot, seq } => {
                self.state.submitted.insert(server, Submitted { boot, seq });
            }
            Record::Faces { server, http, zookeeper } => {
                let faces = Faces { http: http.to_owned(), zookeeper: zookeeper.map(str::to_owned) };
                self.state.faces.insert(server, faces);
            }
            Record::Node(node) => self.take_node(&node)?,
            Record::Importing => self.state.importing = true,
            Record::End { sessions, nodes, digest } => {
                let state = &self.state;
                let whole = sessions == state.sessions.len() as u64
                    && nodes == state.tree.len() as u64
                    && digest == state.tree.digest();
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
            child_count: record.child_count,
            content: 0,
            links: Links::default(),
        }
        .sealed();
        if let Some(session) = node.owner() {
            self.state.own(session, &path);
        }
        if node.kind.is_mortal() {
            self.state.mortal.insert(path.clone());
        }
        // One that comes twice makes its parent's list too long, which is found at the end.
        if !self.state.tree.add(&path, Arc::new(node)) && path.parent_ref().is_some() {
            return Err(SnapshotError::Unsound(format!("nothing is above {path}")));
        }
        Ok(())
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
        match check_nodes(&self.state).into_iter().next() {
            Some(fault) => Err(SnapshotError::Unsound(fault)),
            None => Ok(self.state),
        }
    }
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
