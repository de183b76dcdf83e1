//! Request bodies: decoded and checked as their handlers do, then applied to a state with a pool.

use rota_core::assign::{PlannerInputs, reconcile_step};
use rota_core::batch::{Batch, Header, Origin, UnitOutcome, apply, encode_batch, encode_unit};
use rota_core::pool::{Kind, Pools, Spec, layout, to_json};
use rota_core::state::check::check;
use rota_core::state::{
    Actor, Command, CreateMode, Import, Op, Password, SessionId, State, Submitted, Timestamp,
};
use rota_protocol::http::{
    AddServer, CheckpointPut, ItemCreate, JoinPool, KeepAlive, MemberReport, MembersChange, MultiRequest,
    NodeCreate, NodeSet, OfGrant, OpenSession, PlanPreview, PoolChange, PoolCreate, TransferLeader,
};
use rota_protocol::peer;
use serde::de::DeserializeOwned;

use super::items::checked_item;
use super::member_admin::{apply_hypothetical, selected};
use super::members::join_op;
use super::nodes::{bytes, create_op, into_op};
use super::pools;

/// Most buckets of a planned pool. Larger pools only slow the target down.
const PLANNED_BUCKETS_MAX: u32 = 512;
const POOL: &str = "p";
const SESSION: SessionId = SessionId(7);

/// Decodes a body by its kind, the first byte, and applies its commands: state invariants hold,
/// the unit decodes, and the planner finds a plan.
pub(crate) fn apply_body(input: &[u8]) {
    let Some((kind, json)) = input.split_first() else { return };
    let mut state = state_with_pool();
    let commands = match kind {
        9 => {
            state = State::new();
            import_commands(json)
        }
        10 => return check_plan(&state, json),
        11 => return check_keep_alive(json),
        12 => return check_others(json),
        kind => command(*kind, json, &state).map(|command| vec![command]),
    };
    let Some(commands) = commands else { return };
    apply_all(&mut state, &commands);
    for view in Pools::load(&state).iter().filter(|view| is_small(&view.spec)) {
        reconcile_step(state.tree(), view, &PlannerInputs::default())
            .expect("a pool that was accepted has a plan");
    }
}

