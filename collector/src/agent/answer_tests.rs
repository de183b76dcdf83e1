//! What readers of hand-made sources are answered.

use super::super::source::Loss;
use super::super::source::tests::{T, at, away, lost, reader, source};
use super::*;
use crate::wire::GapReason;

fn gap(incarnation: u64, from: u64, to: Option<u64>, reason: GapReason) -> Gap {
    Gap { number: 0, incarnation, from, to, reason }
}

fn ended(incarnation: u64, next: u64, gap: Option<Gap>) -> Answer {
    Answer::Ended { incarnation, next, gap }
}

#[test]
fn whoever_has_nothing_gets_the_oldest_that_can_be_had() {
    let mut s = source(&[(5, away()), (5, away()), (5, State::Live)]);
    assert_eq!(s.plan_read(None, 0, at(2_000)), Answer::Read(T));
    s.note_reader(reader(T + 1, 0), &[], at(0));
    assert_eq!(
        s.plan_read(None, 0, at(2_000)),
        Answer::Read(T),
        "it may go back as long as the file is there"
    );
    assert_eq!(s.plan_read(Some(T), 0, at(2_000)), Answer::Read(T));
    s.mark_lost(T, Loss { reason: GapReason::Gone, is_end_known: false }, at(0));
    assert_eq!(
        s.plan_read(None, 0, at(2_000)),
        Answer::Read(T + 1),
        "what was collected and is gone is no gap"
    );
}

#[test]
fn an_unrecorded_incarnation_is_not_told() {
    let mut s = source(&[(5, away()), (5, State::Live)]);
    s.incarnations[1].recorded = false;
    assert_eq!(s.at_end(T, 5, at(10_000)), Answer::Wait { incarnation: T, until_ms: None });
    assert_eq!(s.plan_read(Some(T + 1), 0, at(2_000)), Answer::Unknown { oldest: T });
}

#[test]
fn an_unknown_incarnation() {
    let s = source(&[(5, away()), (5, State::Live)]);
    assert_eq!(s.plan_read(Some(7), 3, at(2_000)), Answer::Unknown { oldest: T });
    assert_eq!(s.plan_read(Some(T + 9), 3, at(2_000)), Answer::Unknown { oldest: T + 1 });
}

#[test]
fn a_lost_incarnation_ends_at_once_with_what_was_not_read() {
    use GapReason::{Gone, Truncated};
    let s = source(&[(100, lost(Gone, true)), (5, State::Live)]);
    assert_eq!(s.plan_read(Some(T), 40, at(2_000)), ended(T, T + 1, Some(gap(T, 40, Some(100), Gone))));
    assert_eq!(s.plan_read(Some(T), 100, at(2_000)), ended(T, T + 1, None));
    // Nobody saw how much was written before the truncation.
    let s = source(&[(100, lost(Truncated, false)), (5, State::Live)]);
    assert_eq!(s.plan_read(None, 0, at(2_000)), ended(T, T + 1, Some(gap(T, 0, None, Truncated))));
    assert_eq!(s.plan_read(Some(T), 100, at(2_000)), ended(T, T + 1, Some(gap(T, 100, None, Truncated))));
    assert_eq!(s.plan_read(Some(T), 101, at(2_000)), ended(T, T + 1, None), "that is recorded");
}

/// A file that is moved away and lost has no successor; its reader is told all the
/// same, once.
#[test]
fn the_last_incarnation_that_is_lost_is_a_gap_too() {
    for (is_end_known, to, resume) in [(true, Some(100), 100), (false, None, 101)] {
        let mut s = source(&[(100, lost(GapReason::Gone, is_end_known))]);
        let skipped = Answer::Skipped { resume, gap: gap(T, 40, to, GapReason::Gone) };
        assert_eq!(s.plan_read(Some(T), 40, at(2_000)), skipped);
        assert_eq!(s.at_end(T, 40, at(2_000)), skipped);
        let wait = Answer::Wait { incarnation: T, until_ms: Some(at(SETTLE_MS).monotonic_ms) };
        assert_eq!(s.plan_read(Some(T), 40, at(SETTLE_MS - 1)), wait, "a successor may be seen in a moment");
        assert_eq!(s.plan_read(Some(T), resume, at(2_000)), Answer::Wait { incarnation: T, until_ms: None });
        let next = s.begin(super::super::source::tests::trace(5), State::Live, at(9));
        s.incarnation_mut(next).unwrap().recorded = true;
        assert_eq!(s.plan_read(Some(T), resume, at(2_000)), ended(T, next, None));
    }
}

#[test]
fn a_rotated_incarnation_ends_when_it_has_settled() {
    let mut s = source(&[(100, away()), (5, State::Live)]);
    s.incarnations[0].quiet_since_ms = at(500).monotonic_ms;
    let settled = at(500 + SETTLE_MS);
    let wait = Answer::Wait { incarnation: T, until_ms: Some(settled.monotonic_ms) };
    assert_eq!(s.at_end(T, 100, at(500 + SETTLE_MS - 1)), wait);
    assert_eq!(s.at_end(T, 100, settled), ended(T, T + 1, None));
    // The wall clock was set back meanwhile.
    let set_back = Now { unix_ms: 0, ..settled };
    assert_eq!(s.at_end(T, 100, set_back), ended(T, T + 1, None));
}

#[test]
fn a_rotated_incarnation_does_not_end_while_its_successor_is_empty() {
    let mut s = source(&[(100, away()), (0, State::Live)]);
    let wait = Answer::Wait { incarnation: T, until_ms: None };
    assert_eq!(s.at_end(T, 100, at(60_000)), wait);
    s.leave(None, at(60_000));
    assert_eq!(s.at_end(T, 100, at(60_000)), ended(T, T + 1, None));
}

#[test]
fn the_live_incarnation_never_ends() {
    let s = source(&[(100, State::Live)]);
    assert_eq!(s.at_end(T, 100, at(60_000)), Answer::Wait { incarnation: T, until_ms: None });
}
