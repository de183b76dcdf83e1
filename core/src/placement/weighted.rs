//! Buckets of unequal weight: how busy each keeps its owner. To even them out exactly is
//! bin packing; here the busiest member is brought close to a bound that no answer can be
//! below, a few moves at a time.
//!
//! Whoever owns a bucket and may, keeps it. What nobody has goes to the least busy, the heaviest
//! first (R. Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2),
//! 1969). Then, only if the busiest is so far above the bound that it pays, it passes on one
//! bucket, or exchanges two, whichever evens out the most, again and again until it is
//! [`ENOUGH_PERCENT`] above it, nothing helps, or the budget is used up; and so do others, as long
//! as one exchange gains enough. That nothing is moved for less keeps plans from swinging to and
//! fro.

use std::collections::BTreeSet;

use super::{Answer, Owners, Problem, Quotas, keep_irreplaceable, primaries};

/// Nothing is moved to even out less than that, in percent above the bound, unless the pool
/// says otherwise.
pub const TRIGGER_PERCENT: u64 = 10;
/// Where evening out ends, in percent above the bound.
pub const ENOUGH_PERCENT: u64 = 3;
/// So many of the least busy members are looked at for each bucket that the busiest passes on.
const TAKERS_MAX: usize = 64;
/// A member's load for its weight is told in this part of a unit.
const SCALE: u128 = 1 << 20;

/// The answer for a problem whose buckets have weights.
#[must_use]
pub fn solve(problem: &Problem) -> Answer {
    let mut loads = Loads::kept(problem);
    loads.place_missing();
    loads.even_out();
    let mut answer = Answer { owners: loads.rows, is_rough: false };
    order(problem, &mut answer);
    primaries::choose(problem, &mut answer);
    keep_irreplaceable(problem, &mut answer);
    answer
}

/// Whoever owned a bucket before comes first, as before.
fn order(problem: &Problem, answer: &mut Answer) {
    for (demand, row) in problem.buckets.iter().zip(&mut answer.owners) {
        let before = demand.owners.iter().filter(|owner| row.contains(*owner));
        let new = row.iter().filter(|owner| !demand.owners.contains(*owner));
        *row = before.chain(new).collect();
    }
}

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

fn relative(load: u64, weight: u32) -> u128 {
    u128::from(load) * SCALE / u128::from(weight.max(1))
}

/// No answer that places everything has a busiest member with less. The members that may own
/// the buckets of a class have at least these buckets; and the heaviest bucket has owners, of
/// whom the weakest has not more weight than the `replicas`-th strongest.
fn bound(problem: &Problem) -> u128 {
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
        weights.sort_unstable_by_key(|weight| std::cmp::Reverse(*weight));
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

struct Loads<'a> {
    problem: &'a Problem,
    /// Most owners of a bucket of each class in one zone.
    spread: Vec<usize>,
    rows: Vec<Owners>,
    held: Vec<BTreeSet<usize>>,
    loads: Vec<u64>,
    bound: u128,
}

impl<'a> Loads<'a> {
    fn kept(problem: &'a Problem) -> Self {
        let members = problem.members.len();
        let mut kept = Self {
            problem,
            spread: Quotas::of(problem).spread,
            rows: vec![Owners::default(); problem.buckets.len()],
            held: vec![BTreeSet::new(); members],
            loads: vec![0; members],
            bound: bound(problem),
        };
        for (bucket, demand) in problem.buckets.iter().enumerate() {
            for owner in demand.owners.iter() {
                if kept.rows[bucket].len() < problem.replicas && kept.may_take(bucket, owner, None) {
                    kept.add(bucket, owner);
                }
            }
        }
        kept
    }

    /// Whether a member may own a bucket besides those who do, if one of them gives it up.
    fn may_take(&self, bucket: usize, member: usize, instead_of: Option<usize>) -> bool {
        let problem = self.problem;
        let class = problem.buckets[bucket].class;
        let zone = problem.members[member].zone;
        let others = self.rows[bucket].iter().filter(|owner| Some(*owner) != instead_of);
        let there = others.filter(|owner| problem.members[*owner].zone == zone).count();
        problem.may_own(class, member)
            && !self.rows[bucket].contains(member)
            && there < self.spread[class]
            && (self.held[member].len() as u64) < problem.limit(member)
    }

    fn add(&mut self, bucket: usize, member: usize) {
        self.rows[bucket].push(member);
        self.held[member].insert(bucket);
        self.loads[member] += self.problem.weight(bucket);
    }

    fn remove(&mut self, bucket: usize, member: usize) {
        self.rows[bucket].remove(member);
        self.held[member].remove(&bucket);
        self.loads[member] -= self.problem.weight(bucket);
    }

    fn relative(&self, member: usize) -> u128 {
        relative(self.loads[member], self.problem.members[member].weight)
    }

