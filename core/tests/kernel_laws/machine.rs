//! Laws of the state machine, over random histories (see `history.rs`).

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Entry, end, intents, live};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rota_core::batch::{self, Batch, Header, Origin, UnitOutcome};
use rota_core::state::check::check;
use rota_core::state::{Actor, Command, EventKind, Op, OpReply, SessionId, State, Submitted, Timestamp};

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn every_state_is_sound(intents in intents(60)) {
        for entry in live(&intents) {
            prop_assert_eq!(check(&entry.after), Vec::<String>::new());
            prop_assert_eq!(entry.after.zxid(), entry.before.zxid() + 1);
            let cluster_ms = entry.before.last_timestamp().cluster_ms.max(entry.now.cluster_ms);
            prop_assert_eq!(entry.after.last_timestamp(), Timestamp { cluster_ms, ..entry.now });
        }
    }

    #[test]
    fn a_replay_gives_the_same_state_and_the_same_replies(intents in intents(60)) {
        let entries = live(&intents);
        let mut replica = State::new();
        for entry in &entries {
            let applied = replica.apply(replica.zxid() + 1, entry.now, entry.command.clone());
            prop_assert_eq!(&applied, &entry.applied);
            prop_assert_eq!(replica.digest(), entry.after.digest());
        }
        prop_assert_eq!(replica, end(&entries));
    }

    /// Units of any size, each sent twice: the same as command by command, but
    /// for the note of what was submitted.
    #[test]
    fn a_replay_in_batches_gives_the_same_replies(intents in intents(40), size in 1usize..7) {
        let entries = live(&intents);
        let mut replica = State::new();
        for (seq, unit) in (1..).zip(entries.chunks(size)) {
            let commands: Vec<Command> = unit.iter().map(|entry| entry.command.clone()).collect();
            let bytes = batch::encode_unit(Origin { server: 7, unit: Submitted { boot: 1, seq } }, &commands);
            let header = Header { timestamp: unit[0].now, checkpoint: (0, 0) };
            let batch = batch::encode_batch(header, [&bytes, &bytes].into_iter());
            let (mut done, mut skipped) = (Vec::new(), 0);
            batch::apply(&mut replica, Batch::decode(batch).unwrap(), |_, _, fate| match fate {
                UnitOutcome::Applied(_, applied) => done.push(applied),
                UnitOutcome::Skipped => skipped += 1,
                UnitOutcome::Undecodable => panic!("it was encoded here"),
            });
            prop_assert_eq!((done.len(), skipped), (unit.len(), 1));
            for (applied, entry) in done.iter().zip(unit) {
                prop_assert_eq!(&applied.events, &entry.applied.events);
                prop_assert_eq!(applied.reply.is_ok(), entry.accepted());
            }
        }
        prop_assert_eq!(content(&replica), content(&end(&entries)));
        prop_assert_eq!(replica.zxid(), end(&entries).zxid());
    }

    #[test]
    fn a_refused_command_changes_the_zxid_and_the_time_alone(intents in intents(60)) {
        for entry in live(&intents).iter().filter(|entry| !entry.accepted()) {
            prop_assert!(entry.applied.events.is_empty());
            // An empty multi changes just those two.
            let mut idle = entry.before.clone();
            idle.apply(idle.zxid() + 1, entry.now, Command::Multi { by: Actor::rota(None), ops: Vec::new() });
            prop_assert_eq!(&entry.after, &idle);
        }
    }

    #[test]
    fn an_accepted_multi_is_its_operations_one_by_one(intents in intents(60)) {
        for entry in live(&intents).iter().filter(|entry| entry.accepted()) {
            let Command::Multi { by, ops } = &entry.command else { continue };
            let mut single = entry.before.clone();
            let mut events = Vec::new();
            for op in ops {
                let write = Command::Write { by: by.clone(), op: op.clone() };
                let applied = single.apply(single.zxid() + 1, entry.now, write.clone());
                prop_assert!(applied.reply.is_ok(), "{:?} in {:?}", applied, entry.command);
                events.extend(applied.events.into_iter().map(|e| (e.kind, e.path)));
            }
            prop_assert_eq!(content(&single), content(&entry.after));
            let together: Vec<_> = entry.applied.events.iter().map(|e| (e.kind, e.path.clone())).collect();
            prop_assert_eq!(together, events);
        }
    }

    #[test]
    fn a_closed_session_takes_exactly_its_ephemerals(intents in intents(60)) {
        for entry in live(&intents).iter().filter(|entry| entry.accepted()) {
            let Command::CloseSession { session } = entry.command else { continue };
            let mut expected = content(&entry.before);
            expected.retain(|_, node| node.owner != Some(session));
            let same_but_counts = |content: BTreeMap<String, Content>| -> BTreeMap<String, Content> {
                content.into_iter().map(|(path, node)| (path, Content { children: 0, ..node })).collect()
            };
            prop_assert_eq!(same_but_counts(content(&entry.after)), same_but_counts(expected));
            prop_assert!(entry.after.session(session).is_none());
        }
    }

    #[test]
    fn a_sequential_name_is_given_once_below_one_parent(intents in intents(80)) {
        let mut given: BTreeSet<(u64, String)> = BTreeSet::new();
        for entry in live(&intents) {
            for path in sequential_names(&entry) {
                let parent = path.rsplit_once('/').map(|(parent, _)| if parent.is_empty() { "/" } else { parent });
                // A parent that was made anew counts anew. One that is gone again
                // by the end of its multi cannot be told from that.
                let Some(parent) = entry.after.tree().get(parent.unwrap()) else { continue };
                let parent_made_within = entry.multi().is_some() && parent.stamps.czxid == entry.after.zxid();
                prop_assert!(parent_made_within || given.insert((parent.stamps.czxid, path.clone())), "{} again", path);
            }
        }
    }

    /// Who only listens to events knows which nodes there are, and when which of
    /// them changed last.
    #[test]
    fn events_tell_the_whole_story(intents in intents(60)) {
        let mut known: BTreeMap<String, u64> =
            ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"].map(|path| (path.to_owned(), 0)).into();
        for entry in live(&intents) {
            for event in &entry.applied.events {
                let path = event.path.to_string();
                match event.kind {
                    EventKind::Created => prop_assert_eq!(known.insert(path, event.zxid), None),
                    EventKind::Deleted => prop_assert!(known.remove(&path).is_some()),
                    EventKind::DataChanged => prop_assert!(known.insert(path, event.zxid).is_some()),
                    EventKind::ChildrenChanged => prop_assert!(known.contains_key(&path)),
                }
            }
            let tree = entry.after.tree().iter();
            prop_assert_eq!(tree.map(|(p, n)| (p.to_string(), n.stamps.mzxid)).collect::<BTreeMap<_, _>>(), known.clone());
        }
    }
}

