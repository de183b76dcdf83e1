//! Laws of placement: balanced, no needless moves, stable; that the shares are fair, and
//! that the independent check notices what is wrong. The oracle of the fewest moves is in
//! `placement_oracle.rs`.

use proptest::prelude::*;
use rota_core::placement::check::{check, lower_bound};
use rota_core::placement::{
    Answer, Candidate, Demand, LabelGroup, Owners, Problem, Quotas, REPLICAS_MAX, count, solve,
};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// One owner for each bucket, no zones, no labels. Few members with small weights, so that
/// ties and nearly whole shares are common; a third of the buckets at one member; some
/// vacant.
fn plain(members_max: usize, buckets_max: usize) -> impl Strategy<Value = Problem> {
    let weight = prop_oneof![2 => Just(0), 8 => 1u32..=4, 1 => Just(1_000_000)];
    prop::collection::vec(weight, 1..=members_max).prop_flat_map(move |weights| {
        let members = weights.len();
        let owner = prop_oneof![2 => Just(None), 5 => (0..members).prop_map(Some), 3 => Just(Some(0))];
        let owners = prop::collection::vec(owner, 0..=buckets_max);
        (Just(weights), owners).prop_map(|(weights, owners)| owned(&weights, &owners))
    })
}

fn owned(weights: &[u32], owners: &[Option<usize>]) -> Problem {
    let mut problem = Problem::simple(weights, owners.len());
    for (bucket, owner) in problem.buckets.iter_mut().zip(owners) {
        bucket.owners = owner.iter().copied().collect();
    }
    problem
}

/// Everything that there is: replicas, zones, capacities, labels; owners who may not be.
fn any_problem(members_max: usize, buckets_max: usize) -> impl Strategy<Value = Problem> {
    let candidate =
        (prop_oneof![1 => Just(0u32), 6 => 1u32..=3], prop::option::weighted(0.2, 0u32..=6), 0usize..4)
            .prop_map(|(weight, capacity, zone)| Candidate { weight, capacity, zone });
    (prop::collection::vec(candidate, 1..=members_max), 1usize..=4, 1usize..=3).prop_flat_map(
        move |(members, replicas, classes)| {
            let count = members.len();
            let class = prop::collection::vec(prop::bool::weighted(0.7), count)
                .prop_map(|allowed| LabelGroup { allowed });
            let demand =
                (0..classes, prop::collection::vec(0..count, 0..=replicas)).prop_map(|(class, owners)| {
                    let mut distinct = Owners::default();
                    for owner in owners {
                        if !distinct.contains(owner) {
                            distinct.push(owner);
                        }
                    }
                    Demand { class, owners: distinct, ..Demand::default() }
                });
            (
                Just(members),
                Just(replicas),
                prop::collection::vec(class, classes),
                prop::collection::vec(demand, 0..=buckets_max),
            )
                .prop_map(|(members, replicas, classes, buckets)| Problem {
                    members,
                    replicas,
                    classes,
                    buckets,
                    ..Problem::default()
                })
        },
    )
}

/// Equal members, balanced.
fn settled(members_max: usize, buckets_max: usize) -> impl Strategy<Value = Problem> {
    (2..=members_max, 0..=buckets_max).prop_flat_map(|(members, buckets)| {
        let owners: Vec<Option<usize>> = (0..buckets).map(|bucket| Some(bucket % members)).collect();
        Just(owners).prop_shuffle().prop_map(move |owners| owned(&vec![1; members], &owners))
    })
}

/// The problem that an answer poses.
fn again(problem: &Problem, answer: &Answer) -> Problem {
    let mut again = problem.clone();
    for (bucket, owners) in again.buckets.iter_mut().zip(&answer.owners) {
        bucket.owners = *owners;
    }
    again
}