    /// A member's load for its weight with so much more.
    fn relative_with(&self, member: usize, more: u64, less: u64) -> u128 {
        let load = (self.loads[member] + more).saturating_sub(less);
        relative(load, self.problem.members[member].weight)
    }

    /// First one owner for every bucket, then a second; of each the heaviest buckets first.
    fn place_missing(&mut self) {
        let problem = self.problem;
        let mut buckets: Vec<usize> =
            (0..problem.buckets.len()).filter(|b| self.rows[*b].len() < problem.replicas).collect();
        buckets.sort_by_key(|bucket| (std::cmp::Reverse(problem.weight(*bucket)), *bucket));
        let able = (0..problem.members.len()).filter(|member| problem.members[*member].weight > 0);
        let mut order: BTreeSet<(u128, usize)> = able.map(|member| (self.relative(member), member)).collect();
        let enough = self.percent_above(ENOUGH_PERCENT);
        for wanted in 1..=problem.replicas {
            for &bucket in buckets.iter() {
                if self.rows[bucket].len() >= wanted {
                    continue;
                }
                let weight = problem.weight(bucket);
                let fits = |member: &usize| {
                    self.may_take(bucket, *member, None) && self.relative_with(*member, weight, 0) <= enough
                };
                let destined = problem.buckets[bucket].destined.iter().find(fits);
                let least_busy =
                    || order.iter().map(|(_, member)| *member).find(|m| self.may_take(bucket, *m, None));
                if let Some(member) = destined.or_else(least_busy) {
                    order.remove(&(self.relative(member), member));
                    self.add(bucket, member);
                    order.insert((self.relative(member), member));
                }
            }
        }
    }

    fn percent_above(&self, percent: u64) -> u128 {
        self.bound * u128::from(100 + percent) / 100
    }

    /// Evens out, as far as the budget goes: first the busiest, if it is far above the bound; then
    /// whoever can gain enough.
    fn even_out(&mut self) {
        let mut left = self.problem.budget.unwrap_or(usize::MAX);
        let percent = self.problem.trigger_percent.max(ENOUGH_PERCENT);
        let trigger = self.percent_above(percent);
        if self.busiest_first().first().is_some_and(|first| self.relative(*first) > trigger) {
            let enough = self.percent_above(ENOUGH_PERCENT);
            while let Some(from) = self.busiest_first().first().copied()
                && self.relative(from) > enough
                && let Some(exchange) = self.best_exchange(from)
                && self.exchange(from, &exchange, &mut left)
            {}
        }
        let strength: u128 = self.problem.members.iter().map(|member| u128::from(member.weight)).sum();
        let mean = self.loads.iter().map(|load| u128::from(*load)).sum::<u128>() * SCALE / strength.max(1);
        let gain = mean * u128::from(percent) / 100;
        while {
            let order = self.busiest_first();
            let least = order.last().map_or(0, |to| self.relative(*to));
            order.into_iter().any(|from| {
                // Nobody gains more than what it has above the least busy.
                if self.relative(from) - least <= gain {
                    return false;
                }
                let exchange = self.best_exchange(from).filter(|e| self.relative(from) - e.busier > gain);
                exchange.is_some_and(|exchange| self.exchange(from, &exchange, &mut left))
            })
        } {}
    }

    fn busiest_first(&self) -> Vec<usize> {
        let able = (0..self.held.len()).filter(|member| self.problem.members[*member].weight > 0);
        let mut order: Vec<usize> = able.collect();
        order.sort_by_key(|member| (std::cmp::Reverse(self.relative(*member)), *member));
        order
    }

    /// False if there is no budget left for it.
    fn exchange(&mut self, from: usize, exchange: &Exchange, left: &mut usize) -> bool {
        let cost = 1 + usize::from(exchange.back.is_some());
        if cost > *left {
            return false;
        }
        *left -= cost;
        self.remove(exchange.bucket, from);
        if let Some(back) = exchange.back {
            self.remove(back, exchange.to);
            self.add(back, from);
        }
        self.add(exchange.bucket, exchange.to);
        true
    }

