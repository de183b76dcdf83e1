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

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::load::{SCALE, bound, relative};
use super::{Answer, MoveInProgress, Owners, Problem, Quotas, keep_irreplaceable, primaries};

/// Nothing is moved to even out less than that, in percent above the bound, unless the pool
/// says otherwise.
pub const TRIGGER_PERCENT: u64 = 10;
/// Where evening out ends, in percent above the bound.
pub const ENOUGH_PERCENT: u64 = 3;
/// So many of the least busy members are looked at for each bucket that the busiest passes on.
const TAKERS_MAX: usize = 64;
/// So many of a member's buckets of about the weight that is looked for are tried.
const NEAR_MAX: usize = 32;
/// Where the search ends, in buckets that were tried.
const WORK_MAX: u64 = 4_000_000;

/// The answer for a problem whose buckets have weights.
#[must_use]
pub fn solve(problem: &Problem) -> Answer {
    let mut loads = Loads::kept(problem);
    loads.place_missing();
    loads.even_out();
    let is_rough = !loads.charge(0);
    let mut answer = Answer { owners: loads.rows, is_approximate: is_rough };
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

struct Loads<'a> {
    problem: &'a Problem,
    quotas: Quotas,
    rows: Vec<Owners>,
    /// Each member's buckets, by weight.
    held: Vec<BTreeSet<(u64, usize)>>,
    loads: Vec<u64>,
    /// Members that may own anything, the least busy first.
    order: BTreeSet<(u128, usize)>,
    bound: u128,
    /// Owners of all rows.
    placed: u64,
    /// How much the search has tried.
    work: Cell<u64>,
}

impl<'a> Loads<'a> {
    /// Whoever owns a bucket and may, keeps it; what is under way to another is taken as there.
    fn kept(problem: &'a Problem) -> Self {
        let members = problem.members.len();
        let able = (0..members).filter(|member| problem.members[*member].weight > 0);
        let mut kept = Self {
            problem,
            quotas: Quotas::of(problem),
            rows: vec![Owners::default(); problem.buckets.len()],
            held: vec![BTreeSet::new(); members],
            loads: vec![0; members],
            order: able.map(|member| (0, member)).collect(),
            bound: bound(problem),
            placed: 0,
            work: Cell::new(0),
        };
        for (bucket, demand) in problem.buckets.iter().enumerate() {
            for owner in demand.owners.iter() {
                if kept.rows[bucket].len() < problem.replicas && kept.may_take(bucket, owner, None) {
                    kept.add(bucket, owner);
                }
            }
        }
        for MoveInProgress { bucket, from, to } in problem.in_progress.iter().copied() {
            if kept.rows[bucket].contains(from) && kept.may_take(bucket, to, Some(from)) {
                kept.remove(bucket, from);
                kept.add(bucket, to);
            }
        }
        kept
    }

    /// Whether a member may own a bucket besides those who do, if one of them gives it up.
    fn may_take(&self, bucket: usize, member: usize, instead_of: Option<usize>) -> bool {
        self.has_room(member) && self.may_own(bucket, member, instead_of)
    }

    fn has_room(&self, member: usize) -> bool {
        (self.held[member].len() as u64) < self.problem.limit(member)
    }

    /// Whether it may if it had room.
    fn may_own(&self, bucket: usize, member: usize, instead_of: Option<usize>) -> bool {
        let problem = self.problem;
        let class = problem.buckets[bucket].class;
        let zone = problem.members[member].zone;
        let others = self.rows[bucket].iter().filter(|owner| Some(*owner) != instead_of);
        let there = others.filter(|owner| problem.members[*owner].zone == zone).count();
        problem.may_own(class, member)
            && !self.rows[bucket].contains(member)
            && there < self.quotas.spread[class]
            && problem.accepts(member, &problem.buckets[bucket])
    }

    fn add(&mut self, bucket: usize, member: usize) {
        let weight = self.problem.weight(bucket);
        self.rows[bucket].push(member);
        self.placed += 1;
        self.held[member].insert((weight, bucket));
        self.change_load(member, |load| load + weight);
    }

    fn remove(&mut self, bucket: usize, member: usize) {
        let weight = self.problem.weight(bucket);
        self.rows[bucket].remove(member);
        self.placed -= 1;
        self.held[member].remove(&(weight, bucket));
        self.change_load(member, |load| load - weight);
    }

