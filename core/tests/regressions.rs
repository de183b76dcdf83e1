//! Bugs that the laws and scripts once found, each as it was found.

use bytes::Bytes;
use rota_core::assign::{PlannerInputs, reconcile_step};
use rota_core::placement::{self, Answer, Owners, Problem};
use rota_core::pool::*;
use rota_core::state::*;

fn create(path: &str, data: &str) -> Op {
    Op::create(path.into(), Bytes::from(data.to_owned()), CreateMode::Persistent)
}
fn set(path: &str, data: &str) -> Op {
    Op::set(path.into(), Bytes::from(data.to_owned()), None)
}
fn write(state: &mut State, op: Op) -> Applied {
    let z = state.zxid() + 1;
    state.apply(z, Timestamp::default(), Command::Write { by: Actor::rota(None), op })
}
fn multi(state: &mut State, ops: Vec<Op>) -> Applied {
    let z = state.zxid() + 1;
    state.apply(z, Timestamp::default(), Command::Multi { by: Actor::rota(None), ops })
}

#[test]
fn a_text_without_slash_is_refused_everywhere() {
    let mut s = State::new();
    write(&mut s, create("/a", "1"));
    for p in ["", "a"] {
        assert!(write(&mut s, set(p, "2")).reply.is_err(), "set {p:?}");
    }
}
#[test]
fn check_without_slash() {
    let mut s = State::new();
    write(&mut s, create("/a", "1"));
    for p in ["", "a"] {
        assert!(write(&mut s, Op::Check { path: p.into(), version: None }).reply.is_err(), "check {p:?}");
    }
}
#[test]
fn fence_zero_of_nothing() {
    let mut s = State::new();
    assert!(write(&mut s, Op::CheckFence { path: "/none".into(), fence: 0 }).reply.is_err());
}
#[test]
fn since_max() {
    let t = TableIndex::starting_at(3, 3);
    assert!(matches!(t.since(u64::MAX), Delta::Rows { .. }));
}
#[test]
fn check_refuses_weightless_takers() {
    let mut p = Problem::simple(&[0, 0], 1);
    p.buckets[0].owners = Owners::from_iter([0]);
    assert!(
        placement::check::check(&p, &Answer { owners: vec![Owners::from_iter([1])], is_approximate: false })
            .is_err()
    );
}
fn pool(s: &mut State, spec: &str) -> Applied {
    multi(s, layout::create_pool("p", Bytes::from(spec.to_owned())))
}
#[test]
fn follow_garbage_spec() {
    let mut s = State::new();
    let mut p = Pools::load(&s);
    let a = pool(&mut s, r#"{"kind":"named"}"#);
    p.apply_events(&s, &a.events, &DecodedWrites::default());
    let a = write(&mut s, set("/rota/pools/p", "garbage"));
    p.apply_events(&s, &a.events, &DecodedWrites::default());
    assert_eq!(p.get("p").is_some(), Pools::load(&s).get("p").is_some());
}
#[test]
fn follow_nested() {
    let mut s = State::new();
    let mut p = Pools::load(&s);
    let a = pool(&mut s, r#"{"kind":"named"}"#);
    p.apply_events(&s, &a.events, &DecodedWrites::default());
    for path in ["/rota/pools/p/items/x", "/rota/pools/p/items/x/y"] {
        let a = write(&mut s, create(path, "{}"));
        p.apply_events(&s, &a.events, &DecodedWrites::default());
    }
    assert_eq!(p.get("p").unwrap().items, Pools::load(&s).get("p").unwrap().items);
}
#[test]
fn follow_folder_later() {
    let mut s = State::new();
    let mut p = Pools::load(&s);
    let spec = r#"{"kind":"named"}"#;
    for (path, d) in
        [("/rota", ""), ("/rota/pools", ""), ("/rota/pools/p", spec), ("/rota/pools/p/buckets", "")]
    {
        let a = write(&mut s, create(path, d));
        p.apply_events(&s, &a.events, &DecodedWrites::default());
    }
    assert_eq!(p.get("p").unwrap().table_version(), Pools::load(&s).get("p").unwrap().table_version());
}
/// A step's grant that comes late must not take a row that went and was made
/// again meanwhile: versions begin anew, fences do not.
#[test]
fn a_late_grant_does_not_take_a_row_that_was_made_again() {
    let mut s = State::new();
    let mut p = Pools::load(&s);
    let go = |s: &mut State, p: &mut Pools, op: Command| {
        let z = s.zxid() + 1;
        let a = s.apply(z, Timestamp::default(), op);
        p.apply_events(s, &a.events, &DecodedWrites::default());
        a
    };
    let a = pool(&mut s, r#"{"kind":"named"}"#);
    p.apply_events(&s, &a.events, &DecodedWrites::default());
    let join = |s: &mut State, p: &mut Pools, n: u64, name: &str| {
        go(s, p, Command::OpenSession { session: SessionId(n), password: Password([0; 16]), timeout_ms: 1 });
        go(
            s,
            p,
            Command::Write {
                by: Actor::rota(Some(SessionId(n))),
                op: Op::create(
                    format!("/rota/pools/p/members/{name}"),
                    Bytes::from("{}"),
                    CreateMode::Ephemeral,
                ),
            },
        );
    };
    let step = |s: &State, p: &Pools| {
        reconcile_step(s.tree(), p.get("p").unwrap(), &PlannerInputs::default()).unwrap()
    };
    join(&mut s, &mut p, 1, "w1");
    go(&mut s, &mut p, Command::Write { by: Actor::rota(None), op: create("/rota/pools/p/items/x", "{}") });
    for m in step(&s, &p).multis {
        go(&mut s, &mut p, Command::Multi { by: Actor::rota(None), ops: m });
    }
    // w1 dies, w2 joins; the step that grants x to w2 is under way and late.
    join(&mut s, &mut p, 2, "w2");
    go(&mut s, &mut p, Command::CloseSession { session: SessionId(1) });
    let late = step(&s, &p);
    // meanwhile the item goes, its row with it; it comes back, and w3 gets it.
    go(
        &mut s,
        &mut p,
        Command::Write {
            by: Actor::rota(None),
            op: Op::Delete { path: "/rota/pools/p/items/x".into(), version: None },
        },
    );
    for m in step(&s, &p).multis {
        go(&mut s, &mut p, Command::Multi { by: Actor::rota(None), ops: m });
    }
    go(&mut s, &mut p, Command::CloseSession { session: SessionId(2) });
    join(&mut s, &mut p, 3, "w3");
    go(&mut s, &mut p, Command::Write { by: Actor::rota(None), op: create("/rota/pools/p/items/x", "{}") });
    for m in step(&s, &p).multis {
        go(&mut s, &mut p, Command::Multi { by: Actor::rota(None), ops: m });
    }
    for m in late.multis {
        go(&mut s, &mut p, Command::Multi { by: Actor::rota(None), ops: m });
    }
    assert_eq!(p.get("p").unwrap().rows.values().next().unwrap().row.owners[0].member, "w3");
}
#[test]
fn zk_refuses_emoji() {
    assert!(rota_core::path::NodePath::parse("/\u{1F600}").is_err());
}
#[test]
fn refusal_names_the_path_given() {
    let mut s = State::new();
    let a = write(&mut s, Op::create("//n-".into(), Bytes::new(), CreateMode::PersistentSequential));
    assert!(matches!(a.reply, Err(Refusal::BadPath { ref path, .. }) if path == "//n-"), "{a:?}");
}
#[test]
fn zeros_after_the_end() {
    let s = State::new();
    let mut d = snapshot::Decoder::new();
    for b in snapshot::encode(&s) {
        d.push(&b).unwrap();
    }
    let r = d.push(&[0; 8]).and_then(|()| d.finish().map(drop));
    assert!(r.is_err());
}
#[test]
fn rota_folders_can_be_deleted() {
    let mut s = State::new();
    pool(&mut s, r#"{"kind":"named"}"#);
    let (by, op) = (Actor::client(None, vec![]), Op::Delete { path: "/rota/pools".into(), version: None });
    let z = s.zxid() + 1;
    assert!(s.apply(z, Timestamp::default(), Command::Write { by, op }).reply.is_err());
}

/// What somebody made below a pool's folders, by whatever way, does not keep the
/// pool from being deleted.
#[test]
fn a_pool_with_nodes_below_its_checkpoints_goes() {
    let mut s = State::new();
    let spec = Spec { deleting: true, ..Spec::new(Kind::Named) };
    for path in ["/rota", "/rota/pools"] {
        write(&mut s, create(path, ""));
    }
    write(&mut s, Op::create("/rota/pools/p".into(), to_json(&spec), CreateMode::Persistent));
    for folder in layout::FOLDERS {
        write(&mut s, create(&format!("/rota/pools/p/{folder}"), ""));
    }
    // More than one multi takes, and deeper than one level.
    for n in 0..700 {
        let path = format!("/rota/pools/p/checkpoints/{n}");
        write(&mut s, create(&path, "")).reply.unwrap();
        write(&mut s, create(&format!("{path}/below"), "")).reply.unwrap();
    }
    write(&mut s, create("/rota/pools/p/checkpoints/0/below/that", "")).reply.unwrap();
    for _ in 0..10 {
        let pools = Pools::load(&s);
        let Some(view) = pools.get("p") else { return };
        for ops in reconcile_step(s.tree(), view, &PlannerInputs::default()).unwrap().multis {
            multi(&mut s, ops).reply.unwrap();
        }
    }
    panic!("it is still there: {} nodes", s.tree().len());
}

/// The history of a deleted pool was removed a step at a time, with five seconds between two.
#[test]
fn removals_in_a_deleted_pool_touch_it() {
    let mut state = State::new();
    let spec = r#"{"kind":"hashed","buckets":1,"deleting":true}"#;
    for op in layout::create_pool("p", spec.into()) {
        write(&mut state, op).reply.unwrap();
    }
    let segment = format!("{}/h-1", layout::history("p"));
    write(&mut state, create(&segment, "{}")).reply.unwrap();
    let mut pools = Pools::load(&state);
    let removed = write(&mut state, Op::Delete { path: segment, version: None });
    removed.reply.unwrap();
    let touched = pools.apply_events(&state, &removed.events, &DecodedWrites::default());
    assert!(touched.pools.contains_key("p"), "{touched:?}");
}

#[test]
fn a_cluster_that_has_removed_servers_is_still_empty() {
    let mut s = State::new();
    let ensure = |path: String| Op::Ensure { path, acl: None };
    let removed = [layout::ROTA.to_owned(), layout::REMOVED.to_owned(), layout::removed_disk("d15c")];
    assert!(multi(&mut s, removed.map(ensure).to_vec()).reply.is_ok());
    let import = |s: &mut State, part| {
        let z = s.zxid() + 1;
        s.apply(z, Timestamp::default(), Command::Import(part))
    };
    let mut with_pool = s.clone();
    assert!(import(&mut s, Import::Begin).reply.is_ok());
    write(&mut with_pool, create("/rota/pools", ""));
    assert!(import(&mut with_pool, Import::Begin).reply.is_err());
}
