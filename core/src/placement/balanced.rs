//! The strategy `balanced`: every member gets its share by weight, to within
//! one bucket, with the fewest possible moves.
//!
//! Shares are rarely whole. Each member's quota is its share rounded down, or,
//! for as many members as there are buckets left over, rounded up. A member
//! that already has more than its rounded-down share saves a move by being one
//! of those; so they come first. With the quotas fixed, a move is needed exactly
//! for each bucket above its owner's quota.

use super::{Answer, Problem};

/// The answer with the fewest moves among those that are balanced to within one
/// bucket. Ties go to the member with the larger fraction, then to the first.
/// Costs O(buckets + members log members).
#[must_use]
pub fn solve(problem: &Problem) -> Answer {
    if problem.weight_total() == 0 {
        return Answer { owners: problem.owners.clone() };
    }
    let mut room = quotas(problem);
    let mut owners = problem.owners.clone();
    for owner in &mut owners {
        match owner {
            Some(member) if room[*member] > 0 => room[*member] -= 1,
            _ => *owner = None,
        }
    }
    let mut takers = room.iter().enumerate().flat_map(|(member, room)| (0..*room).map(move |_| member));
    for owner in owners.iter_mut().filter(|owner| owner.is_none()) {
        *owner = takers.next();
    }
    Answer { owners }
}

/// How many buckets each member is to have. They add up to all buckets.
fn quotas(problem: &Problem) -> Vec<u64> {
    let buckets = problem.owners.len() as u128;
    let total = u128::from(problem.weight_total());
    let counts = problem.counts();
    let shares = problem.weights.iter().map(|w| buckets * u128::from(*w));
    let (mut quotas, fractions): (Vec<u64>, Vec<u128>) =
        shares.map(|share| (u64::try_from(share / total).unwrap_or(u64::MAX), share % total)).unzip();

    let left_over = problem.owners.len() as u64 - quotas.iter().sum::<u64>();
    let mut candidates: Vec<usize> = (0..quotas.len()).filter(|&m| fractions[m] > 0).collect();
    candidates.sort_by_key(|&m| (counts[m] <= quotas[m], std::cmp::Reverse(fractions[m]), m));
    for &member in candidates.iter().take(usize::try_from(left_over).unwrap_or(usize::MAX)) {
        quotas[member] += 1;
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(weights: &[u32], counts: &[usize], vacant: usize) -> Problem {
        let mut owners = Vec::new();
        for (member, count) in counts.iter().enumerate() {
            owners.extend(std::iter::repeat_n(Some(member), *count));
        }
        owners.extend(std::iter::repeat_n(None, vacant));
        Problem { weights: weights.to_vec(), owners }
    }

    #[test]
    fn equal_weights_share_evenly() {
        assert_eq!(quotas(&problem(&[1, 1, 1], &[0, 0, 0], 10)), [4, 3, 3]);
    }

    #[test]
    fn the_left_over_goes_to_who_has_it_already() {
        assert_eq!(quotas(&problem(&[1, 1, 1], &[3, 3, 4], 0)), [3, 3, 4]);
    }

    #[test]
    fn weights_count() {
        assert_eq!(quotas(&problem(&[3, 1], &[0, 0], 8)), [6, 2]);
        assert_eq!(quotas(&problem(&[0, 1], &[8, 0], 0)), [0, 8]);
    }

    #[test]
    fn nobody_to_take_them_changes_nothing() {
        let problem = problem(&[0], &[3], 2);
        assert_eq!(solve(&problem).owners, problem.owners);
    }
}
