//! The strategy `balanced`: every member gets its fair share by weight, to within
//! one bucket, with the fewest possible moves.
//!
//! First comes what is nearly always the whole answer: who has too much gives some up,
//! and what nobody has goes to whoever has the most room. Where zones and labels stand
//! in the way of that, exchanges mend it: see `exchange`.

use std::cmp::Reverse;

use super::room::Room;
use super::rows::Rows;
use super::{Answer, Problem, Quotas, REPLICAS_MAX, check, keep_irreplaceable};
use super::{exchange, primaries};

/// The answer with the fewest moves among those that are balanced to within one bucket.
/// If nothing stands in the way it costs O(buckets log members).
#[must_use]
pub fn solve(problem: &Problem) -> Answer {
    let quotas = Quotas::of(problem);
    let mut answer = place_all(problem, &quotas);
    primaries::choose(problem, &mut answer);
    keep_irreplaceable(problem, &mut answer);
    answer
}

/// The answer without primaries, and without those who stay because they cannot be
/// replaced.
#[must_use]
pub fn place_all(problem: &Problem, quotas: &Quotas) -> Answer {
    let mut rows = Rows::kept(problem, quotas);
    let targets = targets(&rows);
    place(&mut rows, &targets);
    shed(&mut rows, &targets);
    place(&mut rows, &targets);
    let is_balanced = (0..problem.members.len()).all(|member| rows.load(member) >= quotas.least[member]);
    let owners = || (0..problem.buckets.len()).map(|bucket| rows.len(bucket));
    let is_even = owners().max().unwrap_or(0) <= owners().min().unwrap_or(0) + 1;
    let is_perfect = rows.missing() == 0 && is_balanced && is_even;
    if !is_perfect || rows.moves() > check::lower_bound(problem, quotas) {
        let is_rough = !exchange::optimize(&mut rows);
        return Answer { is_approximate: is_rough, ..rows.into_answer() };
    }
    rows.into_answer()
}

/// How many buckets each member is to have: its share rounded down or, for as many as
/// there are left over, up. Whoever has so many already saves a move by being one of
/// those, so they come first; then whoever something is destined for, so that a plan stands; then
/// the larger fraction.
fn targets(rows: &Rows<'_>) -> Vec<u64> {
    let quotas = rows.quotas;
    let mut targets = quotas.least.clone();
    let mut candidates: Vec<usize> =
        (0..targets.len()).filter(|member| quotas.most[*member] > quotas.least[*member]).collect();
    let mut is_destined = vec![false; targets.len()];
    for (bucket, demand) in rows.problem.buckets.iter().enumerate() {
        let coming = demand.reserved_for.iter().filter(|member| !rows.row(bucket).contains(*member));
        coming.for_each(|member| is_destined[member] = true);
    }
    let permille = |member: usize| (quotas.fraction(member) * 1e6).round() as u64;
    candidates.sort_by_key(|&m| (rows.load(m) <= quotas.least[m], !is_destined[m], Reverse(permille(m)), m));
    for &member in candidates.iter().take(usize::try_from(quotas.left_over()).unwrap_or(usize::MAX)) {
        targets[member] += 1;
    }
    targets
}

/// Whoever has too much gives some up: the last buckets of which it is not the primary, then
/// the others, but those first that a zone with room could take.
fn shed(rows: &mut Rows<'_>, targets: &[u64]) {
    let problem = rows.problem;
    let mut room = vec![false; problem.zones()];
    for (member, target) in targets.iter().enumerate() {
        room[problem.members[member].zone] |= rows.load(member) < *target;
    }
    let room: Vec<usize> = (0..room.len()).filter(|zone| room[*zone]).collect();
    for (member, target) in targets.iter().enumerate() {
        let surplus = rows.load(member).saturating_sub(*target);
        let Ok(surplus @ 1..) = usize::try_from(surplus) else { continue };
        let can_go = |bucket: usize| {
            // Another has given it up already: to somebody else than this one then.
            let is_whole = rows.len(bucket) == problem.replicas;
            is_whole && room.iter().any(|zone| rows.zone_has_room(bucket, *zone, Some(member)))
        };
        let is_led = |bucket: usize| rows.row(bucket).primary() == Some(member);
        let mut held: Vec<usize> = rows.held(member).collect();
        held.sort_by_cached_key(|bucket| (!can_go(*bucket), is_led(*bucket), Reverse(*bucket)));
        rows.take_away(member, &held[..surplus]);
    }
}

/// What nobody has goes to whoever it is destined for or has the most room: a first
/// owner for every bucket, then a second. Buckets that few may own come first.
fn place(rows: &mut Rows<'_>, targets: &[u64]) {
    let problem = rows.problem;
    let room = targets.iter().enumerate().map(|(member, target)| target.saturating_sub(rows.load(member)));
    let mut room = Room::new(problem, room.collect());
    let choice: Vec<usize> = problem
        .classes
        .iter()
        .map(|class| class.allowed.iter().filter(|allowed| **allowed).count())
        .collect();
    let mut buckets: Vec<usize> =
        (0..problem.buckets.len()).filter(|bucket| rows.len(*bucket) < problem.replicas).collect();
    buckets.sort_by_key(|bucket| (choice[problem.buckets[*bucket].class], *bucket));
    for wanted in 1..=problem.replicas {
        for &bucket in &buckets {
            while rows.len(bucket) < wanted && rows.missing() > 0 {
                let destined = problem.buckets[bucket].reserved_for;
                let mut destined = destined.iter();
                let destined = destined.find(|m| room.of(*m) > 0 && rows.may_take(bucket, *m, None));
                let found = destined.or_else(|| {
                    let zone_will_do = |zone| rows.zone_has_room(bucket, zone, None);
                    room.find(start(problem, bucket, rows.len(bucket)), zone_will_do, |m| {
                        rows.may_take(bucket, m, None)
                    })
                });
                let Some(member) = found else { break };
                rows.add(bucket, member);
                room.take(problem, member);
            }
        }
    }
}

/// Where a bucket begins to look for its next owner among members that are alike: elsewhere
/// each, so that a member shares its buckets with many others, and all of them help when it
/// dies. (A bucket of one owner is shared with nobody.)
fn start(problem: &Problem, bucket: usize, owners: usize) -> usize {
    if problem.replicas == 1 {
        return 0;
    }
    // The finalizer of SplitMix64 (Steele and others, "Fast splittable pseudorandom number
    // generators", 2014).
    let mut z = (bucket * (REPLICAS_MAX + 1) + owners) as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((z ^ (z >> 31)) >> 1).unwrap_or(0)
}
