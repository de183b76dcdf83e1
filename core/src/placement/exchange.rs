//! Exchanges between members, until nothing can be better.
//!
//! An answer is a flow: from buckets through their zones to members, whole and with
//! bounds. It costs one for every owner that loses a bucket, and very much for every
//! bucket that a member has less than its least or more than its most. Such a flow is as
//! cheap as can be exactly when no cycle of the network that is left costs less than
//! nothing (M. Klein, Management Science 14(3), 1967); what is missing is added along
//! cheapest paths, which makes no such cycle (R. Busacker and P. Gowen, 1960).
//!
//! The network has an arc for each bucket and member. Here only the members are nodes,
//! one more for "no other", and one for each number of owners that buckets are short of:
//! from each to each leads the cheapest bucket that can pass that way. A cheapest way needs
//! a bucket twice only if it can be parted in two; then it is.

use std::collections::VecDeque;

use super::rows::Rows;

/// What it costs if a member has a bucket too many or too few, in moves: more than there
/// can be.
const IMBALANCE_COST: i64 = 1 << 32;
/// No way leads there.
const UNREACHABLE: i64 = i64::MAX / 4;
/// Most arcs that are looked at in each phase. It is far more than is needed, but for
/// problems that are large and hindered in many places at once. A count, not a time: the
/// same problem has the same answer everywhere.
const ARCS_MAX: u64 = 100_000_000;

/// A bucket passes from a member to another. Without a bucket: a member keeps one more, or
/// does with one less. From or to a place that is vacant: a bucket gets one owner more, or
/// has one less.
#[derive(Debug, Clone, Copy)]
struct ResidualArc {
    from: usize,
    to: usize,
    bucket: Option<usize>,
    cost: i64,
}

/// Makes the rows as good as can be. False if the search has ended early: what is found
/// until then keeps the rules, but may be less even or move more than is needed.
pub(super) fn optimize(rows: &mut Rows<'_>) -> bool {
    let mut market = ResidualGraph { rows, arcs: 0, hubs: Vec::new() };
    market.augment(Search::First)
        && market.rebalance()
        && market.cancel_negative_cycles()
        && market.augment(Search::Cheapest)
        && market.cancel_negative_cycles()
}

/// Which way is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// The first that is found.
    First,
    /// The cheapest.
    Cheapest,
}

struct ResidualGraph<'r, 'a> {
    rows: &'r mut Rows<'a>,
    /// Arcs looked at.
    arcs: u64,
    hubs: Vec<ZoneHub>,
}

/// The two cheapest buckets that a member could pass on to members of one zone, for
/// buckets of one class.
type ZoneHub = [Option<(i64, usize)>; 2];

/// Cheapest ways to the nodes, and by which pass each is reached.
struct ShortestPaths {
    costs: Vec<i64>,
    by: Vec<Option<ResidualArc>>,
    queue: VecDeque<usize>,
    is_queued: Vec<bool>,
}

impl ShortestPaths {
    fn new(nodes: usize) -> Self {
        Self {
            costs: vec![UNREACHABLE; nodes],
            by: vec![None; nodes],
            queue: VecDeque::new(),
            is_queued: vec![false; nodes],
        }
    }

    /// A way to a node is known.
    fn relax(&mut self, node: usize, cost: i64, by: Option<ResidualArc>) {
        if cost < self.costs[node] {
            self.costs[node] = cost;
            self.by[node] = by;
            if !self.is_queued[node] {
                self.is_queued[node] = true;
                self.queue.push_back(node);
            }
        }
    }

    /// The passes that lead to a node, from the first on.
    fn path_to(&self, node: usize) -> Vec<ResidualArc> {
        let mut way: Vec<ResidualArc> =
            std::iter::successors(self.by[node], |pass| self.by[pass.from]).take(self.by.len()).collect();
        way.reverse();
        way
    }

    /// A cycle of passes, if nodes are reached from each other in turn.
    fn cycle(&self) -> Option<Vec<ResidualArc>> {
        let mut seen_from = vec![usize::MAX; self.by.len()];
        for start in 0..self.by.len() {
            let mut node = start;
            while seen_from[node] == usize::MAX {
                seen_from[node] = start;
                let Some(pass) = self.by[node] else { break };
                node = pass.from;
            }
            if seen_from[node] == start && self.by[node].is_some() {
                let around = std::iter::successors(self.by[node], |pass| {
                    self.by[pass.from].filter(|_| pass.from != node)
                });
                let mut cycle: Vec<ResidualArc> = around.collect();
                cycle.reverse();
                return Some(cycle);
            }
        }
        None
    }
}

impl ResidualGraph<'_, '_> {
    /// The node that stands for no member.
    fn sink(&self) -> usize {
        self.rows.problem.members.len()
    }