    /// What a member should pass on, and what it should take for it, so that the busier of the
    /// two is the least busy.
    fn best_exchange(&self, from: usize) -> Option<Exchange> {
        let problem = self.problem;
        let able = (0..self.held.len()).filter(|to| *to != from && problem.members[*to].weight > 0);
        let mut takers: Vec<usize> = able.collect();
        takers.sort_by_key(|to| (self.relative(*to), *to));
        takers.truncate(TAKERS_MAX);
        let now = self.relative(from);
        let mut best: Option<Exchange> = None;
        let mut consider = |exchange: Exchange| {
            if exchange.busier < now && best.as_ref().is_none_or(|best| exchange < *best) {
                best = Some(exchange);
            }
        };
        for &to in &takers {
            for &bucket in &self.held[from] {
                let weight = problem.weight(bucket);
                if self.may_take(bucket, to, Some(from)) {
                    let busier = self.relative_with(from, 0, weight).max(self.relative_with(to, weight, 0));
                    consider(Exchange { busier, moves: 1, bucket, to, back: None });
                }
            }
        }
        if let Some(best) = best {
            return Some(best);
        }
        let mut best: Option<Exchange> = None;
        for &to in &takers {
            for &bucket in &self.held[from] {
                let weight = problem.weight(bucket);
                for &back in &self.held[to] {
                    let returned = problem.weight(back);
                    let busier = self
                        .relative_with(from, returned, weight)
                        .max(self.relative_with(to, weight, returned));
                    let is_better = busier < now && best.as_ref().is_none_or(|best| busier < best.busier);
                    if is_better && self.can_swap(bucket, from, back, to) {
                        best = Some(Exchange { busier, moves: 2, bucket, to, back: Some(back) });
                    }
                }
            }
        }
        best
    }

    /// Capacities do not change when one goes for another.
    fn can_swap(&self, bucket: usize, from: usize, back: usize, to: usize) -> bool {
        let fits = |bucket: usize, member: usize, instead_of: usize| {
            let problem = self.problem;
            let class = problem.buckets[bucket].class;
            let zone = problem.members[member].zone;
            let others = self.rows[bucket].iter().filter(|owner| *owner != instead_of);
            problem.may_own(class, member)
                && !self.rows[bucket].contains(member)
                && others.filter(|owner| problem.members[*owner].zone == zone).count() < self.spread[class]
        };
        fits(bucket, to, from) && fits(back, from, to)
    }
}

/// One bucket for none, or for another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Exchange {
    /// How busy the busier of the two is then.
    busier: u128,
    moves: usize,
    bucket: usize,
    to: usize,
    back: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{Candidate, Class, Demand};

    /// A sequence of numbers that look drawn by chance: xorshift (G. Marsaglia, 2003).
    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed | 1;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        }
    }

    fn problem(seed: u64) -> Problem {
        let mut number = numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let members = 2 + usize::try_from(number(12)).unwrap();
        let buckets = members * (8 + usize::try_from(number(12)).unwrap());
        let replicas = 1 + usize::try_from(number(2)).unwrap();
        let member = |number: &mut dyn FnMut(u64) -> u64| Candidate {
            weight: 1 + u32::try_from(number(3)).unwrap(),
            capacity: None,
            zone: 0,
        };
        let members: Vec<Candidate> = (0..members).map(|_| member(&mut number)).collect();
        let owners = |number: &mut dyn FnMut(u64) -> u64| match number(3) {
            0 => Owners::default(),
            _ => std::iter::once(usize::try_from(number(members.len() as u64)).unwrap()).collect(),
        };
        let demands =
            (0..buckets).map(|_| Demand { owners: owners(&mut number), ..Demand::default() }).collect();
        // Most are light, a few heavy.
        let weight = |number: &mut dyn FnMut(u64) -> u64| 100 + number(100) + number(5) / 4 * number(300);
        Problem {
            replicas,
            classes: vec![Class { allowed: vec![true; members.len()] }],
            members,
            buckets: demands,
            weights: (0..buckets).map(|_| weight(&mut number)).collect(),
            trigger_percent: TRIGGER_PERCENT,
            budget: None,
        }
    }

    #[test]
    fn the_busiest_is_near_the_bound_and_nothing_changes_after() {
        for seed in 1..400 {
            let problem = problem(seed);
            let answer = solve(&problem);
            let (busiest, bound) = busiest(&problem, &answer);
            assert!(busiest * 100 <= bound * 110, "seed {seed}: {busiest} of {bound}: {problem:?}");
            let mut again = problem.clone();
            again.buckets.iter_mut().zip(&answer.owners).for_each(|(bucket, row)| bucket.owners = *row);
            assert_eq!(solve(&again), answer, "seed {seed}");
        }
    }

    #[test]
    fn a_budget_ends_it_and_a_settled_one_is_left_alone() {
        let mut problem = Problem::simple(&[1, 1], 20);
        problem.weights = vec![10; 20];
        problem.trigger_percent = TRIGGER_PERCENT;
        problem.buckets.iter_mut().for_each(|bucket| bucket.owners = std::iter::once(0).collect());
        problem.budget = Some(3);
        let moved = |answer: &Answer| answer.owners.iter().filter(|row| row.contains(1)).count();
        assert_eq!(moved(&solve(&problem)), 3);
        problem.budget = None;
        assert_eq!(moved(&solve(&problem)), 10);
        // 11 to 9 is 10 % above: not worth a move.
        for bucket in &mut problem.buckets[11..] {
            bucket.owners = std::iter::once(1).collect();
        }
        assert_eq!(moved(&solve(&problem)), 9);
    }
}
