//! How many buckets each member is to have.
//!
//! A member's fair share is in proportion to its weight, as far as it can be: a bucket's
//! owners are distinct, zones hold no more than their part of each bucket, capacities end,
//! and some buckets go to some members only. What one cannot take, the others share, by
//! weight again. So the shares are weighted max-min fair: nobody's could grow without
//! taking from one that has less for its weight. They are found by decomposition (S.
//! Fujishige, "Lexicographically optimal base of a polymatroid with respect to a weight
//! vector", Mathematics of Operations Research 5(2), 1980): if all cannot have the same
//! for their weight, a least cut tells apart those that cannot take it from the others.
//!
//! Shares are rarely whole. What flows with whole bounds can flow in whole numbers, so
//! there is an answer in which everybody has its share rounded down or up.

use super::Problem;
use super::network::FlowNetwork;

/// Two shares that differ by less are the same.
const EPSILON: f64 = 1e-6;

/// What each member is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Quotas {
    /// Each member's fair share.
    pub shares: Vec<f64>,
    /// Each share rounded down.
    pub least: Vec<u64>,
    /// Each share rounded up.
    pub most: Vec<u64>,
    /// For each class, the most owners of a bucket in one zone: the fewest with which as
    /// many can be placed as without that bound.
    pub spread: Vec<usize>,
    /// Owners of all buckets, together; fewer than wanted if members are missing.
    pub total: u64,
}

impl Quotas {
    /// The quotas of a problem.
    #[must_use]
    pub fn of(problem: &Problem) -> Self {
        let members = problem.members.len();
        let mut sizes = vec![0u64; problem.classes.len()];
        problem.buckets.iter().for_each(|bucket| sizes[bucket.class] += 1);
        let spread: Vec<usize> = (0..sizes.len()).map(|class| spread(problem, class, sizes[class])).collect();
        let supply = FairShareSolver { problem, sizes: &sizes, spread: &spread };
        let shares = supply.fair_shares();
        let total = shares.iter().sum::<f64>().round() as u64;
        let mut quotas = Self {
            least: shares.iter().map(|share| (share + EPSILON).floor() as u64).collect(),
            most: shares.iter().map(|share| (share - EPSILON).ceil().max(0.0) as u64).collect(),
            shares,
            spread,
            total,
        };
        for member in 0..members {
            quotas.least[member] = quotas.least[member].min(problem.limit(member));
            quotas.most[member] = quotas.most[member].min(problem.limit(member)).max(quotas.least[member]);
        }
        quotas
    }

    /// Members that can have one more than their share rounded down: so many have.
    #[must_use]
    pub fn left_over(&self) -> u64 {
        self.total.saturating_sub(self.least.iter().sum())
    }

    /// The part of a member's share that is not whole.
    #[must_use]
    pub fn fraction(&self, member: usize) -> f64 {
        self.shares[member] - self.least[member] as f64
    }
}

/// The most owners of one bucket of the class in one zone.
fn spread(problem: &Problem, class: usize, size: u64) -> usize {
    let mut zones = vec![Vec::new(); problem.zones()];
    for (member, candidate) in problem.members.iter().enumerate() {
        if problem.may_own(class, member) {
            zones[candidate.zone].push(problem.limit(member).min(size));
        }
    }
    let placed = |spread: usize| {
        let held = |limits: &Vec<u64>| limits.iter().sum::<u64>().min(size * spread as u64);
        zones.iter().map(held).sum::<u64>().min(size * problem.replicas as u64)
    };
    let all = placed(problem.replicas);
    (1..=problem.replicas).find(|spread| placed(*spread) == all).unwrap_or(problem.replicas)
}

struct FairShareSolver<'a> {
    problem: &'a Problem,
    /// Buckets of each class.
    sizes: &'a [u64],
    spread: &'a [usize],
}

/// The network, and the arcs whose room depends on what the members are to have.
struct MemberNetwork {
    network: FlowNetwork,
    source: usize,
    sink: usize,
    /// Each member's node and the arc that leaves it.
    members: Vec<(usize, usize)>,
}