fn moves(problem: &Problem, answer: &Answer) -> u64 {
    let pairs = problem.buckets.iter().zip(&answer.owners);
    pairs.map(|(now, then)| now.owners.iter().filter(|owner| !then.contains(*owner)).count() as u64).sum()
}

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn the_answer_is_valid_and_moves_no_more_than_the_lower_bound(problem in plain(8, 50)) {
        let answer = solve(&problem);
        let report = check(&problem, &answer).unwrap();
        prop_assert_eq!(u64::from(report.moves), lower_bound(&problem, &Quotas::of(&problem)));
        prop_assert_eq!(u64::from(report.moves), moves(&problem, &answer));
        prop_assert_eq!(report.moves_lower_bound, report.moves);
        let vacant = problem.buckets.iter().filter(|bucket| bucket.owners.is_empty()).count();
        let nobody = problem.members.iter().all(|member| member.weight == 0);
        let taken = if nobody { (0, vacant) } else { (vacant, 0) };
        prop_assert_eq!((report.placements as usize, report.unplaced as usize), taken);
    }

    #[test]
    fn shares_without_hindrance_are_by_weight(problem in plain(8, 50)) {
        let quotas = Quotas::of(&problem);
        let total: f64 = problem.members.iter().map(|member| f64::from(member.weight)).sum();
        for (member, share) in problem.members.iter().zip(&quotas.shares) {
            let exact = if total == 0.0 { 0.0 } else { problem.buckets.len() as f64 * f64::from(member.weight) / total };
            prop_assert!((share - exact).abs() < 1e-6, "{share} for {exact}");
        }
    }

    #[test]
    fn a_valid_answer_there_is_for_every_problem(problem in any_problem(7, 12)) {
        let answer = solve(&problem);
        let report = check(&problem, &answer).unwrap();
        prop_assert!(report.moves >= report.moves_lower_bound, "{report:?}");
    }

    #[test]
    fn the_answer_posed_again_is_the_answer(problem in any_problem(7, 12)) {
        let answer = solve(&problem);
        let again = again(&problem, &answer);
        prop_assert_eq!(solve(&again), answer);
    }

    /// A plan is carried out a few moves at a time, and planned anew after each:
    /// that must not add up to more than the plan itself.
    #[test]
    fn a_part_of_the_answer_leads_to_the_same_answer(
        problem in plain(8, 50),
        done in prop::collection::vec(any::<bool>(), 50),
    ) {
        let answer = solve(&problem);
        let mut partly = problem;
        for ((bucket, then), done) in partly.buckets.iter_mut().zip(&answer.owners).zip(&done) {
            bucket.reserved_for = *then;
            if *done || bucket.owners.is_empty() {
                bucket.owners = *then;
            }
        }
        prop_assert_eq!(solve(&partly), answer);
    }

    #[test]
    fn parts_of_the_answer_add_up_to_no_more_than_the_answer(
        problem in any_problem(6, 10),
        done in prop::collection::vec(any::<bool>(), 10),
    ) {
        let answer = solve(&problem);
        // Who stays only because nobody can take its place is not part of what is planned for:
        // whether it does can change on the way.
        let rows = problem.buckets.iter().zip(&answer.owners);
        let is_sound = |(bucket, row): (&Demand, &Owners)| row.iter().all(|owner| problem.may_own(bucket.class, owner));
        prop_assume!(rows.into_iter().all(is_sound));
        let mut partly = problem.clone();
        for ((bucket, then), done) in partly.buckets.iter_mut().zip(&answer.owners).zip(&done) {
            bucket.reserved_for = *then;
            if *done {
                bucket.owners = *then;
            }
        }
        let rest = solve(&partly);
        let done =
            Answer { owners: partly.buckets.iter().map(|bucket| bucket.owners).collect(), is_approximate: false };
        let so_far = moves(&problem, &done);
        prop_assert!(so_far + moves(&partly, &rest) <= moves(&problem, &answer));
    }

    #[test]
    fn one_more_equal_member_gets_its_share_and_nobody_else_anything(problem in settled(12, 80)) {
        let members = problem.members.len();
        let owners: Vec<Option<usize>> = problem.buckets.iter().map(|bucket| bucket.owners.primary()).collect();
        let joined = owned(&vec![1; members + 1], &owners);
        let answer = solve(&joined);
        prop_assert_eq!(moves(&joined, &answer), (joined.buckets.len() / (members + 1)) as u64);
        let moved = joined.buckets.iter().zip(&answer.owners).filter(|(now, then)| now.owners != **then);
        prop_assert!(moved.into_iter().all(|(_, then)| then.primary() == Some(members)));
    }

    #[test]
    fn one_less_member_moves_what_it_had_and_nothing_else(problem in settled(12, 80), leaver in 0usize..12) {
        let leaver = leaver % problem.members.len();
        let mut left = problem;
        left.members[leaver].weight = 0;
        let answer = solve(&left);
        for (now, then) in left.buckets.iter().zip(&answer.owners) {
            prop_assert_eq!(now.owners != *then, now.owners.contains(leaver));
        }
        // And so it is when the leaver has died instead of being drained.
        left.buckets.iter_mut().for_each(|bucket| bucket.owners.remove(leaver));
        prop_assert_eq!(moves(&left, &solve(&left)), 0);
    }

    #[test]
    fn the_check_refuses_what_is_wrong(problem in plain(6, 30), pick in any::<prop::sample::Index>()) {
        let weights: u64 = problem.members.iter().map(|member| u64::from(member.weight)).sum();
        prop_assume!(weights > 0 && !problem.buckets.is_empty());
        let answer = solve(&problem);
        let bucket = pick.index(answer.owners.len());
        let refused = |change: &dyn Fn(&mut Vec<Owners>)| {
            let mut wrong = answer.clone();
            change(&mut wrong.owners);
            check(&problem, &wrong).is_err()
        };
        prop_assert!(refused(&|owners| owners.truncate(owners.len() - 1)));
        prop_assert!(refused(&|owners| owners.push(Owners::default())));
        prop_assert!(refused(&|owners| owners[bucket] = Owners::default()));
        prop_assert!(refused(&|owners| owners[bucket] = Owners::from_iter([problem.members.len()])));
        prop_assert!(refused(&|owners| owners[bucket] = Owners::from_iter([0, 0])));

        let counts = count(&answer.owners, problem.members.len());
        let quotas = Quotas::of(&problem);
        let giver = answer.owners[bucket].primary().unwrap();
        for taker in (0..problem.members.len()).filter(|taker| *taker != giver) {
            let too_few = counts[giver] <= quotas.least[giver];
            let too_many = counts[taker] >= quotas.most[taker];
            let wrong = refused(&|owners| owners[bucket] = Owners::from_iter([taker]));
            prop_assert_eq!(wrong, too_few || too_many, "{} to {}", giver, taker);
        }
    }
}