    fn change_load(&mut self, member: usize, change: impl FnOnce(u64) -> u64) {
        let is_able = self.order.remove(&(self.relative(member), member));
        self.loads[member] = change(self.loads[member]);
        if is_able {
            self.order.insert((self.relative(member), member));
        }
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
        buckets.sort_by_key(|bucket| (Reverse(problem.weight(*bucket)), *bucket));
        let enough = self.percent_above(ENOUGH_PERCENT);
        let percent = self.problem.trigger_percent.max(ENOUGH_PERCENT);
        for wanted in 1..=problem.replicas {
            for &bucket in &buckets {
                if self.rows[bucket].len() >= wanted {
                    continue;
                }
                let weight = problem.weight(bucket);
                let mut able = self.order.iter().map(|(_, member)| *member);
                let least_busy = able.find(|member| self.may_take(bucket, *member, None));
                // Whoever it is destined for gets it, unless another would be far less busy with it.
                let instead = least_busy.map_or(0, |member| self.relative_with(member, weight, 0));
                let most = enough.max(instead * u128::from(100 + percent) / 100);
                let fits = |member: &usize| {
                    self.may_take(bucket, *member, None) && self.relative_with(*member, weight, 0) <= most
                };
                let destined = problem.buckets[bucket].reserved_for.iter().find(fits);
                if let Some(member) = destined.or(least_busy).or_else(|| self.augmenting_path(bucket)) {
                    self.add(bucket, member);
                }
            }
        }
    }

    /// Has members that are full pass on buckets that others may own, until one of those that
    /// may own this one has room: by the shortest chain of moves.
    fn augmenting_path(&mut self, bucket: usize) -> Option<usize> {
        if self.placed >= self.quotas.total || !self.charge(0) {
            return None;
        }
        let able: Vec<usize> = self.order.iter().map(|(_, member)| *member).collect();
        let takers = able.iter().copied().filter(|member| self.may_own(bucket, *member, None));
        // Who was reached, from whom, by passing on which bucket.
        let mut reached: BTreeMap<usize, Option<(usize, usize)>> = takers.map(|m| (m, None)).collect();
        let mut queue: VecDeque<usize> = reached.keys().copied().collect();
        while let Some(from) = queue.pop_front() {
            for &to in &able {
                if !self.charge(1) {
                    return None;
                }
                if reached.contains_key(&to) {
                    continue;
                }
                let mut passable = self.held[from].iter().map(|(_, other)| *other);
                let Some(other) = passable.find(|other| self.probe(*other, to, from)) else { continue };
                reached.insert(to, Some((from, other)));
                if self.has_room(to) {
                    return self.apply_path(to, &reached);
                }
                queue.push_back(to);
            }
        }
        None
    }

    /// Whether a member may own a bucket instead of another, if it had room and there is time left
    /// to search.
    fn probe(&self, bucket: usize, to: usize, from: usize) -> bool {
        self.charge(1) && self.may_own(bucket, to, Some(from))
    }

    /// Moves along a chain, its end first. Returns who has room then.
    fn apply_path(
        &mut self,
        mut to: usize,
        chain: &BTreeMap<usize, Option<(usize, usize)>>,
    ) -> Option<usize> {
        while let Some((from, bucket)) = chain[&to] {
            if !self.may_take(bucket, to, Some(from)) {
                return None;
            }
            self.remove(bucket, from);
            self.add(bucket, to);
            to = from;
        }
        Some(to)
    }

    fn percent_above(&self, percent: u64) -> u128 {
        self.bound * u128::from(100 + percent) / 100
    }

    /// Takes note of so much of the search. False once it is enough.
    fn charge(&self, work: u64) -> bool {
        self.work.set(self.work.get() + work);
        self.work.get() < WORK_MAX
    }

