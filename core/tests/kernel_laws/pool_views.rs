//! Laws of [`Pools`]: led along by events it is what it would be if loaded anew,
//! and what it says of a table's changes brings any older table up to date.

use std::collections::BTreeMap;

use crate::pool_history::{Intent, intents};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rota_core::Zxid;
use rota_core::pool::{AffectedMembers, Bucket, DecodedWrites, Delta, Owner, PoolView, Pools, RowEntry};
use rota_core::state::{Command, Event, State, Timestamp};

type Rows = BTreeMap<Bucket, RowEntry>;

/// A state, and pools that follow it.
struct Followed {
    state: State,
    pools: Pools,
    behind: Vec<(Command, Vec<Event>)>,
}

impl Followed {
    fn new() -> Self {
        let state = State::new();
        Self { pools: Pools::load(&state), state, behind: Vec::new() }
    }

    /// Does it, and leaves its events for later. Whether it was accepted.
    fn apply(&mut self, intent: &Intent) -> bool {
        let command = intent.command(&self.state);
        let applied = self.state.apply(self.state.zxid() + 1, Timestamp::at(0), command.clone());
        self.behind.push((command, applied.events));
        applied.reply.is_ok()
    }

    /// Takes in what was left.
    fn catch_up(&mut self) -> Vec<(String, AffectedMembers)> {
        let Self { state, pools, behind } = self;
        let follow = |(command, events): (Command, Vec<Event>)| {
            pools.apply_events(state, &events, &DecodedWrites::from_commands([&command])).pools
        };
        behind.drain(..).flat_map(follow).collect()
    }
}

/// What a member is told of what it owns.
fn told(pool: &PoolView, member: &str) -> impl PartialEq + std::fmt::Debug + use<> {
    let entry = pool.members.get(member).cloned();
    let row = |(bucket, row): (&Bucket, &RowEntry)| {
        let address = |owner: &Owner| pool.members.get(&owner.member).map(|m| m.member.address.clone());
        let addresses: Vec<_> = row.row.owners.iter().chain(&row.row.preparing).map(address).collect();
        (bucket.clone(), row.row.clone(), addresses, pool.items.get(bucket.as_str()).cloned())
    };
    let rows: Vec<_> = pool.held_by(member).map(row).collect();
    let asked = pool.pending_moves().filter(|mv| mv.from.as_deref() == Some(member));
    let asked: Vec<_> = asked.map(|mv| (mv.clone(), pool.is_due(mv))).collect();
    (entry, rows, asked, pool.spec.rejoin_grace_ms, pool.spec.on_lease_expiry)
}

fn assert_as_if_loaded(followed: &Followed) {
    let loaded = Pools::load(&followed.state);
    let names = |pools: &Pools| pools.iter().map(|pool| pool.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&followed.pools), names(&loaded));
    for (a, b) in followed.pools.iter().zip(loaded.iter()) {
        assert_eq!((&a.spec, a.spec_version), (&b.spec, b.spec_version));
        assert_eq!(a.members, b.members);
        assert_eq!(a.items, b.items);
        assert_eq!(a.rows, b.rows);
        assert_eq!((&a.plan, a.plan_version), (&b.plan, b.plan_version));
        assert_eq!(a.table_version(), b.table_version());
        assert_eq!((&a.awaiting_rejoin, &a.history), (&b.awaiting_rejoin, &b.history));
        for member in a.members.keys() {
            assert!(a.held_by(member).eq(b.held_by(member)), "{member}");
        }
        // Loading does not know when the last change was: only that it was.
        assert!(a.changed <= b.changed);
    }
}

