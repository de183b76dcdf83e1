//! The replicated state: the tree, the sessions, and what each server has
//! submitted. [`State::apply`] is the only door through which it changes.
//!
//! Invariants, verified independently by [`check`]:
//! - every node but the root has a parent, and its parent counts it;
//! - an ephemeral node has no children, and its session lives and lists it;
//! - no zxid in the state is larger than the state's own; time never goes back;
//! - the digest is the sum of the nodes' digests.

pub mod check;
mod command;
mod node;
mod ops;
mod session;
pub mod snapshot;
mod tree;

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

pub use command::{Applied, Command, CreateMode, Event, EventKind, Op, OpReply, Refusal, Reply};
pub use node::{Node, NodeKind, Stat};
pub use session::{HexError, Password, Session, SessionId};
pub use tree::Tree;

use crate::Zxid;
use crate::path::NodePath;
use ops::Change;

/// The nodes that every state has from the beginning.
const FIRST_NODES: [&str; 3] = ["/", "/rota", "/rota/pools"];

/// Everything that is replicated. A clone costs O(1) and shares its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    tree: Tree,
    sessions: OrdMap<SessionId, Arc<Session>>,
    submitted: OrdMap<u64, Submitted>,
    zxid: Zxid,
    time_ms: u64,
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
    /// The state before the first command: the root and Rota's own folders.
    #[must_use]
    pub fn new() -> Self {
        let mut state = Self::empty();
        for path in FIRST_NODES {
            state.plant(path);
        }
        state
    }

    fn empty() -> Self {
        Self { tree: Tree::default(), sessions: OrdMap::new(), submitted: OrdMap::new(), zxid: 0, time_ms: 0 }
    }

    /// Puts a first node in its place.
    fn plant(&mut self, path: &str) {
        let Ok(path) = NodePath::parse(path) else { return };
        let node = Node::new(Bytes::new(), NodeKind::Persistent, 0, 0);
        self.tree.replace(&path, Some(Arc::new(node)));
        if let Some(parent) = path.parent() {
            self.tree.update(&parent, |node| {
                node.child_count += 1;
                node.child_creations += 1;
            });
        }
    }

    /// Does one command, which gets the number `zxid`, at the leader's time
    /// `time_ms` (milliseconds since 1970; an earlier one than before counts as
    /// the one before). Depends on nothing but the state and its arguments.
    ///
    /// # Panics
    /// If `zxid` does not follow the last one: replicas would then disagree.
    pub fn apply(&mut self, zxid: Zxid, time_ms: u64, command: &Command) -> Applied {
        assert_eq!(zxid, self.zxid + 1, "commands are applied in order, each once");
        self.zxid = zxid;
        self.time_ms = self.time_ms.max(time_ms);
        match self.execute(command) {
            Ok((reply, events)) => Applied { reply: Ok(reply), events },
            Err(refusal) => Applied { reply: Err(refusal), events: Vec::new() },
        }
    }

    fn execute(&mut self, command: &Command) -> Result<(Reply, Vec<Event>), Refusal> {
        match command {
            Command::OpenSession { session, password, timeout_ms } => {
                self.open_session(*session, *password, *timeout_ms)?;
                Ok((Reply::SessionOpened, Vec::new()))
            }
            Command::CloseSession { session } => Ok((Reply::SessionClosed, self.close_session(*session)?)),
            Command::Write { session, op } => {
                self.check_session(*session)?;
                let mut change = Change::new(self, *session);
                let reply = Reply::Op(change.op(op)?);
                Ok((reply, change.into_events()))
            }
            Command::Multi { session, ops } => {
                self.check_session(*session)?;
                let mut change = Change::new(self, *session);
                let reply = Reply::Multi(change.all_or_nothing(ops)?);
                Ok((reply, change.into_events()))
            }
        }
    }

    fn open_session(&mut self, id: SessionId, password: Password, timeout_ms: u32) -> Result<(), Refusal> {
        if self.sessions.contains_key(&id) {
            return Err(Refusal::SessionExists { session: id });
        }
        let session = Session { password, timeout_ms, opened: self.zxid, ephemerals: imbl::OrdSet::new() };
        self.sessions.insert(id, Arc::new(session));
        Ok(())
    }

    fn close_session(&mut self, id: SessionId) -> Result<Vec<Event>, Refusal> {
        self.check_session(Some(id))?;
        let ephemerals = self.sessions.get(&id).map(|s| s.ephemerals.clone()).unwrap_or_default();
        let mut change = Change::new(self, Some(id));
        for path in &ephemerals {
            change.remove(path);
        }
        let events = change.into_events();
        self.sessions.remove(&id);
        Ok(events)
    }

    fn check_session(&self, session: Option<SessionId>) -> Result<(), Refusal> {
        match session {
            Some(session) if !self.sessions.contains_key(&session) => {
                Err(Refusal::SessionExpired { session })
            }
            _ => Ok(()),
        }
    }

    fn own(&mut self, session: SessionId, path: &NodePath) {
        if let Some(session) = self.sessions.get_mut(&session) {
            Arc::make_mut(session).ephemerals.insert(path.clone());
        }
    }

    fn disown(&mut self, session: SessionId, path: &NodePath) {
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
            self.submitted.insert(server, unit);
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

    /// The last unit that `server` submitted and that was applied.
    #[must_use]
    pub fn submitted(&self, server: u64) -> Option<Submitted> {
        self.submitted.get(&server).copied()
    }

    /// The number of the last command.
    #[must_use]
    pub fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// The leader's time at the last command, in milliseconds since 1970.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// One number for the whole tree and its last zxid: two servers at the same
    /// zxid whose digests differ have diverged.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.tree.digest().wrapping_add(self.zxid.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