#[test]
fn twenty_members_and_one_more() {
    let owners: Vec<Option<usize>> = (0..1024).map(|bucket| Some(bucket % 20)).collect();
    let problem = owned(&[1; 21], &owners);
    let answer = solve(&problem);
    let report = check(&problem, &answer).unwrap();
    assert_eq!((report.moves, report.moves_lower_bound), (48, 48));
    assert_eq!(count(&answer.owners, 21)[20], 48);
}

/// Three replicas over ten zones, from nothing, and after a death.
fn large(members: usize, buckets: usize) -> Problem {
    let candidate = |member: usize| Candidate {
        weight: 1 + u32::try_from(member % 3).unwrap(),
        capacity: None,
        zone: member % 10,
    };
    Problem {
        members: (0..members).map(candidate).collect(),
        replicas: 3,
        classes: vec![LabelGroup { allowed: vec![true; members] }],
        buckets: vec![Demand::default(); buckets],
        ..Problem::default()
    }
}

#[test]
fn a_large_pool_from_nothing_and_after_a_death() {
    let problem = large(300, 20_000);
    let first = solve(&problem);
    assert_eq!(check(&problem, &first).unwrap().placements, 60_000);
    let mut bereaved = again(&problem, &first);
    bereaved.members[1].weight = 0;
    bereaved.buckets.iter_mut().for_each(|bucket| bucket.owners.remove(1));
    let second = solve(&bereaved);
    let report = check(&bereaved, &second).unwrap();
    assert_eq!((report.moves, report.moves_lower_bound), (0, 0));
    assert_eq!(u64::from(report.placements), count(&first.owners, 300)[1]);
}

/// When a member dies, those who share its buckets with it take over: many, not a few.
#[test]
fn a_members_buckets_are_shared_with_many_others() {
    let mut problem = large(30, 3000);
    problem.members.iter_mut().for_each(|member| member.weight = 1);
    let answer = solve(&problem);
    for member in 0..30 {
        let mut shared = [0; 30];
        let rows = answer.owners.iter().filter(|row| row.contains(member));
        rows.flat_map(Owners::iter).filter(|owner| *owner != member).for_each(|owner| shared[owner] += 1);
        // 300 rows with two others each, of 27 in other zones: 22 each would be even.
        let others = shared.iter().filter(|rows| **rows > 0).count();
        assert!(others >= 20 && shared.iter().all(|rows| *rows <= 75), "{member}: {shared:?}");
    }
}

#[test]
fn primaries_are_balanced_too() {
    let problem = large(30, 3000);
    let answer = solve(&problem);
    let mut led = vec![0f64; 30];
    answer.owners.iter().filter_map(Owners::primary).for_each(|member| led[member] += 1.0);
    for (member, led) in led.into_iter().enumerate() {
        let share = 3000.0 * f64::from(problem.members[member].weight) / 60.0;
        assert!((led - share).abs() < 1.0, "member {member} leads {led}, its share is {share}");
    }
}

#[test]
fn seven_replicas_are_the_most() {
    let mut problem = Problem::simple(&[1; 9], 4);
    problem.replicas = REPLICAS_MAX;
    let answer = solve(&problem);
    assert!(answer.owners.iter().all(|row| row.len() == 7));
    check(&problem, &answer).unwrap();
}
