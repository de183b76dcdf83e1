//! The fewest moves, by somebody else: every case is put as a network of all buckets,
//! zones and members, with a cost for each owner that is replaced, and solved by the
//! textbook's method of cheapest paths (R. Ahuja, T. Magnanti and J. Orlin, "Network
//! Flows", 9.7), which shares nothing with the planner but the quotas.
//!
//! `ROTA_ORACLE_SEED` and `ROTA_ORACLE_CASES` choose others; a case that fails says its
//! seed.

use std::collections::VecDeque;

use rota_core::placement::check::{check, lower_bound};
use rota_core::placement::{
    Answer, Candidate, Demand, LabelGroup, Owners, Problem, Quotas, place_all, solve,
};

const CASES: u64 = 100_000;
const SEED: u64 = 20_261_122;

/// Numbers from a seed (G. Steele and others, "Fast splittable pseudorandom number
/// generators", 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// True once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// A small problem: up to nine members in up to four zones, up to eight buckets of up to
/// seven owners, mostly three; a half with one class and no capacities; some with claims, and with
/// members whom something is destined for.
fn problem(chance: &mut Chance) -> Problem {
    let is_many = chance.once_in(6);
    let members = 1 + chance.below(if is_many { 9 } else { 6 });
    let zones = 1 + chance.below(4);
    let replicas = 1 + chance.below(if is_many { 7 } else { 3 });
    let is_hindered = chance.once_in(2);
    let classes = if is_hindered { 1 + chance.below(3) } else { 1 };
    let uneven = chance.once_in(2);
    let candidate = |chance: &mut Chance| Candidate {
        weight: match (chance.once_in(8), uneven) {
            (true, _) => 0,
            (false, true) => 1 + u32::try_from(chance.below(3)).unwrap(),
            (false, false) => 1,
        },
        capacity: (is_hindered && chance.once_in(4)).then(|| u32::try_from(chance.below(6)).unwrap()),
        zone: chance.below(zones),
    };
    let candidates: Vec<Candidate> = (0..members).map(|_| candidate(chance)).collect();
    let class = |chance: &mut Chance| LabelGroup {
        allowed: (0..members).map(|_| !is_hindered || !chance.once_in(3)).collect(),
    };
    let classes: Vec<LabelGroup> = (0..classes).map(|_| class(chance)).collect();
    let buckets = chance.below(9);
    let few = chance.once_in(3);
    let has_claims = chance.once_in(3);
    let demand = |chance: &mut Chance| {
        let mut owners = Owners::default();
        for _ in 0..chance.below(replicas + 1) {
            let owner = if few { chance.below(members.min(2)) } else { chance.below(members) };
            if !owners.contains(owner) {
                owners.push(owner);
            }
        }
        let mut claims = Owners::default();
        owners.iter().filter(|_| has_claims && chance.once_in(3)).for_each(|owner| claims.push(owner));
        let mut destined = Owners::default();
        if has_claims && chance.once_in(3) {
            destined.push(chance.below(members));
        }
        Demand { class: chance.below(classes.len()), owners, returning: claims, reserved_for: destined }
    };
    let buckets = (0..buckets).map(|_| demand(chance)).collect();
    Problem { members: candidates, replicas, classes, buckets, ..Problem::default() }
}

/// Arcs in pairs: each and its reverse.
#[derive(Default)]
struct Network {
    arcs: Vec<(usize, i64, i64)>,
    from: Vec<Vec<usize>>,
}

impl Network {
    fn node(&mut self) -> usize {
        self.from.push(Vec::new());
        self.from.len() - 1
    }

    fn add(&mut self, from: usize, to: usize, room: i64, cost: i64) -> usize {
        self.arcs.push((to, room, cost));
        self.arcs.push((from, 0, -cost));
        let number = self.arcs.len() - 2;
        self.from[from].push(number);
        self.from[to].push(number + 1);
        number
    }

    /// Sends one unit after another along a cheapest path, as long as that costs less
    /// than nothing.
    fn settle(&mut self, source: usize, sink: usize) {
        loop {
            let mut costs = vec![i64::MAX; self.from.len()];
            let mut by = vec![usize::MAX; self.from.len()];
            let mut queue = VecDeque::from([source]);
            costs[source] = 0;
            while let Some(node) = queue.pop_front() {
                for &arc in &self.from[node] {
                    let (to, room, cost) = self.arcs[arc];
                    if room > 0 && costs[node] + cost < costs[to] {
                        costs[to] = costs[node] + cost;
                        by[to] = arc;
                        queue.push_back(to);
                    }
                }
            }
            if costs[sink] >= 0 {
                return;
            }
            let mut node = sink;
            while node != source {
                let arc = by[node];
                self.arcs[arc].1 -= 1;
                self.arcs[arc ^ 1].1 += 1;
                node = self.arcs[arc ^ 1].0;
            }
        }
    }
}