/// What a node is, without the numbers of writes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    data: Vec<u8>,
    owner: Option<SessionId>,
    version: i32,
    child_creations: i32,
    children: u32,
}

fn content(state: &State) -> BTreeMap<String, Content> {
    let of = |node: &rota_core::state::Node| Content {
        data: node.bytes().to_vec(),
        owner: node.owner(),
        version: node.stamps.version,
        child_creations: node.stamps.child_creations,
        children: node.child_count(),
    };
    state.tree().iter().map(|(path, node)| (path.to_string(), of(node))).collect()
}

fn sequential_names(entry: &Entry) -> Vec<String> {
    let ops: &[Op] = match &entry.command {
        Command::Write { op, .. } => std::slice::from_ref(op),
        Command::Multi { ops, .. } => ops,
        _ => &[],
    };
    let named = ops.iter().zip(entry.op_replies()).filter_map(|(op, reply)| match (op, reply) {
        (Op::Create { mode, .. }, OpReply::Created { path, .. }) if mode.is_sequential() => Some(path),
        _ => None,
    });
    named.collect()
}

/// The laws say little about histories in which nothing happens.
#[test]
fn most_commands_are_accepted() {
    let mut runner = TestRunner::deterministic();
    let mut entries = Vec::new();
    for _ in 0..100 {
        entries.extend(live(&intents(60).new_tree(&mut runner).unwrap().current()));
    }
    let share = |of: &dyn Fn(&Entry) -> bool| {
        let all: Vec<&Entry> = entries.iter().filter(|entry| of(entry)).collect();
        all.iter().filter(|entry| entry.accepted()).count() * 100 / all.len()
    };
    let (all, multis) = (share(&|_| true), share(&|e| e.multi().is_some_and(|ops| ops.len() > 1)));
    let closes = share(&|e| matches!(e.command, Command::CloseSession { .. }));
    println!(
        "{} commands, accepted: {all} % in all, {multis} % of multis, {closes} % of closes",
        entries.len()
    );
    assert!((65..95).contains(&all) && (50..90).contains(&multis) && closes > 50);
}
