//! Laws of placement: balanced, no needless moves, stable; an oracle that tries
//! everything; and that the independent check notices what is wrong.

use proptest::prelude::*;
use rota_core::placement::check::{check, lower_bound};
use rota_core::placement::{Answer, Problem, count, solve};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Few members with small weights, so that ties and nearly whole shares are
/// common; a third of the buckets at one member; some vacant.
fn problem(members_max: usize, buckets_max: usize) -> impl Strategy<Value = Problem> {
    let weight = prop_oneof![2 => Just(0), 8 => 1u32..=4, 1 => Just(1_000_000)];
    prop::collection::vec(weight, 1..=members_max).prop_flat_map(move |weights| {
        let members = weights.len();
        let owner = prop_oneof![2 => Just(None), 5 => (0..members).prop_map(Some), 3 => Just(Some(0))];
        let owners = prop::collection::vec(owner, 0..=buckets_max);
        (Just(weights), owners).prop_map(|(weights, owners)| Problem { weights, owners })
    })
}

/// Equal members, balanced.
fn settled(members_max: usize, buckets_max: usize) -> impl Strategy<Value = Problem> {
    (2..=members_max, 0..=buckets_max).prop_flat_map(|(members, buckets)| {
        let owners: Vec<Option<usize>> = (0..buckets).map(|bucket| Some(bucket % members)).collect();
        let weights = vec![1; members];
        Just(owners).prop_shuffle().prop_map(move |owners| Problem { weights: weights.clone(), owners })
    })
}

fn moves(problem: &Problem, answer: &Answer) -> u64 {
    let pairs = problem.owners.iter().zip(&answer.owners);
    pairs.filter(|(now, then)| now.is_some() && now != then).count() as u64
}

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn the_answer_is_valid_and_moves_no_more_than_the_lower_bound(problem in problem(8, 50)) {
        let answer = solve(&problem);
        let report = check(&problem, &answer).unwrap();
        prop_assert_eq!(u64::from(report.moves), lower_bound(&problem));
        prop_assert_eq!(u64::from(report.moves), moves(&problem, &answer));
        prop_assert_eq!(report.moves_lower_bound, report.moves);
        let vacant = problem.owners.iter().filter(|owner| owner.is_none()).count();
        let taken = if problem.weight_total() == 0 { (0, vacant) } else { (vacant, 0) };
        prop_assert_eq!((report.placements as usize, report.unplaced as usize), taken);
    }

    #[test]
    fn the_answer_posed_again_is_the_answer(problem in problem(8, 50)) {
        let answer = solve(&problem);
        let again = Problem { weights: problem.weights, owners: answer.owners.clone() };
        prop_assert_eq!(solve(&again), answer);
        prop_assert_eq!(lower_bound(&again), 0);
    }

    /// A plan is carried out a few moves at a time, and planned anew after each:
    /// that must not add up to more than the plan itself.
    #[test]
    fn a_part_of_the_answer_leads_to_the_same_answer(
        problem in problem(8, 50),
        done in prop::collection::vec(any::<bool>(), 50),
    ) {
        let answer = solve(&problem);
        let pairs = problem.owners.iter().zip(&answer.owners).zip(&done);
        let owners = pairs.map(|((now, then), done)| if *done || now.is_none() { *then } else { *now }).collect();
        prop_assert_eq!(solve(&Problem { weights: problem.weights, owners }), answer);
    }

    #[test]
    fn one_more_equal_member_gets_its_share_and_nobody_else_anything(problem in settled(12, 80)) {
        let members = problem.weights.len();
        let joined = Problem { weights: vec![1; members + 1], ..problem };
        let answer = solve(&joined);
        prop_assert_eq!(moves(&joined, &answer), (joined.owners.len() / (members + 1)) as u64);
        let moved = joined.owners.iter().zip(&answer.owners).filter(|(now, then)| now != then);
        prop_assert!(moved.into_iter().all(|(_, then)| *then == Some(members)));
    }

    #[test]
    fn one_less_member_moves_what_it_had_and_nothing_else(problem in settled(12, 80), leaver in 0usize..12) {
        let leaver = leaver % problem.weights.len();
        let mut left = problem;
        left.weights[leaver] = 0;
        let answer = solve(&left);
        for (now, then) in left.owners.iter().zip(&answer.owners) {
            prop_assert_eq!(now != then, *now == Some(leaver));
        }
        // And so it is when the leaver has died instead of being drained.
        for owner in &mut left.owners {
            *owner = owner.filter(|owner| *owner != leaver);
        }
        prop_assert_eq!(moves(&left, &solve(&left)), 0);
    }

    #[test]
    fn the_check_refuses_what_is_wrong(problem in problem(6, 30), pick in any::<prop::sample::Index>()) {
        prop_assume!(problem.weight_total() > 0 && !problem.owners.is_empty());
        let answer = solve(&problem);
        let bucket = pick.index(answer.owners.len());
        let refused = |change: &dyn Fn(&mut Vec<Option<usize>>)| {
            let mut wrong = answer.clone();
            change(&mut wrong.owners);
            check(&problem, &wrong).is_err()
        };
        prop_assert!(refused(&|owners| owners.truncate(owners.len() - 1)));
        prop_assert!(refused(&|owners| owners.push(Some(0))));
        prop_assert!(refused(&|owners| owners[bucket] = None));
        prop_assert!(refused(&|owners| owners[bucket] = Some(problem.weights.len())));

        let counts = count(&answer.owners, problem.weights.len());
        let (total, buckets) = (u128::from(problem.weight_total()), problem.owners.len() as u128);
        let share = |member: usize| buckets * u128::from(problem.weights[member]);
        let giver = answer.owners[bucket].unwrap();
        for taker in (0..problem.weights.len()).filter(|taker| *taker != giver) {
            let too_few = u128::from(counts[giver]) * total <= share(giver);
            let too_many = u128::from(counts[taker]) * total >= share(taker);
            let wrong = refused(&|owners| owners[bucket] = Some(taker));
            prop_assert_eq!(wrong, too_few || too_many, "{} to {}", giver, taker);
        }
    }
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn nobody_finds_a_balanced_answer_with_fewer_moves(problem in problem(4, 7)) {
        prop_assume!(problem.weight_total() > 0);
        prop_assert_eq!(Some(moves(&problem, &solve(&problem))), fewest_moves_of_all(&problem));
    }
}

