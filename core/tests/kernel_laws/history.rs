//! Random histories of the state. What is drawn is an intent, such as "change
//! the third of the nodes that there are"; it becomes a command by a look at the
//! state it is to change. So paths and sessions are few, commands meet each
//! other all the time, and most of them are accepted all the same.

use bytes::Bytes;
use proptest::prelude::*;
use rota_core::state::{
    Actor, Applied, Command, CreateMode, Op, Password, Reply, SessionId, State, Timestamp,
};

const NAMES: [&str; 3] = ["a", "b", "c"];
const DEPTH_MAX: usize = 3;
/// Sessions 1 to 3 come and go; this one is never open.
const GONE: u64 = 4;

/// What somebody wants; the numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Intent {
    Open(u64),
    Close(u64),
    Write(Who, OpIntent),
    Multi(Who, Vec<OpIntent>),
}

/// In whose name: a living session near this number, [`GONE`], or nobody.
type Who = Option<u64>;

#[derive(Debug, Clone)]
pub struct OpIntent {
    verb: Verb,
    /// Which of the paths that would do.
    pick: usize,
    /// The path, version or fence is any one, and probably wrong.
    blind: bool,
    guarded: bool,
    data: u8,
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Create(CreateMode),
    Delete,
    Set,
    Check,
    CheckFence,
}

/// A history's intents, each with what the leader's clock gains (or loses).
pub fn intents(len_max: usize) -> impl Strategy<Value = Vec<(i8, Intent)>> {
    prop::collection::vec((any::<i8>(), intent()), 1..=len_max)
}

fn intent() -> impl Strategy<Value = Intent> {
    let who = || prop_oneof![20 => (1u64..GONE).prop_map(Some), 1 => Just(Some(GONE)), 1 => Just(None)];
    prop_oneof![
        2 => (1u64..=3).prop_map(Intent::Open),
        1 => (1u64..=3).prop_map(Intent::Close),
        8 => (who(), op()).prop_map(|(who, op)| Intent::Write(who, op)),
        4 => (who(), prop::collection::vec(op(), 0..6)).prop_map(|(who, ops)| Intent::Multi(who, ops)),
    ]
}

fn op() -> impl Strategy<Value = OpIntent> {
    let verb = prop_oneof![
        4 => Just(Verb::Create(CreateMode::Persistent)),
        2 => Just(Verb::Create(CreateMode::PersistentSequential)),
        3 => Just(Verb::Create(CreateMode::Ephemeral)),
        2 => Just(Verb::Create(CreateMode::EphemeralSequential)),
        4 => Just(Verb::Delete),
        4 => Just(Verb::Set),
        1 => Just(Verb::Check),
        1 => Just(Verb::CheckFence),
    ];
    (verb, any::<u8>(), prop::bool::weighted(0.05), any::<bool>(), any::<u8>()).prop_map(
        |(verb, pick, blind, guarded, data)| OpIntent { verb, pick: pick.into(), blind, guarded, data },
    )
}

/// One command of a history, and what it did.
#[derive(Debug, Clone)]
pub struct Entry {
    pub now: Timestamp,
    pub command: Command,
    pub applied: Applied,
    /// The state as it was before. Costs next to nothing: states share parts.
    pub before: State,
    pub after: State,
}

/// Lives through the intents, beginning with the first state.
pub fn live(intents: &[(i8, Intent)]) -> Vec<Entry> {
    let mut state = State::new();
    let mut now = Timestamp::at(1000);
    let mut entries = Vec::new();
    for (gain, intent) in intents {
        // The wall clock jumps, and the cluster clock is at times that of a leader that lags.
        now.wall_ms = now.wall_ms.saturating_add_signed(i64::from(*gain) * 1000);
        now.cluster_ms = now.cluster_ms.saturating_add_signed((*gain).into());
        let before = state.clone();
        let command = intent.command(&state);
        let applied = state.apply(state.zxid() + 1, now, command.clone());
        entries.push(Entry { now, command, applied, before, after: state.clone() });
    }
    entries
}

/// The state that a history ends with.
pub fn end(entries: &[Entry]) -> State {
    entries.last().map_or_else(State::new, |entry| entry.after.clone())
}

