//! Random histories of what lies below `/rota/pools`: as the API, the assignment
//! controller and any ZooKeeper client may write it, sound or not.
//!
//! As in `history.rs`, what is drawn is an intent that a look at the state turns
//! into a command: to put a node is to create it, or to set its data if it
//! stands. Two pools, two sessions and three names make for collisions.

use bytes::Bytes;
use proptest::prelude::*;
use rota_core::pool::{Bucket, Kind, Member, Move, Owner, Plan, Reason, Row, Spec, layout, to_json};
use rota_core::state::{Actor, Command, CreateMode, Op, Password, SessionId, State, Timestamp};

const POOLS: [&str; 2] = ["p", "q"];
const NAMES: [&str; 3] = ["0", "1", "x"];

#[derive(Debug, Clone)]
pub enum Intent {
    /// End a session, or open it if it does not live.
    Session(u64),
    /// A write, or several in one.
    Change(Vec<Change>),
}

#[derive(Debug, Clone)]
pub struct Change {
    pool: usize,
    place: Place,
    name: usize,
    how: How,
    number: u8,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Pool,
    Member,
    Item,
    Row,
    Plan,
    Checkpoint,
    /// Somewhere else in the tree.
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Put,
    PutGarbage,
    Remove,
}

pub fn intents(len_max: usize) -> impl Strategy<Value = Vec<Intent>> {
    let intent = prop_oneof![
        1 => (1u64..=2).prop_map(Intent::Session),
        6 => prop::collection::vec(change(), 1).prop_map(Intent::Change),
        4 => prop::collection::vec(change(), 2..6).prop_map(Intent::Change),
    ];
    prop::collection::vec(intent, 1..=len_max)
}

fn change() -> impl Strategy<Value = Change> {
    let place = prop_oneof![
        2 => Just(Place::Pool),
        4 => Just(Place::Member),
        3 => Just(Place::Item),
        8 => Just(Place::Row),
        2 => Just(Place::Plan),
        1 => Just(Place::Checkpoint),
        1 => Just(Place::Elsewhere),
    ];
    let how = prop_oneof![7 => Just(How::Put), 1 => Just(How::PutGarbage), 3 => Just(How::Remove)];
    (0..POOLS.len(), place, 0..NAMES.len(), how, any::<u8>())
        .prop_map(|(pool, place, name, how, number)| Change { pool, place, name, how, number })
}

impl Intent {
    /// The command that it comes to.
    pub fn command(&self, state: &State) -> Command {
        match self {
            Self::Session(n) if state.session(SessionId(*n)).is_some() => {
                Command::CloseSession { session: SessionId(*n) }
            }
            Self::Session(n) => {
                Command::OpenSession { session: SessionId(*n), password: Password([0; 16]), timeout_ms: 1000 }
            }
            Self::Change(changes) => {
                let session = state.sessions().map(|(id, _)| id).next();
                let mut scratch = state.clone();
                let mut ops = Vec::new();
                for change in changes {
                    for op in change.ops(&scratch) {
                        scratch.apply(
                            scratch.zxid() + 1,
                            Timestamp::default(),
                            Command::Write { by: Actor::rota(session), op: op.clone() },
                        );
                        ops.push(op);
                    }
                }
                Command::Multi { by: Actor::rota(session), ops }
            }
        }
    }
}

impl Change {
    fn ops(&self, state: &State) -> Vec<Op> {
        let pool = POOLS[self.pool];
        let name = NAMES[self.name];
        let path = match self.place {
            Place::Pool => return self.pool_ops(state, pool),
            Place::Member => layout::member(pool, name),
            Place::Item => layout::item(pool, name),
            Place::Row => layout::row(pool, name),
            Place::Plan => layout::plan(pool),
            Place::Checkpoint => layout::checkpoint(pool, name),
            Place::Elsewhere => format!("/{name}"),
        };
        match (self.how, state.tree().get(&path).is_some()) {
            (How::Remove, false) => Vec::new(),
            (How::Remove, true) => vec![Op::Delete { path, version: None }],
            // No folders, no nodes in them: most such multis would be refused.
            (_, false) if state.tree().get(&layout::pool(pool)).is_none() => Vec::new(),
            (_, false) => vec![Op::create(path, self.data(), self.mode(state))],
            (_, true) => vec![Op::set(path, self.data(), None)],
        }
    }

    /// A pool is made with its folders, and removed with all that is in it.
    fn pool_ops(&self, state: &State, pool: &str) -> Vec<Op> {
        let path = layout::pool(pool);
        let spec = Spec { max_concurrent_moves: self.number.into(), ..Spec::new(Kind::Named) };
        let stands = state.tree().get(&path).is_some();
        match self.how {
            How::Remove => {
                let below = format!("{path}/");
                let all = state.tree().iter().map(|(path, _)| path.to_string());
                let mut all: Vec<String> = all.filter(|p| *p == path || p.starts_with(&below)).collect();
                all.sort_by(|a, b| b.cmp(a));
                all.into_iter().map(|path| Op::Delete { path, version: None }).collect()
            }
            _ if stands => vec![Op::set(path, to_json(&spec), None)],
            _ => layout::create_pool(pool, to_json(&spec)),
        }
    }

    fn mode(&self, state: &State) -> CreateMode {
        let ephemeral = matches!(self.place, Place::Member) && state.sessions().next().is_some();
        if ephemeral { CreateMode::Ephemeral } else { CreateMode::Persistent }
    }

    fn data(&self) -> Bytes {
        let number = u64::from(self.number);
        match (self.how, self.place) {
            (How::PutGarbage, _) => Bytes::from_static(b"{"),
            (_, Place::Member) => to_json(&Member { weight: self.number.into(), ..Member::default() }),
            (_, Place::Row) => to_json(&Row::owned_by(Owner::new("0", number))),
            (_, Place::Plan) => to_json(&Plan { number, moves: vec![a_move(number)], ..Plan::default() }),
            _ => Bytes::from_static(b"{}"),
        }
    }
}

fn a_move(fence: u64) -> Move {
    let (bucket, from) = (Bucket::number(0), Some("0".to_owned()));
    Move { bucket, from, to: None, promote: false, fence, reason: Reason::Drained }
}