    /// The node that stands for the places of all buckets that so many owners leave vacant.
    fn vacant(&self, owners: usize) -> usize {
        self.sink() + 1 + owners
    }

    fn nodes(&self) -> usize {
        self.sink() + 1 + self.rows.problem.replicas
    }

    /// Whether there are vacant places that nobody can take.
    fn is_short(&self) -> bool {
        let problem = self.rows.problem;
        self.rows.quotas.total < (problem.buckets.len() * problem.replicas) as u64
    }

    fn is_exhausted(&self) -> bool {
        self.arcs > ARCS_MAX
    }

    /// Goes round every cycle that saves something. False if the search has ended early, here
    /// and in the other phases.
    fn cancel_negative_cycles(&mut self) -> bool {
        self.arcs = 0;
        while !self.is_exhausted() {
            let mut ways = ShortestPaths::new(self.nodes());
            (0..self.nodes()).for_each(|node| ways.relax(node, 0, None));
            let Some(cycle) = self.follow(&mut ways, Search::Cheapest, |_| false) else { return true };
            if !self.apply_cycle(cycle) {
                return false;
            }
        }
        false
    }

    /// Gives buckets with too few owners more, as long as any are missing, and takes for
    /// them from buckets that have two more.
    fn augment(&mut self, haste: Search) -> bool {
        self.arcs = 0;
        for owners in 0..self.rows.problem.replicas {
            while !self.is_exhausted() && self.add_owner(owners, haste) {}
        }
        !self.is_exhausted()
    }

    /// Gives a bucket with so many owners one more. False if none can have it.
    fn add_owner(&mut self, owners: usize, haste: Search) -> bool {
        let (nobody, source) = (self.sink(), self.vacant(owners));
        let mut ways = ShortestPaths::new(self.nodes());
        ways.relax(source, 0, None);
        if self.rows.missing() == 0 && haste == Search::First {
            return false;
        }
        if let Some(cycle) = self.follow(&mut ways, haste, |node| node == nobody) {
            return self.apply_cycle(cycle);
        }
        if ways.costs[nobody] < UNREACHABLE && self.rows.missing() > 0 {
            return self.apply(&ways.path_to(nobody));
        }
        let place = |more: &usize| (ways.costs[self.vacant(*more)], *more);
        let more = (owners + 1..self.rows.problem.replicas).min_by_key(place);
        match more.filter(|more| ways.costs[self.vacant(*more)] < UNREACHABLE) {
            Some(more) => self.apply(&ways.path_to(self.vacant(more))),
            None => false,
        }
    }

    /// Gives those who have less than their least what others have above theirs, by any way.
    fn rebalance(&mut self) -> bool {
        self.arcs = 0;
        let quotas = self.rows.quotas;
        while !self.is_exhausted() {
            let loads: Vec<u64> = (0..self.sink()).map(|member| self.rows.load(member)).collect();
            let lacks = |node: usize| loads.get(node).is_some_and(|load| *load < quotas.least[node]);
            if !(0..self.sink()).any(lacks) {
                return true;
            }
            let mut ways = ShortestPaths::new(self.nodes());
            for member in (0..self.sink()).filter(|member| loads[*member] > quotas.least[*member]) {
                ways.relax(member, 0, None);
            }
            self.follow(&mut ways, Search::First, lacks);
            let found = (0..self.sink()).find(|member| lacks(*member) && ways.costs[*member] < UNREACHABLE);
            if !found.is_some_and(|member| self.apply(&ways.path_to(member))) {
                return false;
            }
        }
        false
    }

    /// Finds the cheapest ways from what is reached already, or a cycle that costs less
    /// than nothing. In haste, it ends with the first way to an end.
    fn follow(
        &mut self,
        ways: &mut ShortestPaths,
        haste: Search,
        is_end: impl Fn(usize) -> bool,
    ) -> Option<Vec<ResidualArc>> {
        let nobody = self.sink();
        let mut improved = 0;
        while let Some(node) = ways.queue.pop_front() {
            ways.is_queued[node] = false;
            let passes = match node {
                node if node == nobody => self.arcs_from_sink(),
                node if node > nobody => self.arcs_from_vacant(node - nobody - 1),
                member => self.arcs_from(member),
            };
            self.arcs += passes.len() as u64 + 1;
            for pass in passes {
                let cost = ways.costs[node] + pass.cost;
                let is_first = ways.costs[pass.to] == UNREACHABLE;
                if is_first || haste == Search::Cheapest && cost < ways.costs[pass.to] {
                    ways.relax(pass.to, cost, Some(pass));
                    improved += 1;
                }
                if haste == Search::First && is_first && is_end(pass.to) {
                    return None;
                }
            }
            if improved > self.nodes() {
                improved = 0;
                if let Some(cycle) = ways.cycle() {
                    return Some(cycle);
                }
            }
        }
        ways.cycle()
    }

