//! Every row of up to three names, however it stands with each, for all that a planner can want
//! of them.

use super::*;
use crate::pool::OwnerAction;

const NAMES: [&str; 3] = ["a", "b", "c"];
const FENCE: u64 = 7;
/// When those joined that are back.
const ANEW: u64 = 5;

fn owner(name: &str) -> Owner {
    Owner { fence: FENCE, ..Owner::new(name, 1) }
}

/// All sequences of distinct names.
fn sequences() -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for len in 0..NAMES.len() {
        let longer: Vec<Vec<&str>> = all.iter().filter(|s| s.len() == len).cloned().collect();
        for sequence in longer {
            all.extend(
                NAMES.iter().filter(|n| !sequence.contains(n)).map(|n| [&sequence[..], &[*n]].concat()),
            );
        }
    }
    all
}

/// How it stands with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lot {
    Is(MemberStatus),
    /// It has gone and joined anew: whoever the row names is another.
    IsBack,
}

struct Case {
    row: Row,
    lots: [Lot; 3],
    wanted: Vec<Owner>,
    handoff: Handoff,
    replicas: usize,
    /// The plan has a move for everybody who is wanted.
    is_planned: bool,
}

impl Case {
    fn standing(&self, owner: &Owner) -> MemberStatus {
        match self.lots[place(&owner.member)] {
            Lot::Is(standing) => standing,
            Lot::IsBack if owner.joined == ANEW => MemberStatus::Living,
            Lot::IsBack => MemberStatus::Gone,
        }
    }

    fn next(&self, row: &Row) -> Row {
        let planned: Vec<Move> = self.wanted.iter().map(|to| move_to(&to.member)).collect();
        let planned: Vec<&Move> = planned.iter().filter(|_| self.is_planned).collect();
        let standing = |owner: &Owner| self.standing(owner);
        let rules = HandoffRules { handoff: self.handoff, replicas: self.replicas, standing: &standing };
        next_row(&rules, row, &self.wanted, &planned)
    }
}

fn move_to(name: &str) -> Move {
    Move {
        bucket: Bucket::number(0),
        from: None,
        to: Some(name.to_owned()),
        promote: false,
        fence: 0,
        reason: Reason::Died,
    }
}

fn place(name: &str) -> usize {
    NAMES.iter().position(|other| *other == name).unwrap()
}

