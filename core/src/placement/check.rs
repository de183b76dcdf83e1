//! Verifies an answer, and says how few moves any answer could need. Written
//! without the code that makes answers: it runs in tests and before every plan
//! is published. Only the quotas are the same.

use super::{Answer, Owners, Problem, Quotas, count};
use crate::pool::Report;

/// What `answer` is, or what is wrong with it.
///
/// # Errors
/// In words, the first rule that `answer` breaks.
pub fn check(problem: &Problem, answer: &Answer) -> Result<Report, String> {
    let quotas = Quotas::of(problem);
    let bound = lower_bound(problem, &quotas);
    let mut report = check_rows(problem, answer, &quotas, !answer.is_approximate)?;
    report.moves_lower_bound = small_u64(bound);
    Ok(report)
}

/// What an answer is whose members need not have their shares, or what is wrong with it. There
/// is only one such answer for a problem, so its moves are the fewest.
///
/// # Errors
/// In words, the first rule that `answer` breaks.
pub fn check_fixed(problem: &Problem, answer: &Answer) -> Result<Report, String> {
    let mut quotas = Quotas::of(problem);
    quotas.spread.fill(problem.replicas);
    let report = check_rows(problem, answer, &quotas, false)?;
    Ok(Report { moves_lower_bound: report.moves, ..report })
}

fn check_rows(
    problem: &Problem,
    answer: &Answer,
    quotas: &Quotas,
    is_balanced: bool,
) -> Result<Report, String> {
    if answer.owners.len() != problem.buckets.len() {
        return Err("the answer has another number of buckets".to_owned());
    }
    let mut report = Report {
        buckets: small(problem.buckets.len()),
        members: small(problem.members.iter().filter(|member| member.weight > 0).count()),
        rough: answer.is_approximate,
        ..Report::default()
    };
    // Without those who stay only because nobody can take their place.
    let mut placed = Vec::with_capacity(answer.owners.len());
    for (bucket, owners) in answer.owners.iter().enumerate() {
        placed.push(check_row(problem, quotas, bucket, owners)?);
        let before = &problem.buckets[bucket].owners;
        let lost = before.iter().filter(|owner| !owners.contains(*owner)).count();
        let gained = owners.iter().filter(|owner| !before.contains(*owner)).count();
        let class = problem.buckets[bucket].class;
        let is_missed = |owner: usize| !owners.contains(owner) && !problem.may_own(class, owner);
        let holders = || problem.buckets[bucket].holders();
        if owners.len() < holders().count().min(problem.replicas)
            && (owners.is_empty() || holders().any(is_missed))
        {
            return Err(format!("bucket {bucket} loses an owner for nobody"));
        }
        report.moves += small(lost.min(gained));
        report.placements += small(gained - lost.min(gained));
        report.unplaced += small(problem.replicas - owners.len());
        if owners.primary() != before.primary() && before.primary().is_some_and(|p| owners.contains(p)) {
            report.promotions += 1;
        }
    }
    // Rows that nobody else could have: their owners keep them even if it is too much.
    let mut last = vec![0; problem.members.len()];
    for (row, demand) in placed.iter().zip(&problem.buckets) {
        if let [member] = row.as_slice()
            && demand.holders().any(|holder| holder == *member as usize)
        {
            last[*member as usize] += 1;
        }
    }
    let mut surplus = 0;
    for (member, have) in count(&placed, problem.members.len()).into_iter().enumerate() {
        let (least, most, share) = (quotas.least[member], quotas.most[member], quotas.shares[member]);
        surplus += have.saturating_sub(most);
        if is_balanced && (have < least || have > most && have - most > last[member]) {
            return Err(format!("member {member} has {have}, which is not its share of {share} rounded"));
        }
        let milli = (have as f64 - share).abs() * 1000.0;
        report.imbalance_milli = report.imbalance_milli.max(milli as u32);
    }
    let total = placed.iter().map(|row| row.len() as u64).sum::<u64>() - surplus;
    if is_balanced && total < quotas.total {
        return Err(format!("{} owners are missing though members have room", quotas.total - total));
    }
    Ok(report)
}

/// Checks the owners of a bucket, and returns those that the rules give it: without those
/// who stay because nobody can take their place.
fn check_row(problem: &Problem, quotas: &Quotas, bucket: usize, owners: &Owners) -> Result<Owners, String> {
    let demand = &problem.buckets[bucket];
    if owners.len() > problem.replicas {
        return Err(format!("bucket {bucket} has {} owners", owners.len()));
    }
    let mut placed = Owners::default();
    for (at, owner) in owners.iter().enumerate() {
        if owner >= problem.members.len() {
            return Err(format!("bucket {bucket} has an owner that there is not"));
        }
        if owners.iter().take(at).any(|other| other == owner) {
            return Err(format!("bucket {bucket} has the same owner twice"));
        }
        let zone = problem.members[owner].zone;
        let there = placed.iter().filter(|other| problem.members[*other].zone == zone).count();
        if problem.may_own(demand.class, owner) && there < quotas.spread[demand.class] {
            placed.push(owner);
        } else if !demand.holders().any(|holder| holder == owner) {
            return Err(format!("bucket {bucket} is given to member {owner}, which may not have it"));
        }
    }
    Ok(placed)
}

/// The fewest moves that any answer could need. Who may not keep what it has loses it, and
/// so do those who are too many in one zone. Members lose what they have above their shares
/// rounded down, less what rounding up can save for as many of them as are left over. As
/// many can stay as there are owners that nobody can be.
#[must_use]
pub fn lower_bound(problem: &Problem, quotas: &Quotas) -> u64 {
    let mut have = vec![0u64; problem.members.len()];
    let (mut barred, mut crowded) = (0u64, 0u64);
    for demand in &problem.buckets {
        let mut zones = Owners::default();
        for owner in demand.owners.iter() {
            if !problem.may_own(demand.class, owner) {
                barred += 1;
                continue;
            }
            have[owner] += 1;
            let zone = problem.members[owner].zone;
            let there = zones.iter().filter(|other| problem.members[*other].zone == zone).count();
            crowded += u64::from(there >= quotas.spread[demand.class]);
            zones.push(owner);
        }
    }
    let over = |member: usize| have[member].saturating_sub(quotas.least[member]);
    let above: u64 = (0..have.len()).map(over).sum();
    let can_save = |member: &usize| quotas.most[*member] > quotas.least[*member] && over(*member) > 0;
    let savers = (0..have.len()).filter(can_save).count() as u64;
    let uneven = above - savers.min(quotas.left_over());
    let wanted = (problem.buckets.len() * problem.replicas) as u64;
    // Owners that a bucket is to have no more are not moved.
    let surplus = problem.buckets.iter().map(|demand| demand.owners.len().saturating_sub(problem.replicas));
    let surplus = surplus.sum::<usize>() as u64;
    (barred + crowded.max(uneven)).saturating_sub(wanted - quotas.total + surplus)
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn small_u64(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
