//! The strategy `range`: sorted buckets to sorted members, in runs. That is what MetaQ's
//! consumers do by default, and Kafka's range assignor within a topic: the first members have
//! one more if it does not come out even, and with fewer buckets than members the last idle.
//!
//! Runs are as long as fair shares by weight and capacity. Further owners of a bucket are the
//! members that follow its primary, those of other zones first.

use super::{Answer, Candidate, Demand, LabelGroup, Owners, Problem, Quotas, keep_irreplaceable};

/// Each class of buckets in runs of its own.
#[must_use]
pub fn solve(problem: &Problem) -> Answer {
    let mut owners = vec![Owners::default(); problem.buckets.len()];
    // Where in its class's members each bucket's owners begin.
    let mut first = vec![0; problem.buckets.len()];
    let mut used = vec![0u64; problem.members.len()];
    let classes: Vec<Vec<usize>> = (0..problem.classes.len())
        .map(|class| (0..problem.members.len()).filter(|member| problem.may_own(class, *member)).collect())
        .collect();
    for (class, members) in classes.iter().enumerate() {
        let buckets: Vec<usize> =
            (0..problem.buckets.len()).filter(|bucket| problem.buckets[*bucket].class == class).collect();
        let mut rest = buckets.into_iter();
        for (at, run) in runs(problem, members, &used, rest.len()).into_iter().enumerate() {
            for bucket in rest.by_ref().take(run) {
                first[bucket] = at;
                // Whoever gets nothing keeps what it has; the rest of its run is its neighbours'.
                if problem.accepts(members[at], &problem.buckets[bucket]) {
                    owners[bucket].push(members[at]);
                    used[members[at]] += 1;
                }
            }
        }
    }
    for (bucket, row) in owners.iter_mut().enumerate() {
        let demand = &problem.buckets[bucket];
        let (members, at) = (&classes[demand.class], first[bucket]);
        let around = members[at..].iter().chain(&members[..at]).copied();
        fill(problem, demand, row, &around, &mut used);
    }
    let mut answer = Answer { owners, is_approximate: false };
    keep_irreplaceable(problem, &mut answer);
    answer
}

/// How many buckets each of the members leads.
fn runs(problem: &Problem, members: &[usize], used: &[u64], buckets: usize) -> Vec<usize> {
    let free = |member: usize| u32::try_from(problem.limit(member).saturating_sub(used[member])).ok();
    let candidates = members.iter().map(|member| Candidate {
        capacity: free(*member),
        zone: 0,
        ..problem.members[*member]
    });
    let quotas = Quotas::of(&Problem {
        members: candidates.collect(),
        replicas: 1,
        classes: vec![LabelGroup { allowed: vec![true; members.len()] }],
        buckets: vec![Demand::default(); buckets],
        ..Problem::default()
    });
    let mut runs: Vec<usize> =
        quotas.least.iter().map(|least| usize::try_from(*least).unwrap_or(0)).collect();
    let mut more: Vec<usize> = (0..runs.len()).filter(|at| quotas.most[*at] > quotas.least[*at]).collect();
    let permille = |at: usize| (quotas.fraction(at) * 1e6).round() as u64;
    more.sort_by_key(|at| (std::cmp::Reverse(permille(*at)), *at));
    for at in more.into_iter().take(usize::try_from(quotas.left_over()).unwrap_or(0)) {
        runs[at] += 1;
    }
    runs
}

/// Gives a bucket owners in the order of `around`: first of zones that it has none in, then of
/// any.
pub(super) fn fill(
    problem: &Problem,
    demand: &Demand,
    row: &mut Owners,
    around: &(impl Iterator<Item = usize> + Clone),
    used: &mut [u64],
) {
    for any_zone in [false, true] {
        for member in around.clone() {
            if row.len() == problem.replicas {
                return;
            }
            let zone = problem.members[member].zone;
            let is_new_zone = || row.iter().all(|owner| problem.members[owner].zone != zone);
            let has_room = used[member] < problem.limit(member);
            if has_room
                && problem.accepts(member, demand)
                && !row.contains(member)
                && (any_zone || is_new_zone())
            {
                row.push(member);
                used[member] += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(weights: &[u32], buckets: usize) -> Vec<Option<usize>> {
        let answer = solve(&Problem::simple(weights, buckets));
        answer.owners.iter().map(Owners::primary).collect()
    }

    /// MetaQ's documentation: five partitions and two consumers, four and five, two and four.
    #[test]
    fn runs_as_metaqs() {
        assert_eq!(led(&[1, 1], 5), [0, 0, 0, 1, 1].map(Some));
        assert_eq!(led(&[1, 1, 1, 1, 1], 4), [0, 1, 2, 3].map(Some));
        assert_eq!(led(&[1, 1, 1, 1], 2), [0, 1].map(Some));
        assert_eq!(led(&[1, 3], 8), [0, 0, 1, 1, 1, 1, 1, 1].map(Some));
        assert_eq!(led(&[0, 0], 1), [None]);
    }

    #[test]
    fn further_owners_follow_and_are_of_other_zones() {
        let mut problem = Problem::simple(&[1, 1, 1], 3);
        problem.replicas = 2;
        problem.members[2].zone = 1;
        let rows: Vec<Vec<usize>> = solve(&problem).owners.iter().map(|row| row.iter().collect()).collect();
        assert_eq!(rows, [[0, 2], [1, 2], [2, 0]]);
        problem.members[2].capacity = Some(2);
        let rows: Vec<Vec<usize>> = solve(&problem).owners.iter().map(|row| row.iter().collect()).collect();
        assert_eq!(rows, [[0, 2], [1, 0], [2, 0]]);
    }
}