/// Tries every owner for every bucket.
fn fewest_moves_of_all(problem: &Problem) -> Option<u64> {
    let members = problem.weights.len();
    let all = members.pow(u32::try_from(problem.owners.len()).unwrap());
    let answers = (0..all).map(|mut number| {
        let mut digit = |_: &Option<usize>| {
            let owner = number % members;
            number /= members;
            Some(owner)
        };
        Answer { owners: problem.owners.iter().map(&mut digit).collect() }
    });
    answers.filter(|answer| is_balanced(problem, answer)).map(|answer| moves(problem, &answer)).min()
}

fn is_balanced(problem: &Problem, answer: &Answer) -> bool {
    let total: u64 = problem.weights.iter().map(|weight| u64::from(*weight)).sum();
    problem.weights.iter().enumerate().all(|(member, weight)| {
        let have = answer.owners.iter().filter(|owner| **owner == Some(member)).count() as u64;
        let share = answer.owners.len() as u64 * u64::from(*weight);
        (share / total..=share.div_ceil(total)).contains(&have)
    })
}

#[test]
fn twenty_members_and_one_more() {
    let owners = (0..1024).map(|bucket| Some(bucket % 20)).collect();
    let problem = Problem { weights: vec![1; 21], owners };
    let answer = solve(&problem);
    let report = check(&problem, &answer).unwrap();
    assert_eq!((report.moves, report.moves_lower_bound), (48, 48));
    assert_eq!(count(&answer.owners, 21)[20], 48);
}

#[test]
fn a_large_pool_from_nothing_and_after_a_death() {
    let weights: Vec<u32> = (0..1000).map(|member| 1 + member % 3).collect();
    let mut problem = Problem { weights, owners: vec![None; 100_000] };
    let first = solve(&problem);
    assert_eq!(check(&problem, &first).unwrap().placements, 100_000);
    problem.owners = first.owners;
    problem.weights[1] = 0;
    let report = check(&problem, &solve(&problem)).unwrap();
    assert_eq!(report.moves, report.moves_lower_bound);
    assert!(u64::from(report.moves) >= problem.counts()[1]);
}
