//! The replicated state: the tree, the sessions, and what each server has
//! submitted. [`State::apply`] is the only door through which it changes.
//!
//! Invariants, verified independently by [`check`]:
//! - every node but the root has a parent, and its parent lists it;
//! - an ephemeral node has no children, and its session lives and lists it;
//! - no zxid and no cluster time in the state is later than the state's own;
//! - the digests are the sums of those of the nodes, and of sessions, units and endpoints.

mod acl;
pub mod check;
mod command;
mod digest;
mod import;
mod node;
mod ops;
mod quota;
mod reply;
mod session;
pub mod snapshot;
mod timestamp;
mod tree;

use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

pub use acl::{Acl, AclEntry, Identity, perms};
pub use command::{Actor, Command, CreateMode, Op, Privilege, ServerEndpoints};
pub use import::{Import, ImportedNode, ImportedSession};
pub use node::{Node, NodeKind, Stamps, Stat, TTL_MS_MAX};
pub use reply::{Applied, Event, EventKind, OpReply, Refusal, Reply};
pub use session::{HexError, Password, Session, SessionId};
pub use timestamp::Timestamp;
pub use tree::Tree;
use tree::{Changed, DataBefore};

use crate::Zxid;
use crate::path::NodePath;
use crate::pool::guard;
use ops::Change;

/// The nodes that every state has from the beginning, ZooKeeper's own, and that
/// cannot be deleted. Nothing shows that they were ever created.
const PERMANENT: [&str; 4] = ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];
/// The one of them that says who belongs to the cluster.
pub const CONFIG: &str = "/zookeeper/config";

/// Everything that is replicated. A clone costs O(1) and shares its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    tree: Tree,
    sessions: OrdMap<SessionId, Arc<Session>>,
    /// The nodes that may be reaped.
    reapable: OrdSet<NodePath>,
    submitted: OrdMap<u64, Submitted>,
    /// How clients reach the servers that there are or have been.
    server_endpoints: OrdMap<u64, ServerEndpoints>,
    /// Sum of the digests of sessions, last submitted units and server endpoints: all replicated
    /// state outside the tree.
    non_tree_digest: u64,
    zxid: Zxid,
    timestamp: Timestamp,
    /// Whether it is being filled with what another cluster held.
    importing: bool,
}

/// Whether it is what says which servers there are, and no more.
fn sets_config(op: &Op) -> bool {
    matches!(op, Op::SetData { path, .. } if path == CONFIG)
}