fn is_small(spec: &Spec) -> bool {
    !matches!(spec.kind, Kind::Hashed { buckets } if buckets > PLANNED_BUCKETS_MAX)
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// A pool of four buckets with one member, whose session is open.
fn state_with_pool() -> State {
    let mut state = State::new();
    let by = Actor::rota(None);
    let pool: PoolCreate =
        json(br#"{"name":"p","kind":"hashed","buckets":4}"#).expect("these are its fields");
    let spec = pool.spec().expect("it is a hashed pool");
    let join: JoinPool = json(br#"{"name":"m"}"#).expect("a name is enough");
    let member = join_op(POOL, &join).expect("it is a member");
    apply_all(
        &mut state,
        &[
            Command::OpenSession { session: SESSION, password: Password([1; 16]), timeout_ms: 9_000 },
            Command::Multi { by, ops: layout::create_pool(POOL, to_json(&spec)) },
            Command::Write { by: Actor::rota(Some(SESSION)), op: member },
        ],
    );
    state
}

/// The command that the handler would propose.
fn command(kind: u8, body: &[u8], state: &State) -> Option<Command> {
    let pools = Pools::load(state);
    let view = pools.get(POOL).expect("it was created");
    let client = Actor::client(Some(SESSION), Vec::new());
    let rota = Actor::rota(Some(SESSION));
    Some(match kind {
        0 => {
            let body: MultiRequest = json(body)?;
            let ops = body.ops.into_iter().map(into_op).collect::<Result<_, _>>().ok()?;
            Command::Multi { by: client, ops }
        }
        1 => {
            let body: NodeCreate = json(body)?;
            let data = bytes(body.data, body.encoding).ok()?;
            let op = create_op("/node".to_owned(), data, body.mode, body.ttl_ms, body.acl).ok()?;
            Command::Write { by: client, op }
        }
        2 => {
            let body: NodeSet = json(body)?;
            let op = Op::set("/rota".to_owned(), bytes(body.data, body.encoding).ok()?, body.version);
            Command::Write { by: client, op }
        }
        3 => Command::Multi { by: rota, ops: pools::create_ops(&json(body)?).ok()? },
        4 => {
            let next =
                pools::changed(POOL, &view.spec, view.spec_version, &json::<PoolChange>(body)?).ok()?;
            view.spec.check_change(&next).ok()?;
            Command::Write { by: rota, op: Op::set(layout::pool(POOL), to_json(&next), None) }
        }
        5 => Command::Write { by: rota, op: join_op(POOL, &json(body)?).ok()? },
        6 => {
            let body: ItemCreate = json(body)?;
            let item = checked_item(&body).ok()?;
            let path = layout::item(POOL, &body.name);
            Command::Write { by: rota, op: Op::create(path, to_json(&item), CreateMode::Persistent) }
        }
        8 => {
            let change: MembersChange = json(body)?;
            let (_, entry) = selected(view, &change).ok()?.into_iter().next()?;
            let member = change.applied(&entry.member);
            member.check().ok()?;
            let path = layout::member(POOL, "m");
            Command::Write { by: rota, op: Op::set(path, to_json(&member), Some(entry.version)) }
        }
        _ => {
            let body: CheckpointPut = json(body)?;
            let op = Op::set(layout::checkpoint(POOL, "0"), bytes(body.data, body.encoding).ok()?, None);
            Command::Write { by: rota, op }
        }
    })
}

/// An import of one part, after which the cluster is written to.
fn import_commands(body: &[u8]) -> Option<Vec<Command>> {
    let part = Import::try_from(json::<rota_protocol::http::ImportPart>(body)?).ok()?;
    let end = Import::End { zxid: 9 };
    let imports = [Import::Begin, part, end].map(Command::Import);
    let write = Op::create("/after".to_owned(), bytes::Bytes::new(), CreateMode::Persistent);
    let write = Command::Write { by: Actor::rota(None), op: write };
    Some(imports.into_iter().chain([write]).collect())
}

fn check_plan(state: &State, body: &[u8]) {
    let Some(asked) = json::<PlanPreview>(body) else { return };
    let mut view = Pools::load(state).get(POOL).expect("it was created").clone();
    if apply_hypothetical(&mut view, &asked).is_ok() && is_small(&view.spec) {
        let known = PlannerInputs::default();
        rota_core::assign::preview(state.tree(), &view, &known).expect("an accepted change has a plan");
    }
}

/// Servers forward reports to the leader in another format.
fn check_keep_alive(body: &[u8]) {
    let Some(body) = json::<KeepAlive>(body) else { return };
    if body.reports.iter().find_map(MemberReport::fault).is_none() {
        let forwarded = peer::encode(&body.reports);
        let arrived: Vec<MemberReport> = peer::decode(&forwarded).expect("what was encoded decodes");
        assert_eq!(arrived, body.reports);
    }
}

fn check_others(body: &[u8]) {
    let _ = json::<OpenSession>(body);
    let _ = json::<OfGrant>(body);
    let _ = json::<AddServer>(body);
    let _ = json::<TransferLeader>(body);
}

/// Applies commands as a batch of one unit.
fn apply_all(state: &mut State, commands: &[Command]) {
    let unit = encode_unit(Origin { server: 1, unit: next_unit(state) }, commands);
    let header = Header { timestamp: Timestamp::at(5), checkpoint: (0, 0) };
    let batch = Batch::decode(encode_batch(header, std::iter::once(&unit))).expect("it was encoded here");
    apply(state, batch, |_, _, fate| {
        assert!(matches!(fate, UnitOutcome::Applied(..)), "it was encoded here: {fate:?}");
    });
    assert_eq!(check(state), [""; 0]);
}

fn next_unit(state: &State) -> Submitted {
    Submitted { boot: 1, seq: state.submitted(1).map_or(0, |last| last.seq) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzz target runs only by `make fuzz`: its seeds are tried here, and found cases.
    #[test]
    fn recorded_bodies_are_applied() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/http_body");
        let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(seeds.len() >= 13, "{seeds:?}");
        seeds.iter().for_each(|seed| apply_body(&std::fs::read(seed).unwrap()));
        apply_body(b"\x0c{\"fence\":1}");
    }
}
