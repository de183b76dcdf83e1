//! Laws of the assignment controller, over random histories of a pool. That no
//! bucket is taken from a living owner, and that fences grow, is asserted after
//! every write by `world/safety.rs`.

mod history;
#[path = "../world/mod.rs"]
mod world;

use std::collections::BTreeSet;

use history::{History, ITEMS, Intent, MEMBERS, POOL, hashed, histories, named, uneven_histories};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rota_core::placement::{Candidate, Demand, LabelGroup, Problem, Quotas};
use rota_core::pool::{Item, Kind, Member, MemberEntry, Owner, PoolView, Reason, Spec};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Every bucket that there should be has a row with as many owners as can be, and every member
/// that may own buckets has its share of them, to within one.
fn assert_balanced(view: &PoolView) {
    assert!(view.rows.keys().eq(view.wanted_buckets().collect::<BTreeSet<_>>().iter()));
    let able: Vec<&MemberEntry> = view.members.values().filter(|entry| !entry.member.draining).collect();
    for (bucket, entry) in &view.rows {
        let row = &entry.row;
        if able.is_empty() {
            // Nobody can take them; those that a living member has, it keeps.
            assert!(row.owners.iter().all(|owner| view.is_living(owner)));
            continue;
        }
        let replicas = view.spec.replicas as usize;
        assert!(row.owners.iter().all(|owner| view.is_living(owner)), "{bucket}: {row:?}");
        assert!(
            row.owners.len() >= replicas.min(able.len()) && row.owners.len() <= replicas,
            "{bucket}: {row:?}"
        );
        assert_eq!(row.preparing, [], "{bucket}");
        assert_eq!(row.degraded, row.owners.len() < replicas, "{bucket}: {row:?}");
    }
    let candidates: Vec<Candidate> = view
        .members
        .values()
        .map(|entry| Candidate {
            weight: if entry.member.draining { 0 } else { entry.member.weight },
            capacity: None,
            zone: usize::from(entry.member.zone != "2"),
        })
        .collect();
    let quotas = Quotas::of(&Problem {
        classes: vec![LabelGroup { allowed: vec![true; candidates.len()] }],
        members: candidates,
        replicas: view.spec.replicas as usize,
        buckets: vec![Demand::default(); view.rows.len()],
        ..Problem::default()
    });
    for (at, (name, entry)) in view.members.iter().enumerate().filter(|(_, (_, m))| !m.member.draining) {
        let owns = |owner: &Owner| owner.member == *name && owner.joined == entry.joined;
        let have = view.rows.values().filter(|row| row.row.owners.iter().any(owns)).count() as u64;
        let share = quotas.least[at]..=quotas.most[at];
        assert!(share.contains(&have), "{name} has {have} of {share:?}");
    }
}

/// Nothing is left to be done.
fn assert_at_rest(history: &History) {
    let step = history.world.plan(POOL);
    assert_eq!((step.report.moves, step.report.promotions, step.multis.len()), (0, 0, 0), "{step:?}");
}

proptest! {
    #![proptest_config(cases(384))]

    #[test]
    fn left_alone_it_settles_in_balance((spec, intents) in histories()) {
        let mut history = History::new(&spec);
        for intent in &intents {
            history.live(intent);
        }
        history.settle();
        assert_balanced(history.view());
        assert_at_rest(&history);
        // What was still on its way can disturb that, but not for long.
        for multi in std::mem::take(&mut history.late) {
            history.world.propose(&multi);
        }
        history.settle();
        assert_balanced(history.view());
    }

    /// Whatever members and buckets are like: it comes to rest, and nothing is without an owner
    /// that somebody could own besides what it has.
    #[test]
    fn it_comes_to_rest_however_uneven((spec, intents) in uneven_histories()) {
        let mut history = History::new(&spec);
        for intent in &intents {
            history.live(intent);
        }
        history.come_to_rest();
        assert_at_rest(&history);
        let view = history.view();
        for bucket in view.wanted_buckets() {
            let has_room = |name: &str, member: &Member| {
                member.capacity.is_none_or(|most| view.held_count(name) < u64::from(most))
            };
            let mut able = view.members.iter().filter(|(name, entry)| {
                let Member { draining, cordoned, .. } = entry.member;
                let may = entry.member.has_labels(&view.affinity_of(&bucket).require);
                !draining && !cordoned && may && has_room(name, &entry.member)
            });
            let row = &view.rows[&bucket].row;
            prop_assert!(row.owners.iter().all(|owner| view.is_living(owner)), "{bucket}: {row:?}");
            prop_assert!(!row.owners.is_empty() || able.next().is_none(), "{bucket}: {row:?}");
        }
    }

    #[test]
    fn one_change_of_a_settled_pool_moves_the_fewest_buckets(
        spec in prop_oneof![hashed(), named()],
        weights in prop::collection::vec(1u32..4, 1..=3),
        choice in any::<u8>(),
        weight in 1u32..4,
    ) {
        let mut history = History::new(&spec);
        (0..ITEMS.len()).for_each(|item| history.live(&Intent::Item(item)));
        for (name, weight) in MEMBERS.iter().zip(&weights) {
            history.world.join(POOL, name, &Member { weight: *weight, ..Member::default() });
        }
        history.settle();
        // The last of the members does something, or one more joins.
        let which = weights.len() - usize::from(choice % 2 == 0);
        history.live(&Intent::Member { which, choice, weight });
        let report = history.world.plan(POOL).report;
        let settled = history.settle();
        assert_balanced(history.view());
        prop_assert_eq!(settled.released.len(), report.moves_lower_bound as usize);
        prop_assert_eq!(report.moves, report.moves_lower_bound);
    }

}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn an_equal_member_more_or_less_moves_its_share(
        buckets in 1u32..40,
        members in 1usize..=3,
        max_concurrent_moves in 1u32..6,
    ) {
        let mut history = History::new(&Spec { max_concurrent_moves, ..Spec::new(Kind::Hashed { buckets }) });
        for name in &MEMBERS[..members] {
            history.world.join(POOL, name, &Member::default());
        }
        history.settle();
        let joined = MEMBERS[members];
        history.world.join(POOL, joined, &Member::default());
        let share = buckets as usize / (members + 1);
        prop_assert_eq!(history.settle().released.len(), share);
        history.world.change_member(POOL, joined, |member| member.draining = true);
        let settled = history.settle();
        prop_assert_eq!(settled.released.len(), share);
        prop_assert!(settled.released.iter().all(|mv| mv.from.as_deref() == Some(joined)));
        history.world.die(POOL, joined);
        prop_assert!(history.world.plan(POOL).multis.is_empty());
    }
}