/// The last unit of commands that a server submitted and that was applied, so
/// that one which is sent again after a change of leader is not done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Submitted {
    /// Counts the starts of the server.
    pub boot: u64,
    /// Counts the units of that boot, from 1.
    pub seq: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// The state before the first command: what a new ZooKeeper has.
    #[must_use]
    pub fn new() -> Self {
        let mut state = Self::empty();
        for path in PERMANENT {
            state.insert_system_node(path);
        }
        state
    }

    fn empty() -> Self {
        Self {
            tree: Tree::default(),
            sessions: OrdMap::new(),
            reapable: OrdSet::new(),
            submitted: OrdMap::new(),
            server_endpoints: OrdMap::new(),
            non_tree_digest: 0,
            zxid: 0,
            timestamp: Timestamp::default(),
            importing: false,
        }
    }

    /// Puts a first node in its place.
    fn insert_system_node(&mut self, path: &str) {
        let Ok(path) = NodePath::parse(path) else { return };
        let mut node =
            Node::new(Some(Bytes::new()), NodeKind::Persistent, Acl::open(), 0, Timestamp::default());
        if path.as_str() == CONFIG {
            node.set_acl(Acl::for_anyone(perms::READ));
            // As ZooKeeper's `DataTree.addConfigNode` leaves it.
            node.stamps.aversion = -1;
        }
        self.tree.replace(&path, Some(Arc::new(node)));
    }

    /// Puts a node at `path`, or takes it away, and returns what was there.
    fn replace(&mut self, path: &NodePath, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let reapable = node.as_ref().is_some_and(|node| node.kind.is_reapable());
        let before = self.tree.replace(path, node);
        if reapable {
            self.reapable.insert(path.clone());
        } else if before.as_ref().is_some_and(|node| node.kind.is_reapable()) {
            self.reapable.remove(path);
        }
        before
    }

    /// Puts a node where none is; false as [`Tree::add`] says it.
    #[must_use]
    fn add(&mut self, path: &NodePath, node: Arc<Node>) -> bool {
        if node.kind.is_reapable() {
            self.reapable.insert(path.clone());
        }
        self.tree.add(path, node)
    }

    /// Changes a node in place, whatever it is, if it is there.
    fn change(&mut self, path: &str, change: impl FnOnce(&mut Node) -> DataBefore) -> Option<Changed> {
        self.tree.change(path, |_| Ok::<(), ()>(()), change)?.ok()
    }

    /// Applies one command with number `zxid`, stamped `now` by its leader. The cluster clock is
    /// monotonic: an earlier value is replaced by the last one. Depends only on the state and the
    /// arguments.
    ///
    /// # Panics
    /// If `zxid` does not follow the last one: replicas would then disagree.
    pub fn apply(&mut self, zxid: Zxid, now: Timestamp, command: Command) -> Applied {
        assert_eq!(zxid, self.zxid + 1, "commands are applied in order, each once");
        self.zxid = zxid;
        self.timestamp = Timestamp { cluster_ms: self.timestamp.cluster_ms.max(now.cluster_ms), ..now };
        match self.execute(command) {
            Ok((reply, events)) => Applied { reply: Ok(reply), events },
            Err(refusal) => Applied { reply: Err(refusal), events: Vec::new() },
        }
    }

    fn execute(&mut self, command: Command) -> Result<(Reply, Vec<Event>), Refusal> {
        match command {
            Command::OpenSession { session, password, timeout_ms } => {
                self.open_session(session, password, timeout_ms)?;
                Ok((Reply::SessionOpened { session, timeout_ms }, Vec::new()))
            }
            Command::ResumeSession { session, password, timeout_ms } => {
                let connection = self.resume_session(session, password, timeout_ms)?;
                Ok((Reply::SessionResumed { session, timeout_ms, connection }, Vec::new()))
            }
            Command::Announce { server, endpoints } => {
                self.set_endpoints(server, endpoints);
                Ok((Reply::Announced, Vec::new()))
            }
            Command::Import(part) => Ok((self.import(&part)?, Vec::new())),
            Command::Write { by, op }
                if self.importing && (by.privilege != Privilege::Rota || !sets_config(&op)) =>
            {
                Err(Refusal::Importing)
            }
            Command::Multi { .. } if self.importing => Err(Refusal::Importing),
            Command::CloseSession { session } => self.close(session),
            Command::ExpireSession { session, connection } => {
                self.check_session(Some(session), Some(connection))?;
                self.close(session)
            }
            Command::Write { by, op } => {
                self.check_session(by.session, by.connection)?;
                guard::check(self, &by, std::slice::from_ref(&op)).map_err(|(_, refusal)| refusal)?;
                let mut change = Change::new(self, &by);
                let reply = Reply::Op(change.op(op)?);
                Ok((reply, change.into_events()))
            }
            Command::Multi { by, ops } => {
                self.check_session(by.session, by.connection)?;
                guard::check(self, &by, &ops)
                    .map_err(|(index, cause)| Refusal::Multi { index, cause: Box::new(cause) })?;
                let mut change = Change::new(self, &by);
                let reply = Reply::Multi(change.all_or_nothing(ops)?);
                Ok((reply, change.into_events()))
            }
        }
    }

    fn close(&mut self, session: SessionId) -> Result<(Reply, Vec<Event>), Refusal> {
        Ok((Reply::SessionClosed { session }, self.close_session(session)?))
    }

    fn open_session(&mut self, id: SessionId, password: Password, timeout_ms: u32) -> Result<(), Refusal> {
        if self.sessions.contains_key(&id) {
            return Err(Refusal::SessionExists { session: id });
        }
        let session =
            Session { password, timeout_ms, opened: self.zxid, connection: 0, ephemerals: OrdSet::new() };
        self.insert_session(id, session);
        Ok(())
    }

    fn insert_session(&mut self, id: SessionId, session: Session) {
        self.non_tree_digest = self.non_tree_digest.wrapping_add(session.digest(id));
        self.sessions.insert(id, Arc::new(session));
    }

    fn remove_session(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.non_tree_digest = self.non_tree_digest.wrapping_sub(session.digest(id));
        }
    }

    fn set_endpoints(&mut self, server: u64, endpoints: ServerEndpoints) {
        self.non_tree_digest =
            self.non_tree_digest.wrapping_add(digest::endpoints_digest(server, &endpoints));
        if let Some(before) = self.server_endpoints.insert(server, endpoints) {
            self.non_tree_digest =
                self.non_tree_digest.wrapping_sub(digest::endpoints_digest(server, &before));
        }
    }

    fn record_submitted(&mut self, server: u64, unit: Submitted) {
        self.non_tree_digest = self.non_tree_digest.wrapping_add(digest::submitted_digest(server, unit));
        if let Some(before) = self.submitted.insert(server, unit) {
            self.non_tree_digest =
                self.non_tree_digest.wrapping_sub(digest::submitted_digest(server, before));
        }
    }

    fn resume_session(&mut self, id: SessionId, password: Password, timeout_ms: u32) -> Result<u32, Refusal> {
        let session = self.sessions.get_mut(&id).ok_or(Refusal::SessionExpired { session: id })?;
        if session.password != password {
            return Err(Refusal::BadPassword { session: id });
        }
        let session = Arc::make_mut(session);
        let before = session.digest(id);
        session.timeout_ms = timeout_ms;
        session.connection = session.connection.wrapping_add(1);
        self.non_tree_digest = self.non_tree_digest.wrapping_sub(before).wrapping_add(session.digest(id));
        Ok(session.connection)
    }

    fn close_session(&mut self, id: SessionId) -> Result<Vec<Event>, Refusal> {
        self.check_session(Some(id), None)?;
        let ephemerals = self.sessions.get(&id).map(|s| s.ephemerals.clone()).unwrap_or_default();
        let by = Actor::rota(Some(id));
        let mut change = Change::new(self, &by);
        for path in &ephemerals {
            change.remove(path);
        }
        let events = change.into_events();
        self.remove_session(id);
        Ok(events)
    }

    fn check_session(&self, session: Option<SessionId>, connection: Option<u32>) -> Result<(), Refusal> {
        let Some(id) = session else { return Ok(()) };
        let session = self.sessions.get(&id).ok_or(Refusal::SessionExpired { session: id })?;
        match connection {
            Some(connection) if connection != session.connection => {
                Err(Refusal::SessionMoved { session: id })
            }
            _ => Ok(()),
        }
    }

    fn add_ephemeral(&mut self, session: SessionId, path: &NodePath) {
        if let Some(session) = self.sessions.get_mut(&session) {
            Arc::make_mut(session).ephemerals.insert(path.clone());
        }
    }

    fn remove_ephemeral(&mut self, session: SessionId, path: &NodePath) {
        if let Some(session) = self.sessions.get_mut(&session) {
            Arc::make_mut(session).ephemerals.remove(path);
        }
    }

    /// Notes that a server's unit is being applied. False when it is a repeat,
    /// or comes after one that was lost on the way: it must then be skipped.
    pub fn note_submitted(&mut self, server: u64, unit: Submitted) -> bool {
        let follows = match self.submitted.get(&server) {
            Some(last) if last.boot == unit.boot => unit.seq == last.seq + 1,
            Some(last) => unit.boot > last.boot && unit.seq == 1,
            None => unit.seq == 1,
        };
        if follows {
            self.record_submitted(server, unit);
        }
        follows
    }

    /// The tree, to read.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A session, if it lives.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id).map(|session| &**session)
    }

    /// All living sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, &**session))
    }

    /// How many sessions live.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The nodes that may be reaped: containers, and nodes with a time to live.
    pub fn reapable(&self) -> impl Iterator<Item = &NodePath> {
        self.reapable.iter()
    }

    /// The nodes that are to be reaped at `cluster_ms` of the cluster clock.
    pub fn due(&self, cluster_ms: u64) -> impl Iterator<Item = &NodePath> {
        self.reapable.iter().filter(move |path| {
            let node = self.tree.get(path.as_str());
            node.is_some_and(|node| node.child_count() == 0 && node.is_due(cluster_ms))
        })
    }

    /// Whether any node has a TTL. Costs O(n) in the number of containers and TTL nodes.
    #[must_use]
    pub fn has_ttl_nodes(&self) -> bool {
        let mut nodes = self.reapable.iter().filter_map(|path| self.tree.get(path.as_str()));
        nodes.any(|node| matches!(node.kind, NodeKind::Ttl(_)))
    }

    /// The last unit that `server` submitted and that was applied.
    #[must_use]
    pub fn submitted(&self, server: u64) -> Option<Submitted> {
        self.submitted.get(&server).copied()
    }

    /// How clients reach a server, if it has said so. It may have left the cluster.
    #[must_use]
    pub fn server_endpoints(&self, server: u64) -> Option<&ServerEndpoints> {
        self.server_endpoints.get(&server)
    }

    /// The number of the last command.
    #[must_use]
    pub fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// Timestamp of the last applied command.
    #[must_use]
    pub fn last_timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Digest of the replicated state except its timestamp: servers at the same log index with
    /// different digests have diverged.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let zxid = self.zxid.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let importing = u64::from(self.importing);
        self.tree.digest().wrapping_add(self.non_tree_digest).wrapping_add(zxid).wrapping_add(importing)
    }
}
