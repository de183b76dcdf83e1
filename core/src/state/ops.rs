//! The operations on the tree, and how a multi is undone.
//!
//! Each operation checks everything it needs before it changes anything, so a
//! lone operation never has to be undone. A multi keeps a journal of what its
//! operations replaced and puts it back when a later one is refused.

use std::sync::Arc;

use bytes::Bytes;

use super::command::{CreateMode, Event, EventKind, Op, OpReply, Refusal};
use super::node::{Node, NodeKind};
use super::session::SessionId;
use super::{FIRST_NODES, State};
use crate::Zxid;
use crate::path::NodePath;

/// One command at work on the state.
pub(super) struct Change<'a> {
    state: &'a mut State,
    zxid: Zxid,
    time_ms: u64,
    session: Option<SessionId>,
    events: Vec<Event>,
    /// `Some` while a multi is at work.
    journal: Option<Vec<Undo>>,
}

/// What brings back the state from before one step.
enum Undo {
    Node(NodePath, Option<Arc<Node>>),
    Owned(SessionId, NodePath),
    Disowned(SessionId, NodePath),
}

impl<'a> Change<'a> {
    pub(super) fn new(state: &'a mut State, session: Option<SessionId>) -> Self {
        let (zxid, time_ms) = (state.zxid, state.time_ms);
        Self { state, zxid, time_ms, session, events: Vec::new(), journal: None }
    }

    pub(super) fn into_events(self) -> Vec<Event> {
        self.events
    }

