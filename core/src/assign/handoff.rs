//! What becomes of one bucket: its next row, and the moves that are still needed.
//!
//! Both are functions of the row, of who of those it names lives, and of the owners that the
//! planner wants. So it makes no difference what happened, or in which order; what a member
//! does by itself is in [`Row::apply_action`]. In the table, A is the primary, B a backup, C a member
//! that the planner wants; exclusive pools have no one preparing.
//!
//! | the row | lives | handoff | what the controller does |
//! |---|---|---|---|
//! | A B | all | | asks whoever is not wanted to let go; in a warm pool only once C is an owner |
//! | A B | all, and B is wanted as the primary | | asks A to step down |
//! | A B | B | exclusive | B leads (of several, one that is wanted); C is an owner at once |
//! | A B | B | warm | B leads; C prepares |
//! | A, C prepares | A | warm | without C; if C is still wanted it begins anew when it has joined again |
//! | A, C prepares | C | warm | C leads, ready or not: nobody has more |
//! | A, C prepares | nobody | | whoever is wanted owns it, the first leads |
//! | A | nobody, but A may be back | | waits for it |
//! | A B | nobody, but both may be back, and one is | | it leads; the place of the other is kept |
//! | B, A prepares | nobody, but both may be back, and A is | | waits for B, which has led alone |
//! | A B | B, but A may be back | | B leads; A's place is kept |
//!
//! So a bucket has never two primaries, and never none while a backup lives.

use crate::pool::{Bucket, Handoff, Move, Owner, Reason, Row};

/// How it stands with somebody whom a row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberStatus {
    /// It is a member, as it joined then.
    Living,
    /// It is gone, but may be back under the same name.
    Away,
    /// It is gone, or has joined anew.
    Gone,
}

/// What is decided by.
pub(super) struct HandoffRules<'a> {
    pub(super) handoff: Handoff,
    pub(super) replicas: usize,
    pub(super) standing: &'a dyn Fn(&Owner) -> MemberStatus,
}

/// The row that should stand now. `wanted` are the owners that the planner wants, in order;
/// `planned` are the bucket's moves of the plan that stands.
pub(super) fn next_row(rules: &HandoffRules<'_>, row: &Row, wanted: &[Owner], planned: &[&Move]) -> Row {
    let is = |standing: MemberStatus| move |owner: &&Owner| (rules.standing)(owner) == standing;
    let mut owners: Vec<Owner> = row.owners.iter().filter(is(MemberStatus::Living)).cloned().collect();
    let wants = |owner: &Owner| wanted.iter().any(|other| other.member == owner.member);
    let waits = |owner: &&Owner| (rules.standing)(owner) == MemberStatus::Away && wants(owner);
    let named = || row.owners.iter().chain(&row.preparing);
    let mut away: Vec<Owner> = Vec::new();
    for owner in named().filter(waits) {
        if !away.iter().any(|other| other.member == owner.member) {
            away.push(owner.clone());
        }
    }
    let may_be_granted = |owner: &&Owner| (rules.standing)(owner) == MemberStatus::Living;
    if row.primary().is_some_and(|primary| (rules.standing)(primary) != MemberStatus::Living) {
        // Of those who could lead, whoever is to go does not, if another can.
        owners.sort_by_key(|owner| !wants(owner));
    }
    if owners.is_empty() {
        // Whoever is back under the name of an owner has what it takes.
        let is_back = |owner: &&Owner| row.owners.iter().any(|other| other.member == owner.member);
        let back = wanted.iter().filter(may_be_granted).filter(is_back);
        owners = back.take(rules.replicas).cloned().collect();
    }
    if owners.is_empty() && row.owners.iter().any(|owner| waits(&owner)) {
        // Those who are away have what it takes; nobody else has.
        let stays = |owner: &&Owner| (rules.standing)(owner) != MemberStatus::Gone && wants(owner);
        let preparing = row.preparing.iter().filter(stays);
        let row = Row { preparing: preparing.cloned().collect(), ..row.clone() };
        return row.clone().transition_from(&row, rules.replicas);
    }
    let mut preparing: Vec<Owner> = Vec::new();
    if owners.is_empty() && !wanted.is_empty() {
        // Whoever was preparing has more than any other, wanted or not.
        owners = row.preparing.iter().filter(is(MemberStatus::Living)).take(1).cloned().collect();
    }
    if owners.is_empty() {
        owners = wanted.iter().filter(may_be_granted).take(rules.replicas).cloned().collect();
    } else {
        let is_new = |owner: &&Owner| !owners.iter().any(|other| other.is_same(owner));
        let missing = wanted.iter().filter(may_be_granted).filter(is_new);
        match rules.handoff {
            Handoff::Exclusive => {
                let room = rules.replicas.saturating_sub(owners.len() + away.len());
                let granted: Vec<Owner> = missing.take(room).cloned().collect();
                owners.extend(granted);
            }
            Handoff::Warm => {
                let begun = |owner: &Owner| row.preparing.iter().find(|other| other.is_same(owner)).cloned();
                let is_planned =
                    |owner: &Owner| planned.iter().any(|mv| mv.to.as_deref() == Some(&owner.member));
                let prepares =
                    |owner: &Owner| begun(owner).or_else(|| is_planned(owner).then(|| owner.clone()));
                preparing = missing.filter_map(prepares).collect();
            }
        }
    }
    preparing.extend(away);
    // The first of the others leads next.
    let rank = |owner: &Owner| wanted.iter().position(|other| other.is_same(owner)).unwrap_or(usize::MAX);
    if let Some((_, backups)) = owners.split_first_mut() {
        backups.sort_by_key(rank);
    }
    Row { owners, preparing, degraded: false }.transition_from(row, rules.replicas)
}