/// How many of the owners who may stay do, in an answer with the fewest moves.
fn most_kept(problem: &Problem, quotas: &Quotas) -> usize {
    const PLACED: i64 = 1 << 14;
    const BALANCED: i64 = 1 << 8;
    let mut network = Network::default();
    let (source, sink) = (network.node(), network.node());
    let members: Vec<usize> = problem.members.iter().map(|_| network.node()).collect();
    let mut kept = Vec::new();
    for (member, node) in members.iter().enumerate() {
        let (least, most) = (quotas.least[member], quotas.most[member]);
        network.add(*node, sink, i64::try_from(least).unwrap(), -BALANCED);
        network.add(*node, sink, i64::try_from(most - least).unwrap(), 0);
    }
    for demand in &problem.buckets {
        let bucket = network.node();
        // The first owner of a bucket matters more than the second of all others.
        for replica in 0..problem.replicas {
            network.add(source, bucket, 1, -(PLACED << (5 * (problem.replicas - replica))));
        }
        for zone in 0..problem.zones() {
            let zone_node = network.node();
            let spread = i64::try_from(quotas.spread[demand.class]).unwrap();
            network.add(bucket, zone_node, spread, 0);
            for (member, node) in members.iter().enumerate() {
                if problem.members[member].zone == zone && problem.may_own(demand.class, member) {
                    let stays = demand.owners.contains(member);
                    let arc = network.add(zone_node, *node, 1, -i64::from(stays));
                    if stays {
                        kept.push(arc);
                    }
                }
            }
        }
    }
    network.settle(source, sink);
    kept.into_iter().filter(|arc| network.arcs[*arc].1 == 0).count()
}

/// As many owners as there can be, whatever the shares.
fn most_placed(problem: &Problem, spread: impl Fn(usize) -> usize) -> i64 {
    let mut network = Network::default();
    let (source, sink) = (network.node(), network.node());
    let members: Vec<usize> = problem.members.iter().map(|_| network.node()).collect();
    for (member, node) in members.iter().enumerate() {
        network.add(*node, sink, i64::try_from(problem.limit(member).min(1000)).unwrap(), 0);
    }
    let mut sources = Vec::new();
    for demand in &problem.buckets {
        let bucket = network.node();
        sources.push(network.add(source, bucket, i64::try_from(problem.replicas).unwrap(), -1));
        for zone in 0..problem.zones() {
            let zone_node = network.node();
            network.add(bucket, zone_node, i64::try_from(spread(demand.class)).unwrap(), 0);
            for (member, node) in members.iter().enumerate() {
                if problem.members[member].zone == zone && problem.may_own(demand.class, member) {
                    network.add(zone_node, *node, 1, 0);
                }
            }
        }
    }
    network.settle(source, sink);
    sources.into_iter().map(|arc| network.arcs[arc ^ 1].1).sum()
}

fn kept(problem: &Problem, answer: &Answer) -> usize {
    let rows = problem.buckets.iter().zip(&answer.owners);
    rows.map(|(demand, row)| demand.owners.iter().filter(|owner| row.contains(*owner)).count()).sum()
}

fn examine(seed: u64) -> Result<(), String> {
    let problem = problem(&mut Chance(seed));
    let quotas = Quotas::of(&problem);
    let total = u64::try_from(most_placed(&problem, |class| quotas.spread[class])).unwrap();
    if quotas.total != total {
        return Err(format!("{} are to be placed, {total} can be: {problem:?}", quotas.total));
    }
    let is_over = |member: &usize| quotas.most[*member] > problem.limit(*member);
    if let Some(member) = (0..problem.members.len()).find(is_over) {
        return Err(format!("member {member} is to have more than it takes: {problem:?}"));
    }
    let placed = place_all(&problem, &quotas);
    let (most, ours) = (most_kept(&problem, &quotas), kept(&problem, &placed));
    if placed.is_approximate {
        return Err(format!("it ended early: {problem:?}"));
    }
    if ours != most {
        return Err(format!("{ours} owners stay, of {most} that could: {problem:?} {placed:?} {quotas:?}"));
    }
    let answer = solve(&problem);
    let report = check(&problem, &answer).map_err(|fault| format!("{fault}: {problem:?} {answer:?}"))?;
    let bound = lower_bound(&problem, &quotas);
    if u64::from(report.moves) < bound {
        return Err(format!("{} moves, fewer than the bound of {bound}: {problem:?}", report.moves));
    }
    let mut again = problem.clone();
    again.buckets.iter_mut().zip(&answer.owners).for_each(|(bucket, owners)| {
        (bucket.owners, bucket.returning) = (*owners, Owners::default());
    });
    let second = solve(&again);
    if second != answer {
        return Err(format!("posed again it is another: {problem:?} {answer:?} {second:?}"));
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "which cases a test examines")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn nobody_finds_an_answer_with_fewer_moves() {
    let (seed, cases) = (setting("ROTA_ORACLE_SEED", SEED), setting("ROTA_ORACLE_CASES", CASES));
    println!("{cases} cases from seed {seed} on");
    for case in seed..seed + cases {
        examine(case).unwrap_or_else(|fault| panic!("ROTA_ORACLE_SEED={case} ROTA_ORACLE_CASES=1: {fault}"));
    }
}
