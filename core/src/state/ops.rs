//! The operations on the tree, and how a multi is undone.
//!
//! Each operation checks everything it needs before it changes anything, so a
//! lone operation never has to be undone. A multi keeps a journal of what its
//! operations replaced and puts it back when a later one is refused.
//!
//! What is refused, and which refusal comes first where there are several, is as
//! in ZooKeeper's `PrepRequestProcessor.pRequest2Txn`.

use std::sync::Arc;

use bytes::Bytes;

use super::acl::{Acl, AclEntry, perms};
use super::command::{Actor, CreateMode, Op, Privilege};
use super::node::{Node, NodeKind, Stat, TTL_MS_MAX};
use super::reply::{Event, EventKind, OpReply, Refusal};
use super::session::SessionId;
use super::tree::{Before, Changed, DataBefore};
use super::{PERMANENT, State, Timestamp};
use crate::Zxid;
use crate::path::{NodePath, PathError};
use crate::pool::guard;

/// One command at work on the state.
pub(super) struct Change<'a> {
    pub(super) state: &'a mut State,
    zxid: Zxid,
    now: Timestamp,
    by: &'a Actor,
    events: Vec<Event>,
    /// Quotas that it began: each costs what is below it.
    pub(super) counted: u32,
    /// `Some` while a multi is at work.
    journal: Option<Vec<Undo>>,
}

/// What brings back the state from before one step.
enum Undo {
    Node(NodePath, Option<Arc<Node>>),
    Changed(NodePath, Before),
    Owned(SessionId, NodePath),
    Disowned(SessionId, NodePath),
}

impl<'a> Change<'a> {
    pub(super) fn new(state: &'a mut State, by: &'a Actor) -> Self {
        let (zxid, now) = (state.zxid, state.timestamp);
        Self { state, zxid, now, by, events: Vec::new(), counted: 0, journal: None }
    }

    pub(super) fn is_rota(&self) -> bool {
        self.by.privilege == Privilege::Rota
    }

    pub(super) fn into_events(self) -> Vec<Event> {
        self.events
    }

