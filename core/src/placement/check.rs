//! Verifies an answer, and says how few moves any answer could need. Written
//! without the code that makes answers: it runs in tests and before every plan
//! is published.

use super::{Answer, Problem, count};
use crate::pool::Report;

/// What `answer` is, or what is wrong with it.
///
/// # Errors
/// In words, the first rule that `answer` breaks: every bucket has an owner if
/// any member has a weight; nobody without a weight gets one; each member is
/// within one bucket of its share.
pub fn check(problem: &Problem, answer: &Answer) -> Result<Report, String> {
    let members = problem.weights.len();
    if answer.owners.len() != problem.owners.len() {
        return Err("the answer has another number of buckets".to_owned());
    }
    if answer.owners.iter().flatten().any(|m| *m >= members) {
        return Err("the answer names a member that there is not".to_owned());
    }
    let total = problem.weight_total();
    let mut report = Report {
        buckets: small(answer.owners.len()),
        members: small(problem.weights.iter().filter(|w| **w > 0).count()),
        moves_lower_bound: small_u64(lower_bound(problem)),
        ..Report::default()
    };
    for (now, then) in problem.owners.iter().zip(&answer.owners) {
        match (now, then) {
            (Some(a), Some(b)) if a != b => report.moves += 1,
            (Some(_), None) => return Err("a bucket loses its owner for nobody".to_owned()),
            (None, Some(_)) => report.placements += 1,
            (None, None) => report.unplaced += 1,
            (Some(_), Some(_)) => {}
        }
    }
    if total == 0 && report.moves + report.placements > 0 {
        return Err("a bucket is given to a member without a weight".to_owned());
    }
    if total == 0 {
        return Ok(report);
    }
    if report.unplaced > 0 {
        return Err(format!("{} buckets have no owner though members have room", report.unplaced));
    }
    let buckets = problem.owners.len() as u128;
    for (member, have) in count(&answer.owners, members).into_iter().enumerate() {
        let have = u128::from(have) * u128::from(total);
        let share = buckets * u128::from(problem.weights[member]);
        let off = have.abs_diff(share);
        if off >= u128::from(total) {
            return Err(format!("member {member} is more than one bucket off its share"));
        }
        let milli = u32::try_from(off * 1000 / u128::from(total)).unwrap_or(u32::MAX);
        report.imbalance_milli = report.imbalance_milli.max(milli);
    }
    Ok(report)
}

/// The fewest moves of owned buckets that lead to balance within one bucket:
/// what members have above their shares rounded down, less what rounding up can
/// save for as many of them as buckets are left over.
#[must_use]
pub fn lower_bound(problem: &Problem) -> u64 {
    let total = u128::from(problem.weight_total());
    if total == 0 {
        return 0;
    }
    let buckets = problem.owners.len() as u128;
    let (mut above, mut floors, mut savers) = (0u128, 0u128, 0u128);
    for (weight, have) in problem.weights.iter().zip(problem.counts()) {
        let share = buckets * u128::from(*weight);
        let (floor, fraction) = (share / total, share % total);
        floors += floor;
        let over = u128::from(have).saturating_sub(floor);
        above += over;
        savers += u128::from(fraction > 0 && over > 0);
    }
    u64::try_from(above - savers.min(buckets - floors)).unwrap_or(u64::MAX)
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn small_u64(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