fn every_case(mut check: impl FnMut(&Case)) -> usize {
    let mut cases = 0;
    let lots = [
        Lot::Is(MemberStatus::Living),
        Lot::Is(MemberStatus::Away),
        Lot::Is(MemberStatus::Gone),
        Lot::IsBack,
    ];
    let sequences = sequences();
    for owners in &sequences {
        for preparing in sequences.iter().filter(|p| p.iter().all(|name| !owners.contains(name))) {
            for combination in 0..64 {
                let lots = [combination % 4, combination / 4 % 4, combination / 16].map(|at| lots[at]);
                for wanted in &sequences {
                    // The planner never wants more owners than there are to be.
                    for kind in (0..12).filter(|kind| wanted.len() <= 1 + kind / 4) {
                        let named = |names: &[&str]| names.iter().map(|name| owner(name)).collect();
                        let joined = |name: &str| if lots[place(name)] == Lot::IsBack { ANEW } else { 1 };
                        check(&Case {
                            row: Row { owners: named(owners), preparing: named(preparing), degraded: false },
                            lots,
                            wanted: wanted.iter().map(|name| Owner::new(name, joined(name))).collect(),
                            handoff: if kind % 2 == 0 { Handoff::Exclusive } else { Handoff::Warm },
                            is_planned: kind / 2 % 2 == 0,
                            replicas: 1 + kind / 4,
                        });
                        cases += 1;
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn nobody_who_lives_loses_anything_and_there_is_one_primary_if_there_can_be() {
    let cases = every_case(|case| {
        let next = case.next(&case.row);
        let told = || format!("{:?} {:?} wants {:?} -> {next:?}", case.row, case.lots, case.wanted);
        let lives = |owner: &&Owner| case.standing(owner) == MemberStatus::Living;
        let living: Vec<&Owner> = case.row.owners.iter().filter(lives).collect();
        let owns = |owner: &Owner| next.owners.iter().any(|other| other.is_same(owner));
        assert!(living.iter().all(|owner| owns(owner)), "{}", told());
        let named: Vec<&str> = next.owners.iter().chain(&next.preparing).map(|o| o.member.as_str()).collect();
        assert!((1..named.len()).all(|at| !named[..at].contains(&named[at])), "twice: {}", told());
        let wants = |owner: &Owner| case.wanted.iter().any(|other| other.member == owner.member);
        let leads_on = case.row.primary().filter(lives);
        let should_lead = leads_on.or_else(|| living.iter().copied().find(|owner| wants(owner)));
        let was_owner = |owner: &&Owner| case.row.owners.iter().any(|other| other.member == owner.member);
        match should_lead.or(living.first().copied()) {
            // One of those who live leads; nobody who is not ready is an owner of a warm pool.
            Some(first) => {
                assert!(next.primary().unwrap().is_same(first), "{}", told());
                assert!(next.owners.iter().all(|owner| lives(&owner)), "{}", told());
                if case.handoff == Handoff::Warm {
                    assert_eq!(next.owners.len(), living.len(), "{}", told());
                }
            }
            // Whoever is back leads; those who are away are waited for; otherwise whoever was
            // preparing leads, or is wanted.
            None => {
                let back = case.wanted.iter().filter(lives).find(was_owner);
                let waits = next.owners.iter().any(|owner| case.standing(owner) == MemberStatus::Away);
                assert!(!waits || back.is_none(), "{}", told());
                let begun = case.row.preparing.iter().filter(|_| !case.wanted.is_empty());
                let should = back.or_else(|| begun.chain(&case.wanted).find(lives));
                let leads = next.primary().filter(lives);
                assert!(waits || leads.map(|o| &o.member) == should.map(|o| &o.member), "{}", told());
            }
        }
        assert!(next.owners.len() <= case.replicas.max(case.row.owners.len()), "{}", told());
        // A new primary has a new fence, and whoever goes on leading keeps its own.
        let leads = |row: &Row| row.primary().map(|owner| (owner.member.clone(), owner.joined));
        if let Some(primary) = next.primary() {
            assert_eq!(primary.fence == FENCE, leads(&next) == leads(&case.row), "{}", told());
        }
        // Looking once more changes nothing.
        let settled = next.clone().resolve_fences(FENCE + 1);
        assert_eq!(case.next(&settled).resolve_fences(FENCE + 1), settled, "{}", told());
    });
    assert!(cases > 100_000, "{cases}");
}

#[test]
fn moves_lead_to_what_is_wanted_whoever_complies_first() {
    every_case(|case| {
        let living = case.lots == [Lot::Is(MemberStatus::Living); 3];
        if !living || case.wanted.is_empty() {
            return;
        }
        for last_first in [false, true] {
            let (mut row, mut planned) = (case.row.clone(), Vec::<Move>::new());
            let bucket = Bucket::number(0);
            let standing = |owner: &Owner| case.standing(owner);
            let rules = HandoffRules { handoff: case.handoff, replicas: case.replicas, standing: &standing };
            let mut rounds = 0;
            loop {
                let by_ref: Vec<&Move> = planned.iter().collect();
                row = next_row(&rules, &row, &case.wanted, &by_ref).resolve_fences(FENCE + rounds);
                planned = moves_of(&bucket, &rules, &row, &case.wanted, &by_ref, |_| Reason::Operator);
                let by_ref: Vec<&Move> = planned.iter().collect();
                row = next_row(&rules, &row, &case.wanted, &by_ref).resolve_fences(FENCE + rounds);
                let mut deeds: Vec<(Owner, OwnerAction)> =
                    row.preparing.iter().map(|o| (o.clone(), OwnerAction::Ready)).collect();
                for mv in planned.iter().filter(|mv| mv.is_pending(&row) && mv.is_due(&row, case.handoff)) {
                    let from = row.owners.iter().find(|o| Some(&o.member) == mv.from.as_ref());
                    let action = if mv.promote { OwnerAction::StepDown } else { OwnerAction::Release };
                    deeds.extend(from.map(|from| (from.clone(), action)));
                }
                if last_first {
                    deeds.reverse();
                }
                let Some((who, action)) = deeds.first() else { break };
                rounds += 1;
                assert!(rounds < 20, "{:?} wants {:?}: {row:?} {planned:?}", case.row, case.wanted);
                row = row.apply_action(who, *action, case.replicas).unwrap().resolve_fences(FENCE + rounds);
            }
            let names = |owners: &[Owner]| owners.iter().map(|o| o.member.clone()).collect::<Vec<_>>();
            assert_eq!(names(&row.owners), names(&case.wanted), "from {:?}: {planned:?}", case.row);
            assert_eq!((row.preparing.len(), planned.len()), (0, 0));
        }
    });
}