proptest! {
    #![proptest_config(crate::cases(256))]

    #[test]
    fn to_follow_is_to_load(intents in intents(80), pace in 1usize..5) {
        let mut followed = Followed::new();
        for some in intents.chunks(pace) {
            for intent in some {
                followed.apply(intent);
            }
            followed.catch_up();
            assert_as_if_loaded(&followed);
        }
    }

    #[test]
    fn pools_that_are_not_touched_do_not_change(intents in intents(60)) {
        let mut followed = Followed::new();
        for intent in &intents {
            let before = followed.pools.clone();
            followed.apply(intent);
            let touched = followed.catch_up();
            for pool in followed.pools.iter() {
                let Some(was) = before.get(&pool.name) else { continue };
                let concerns = |name: &str| touched.iter().any(|(touched, whom)| {
                    *touched == pool.name && match whom {
                        AffectedMembers::All => true,
                        AffectedMembers::Some(names) => names.contains(name),
                    }
                });
                for name in was.members.keys().chain(pool.members.keys()).filter(|name| !concerns(name)) {
                    prop_assert_eq!(told(was, name), told(pool, name));
                }
            }
            let is_touched = |name: &str| touched.iter().any(|(touched, _)| touched == name);
            for pool in followed.pools.iter().filter(|pool| !is_touched(&pool.name)) {
                prop_assert_eq!(before.get(&pool.name).map(|b| b.changed), Some(pool.changed));
                prop_assert_eq!(before.get(&pool.name).map(|b| &b.rows), Some(&pool.rows));
            }
        }
    }

    #[test]
    fn a_delta_brings_any_older_table_up_to_date(intents in intents(60)) {
        let mut followed = Followed::new();
        let mut older: Vec<(String, Zxid, Rows)> = Vec::new();
        for intent in &intents {
            followed.apply(intent);
            followed.catch_up();
            let loaded = Pools::load(&followed.state);
            for (name, version, rows) in &older {
                for pool in [followed.pools.get(name), loaded.get(name)].into_iter().flatten() {
                    prop_assert!(pool.table_version() >= *version);
                    prop_assert_eq!(brought_up(rows, pool, *version), rows_of(pool));
                }
            }
            older.extend(followed.pools.iter().map(|p| (p.name.clone(), p.table_version(), rows_of(p))));
        }
    }
}

fn rows_of(pool: &PoolView) -> Rows {
    pool.rows.iter().map(|(bucket, row)| (bucket.clone(), row.clone())).collect()
}

/// What a client makes of the table that it has, at `version`.
fn brought_up(rows: &Rows, pool: &PoolView, version: Zxid) -> Rows {
    let mut rows = rows.clone();
    match pool.table_since(version) {
        Delta::Whole => rows = rows_of(pool),
        Delta::Rows { changed, removed } => {
            assert!(removed.iter().all(|bucket| !pool.rows.contains_key(bucket)));
            rows.retain(|bucket, _| !removed.contains(bucket));
            rows.extend(changed.into_iter().map(|bucket| (bucket.clone(), pool.rows[&bucket].clone())));
        }
    }
    rows
}

/// Deltas are what most clients get: the whole table is for the few that were
/// away when a pool was made anew or loaded.
#[test]
fn most_changes_are_accepted_and_most_answers_are_deltas() {
    let mut runner = TestRunner::deterministic();
    let (mut commands, mut accepted, mut deltas, mut answers, mut rows) = (0, 0, 0, 0, 0);
    for _ in 0..60 {
        let mut followed = Followed::new();
        for intent in intents(60).new_tree(&mut runner).unwrap().current() {
            let versions: Vec<Zxid> = followed.pools.iter().map(PoolView::table_version).collect();
            commands += 1;
            accepted += usize::from(followed.apply(&intent));
            followed.catch_up();
            for (pool, version) in followed.pools.iter().zip(versions) {
                answers += 1;
                deltas += usize::from(pool.table_since(version) != Delta::Whole);
                rows += pool.rows.len();
            }
        }
    }
    println!("{accepted} of {commands} accepted, {deltas} of {answers} deltas, {rows} rows seen");
    assert!(accepted * 10 > commands * 8 && deltas * 10 > answers * 8 && rows > answers);
}