impl Intent {
    fn command(&self, state: &State) -> Command {
        match self {
            Self::Open(n) => {
                let session =
                    [*n, 1, 2, 3].map(SessionId).into_iter().find(|id| state.session(*id).is_none());
                let session = session.unwrap_or(SessionId(*n));
                let timeout_ms = 1000 * u32::try_from(*n).unwrap();
                Command::OpenSession { session, password: Password([7; 16]), timeout_ms }
            }
            Self::Close(n) => Command::CloseSession { session: living(state, *n).unwrap_or(SessionId(*n)) },
            Self::Write(who, op) => {
                Command::Write { by: Actor::rota(session_of(state, *who)), op: op.concrete(state) }
            }
            Self::Multi(who, intents) => {
                let session = session_of(state, *who);
                Command::Multi { by: Actor::rota(session), ops: ops_in_turn(state, session, intents) }
            }
        }
    }
}

/// Each operation looks at what those before it leave behind.
fn ops_in_turn(state: &State, session: Option<SessionId>, intents: &[OpIntent]) -> Vec<Op> {
    let mut scratch = state.clone();
    let concrete = |intent: &OpIntent| {
        let op = intent.concrete(&scratch);
        scratch.apply(
            scratch.zxid() + 1,
            Timestamp::at(0),
            Command::Write { by: Actor::rota(session), op: op.clone() },
        );
        op
    };
    intents.iter().map(concrete).collect()
}

fn session_of(state: &State, who: Who) -> Option<SessionId> {
    if who == Some(GONE) { Some(SessionId(GONE)) } else { living(state, who?) }
}

fn living(state: &State, near: u64) -> Option<SessionId> {
    let ids: Vec<SessionId> = state.sessions().map(|(id, _)| id).collect();
    ids.iter().find(|id| id.0 >= near).or(ids.first()).copied()
}

impl OpIntent {
    fn concrete(&self, state: &State) -> Op {
        let data = Bytes::from(vec![self.data; usize::from(self.data % 4)]);
        let path = self.path(state);
        let node = state.tree().get(&path);
        let version = node.map_or(0, |node| node.stamps.version) + i32::from(self.blind);
        let version = self.guarded.then_some(version);
        match self.verb {
            Verb::Create(mode) => Op::create(path, data, mode),
            Verb::Delete => Op::Delete { path, version },
            Verb::Set => Op::set(path, data, version),
            Verb::Check => Op::Check { path, version },
            Verb::CheckFence => {
                let fence = node.map_or(1, |node| node.stamps.mzxid) + u64::from(self.blind);
                Op::CheckFence { path, fence }
            }
        }
    }

    fn path(&self, state: &State) -> String {
        let nodes = || state.tree().iter().filter(|(path, _)| !path.as_str().starts_with("/rota"));
        let parents = || {
            let deep = |path: &str| path.matches('/').count() >= DEPTH_MAX;
            nodes().filter(move |(path, node)| node.owner().is_none() && !deep(path.as_str()))
        };
        let below = |name: &str| {
            let paths =
                parents().map(move |(path, _)| format!("{}/{name}", path.as_str().trim_end_matches('/')));
            paths.collect::<Vec<_>>()
        };
        let candidates: Vec<String> = match self.verb {
            _ if self.blind => vec!["/a".into(), "/b/a".into(), "/".into(), "/a/b/c".into(), "/c/".into()],
            Verb::Create(mode) if mode.is_sequential() => below("s-"),
            Verb::Create(_) => {
                let free = |path: &String| state.tree().get(path).is_none();
                NAMES.iter().flat_map(|name| below(name)).filter(free).collect()
            }
            Verb::Delete => {
                let childless =
                    nodes().filter(|(path, node)| node.child_count() == 0 && path.as_str() != "/");
                childless.map(|(path, _)| path.to_string()).collect()
            }
            Verb::Set | Verb::Check | Verb::CheckFence => nodes().map(|(path, _)| path.to_string()).collect(),
        };
        candidates.get(self.pick % candidates.len().max(1)).cloned().unwrap_or_else(|| "/a".to_owned())
    }
}

impl Entry {
    /// Whether the command was accepted.
    pub fn accepted(&self) -> bool {
        self.applied.reply.is_ok()
    }

    /// The operations of a multi.
    pub fn multi(&self) -> Option<&[Op]> {
        match &self.command {
            Command::Multi { ops, .. } => Some(ops),
            _ => None,
        }
    }

    /// The answers to single operations, of an accepted command.
    pub fn op_replies(&self) -> Vec<rota_core::state::OpReply> {
        match &self.applied.reply {
            Ok(Reply::Op(reply)) => vec![reply.clone()],
            Ok(Reply::Multi(replies)) => replies.clone(),
            _ => Vec::new(),
        }
    }
}