    /// Whoever has more than its least can do with one less.
    fn arcs_from_sink(&self) -> Vec<ResidualArc> {
        let (rows, nobody) = (&self.rows, self.sink());
        let drop_one = |member: usize| {
            let cost = match rows.load(member) {
                load if load > rows.quotas.most[member] => -IMBALANCE_COST,
                load if load > rows.quotas.least[member] => 0,
                _ => return None,
            };
            Some(ResidualArc { from: nobody, to: member, bucket: None, cost })
        };
        (0..nobody).filter_map(drop_one).collect()
    }

    /// A bucket that has so many owners gets one more, for another that has one less.
    fn arcs_from_vacant(&mut self, owners: usize) -> Vec<ResidualArc> {
        let (from, zones) = (self.vacant(owners), self.rows.problem.zones());
        let rows = &self.rows;
        let mut passes = Vec::new();
        let mut hubs: Vec<ZoneHub> = vec![[None; 2]; zones * rows.problem.classes.len()];
        for (bucket, demand) in rows.problem.buckets.iter().enumerate() {
            if rows.len(bucket) != owners {
                continue;
            }
            for zone in (0..zones).filter(|zone| rows.zone_has_room(bucket, *zone, None)) {
                let hub = &mut hubs[demand.class * zones + zone];
                if let Some(free) = hub.iter_mut().find(|place| place.is_none()) {
                    *free = Some((0, bucket));
                }
            }
            for before in demand.owners.iter().filter(|before| rows.may_take(bucket, *before, None)) {
                passes.push(ResidualArc { from, to: before, bucket: Some(bucket), cost: -1 });
            }
        }
        for to in 0..self.sink() {
            let zone = rows.problem.members[to].zone;
            let classes = (0..rows.problem.classes.len()).filter(|class| rows.problem.may_own(*class, to));
            let mut found = classes.flat_map(|class| hubs[class * zones + zone].iter().flatten());
            if let Some((cost, bucket)) = found.find(|(_, bucket)| !rows.row(*bucket).contains(to)) {
                passes.push(ResidualArc { from, to, bucket: Some(*bucket), cost: *cost });
            }
        }
        self.arcs += (rows.problem.buckets.len() + zones) as u64;
        passes
    }

    /// A member that has one too many keeps it, if it has less than its most, or passes
    /// one on.
    fn arcs_from(&mut self, member: usize) -> Vec<ResidualArc> {
        let nobody = self.sink();
        let quotas = self.rows.quotas;
        let mut passes = Vec::new();
        let load = self.rows.load(member);
        if load < quotas.most[member] {
            let cost = if load < quotas.least[member] { -IMBALANCE_COST } else { 0 };
            passes.push(ResidualArc { from: member, to: nobody, bucket: None, cost });
        }
        self.fill_hubs(member, &mut passes);
        self.arcs += (self.hubs.len() + nobody * self.rows.problem.classes.len()) as u64;
        if self.is_short() {
            for owners in 1..=self.rows.problem.replicas {
                let held = self.rows.held(member).filter(|bucket| self.rows.len(*bucket) == owners);
                let cheapest = held.map(|bucket| (i64::from(self.rows.owned(bucket, member)), bucket)).min();
                if let Some((cost, bucket)) = cheapest {
                    let to = self.vacant(owners - 1);
                    passes.push(ResidualArc { from: member, to, bucket: Some(bucket), cost });
                }
            }
        }
        let (rows, zones) = (&self.rows, self.rows.problem.zones());
        for to in (0..nobody).filter(|to| *to != member) {
            let zone = rows.problem.members[to].zone;
            let mut cheapest: Option<(i64, usize)> = None;
            for class in (0..rows.problem.classes.len()).filter(|class| rows.problem.may_own(*class, to)) {
                let hub = &self.hubs[class * zones + zone];
                let found = match hub.iter().flatten().find(|(_, bucket)| !rows.row(*bucket).contains(to)) {
                    // Both are its own already: the next ones then.
                    None if hub[1].is_some() => two_cheapest(rows, member, to, class),
                    found => found.copied(),
                };
                cheapest = [cheapest, found].into_iter().flatten().min();
            }
            if let Some((cost, bucket)) = cheapest {
                passes.push(ResidualArc { from: member, to, bucket: Some(bucket), cost });
            }
        }
        passes
    }