/// The moves that lead from a row to the owners that the planner wants. `planned` are the
/// bucket's moves that are under way: they stay what they are if they still lead there.
pub(super) fn moves_of(
    bucket: &Bucket,
    rules: &HandoffRules<'_>,
    row: &Row,
    wanted: &[Owner],
    planned: &[&Move],
    reason: impl Fn(Option<&Owner>) -> Reason,
) -> Vec<Move> {
    let owns = |owner: &Owner| row.owners.iter().any(|other| other.is_same(owner));
    let is_wanted = |owner: &Owner| wanted.iter().any(|other| other.is_same(owner));
    let (leaving, staying): (Vec<&Owner>, Vec<&Owner>) =
        row.owners.iter().partition(|owner| !is_wanted(owner));
    let mut missing: Vec<&Owner> = wanted.iter().filter(|owner| !owns(owner)).collect();
    // In an exclusive pool whoever there is a place for is an owner at once.
    if rules.handoff == Handoff::Exclusive {
        let room = rules.replicas.saturating_sub(row.owners.len());
        missing.drain(..room.min(missing.len()));
    }
    let make = |from: Option<&Owner>, to: Option<&Owner>, promote| {
        let before = planned.iter().find(|mv| {
            let is_from = mv.from.as_deref() == from.map(|owner| owner.member.as_str());
            is_from && (from.is_some() || mv.to.as_deref() == to.map(|owner| owner.member.as_str()))
        });
        Move {
            bucket: bucket.clone(),
            from: from.map(|owner| owner.member.clone()),
            to: to.map(|owner| owner.member.clone()),
            promote,
            fence: from.map_or(0, |owner| owner.fence),
            reason: before.map_or_else(|| reason(from), |mv| mv.reason),
        }
    };
    let mut moves = Vec::new();
    let mut unpaired = Vec::new();
    for from in leaving {
        let before = planned.iter().find(|mv| mv.from.as_deref() == Some(&from.member));
        let to = before.and_then(|mv| wanted.iter().find(|owner| mv.to.as_deref() == Some(&owner.member)));
        match to {
            Some(to) if !owns(to) && missing.iter().any(|other| other.is_same(to)) => {
                missing.retain(|other| !other.is_same(to));
                moves.push(make(Some(from), Some(to), false));
            }
            // It has come, and `from` may go.
            Some(to) if owns(to) => moves.push(make(Some(from), Some(to), false)),
            _ => unpaired.push(from),
        }
    }
    // Whoever is wanted first comes for the first: the primary, if it is one of them.
    let mut missing = missing.into_iter();
    for from in unpaired {
        moves.push(make(Some(from), missing.next(), false));
    }
    if rules.handoff == Handoff::Warm {
        moves.extend(missing.map(|to| make(None, Some(to), false)));
    }
    if moves.is_empty()
        && let (Some(leads), Some(should)) = (staying.first(), wanted.first())
        && !leads.is_same(should)
        && owns(should)
    {
        moves.push(make(Some(leads), Some(should), true));
    }
    // A grant that this very step makes has no fence yet: the next look sees it.
    moves.retain(|mv| mv.from.is_none() || mv.fence > 0);
    moves
}

#[cfg(test)]
#[path = "handoff_tests.rs"]
mod tests;
