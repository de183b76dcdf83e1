//! What readers of hand-made sources are answered.

use super::super::source::tests::{T, away, source};
use super::*;
use crate::wire::GapReason;

fn ended(incarnation: u64, next: u64, gap: Option<(u64, u64, GapReason)>) -> Answer {
    let gap = gap.map(|(from, to, reason)| Gap { incarnation, from, to, reason });
    Answer::Ended { incarnation, next, gap }
}

#[test]
fn whoever_has_nothing_gets_the_oldest_that_can_be_had() {
    let mut s = source(&[(5, away()), (5, away()), (5, State::Live)]);
    assert_eq!(s.ask(None, 0), Answer::Read(T));
    s.note_reader(T + 1, 0, T);
    assert_eq!(s.ask(None, 0), Answer::Read(T), "it may go back as long as the file is there");
    assert_eq!(s.ask(Some(T), 0), Answer::Read(T));
    s.lose(T, GapReason::Gone, T);
    assert_eq!(s.ask(None, 0), Answer::Read(T + 1), "what was collected and is gone is no gap");
}

#[test]
fn an_unrecorded_incarnation_is_not_told() {
    let mut s = source(&[(5, away()), (5, State::Live)]);
    s.incarnations[1].recorded = false;
    assert_eq!(s.at_end(T, T + 10_000), Answer::Wait { incarnation: T, until_ms: None });
    assert_eq!(s.ask(Some(T + 1), 0), Answer::Unknown { oldest: T });
}

#[test]
fn an_unknown_incarnation() {
    let s = source(&[(5, away()), (5, State::Live)]);
    assert_eq!(s.ask(Some(7), 3), Answer::Unknown { oldest: T });
    assert_eq!(s.ask(Some(T + 9), 3), Answer::Unknown { oldest: T + 1 });
}

#[test]
fn a_truncated_incarnation_ends_at_once_with_what_was_not_read() {
    let s = source(&[(100, State::Lost(GapReason::Truncated)), (5, State::Live)]);
    assert_eq!(s.ask(Some(T), 40), ended(T, T + 1, Some((40, 100, GapReason::Truncated))));
    assert_eq!(s.ask(Some(T), 100), ended(T, T + 1, None));
    assert_eq!(s.ask(None, 0), ended(T, T + 1, Some((0, 100, GapReason::Truncated))));
}

#[test]
fn a_lost_incarnation_without_a_next_waits_for_it() {
    let s = source(&[(100, State::Lost(GapReason::Gone))]);
    assert_eq!(s.ask(Some(T), 40), Answer::Wait { incarnation: T, until_ms: None });
}

#[test]
fn a_rotated_incarnation_ends_when_it_has_settled() {
    let mut s = source(&[(100, away()), (5, State::Live)]);
    s.incarnations[0].grown_ms = T + 500;
    let wait = Answer::Wait { incarnation: T, until_ms: Some(T + 500 + SETTLE_MS) };
    assert_eq!(s.at_end(T, T + 500 + SETTLE_MS - 1), wait);
    assert_eq!(s.at_end(T, T + 500 + SETTLE_MS), ended(T, T + 1, None));
}

#[test]
fn a_rotated_incarnation_does_not_end_while_its_successor_is_empty() {
    let mut s = source(&[(100, away()), (0, State::Live)]);
    let wait = Answer::Wait { incarnation: T, until_ms: None };
    assert_eq!(s.at_end(T, T + 60_000), wait);
    s.leave(None, T + 60_000);
    assert_eq!(s.at_end(T, T + 60_000), ended(T, T + 1, None));
}

#[test]
fn the_live_incarnation_never_ends() {
    let s = source(&[(100, State::Live)]);
    assert_eq!(s.at_end(T, T + 60_000), Answer::Wait { incarnation: T, until_ms: None });
}