/// The laws say little about pools in which nothing moves, or nothing is late.
#[test]
fn much_happens_in_the_histories() {
    let mut runner = TestRunner::deterministic();
    let (mut moves, mut granted, mut late) = (0, 0, (0, 0));
    for _ in 0..100 {
        let (spec, intents) = histories().new_tree(&mut runner).unwrap().current();
        let mut history = History::new(&spec);
        for intent in &intents {
            if let Intent::Step(_) = intent {
                let step = history.world.plan(POOL);
                (moves, granted) = (moves + step.moves_planned(), granted + step.grants);
            }
            history.live(intent);
        }
        late = (late.0 + history.came_late.0, late.1 + history.came_late.1);
    }
    println!("{moves} moves planned, {granted} granted, late: {} done, {} refused", late.0, late.1);
    assert!(moves > 100 && granted > 300 && late.0 > 20 && late.1 > 20);
}

/// More rows than one multi holds: each multi is sound on its own.
#[test]
fn a_large_pool_in_several_multis() {
    let mut history =
        History::new(&Spec { max_concurrent_moves: 400, ..Spec::new(Kind::Hashed { buckets: 1100 }) });
    history.world.join(POOL, "w1", &Member::default());
    let multis = history.world.plan(POOL).multis;
    assert_eq!(multis.iter().map(Vec::len).collect::<Vec<_>>(), [512, 512, 82]);
    // Only the one in the middle arrives; the next look makes up for the others.
    history.world.propose(&multis[1]).reply.unwrap();
    history.world.join(POOL, "w2", &Member::default());
    assert_eq!(history.settle().released.len(), 0);
    assert!(history.world.propose(&multis[0]).reply.is_err());
    assert_balanced(history.view());
    history.world.change_member(POOL, "w1", |member| member.draining = true);
    assert_eq!(history.world.step(POOL).moves_planned(), 400);
}

/// What the controller did is not taken for what members did once the history has forgotten it.
#[test]
fn what_is_forgotten_is_not_told_anew() {
    let mut history = History::new(&Spec { replicas: 3, ..Spec::new(Kind::Hashed { buckets: 9000 }) });
    for number in 0..60 {
        let name = format!("w{number}{}", "x".repeat(200));
        history.world.join(POOL, &name, &Member::default());
    }
    history.world.settle(POOL, 20);
    let segments = history.world.segments(POOL);
    assert!(
        segments.iter().map(|segment| segment.changes.len()).sum::<usize>() < 9000,
        "nothing is forgotten"
    );
    let reasons = segments.iter().flat_map(|segment| &segment.changes).map(|change| change.reason);
    assert_eq!(reasons.collect::<BTreeSet<_>>(), BTreeSet::from([Reason::Vacant]));
}

/// What is nearly even after some of its moves is made even all the same: nobody is asked to stop
/// for nothing.
#[test]
fn a_plan_of_weights_stands_until_it_is_done() {
    let mut history = History::new(&Spec::new(Kind::Named));
    for item in 0..20 {
        history.world.add_item(POOL, &format!("i{item}"), &Item { weight: 2, ..Item::default() });
    }
    history.world.join(POOL, "w1", &Member::default());
    history.world.settle(POOL, 3);
    history.world.join(POOL, "w2", &Member::default());
    assert_eq!(history.world.step(POOL).moves_planned(), 10);
    for (mv, who, action) in history.world.asked(POOL).iter().take(9) {
        history.world.comply(POOL, mv, who, *action).reply.unwrap();
    }
    history.world.step(POOL);
    assert_eq!(history.world.pending_moves(POOL).len(), 1);
    history.world.settle(POOL, 3);
    assert_eq!(history.view().held_count("w1"), 10);
}