impl FairShareSolver<'_> {
    fn fair_shares(&self) -> Vec<f64> {
        let members = self.problem.members.len();
        let built = self.build();
        let mut shares = vec![0.0; members];
        let mut is_known = vec![false; members];
        let takers = |member: &usize| {
            let has_class = |class| self.sizes[class] > 0 && self.problem.may_own(class, *member);
            (0..self.sizes.len()).any(has_class) && self.problem.limit(*member) > 0
        };
        let mut groups = vec![(0..members).filter(takers).collect::<Vec<usize>>()];
        // The last is the one that is limited most.
        while let Some(group) = groups.pop() {
            match self.water_fill(&built, &group, &shares, &is_known) {
                Split::Uniform(level) => {
                    for member in group {
                        shares[member] = level * f64::from(self.problem.members[member].weight);
                        is_known[member] = true;
                    }
                }
                Split::Cut { limited, others } => groups.extend([others, limited]),
            }
        }
        shares
    }

    /// What the members of a group get, when those that are known have what they have
    /// and no others get anything.
    fn water_fill(&self, built: &MemberNetwork, group: &[usize], shares: &[f64], is_known: &[bool]) -> Split {
        let weight = |member: usize| f64::from(self.problem.members[member].weight);
        let flow = |level: f64| {
            let mut network = built.network.clone();
            for (member, (_, arc)) in built.members.iter().enumerate() {
                if is_known[member] {
                    network.set_capacity(*arc, shares[member]);
                }
            }
            group
                .iter()
                .for_each(|member| network.set_capacity(built.members[*member].1, level * weight(*member)));
            (network.flow(built.source, built.sink), network)
        };
        let known: f64 =
            shares.iter().zip(is_known).filter(|(_, known)| **known).map(|(share, _)| share).sum();
        let all = (flow(f64::INFINITY).0 - known).max(0.0);
        let level = all / group.iter().map(|member| weight(*member)).sum::<f64>();
        let (sent, network) = flow(level);
        if sent - known >= all - EPSILON {
            return Split::Uniform(level);
        }
        let reached = network.reached(built.source);
        let (others, limited): (Vec<usize>, Vec<usize>) =
            group.iter().partition(|member| reached[built.members[**member].0]);
        if others.is_empty() || limited.is_empty() {
            // Less than can be told apart is missing.
            return Split::Uniform(level);
        }
        Split::Cut { limited, others }
    }

    /// Buckets of a class flow to zones, from there to members, each at most once, and
    /// within their limits into the sink.
    fn build(&self) -> MemberNetwork {
        let Self { problem, sizes, spread } = self;
        let (members, zones, classes) = (problem.members.len(), problem.zones(), sizes.len());
        let (source, sink, first_class) = (0, 1, 2);
        let first_zone = first_class + classes;
        let first_member = first_zone + classes * zones;
        let mut network = FlowNetwork::new(first_member + 2 * members);
        for (class, size) in sizes.iter().map(|size| *size as f64).enumerate() {
            network.add(source, first_class + class, size * problem.replicas as f64);
            for zone in 0..zones {
                let room = size * spread[class] as f64;
                network.add(first_class + class, first_zone + class * zones + zone, room);
            }
            for (member, candidate) in problem.members.iter().enumerate() {
                if problem.may_own(class, member) {
                    let zone = first_zone + class * zones + candidate.zone;
                    network.add(zone, first_member + 2 * member, size);
                }
            }
        }
        let members = (0..members).map(|member| {
            let (taken, kept) = (first_member + 2 * member, first_member + 2 * member + 1);
            network.add(taken, kept, problem.limit(member) as f64);
            (kept, network.add(kept, sink, 0.0))
        });
        let members = members.collect();
        MemberNetwork { network, source, sink, members }
    }
}

enum Split {
    /// All of them get the same for their weight: so much.
    Uniform(f64),
    /// These cannot take as much as the others.
    Cut { limited: Vec<usize>, others: Vec<usize> },
}