    /// Looks which buckets a member can pass on, to which zones; those that can go back to
    /// who owned them before are passes of their own.
    fn fill_hubs(&mut self, member: usize, passes: &mut Vec<ResidualArc>) {
        let (rows, zones) = (&self.rows, self.rows.problem.zones());
        let hubs = &mut self.hubs;
        hubs.clear();
        hubs.resize(zones * rows.problem.classes.len(), [None; 2]);
        for bucket in rows.held(member) {
            let demand = &rows.problem.buckets[bucket];
            let cost = i64::from(rows.owned(bucket, member));
            for zone in 0..zones {
                let [first, second] = &mut hubs[demand.class * zones + zone];
                let is_cheaper = second.is_none_or(|second| (cost, bucket) < second);
                if is_cheaper && rows.zone_has_room(bucket, zone, Some(member)) {
                    *second = Some((cost, bucket));
                    if first.is_none_or(|first| (cost, bucket) < first) {
                        std::mem::swap(first, second);
                    }
                }
            }
            for before in demand.owners.iter() {
                if before != member && rows.may_take(bucket, before, Some(member)) {
                    passes.push(ResidualArc {
                        from: member,
                        to: before,
                        bucket: Some(bucket),
                        cost: cost - 1,
                    });
                }
            }
        }
        self.arcs += rows.load(member) * zones as u64;
    }

    /// Goes round a cycle, or the part of it that saves something if a bucket would pass
    /// twice and cannot. False if that cannot be done either.
    fn apply_cycle(&mut self, mut cycle: Vec<ResidualArc>) -> bool {
        while !self.apply(&cycle) {
            let Some((first, second)) = twice(&cycle) else { return false };
            let (a, b) = (cycle[first], cycle[second]);
            let bucket = a.bucket.expect("a bucket passes");
            let outer = ResidualArc { to: b.to, cost: self.cost(bucket, a.from, b.to), ..a };
            let inner = ResidualArc { to: a.to, cost: self.cost(bucket, b.from, a.to), ..b };
            let around: Vec<ResidualArc> =
                cycle[..first].iter().chain([&outer]).chain(&cycle[second + 1..]).copied().collect();
            let within: Vec<ResidualArc> = cycle[first + 1..second].iter().chain([&inner]).copied().collect();
            let saves = |part: &[ResidualArc]| part.iter().map(|pass| pass.cost).sum::<i64>() < 0;
            let can = |pass: &ResidualArc| {
                pass.from != pass.to && self.rows.may_take(bucket, pass.to, Some(pass.from))
            };
            cycle = match () {
                () if saves(&around) && can(&outer) => around,
                () if saves(&within) && can(&inner) => within,
                () => return false,
            };
        }
        true
    }

    fn cost(&self, bucket: usize, from: usize, to: usize) -> i64 {
        let owned = |node: usize| i64::from(node < self.sink() && self.rows.owned(bucket, node));
        owned(from) - owned(to)
    }

    /// Lets all of them happen, or none.
    fn apply(&mut self, passes: &[ResidualArc]) -> bool {
        let nobody = self.sink();
        let member = |node: usize| (node < nobody).then_some(node);
        let happen =
            passes.iter().filter_map(|pass| Some((pass.bucket?, member(pass.from), member(pass.to))));
        for (done, (bucket, from, to)) in happen.clone().enumerate() {
            let is_there = from.is_none_or(|from| self.rows.row(bucket).contains(from));
            let can = |to| self.rows.may_take(bucket, to, from) && (from.is_some() || self.has_place(bucket));
            if !is_there || !to.is_none_or(can) {
                let undone: Vec<_> = happen.take(done).collect();
                undone.into_iter().rev().for_each(|(bucket, from, to)| self.arc_between(bucket, to, from));
                return false;
            }
            self.arc_between(bucket, from, to);
        }
        true
    }

    fn has_place(&self, bucket: usize) -> bool {
        self.rows.len(bucket) < self.rows.problem.replicas
    }

    fn arc_between(&mut self, bucket: usize, from: Option<usize>, to: Option<usize>) {
        from.into_iter().for_each(|from| self.rows.remove(bucket, from));
        to.into_iter().for_each(|to| self.rows.add(bucket, to));
    }
}

/// The cheapest bucket of a class that one member can pass to another.
fn two_cheapest(rows: &Rows<'_>, from: usize, to: usize, class: usize) -> Option<(i64, usize)> {
    let held = rows.held(from).filter(|bucket| rows.problem.buckets[*bucket].class == class);
    let can = held.filter(|bucket| rows.may_take(*bucket, to, Some(from)));
    can.map(|bucket| (i64::from(rows.owned(bucket, from)), bucket)).min()
}

/// The first two passes of one bucket.
fn twice(cycle: &[ResidualArc]) -> Option<(usize, usize)> {
    (0..cycle.len()).find_map(|second| {
        let bucket = cycle[second].bucket?;
        let first = cycle[..second].iter().position(|pass| pass.bucket == Some(bucket))?;
        Some((first, second))
    })
}