    /// Evens out, as far as the budget goes: first the busiest, if it is far above the bound; then
    /// whoever can gain enough.
    fn even_out(&mut self) {
        let mut left = self.problem.budget.unwrap_or(usize::MAX);
        let percent = self.problem.trigger_percent.max(ENOUGH_PERCENT);
        let trigger = self.percent_above(percent);
        if self.order.last().is_some_and(|(busiest, _)| *busiest > trigger) {
            let enough = self.percent_above(ENOUGH_PERCENT);
            while let Some((busy, from)) = self.order.last().copied()
                && busy > enough
                && let Some(exchange) = self.best_exchange(from)
                && self.exchange(from, &exchange, &mut left)
            {}
        }
        let strength: u128 = self.problem.members.iter().map(|member| u128::from(member.weight)).sum();
        let mean = self.loads.iter().map(|load| u128::from(*load)).sum::<u128>() * SCALE / strength.max(1);
        let gain = mean * u128::from(percent) / 100;
        while left > 0 {
            let least = self.order.first().map_or(0, |(least, _)| *least);
            // Nobody gains more than what it has above the least busy.
            let mut busy = self.order.iter().rev().take_while(|(busy, _)| busy - least > gain);
            let found = busy.find_map(|(busy, from)| {
                let exchange = self.best_exchange(*from).filter(|e| busy - e.busier > gain)?;
                Some((*from, exchange))
            });
            let Some((from, exchange)) = found else { return };
            if !self.exchange(from, &exchange, &mut left) {
                return;
            }
        }
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
    /// two is the least busy. `None` if nothing helps, or there was no time left to find it.
    fn best_exchange(&self, from: usize) -> Option<Exchange> {
        let able = self.order.iter().map(|(_, member)| *member).filter(|to| *to != from);
        let takers: Vec<usize> = able.take(TAKERS_MAX).collect();
        let now = self.relative(from);
        let passed_on = |to: usize| {
            let buckets =
                self.nearest(from, self.ideal(from, to), move |bucket| self.probe(bucket, to, from));
            buckets.map(move |(weight, bucket)| {
                let busier = self.relative_with(from, 0, weight).max(self.relative_with(to, weight, 0));
                Exchange { busier, moves: 1, bucket, to, back: None }
            })
        };
        let with_room = takers.iter().copied().filter(|to| self.has_room(*to));
        let best = with_room.flat_map(passed_on).filter(|exchange| exchange.busier < now).min();
        if best.is_some() || !self.charge(0) {
            return best;
        }
        let swapped = |(to, weight, bucket): (usize, u64, usize)| {
            let back = weight.saturating_sub(self.ideal(from, to));
            let backs = self.nearest(to, back, move |back| self.can_swap(bucket, from, back, to));
            backs.map(move |(back_weight, back)| {
                let from_is = self.relative_with(from, back_weight, weight);
                let busier = from_is.max(self.relative_with(to, weight, back_weight));
                Exchange { busier, moves: 2, bucket, to, back: Some(back) }
            })
        };
        let pairs = takers.iter().flat_map(|to| self.held[from].iter().map(|(w, bucket)| (*to, *w, *bucket)));
        let in_time = pairs.take_while(|_| self.charge(1));
        in_time.flat_map(swapped).filter(|exchange| exchange.busier < now).min()
    }

    /// How much a member would pass on to another for both to be as busy.
    fn ideal(&self, from: usize, to: usize) -> u64 {
        let weight = |member: usize| u128::from(self.problem.members[member].weight);
        let load = |member: usize| u128::from(self.loads[member]);
        let above = (load(from) * weight(to)).saturating_sub(load(to) * weight(from));
        u64::try_from(above / (weight(from) + weight(to)).max(1)).unwrap_or(u64::MAX)
    }

    /// Of a member's buckets that will do, the one that is next below a weight and the one that is
    /// next above, among the first that are looked at.
    fn nearest(
        &self,
        member: usize,
        weight: u64,
        will_do: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = (u64, usize)> {
        let held = &self.held[member];
        let below = held.range(..(weight, usize::MAX)).rev().take(NEAR_MAX);
        let above = held.range((weight, usize::MAX)..).take(NEAR_MAX);
        let first = |found: Option<&(u64, usize)>| found.copied();
        let below = first({ below }.find(|(_, bucket)| will_do(*bucket)));
        let above = first({ above }.find(|(_, bucket)| will_do(*bucket)));
        below.into_iter().chain(above)
    }

    /// Capacities do not change when one goes for another.
    fn can_swap(&self, bucket: usize, from: usize, back: usize, to: usize) -> bool {
        self.may_own(bucket, to, Some(from)) && self.may_own(back, from, Some(to))
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
    use crate::placement::load::busiest;
    use crate::placement::{Candidate, Demand, LabelGroup};

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
            classes: vec![LabelGroup { allowed: vec![true; members.len()] }],
            members,
            buckets: demands,
            weights: (0..buckets).map(|_| weight(&mut number)).collect(),
            trigger_percent: TRIGGER_PERCENT,
            ..Problem::default()
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