    /// Does all of `ops`, or nothing.
    pub(super) fn all_or_nothing(&mut self, ops: &[Op]) -> Result<Vec<OpReply>, Refusal> {
        self.journal = Some(Vec::new());
        let mut replies = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            match self.op(op) {
                Ok(reply) => replies.push(reply),
                Err(cause) => {
                    self.roll_back();
                    return Err(Refusal::Multi { index, cause: Box::new(cause) });
                }
            }
        }
        Ok(replies)
    }

    pub(super) fn op(&mut self, op: &Op) -> Result<OpReply, Refusal> {
        match op {
            Op::Create { path, data, mode } => self.create(path, data, *mode),
            Op::Delete { path, version } => self.delete(path, *version),
            Op::SetData { path, data, version } => self.set_data(path, data, *version),
            Op::Check { path, version } => {
                check_version(path, self.existing(path)?, *version)?;
                Ok(OpReply::Checked)
            }
            Op::CheckFence { path, fence } => self.check_fence(path, *fence),
        }
    }

    /// Removes a node whatever its version; it has no children.
    pub(super) fn remove(&mut self, path: &NodePath) {
        let removed = self.replace(path, None);
        self.event(EventKind::Deleted, path.clone());
        if let Some(session) = removed.as_deref().and_then(Node::owner) {
            self.state.disown(session, path);
            self.note(|| Undo::Disowned(session, path.clone()));
        }
        if let Some(parent) = path.parent() {
            let zxid = self.zxid;
            self.update(&parent, |node| {
                node.child_count -= 1;
                node.pzxid = zxid;
            });
            self.event(EventKind::ChildrenChanged, parent);
        }
    }

    fn create(&mut self, path: &str, data: &Bytes, mode: CreateMode) -> Result<OpReply, Refusal> {
        let kind = match (mode.is_ephemeral(), self.session) {
            (false, _) => NodeKind::Persistent,
            (true, Some(session)) => NodeKind::Ephemeral(session),
            (true, None) => return Err(Refusal::SessionNeeded),
        };
        let path = self.path_to_create(path, mode)?;
        let Some(parent) = path.parent() else {
            return Err(Refusal::NodeExists { path: path.to_string() });
        };
        let parent_node = self.existing(parent.as_str())?;
        if parent_node.owner().is_some() {
            return Err(Refusal::NoChildrenForEphemerals { path: parent.to_string() });
        }
        if self.state.tree.get(path.as_str()).is_some() {
            return Err(Refusal::NodeExists { path: path.to_string() });
        }

        let node = Node::new(data.clone(), kind, self.zxid, self.time_ms);
        let stat = node.stat();
        self.replace(&path, Some(Arc::new(node)));
        let zxid = self.zxid;
        self.update(&parent, |node| {
            node.child_count += 1;
            node.child_creations = node.child_creations.wrapping_add(1);
            node.pzxid = zxid;
        });
        if let NodeKind::Ephemeral(session) = kind {
            self.state.own(session, &path);
            self.note(|| Undo::Owned(session, path.clone()));
        }
        self.event(EventKind::Created, path.clone());
        self.event(EventKind::ChildrenChanged, parent);
        Ok(OpReply::Created { path: path.to_string(), stat })
    }

    /// The path a create is about: with its number, if it is sequential.
    fn path_to_create(&self, path: &str, mode: CreateMode) -> Result<NodePath, Refusal> {
        if !mode.is_sequential() {
            return parse(path);
        }
        // "/a/" is a valid prefix of a sequential name; check it with a stand-in.
        let stand_in = parse(&format!("{path}0")).map_err(|refusal| match refusal {
            Refusal::BadPath { cause, .. } => Refusal::BadPath { path: path.to_owned(), cause },
            other => other,
        })?;
        let parent = stand_in.parent().unwrap_or_else(NodePath::root);
        let count = self.existing(parent.as_str())?.child_creations;
        parse(&format!("{path}{:010}", count.cast_signed()))
    }

    fn delete(&mut self, path: &str, version: Option<i32>) -> Result<OpReply, Refusal> {
        let path = parse(path)?;
        if FIRST_NODES.contains(&path.as_str()) {
            return Err(Refusal::Permanent { path: path.to_string() });
        }
        let node = self.existing(path.as_str())?;
        check_version(path.as_str(), node, version)?;
        if node.child_count > 0 {
            return Err(Refusal::NotEmpty { path: path.to_string() });
        }
        self.remove(&path);
        Ok(OpReply::Deleted)
    }

    fn set_data(&mut self, path: &str, data: &Bytes, version: Option<i32>) -> Result<OpReply, Refusal> {
        let node = self.existing(path)?;
        check_version(path, node, version)?;
        let path = self.state.tree.key(path).cloned().ok_or_else(|| no_node(path))?;
        let (zxid, time_ms, data) = (self.zxid, self.time_ms, data.clone());
        let mut stat = None;
        self.update(&path, |node| {
            node.data = data;
            node.version = node.version.wrapping_add(1);
            node.mzxid = zxid;
            node.mtime_ms = time_ms;
            stat = Some(node.stat());
        });
        let stat = stat.ok_or_else(|| no_node(path.as_str()))?;
        self.event(EventKind::DataChanged, path);
        Ok(OpReply::Set { stat })
    }

    fn check_fence(&self, path: &str, fence: Zxid) -> Result<OpReply, Refusal> {
        let current = self.state.tree.get(path).map(|node| node.mzxid);
        match current {
            Some(current) if current == fence => Ok(OpReply::Checked),
            _ => {
                let current = current.unwrap_or(0);
                Err(Refusal::StaleFence { path: path.to_owned(), given: fence, current })
            }
        }
    }

    fn existing(&self, path: &str) -> Result<&Node, Refusal> {
        match self.state.tree.get(path) {
            Some(node) => Ok(node),
            None => Err(parse(path).err().unwrap_or_else(|| no_node(path))),
        }
    }

    fn replace(&mut self, path: &NodePath, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let before = self.state.tree.replace(path, node);
        self.note(|| Undo::Node(path.clone(), before.clone()));
        before
    }

    fn update(&mut self, path: &NodePath, change: impl FnOnce(&mut Node)) {
        if let Some(journal) = &mut self.journal {
            journal.push(Undo::Node(path.clone(), self.state.tree.share(path)));
        }
        self.state.tree.update(path, change);
    }

    fn note(&mut self, undo: impl FnOnce() -> Undo) {
        if let Some(journal) = &mut self.journal {
            journal.push(undo());
        }
    }

    fn event(&mut self, kind: EventKind, path: NodePath) {
        self.events.push(Event { zxid: self.zxid, kind, path });
    }

    fn roll_back(&mut self) {
        for undo in self.journal.take().into_iter().flatten().rev() {
            match undo {
                Undo::Node(path, before) => drop(self.state.tree.replace(&path, before)),
                Undo::Owned(session, path) => self.state.disown(session, &path),
                Undo::Disowned(session, path) => self.state.own(session, &path),
            }
        }
        self.events.clear();
    }
}

fn parse(path: &str) -> Result<NodePath, Refusal> {
    NodePath::parse(path).map_err(|cause| Refusal::BadPath { path: path.to_owned(), cause })
}

fn no_node(path: &str) -> Refusal {
    Refusal::NoNode { path: path.to_owned() }
}

fn check_version(path: &str, node: &Node, version: Option<i32>) -> Result<(), Refusal> {
    match version {
        Some(expected) if expected != node.version => {
            Err(Refusal::BadVersion { path: path.to_owned(), expected, actual: node.version })
        }
        _ => Ok(()),
    }
}