    /// Does all of `ops`, or nothing.
    pub(super) fn all_or_nothing(&mut self, ops: Vec<Op>) -> Result<Vec<OpReply>, Refusal> {
        self.journal = Some(Vec::new());
        let mut replies = Vec::with_capacity(ops.len());
        for (index, op) in ops.into_iter().enumerate() {
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

    pub(super) fn op(&mut self, op: Op) -> Result<OpReply, Refusal> {
        match op {
            Op::Create { path, data, mode, acl } => self.create(&path, data, mode, acl.as_deref()),
            Op::Delete { path, version } => self.delete(&path, version),
            Op::SetData { path, data, version } => self.set_data(&path, data, version),
            Op::Check { path, version } => self.check(&path, version),
            Op::CheckFence { path, fence } => self.check_fence(&path, fence),
            Op::SetAcl { path, acl, version } => self.set_acl(&path, &acl, version),
            Op::Ensure { path, acl } => self.ensure(&path, acl.as_deref()),
            Op::Reap { path } => self.reap(&path),
        }
    }

    /// Removes a node whatever its version; it has no children.
    pub(super) fn remove(&mut self, path: &NodePath) {
        let Some(removed) = self.replace(path, None) else { return };
        self.event(EventKind::Deleted, path.clone(), removed.acl.clone());
        if let Some(session) = removed.owner() {
            self.state.remove_ephemeral(session, path);
            self.note(|| Undo::Disowned(session, path.clone()));
        }
        let zxid = self.zxid;
        let above = path.parent_ref().and_then(|parent| {
            self.update(parent, |node| {
                node.stamps.pzxid = zxid;
                DataBefore::Unchanged
            })
        });
        if let Some((parent, _, acl)) = above {
            self.event(EventKind::ChildrenChanged, parent, acl);
        }
        self.count_quota(path.as_str(), -1, -signed_len(removed.data.as_ref()));
    }

    fn create(
        &mut self,
        path: &str,
        data: Option<Bytes>,
        mode: CreateMode,
        acl: Option<&[AclEntry]>,
    ) -> Result<OpReply, Refusal> {
        let kind = self.kind(mode)?;
        let parent = parent_text(path)?;
        let acl = self.resolved_acl(path, acl)?;
        let bytes = signed_len(data.as_ref());
        let parent_node = self.state.tree.get(parent).ok_or_else(|| no_node(parent))?;
        allowed(self.by, parent, parent_node, perms::CREATE)?;
        let number =
            mode.is_sequential().then(|| format!("{path}{:010}", parent_node.stamps.child_creations));
        let path = NodePath::parse(number.as_deref().unwrap_or(path))
            .map_err(|cause| Refusal::BadPath { path: path.to_owned(), cause })?;
        if self.state.tree.get(path.as_str()).is_some() {
            return Err(Refusal::NodeExists { path: path.to_string() });
        }
        if parent_node.owner().is_some() {
            return Err(Refusal::NoChildrenForEphemerals { path: parent.to_owned() });
        }
        self.check_quota(path.as_str(), 1, bytes)?;

        // Children mostly have their parent's list: they share it then.
        let acl = if acl == parent_node.acl { parent_node.acl.clone() } else { acl };
        let mut node = Node::new(data, kind, acl.clone(), self.zxid, self.now);
        if guard::is_row(path.as_str()) {
            node.stamps.version = first_version(self.zxid);
        }
        let stat = node.stat();
        let added = self.state.add(&path, Arc::new(node));
        debug_assert!(added, "{path} is there already");
        self.note(|| Undo::Node(path.clone(), None));
        let zxid = self.zxid;
        let above = self.update(parent, |node| {
            node.stamps.child_creations = node.stamps.child_creations.wrapping_add(1);
            node.stamps.pzxid = zxid;
            DataBefore::Unchanged
        });
        if let NodeKind::Ephemeral(session) = kind {
            self.state.add_ephemeral(session, &path);
            self.note(|| Undo::Owned(session, path.clone()));
        }
        self.event(EventKind::Created, path.clone(), acl);
        if let Some((parent, _, acl)) = above {
            self.event(EventKind::ChildrenChanged, parent, acl);
        }
        self.create_quota(&path)?;
        self.count_quota(path.as_str(), 1, bytes);
        Ok(OpReply::Created { path: path.to_string(), stat })
    }

    fn kind(&self, mode: CreateMode) -> Result<NodeKind, Refusal> {
        Ok(match mode {
            CreateMode::Persistent | CreateMode::PersistentSequential => NodeKind::Persistent,
            CreateMode::Ephemeral | CreateMode::EphemeralSequential => {
                NodeKind::Ephemeral(self.by.session.ok_or(Refusal::SessionNeeded)?)
            }
            CreateMode::Container => NodeKind::Container,
            CreateMode::PersistentWithTtl { ttl_ms } | CreateMode::PersistentSequentialWithTtl { ttl_ms } => {
                if ttl_ms == 0 || ttl_ms > TTL_MS_MAX {
                    return Err(Refusal::BadTtl { ttl_ms });
                }
                NodeKind::Ttl(ttl_ms)
            }
        })
    }

    fn ensure(&mut self, path: &str, acl: Option<&[AclEntry]>) -> Result<OpReply, Refusal> {
        if self.state.tree.get(path).is_none() {
            self.create(path, Some(Bytes::new()), CreateMode::Persistent, acl)?;
        }
        Ok(OpReply::Ensured)
    }

    fn delete(&mut self, path: &str, version: Option<i32>) -> Result<OpReply, Refusal> {
        let parent = parent_text(path)?;
        if PERMANENT.contains(&path) {
            return Err(Refusal::Permanent { path: path.to_owned() });
        }
        let parent_node = self.state.tree.get(parent).ok_or_else(|| no_node(parent))?;
        allowed(self.by, parent, parent_node, perms::DELETE)?;
        let node = self.state.tree.get(path).ok_or_else(|| no_node(path))?;
        check_version(path, node.stamps.version, version)?;
        self.remove_empty(path)
    }

    fn reap(&mut self, path: &str) -> Result<OpReply, Refusal> {
        let node = self.state.tree.get(path).ok_or_else(|| no_node(path))?;
        if node.child_count() == 0 && !node.is_due(self.now.cluster_ms) {
            return Err(Refusal::NotDue { path: path.to_owned() });
        }
        self.remove_empty(path)
    }

    fn remove_empty(&mut self, path: &str) -> Result<OpReply, Refusal> {
        let (key, node) = self.state.tree.entry(path).ok_or_else(|| no_node(path))?;
        if node.child_count() > 0 {
            return Err(Refusal::NotEmpty { path: path.to_owned() });
        }
        let key = key.clone();
        self.remove(&key);
        Ok(OpReply::Deleted)
    }

    fn set_data(
        &mut self,
        path: &str,
        data: Option<Bytes>,
        version: Option<i32>,
    ) -> Result<OpReply, Refusal> {
        let has_quotas = self.state.tree.has_quotas();
        let mut bytes = 0;
        if has_quotas {
            let node = self.existing(path)?;
            allowed(self.by, path, node, perms::WRITE)?;
            bytes = signed_len(data.as_ref()) - signed_len(node.data.as_ref());
            self.check_quota(path, 0, bytes)?;
        }
        let (by, zxid, now) = (self.by, self.zxid, self.now);
        let check = |node: &Node| {
            allowed(by, path, node, perms::WRITE)?;
            check_version(path, node.stamps.version, version)
        };
        let (path, stat, acl) = self.change(path, check, |node| {
            node.stamps.version = next_version(node.stamps.version);
            node.stamps.mzxid = zxid;
            node.stamps.mtime_ms = now.wall_ms;
            node.modified_cluster_ms = now.cluster_ms;
            node.set_data(data)
        })?;
        if has_quotas {
            self.count_quota(path.as_str(), 0, bytes);
        }
        self.event(EventKind::DataChanged, path, acl);
        Ok(OpReply::Set { stat })
    }

    fn set_acl(&mut self, path: &str, acl: &[AclEntry], version: Option<i32>) -> Result<OpReply, Refusal> {
        parse(path)?;
        let acl = self.resolved_acl(path, Some(acl))?;
        let by = self.by;
        let check = |node: &Node| {
            allowed(by, path, node, perms::ADMIN)?;
            check_version(path, node.stamps.aversion, version)
        };
        let (_, stat, _) = self.change(path, check, |node| {
            node.set_acl(acl);
            node.stamps.aversion = next_version(node.stamps.aversion);
            DataBefore::Unchanged
        })?;
        Ok(OpReply::Set { stat })
    }

    fn check(&self, path: &str, version: Option<i32>) -> Result<OpReply, Refusal> {
        let node = self.existing(path)?;
        allowed(self.by, path, node, perms::READ)?;
        check_version(path, node.stamps.version, version)?;
        Ok(OpReply::Checked { stat: node.stat() })
    }

    fn check_fence(&self, path: &str, fence: Zxid) -> Result<OpReply, Refusal> {
        match self.state.tree.get(path) {
            Some(node) if node.stamps.mzxid == fence => Ok(OpReply::Checked { stat: node.stat() }),
            other => {
                let current = other.map_or(0, |node| node.stamps.mzxid);
                Err(Refusal::StaleFence { path: path.to_owned(), given: fence, current })
            }
        }
    }

    fn existing(&self, path: &str) -> Result<&Node, Refusal> {
        self.state.tree.get(path).ok_or_else(|| missing(path))
    }

    fn resolved_acl(&self, path: &str, acl: Option<&[AclEntry]>) -> Result<Acl, Refusal> {
        match acl {
            None => Ok(Acl::open()),
            Some(asked) => Acl::resolve(asked, self.by.identities())
                .map_err(|_| Refusal::InvalidAcl { path: path.to_owned() }),
        }
    }

    fn replace(&mut self, path: &NodePath, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let before = self.state.replace(path, node);
        self.note(|| Undo::Node(path.clone(), before.clone()));
        before
    }

    /// Changes a node if `check` lets it, and says its path, and its Stat and list from
    /// now on.
    fn change(
        &mut self,
        path: &str,
        check: impl FnOnce(&Node) -> Result<(), Refusal>,
        change: impl FnOnce(&mut Node) -> DataBefore,
    ) -> Result<(NodePath, Stat, Acl), Refusal> {
        match self.state.tree.change(path, check, change) {
            Some(changed) => {
                let Changed { path, stat, acl, before } = changed?;
                self.note(|| Undo::Changed(path.clone(), before));
                Ok((path, stat, acl))
            }
            None => Err(missing(path)),
        }
    }

    /// Changes a node whatever it is, if it is there.
    pub(super) fn update(
        &mut self,
        path: &str,
        change: impl FnOnce(&mut Node) -> DataBefore,
    ) -> Option<(NodePath, Stat, Acl)> {
        self.change(path, |_| Ok(()), change).ok()
    }

    fn note(&mut self, undo: impl FnOnce() -> Undo) {
        if let Some(journal) = &mut self.journal {
            journal.push(undo());
        }
    }

    fn event(&mut self, kind: EventKind, path: NodePath, acl: Acl) {
        self.events.push(Event { zxid: self.zxid, kind, path, acl });
    }

    fn roll_back(&mut self) {
        for undo in self.journal.take().into_iter().flatten().rev() {
            match undo {
                Undo::Node(path, before) => drop(self.state.replace(&path, before)),
                Undo::Changed(path, before) => self.state.tree.restore(&path, before),
                Undo::Owned(session, path) => self.state.remove_ephemeral(session, &path),
                Undo::Disowned(session, path) => self.state.add_ephemeral(session, &path),
            }
        }
        self.events.clear();
    }
}

fn allowed(by: &Actor, path: &str, node: &Node, wanted: i32) -> Result<(), Refusal> {
    match &by.privilege {
        Privilege::Client(identities) if !node.acl.allows(wanted, identities) => {
            Err(Refusal::NoAuth { path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

fn parse(path: &str) -> Result<NodePath, Refusal> {
    NodePath::parse(path).map_err(|cause| Refusal::BadPath { path: path.to_owned(), cause })
}

/// What stands before the last slash; nothing else of the path is looked at yet.
fn parent_text(path: &str) -> Result<&str, Refusal> {
    let bad = |cause| Refusal::BadPath { path: path.to_owned(), cause };
    if path.contains('\0') {
        return Err(bad(PathError::Character('\0')));
    }
    match path.rfind('/') {
        Some(0) => Ok("/"),
        Some(at) => Ok(&path[..at]),
        None => Err(bad(PathError::NotAbsolute)),
    }
}

/// What is wrong with a path where no node is.
fn missing(path: &str) -> Refusal {
    parse(path).err().unwrap_or_else(|| no_node(path))
}

pub(super) fn no_node(path: &str) -> Refusal {
    Refusal::NoNode { path: path.to_owned() }
}

fn signed_len(data: Option<&Bytes>) -> i64 {
    i64::try_from(data.map_or(0, Bytes::len)).unwrap_or(i64::MAX)
}

/// The version of a row that is made: one that no row there has had. It grows by one
/// with each change, and the number of writes by at least as much.
fn first_version(zxid: Zxid) -> i32 {
    i32::try_from(zxid & 0x7fff_ffff).unwrap_or(0)
}

/// Never -1, by which clients ask for any version (ZOOKEEPER-4743).
fn next_version(version: i32) -> i32 {
    match version.wrapping_add(1) {
        -1 => 0,
        next => next,
    }
}

fn check_version(path: &str, actual: i32, version: Option<i32>) -> Result<(), Refusal> {
    match version {
        Some(expected) if expected != actual => {
            Err(Refusal::BadVersion { path: path.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}
