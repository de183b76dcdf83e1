//! Simulated pools: what is known beforehand about the times is what comes out.

use proptest::prelude::*;
use rota_core::pool::{Balance, Bucket, Handoff, Kind, Member, Spec, Strategy};
use rota_core::simulation::{Act, Change, Fault, Metrics, Scenario, Timing, simulate};

const TIMING: Timing = Timing { session_timeout_ms: 10_000, look_ms: 10, stop_ms: 100, copy_ms: 5_000 };

fn spec(buckets: u32, replicas: u32, handoff: Handoff) -> Spec {
    Spec { replicas, handoff, ..Spec::new(Kind::Hashed { buckets }) }
}

fn join(members: u32) -> (u64, Vec<Act>) {
    (0, (1..=members).map(|n| Act::Join(format!("w{n}"), Member::default())).collect())
}

fn play(spec: Spec, events: Vec<(u64, Vec<Act>)>) -> Metrics {
    simulate(&Scenario { spec, timing: TIMING, events }).unwrap()
}

fn drain(member: &str) -> Act {
    Act::Change { member: member.to_owned(), change: Change::Draining(true) }
}

#[test]
fn a_death_costs_the_timeout_and_a_look() {
    let account = play(spec(12, 1, Handoff::Exclusive), vec![join(3), (60_000, vec![Act::Die("w1".into())])]);
    let death = &account.phases[1];
    assert_eq!((death.moves, death.unowned, death.longest_ms), (0, 4, 10_010));
    assert_eq!((death.unowned_ms, death.settled_ms), (40_040, 70_010));
}

#[test]
fn an_exclusive_move_leaves_a_bucket_alone_for_a_look_and_a_warm_one_does_not() {
    let events = || vec![join(3), (60_000, vec![drain("w1")])];
    let exclusive = &play(spec(12, 1, Handoff::Exclusive), events()).phases[1];
    assert_eq!((exclusive.moves, exclusive.moves_lower_bound, exclusive.copies), (4, 4, 0));
    assert_eq!((exclusive.unowned, exclusive.longest_ms), (4, 10));
    let warm = &play(spec(12, 1, Handoff::Warm), events()).phases[1];
    assert_eq!((warm.moves, warm.copies, warm.unowned), (4, 4, 0));
    assert!(warm.settled_ms >= 60_000 + TIMING.copy_ms + TIMING.stop_ms);
}

#[test]
fn a_backup_leads_at_once_and_what_is_missing_is_copied() {
    let account = play(spec(12, 2, Handoff::Warm), vec![join(3), (60_000, vec![Act::Die("w1".into())])]);
    let death = &account.phases[1];
    assert_eq!((death.unowned, death.longest_ms, death.copies), (4, 10_010, 8));
    assert_eq!(account.unowned(), 0);
}

#[test]
fn an_owner_that_has_stopped_does_what_is_asked_by_then() {
    // It is asked to let go for w4, which leaves while it stops: nobody can take its place.
    let spec = Spec { strategy: Strategy::Range, ..spec(1, 3, Handoff::Exclusive) };
    let leave = vec![Act::Leave("w4".into())];
    let account = play(spec, vec![join(4), (60_000, vec![drain("w1")]), (60_050, leave)]);
    let moved: (u64, u64) = account
        .phases
        .iter()
        .fold((0, 0), |(moves, promotions), phase| (moves + phase.moves, promotions + phase.promotions));
    assert_eq!(moved, (0, 1));
    assert_eq!(account.samples.last().map(|last| last.moving), Some(0));
}

#[test]
fn what_cannot_be_is_said() {
    let fault = |events| {
        let scenario = Scenario { spec: spec(4, 1, Handoff::Exclusive), timing: TIMING, events };
        simulate(&scenario).unwrap_err().to_string()
    };
    assert!(fault(vec![(5, vec![Act::Die("w1".into())])]).contains("at 5 ms: there is no member \"w1\""));
    let twice = vec![join(1), (1, vec![Act::Die("w1".into()), Act::Die("w1".into())])];
    assert!(fault(twice).contains("dead already"));
    let heavy = Act::Join("w".into(), Member { weight: 0, ..Member::default() });
    assert!(fault(vec![(0, vec![heavy])]).contains("weight is 0"));
    let scenario = Scenario { spec: spec(0, 1, Handoff::Exclusive), timing: TIMING, events: vec![] };
    assert!(matches!(simulate(&scenario), Err(Fault::Spec(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// However members come and go: as long as one is there in the end, everything has an owner,
    /// and the same scenario comes out the same.
    #[test]
    fn it_comes_to_rest_with_everything_owned(
        buckets in 1u32..40,
        replicas in 1u32..4,
        (is_warm, by_load, with_grace) in any::<(bool, bool, bool)>(),
        strategy in prop::sample::select(vec![Strategy::Balanced, Strategy::Range, Strategy::Ring]),
        (bound, max_unavailable, churn) in (
            prop::option::of(1u32..4), prop::option::of(1u32..3), prop::option::of(1u32..5)),
        acts in prop::collection::vec((0u64..30_000, 2u32..6, 0u8..8), 0..12),
    ) {
        let handoff = if is_warm { Handoff::Warm } else { Handoff::Exclusive };
        let spec = Spec {
            strategy,
            balance: if by_load && strategy == Strategy::Balanced { Balance::Load } else { Balance::Weight },
            rejoin_grace_ms: if with_grace { 20_000 } else { 0 },
            max_concurrent_moves_per_member: bound,
            max_unavailable,
            max_rebalances_per_minute: churn,
            ..spec(buckets, replicas, handoff)
        };
        let mut events = vec![join(5)];
        let mut gone = [false; 6];
        let mut at_ms = 0;
        for (after_ms, member, what) in acts {
            at_ms += after_ms + 1;
            let name = format!("w{member}");
            if std::mem::replace(&mut gone[member as usize], what < 2) {
                gone[member as usize] = true;
                continue;
            }
            events.push((at_ms, vec![match what {
                0 => Act::Die(name),
                1 => Act::Leave(name),
                2 => drain(&name),
                3 => Act::Change { member: name, change: Change::Cordoned(after_ms % 2 == 0) },
                4 => Act::Change { member: name, change: Change::Weight(member) },
                _ => Act::Load(Bucket::number(member * u32::from(what) % buckets), after_ms),
            }]));
        }
        let account = play(spec.clone(), events.clone());
        prop_assert_eq!(account.unowned(), 0);
        prop_assert_eq!(account.samples.last().map(|last| last.moving), Some(0));
        let again = play(spec, events);
        prop_assert_eq!(account.samples, again.samples);
    }
}
