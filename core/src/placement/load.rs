//! How busy members are for their weights, and how busy the busiest is in any answer at least.

use std::cmp::Reverse;

use super::{Answer, Problem};

/// A member's load for its weight is given in this part of a unit.
pub(super) const SCALE: u128 = 1 << 20;

/// The load of the busiest member for its weight, and the least that it can be in any answer,
/// both in thousandths.
#[must_use]
pub fn busiest(problem: &Problem, answer: &Answer) -> (u64, u64) {
    let mut loads = vec![0u64; problem.members.len()];
    for (bucket, row) in answer.owners.iter().enumerate() {
        row.iter().for_each(|owner| loads[owner] += problem.weight(bucket));
    }
    let relative = |member: usize| relative(loads[member], problem.members[member].weight);
    let busiest = (0..loads.len()).filter(|m| problem.members[*m].weight > 0).map(relative).max();
    let milli = |scaled: u128| u64::try_from(scaled * 1000 / SCALE).unwrap_or(u64::MAX);
    (milli(busiest.unwrap_or(0)), milli(bound(problem)))
}

pub(super) fn relative(load: u64, weight: u32) -> u128 {
    u128::from(load) * SCALE / u128::from(weight.max(1))
}

/// No answer that places everything has a busiest member with less. The members that may own
/// the buckets of a class have at least these buckets; and the heaviest bucket has owners, of
/// whom the weakest has not more weight than the `replicas`-th strongest.
pub(super) fn bound(problem: &Problem) -> u128 {
    let classes = problem.classes.len();
    let mut of_class = vec![0u128; classes];
    let mut heaviest = vec![0u64; classes];
    for (bucket, demand) in problem.buckets.iter().enumerate() {
        let weight = problem.weight(bucket);
        of_class[demand.class] += u128::from(weight);
        heaviest[demand.class] = heaviest[demand.class].max(weight);
    }
    let strongest = |may: &dyn Fn(usize) -> bool| -> Vec<u32> {
        let able = (0..problem.members.len()).filter(|member| may(*member));
        let mut weights: Vec<u32> = able.map(|member| problem.members[member].weight).collect();
        weights.sort_unstable_by_key(|weight| Reverse(*weight));
        weights
    };
    let in_any = |m: usize| (0..classes).any(|class| of_class[class] > 0 && problem.may_own(class, m));
    let mut least = level(of_class.iter().sum(), problem.replicas, &strongest(&in_any));
    for class in 0..classes {
        let weights = strongest(&|member| problem.may_own(class, member));
        least = least.max(level(of_class[class], problem.replicas, &weights));
        if let Some(weakest) = weights.get(problem.replicas.min(weights.len()).saturating_sub(1)) {
            least = least.max(relative(heaviest[class], *weakest));
        }
    }
    least
}

/// How busy members of these weights, the greatest first, are at least with so much of which each
/// part has distinct owners: alike, but none has more than all there is.
fn level(all: u128, replicas: usize, weights: &[u32]) -> u128 {
    let owners = replicas.min(weights.len());
    let mut level = 0;
    for full in 0..owners {
        let rest: u128 = weights[full..].iter().map(|weight| u128::from(*weight)).sum();
        level = all * (owners - full) as u128 * SCALE / rest;
        if level * u128::from(weights[full]) <= all * SCALE {
            break;
        }
    }
    level
}
