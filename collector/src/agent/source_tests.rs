//! What readers are answered, by hand-made sources.

use super::super::identity::{FileId, Mark, Stat};
use super::*;

const T: u64 = 1_000_000;

fn trace(size: u64) -> Trace {
    let mark = Mark { len: 0, hash: 0 };
    let id = FileId { dev: 1, ino: 1, born_ns: 0 };
    Trace { stat: Stat { id, size, changed_ns: 0 }, head: mark, tail: mark }
}

fn source(incarnations: &[(u64, State)]) -> Source {
    let mut source = Source {
        path: "/f".into(),
        file: "f".into(),
        item: "a@h:f".into(),
        incarnations: Vec::new(),
        reader: None,
        gaps: Vec::new(),
        seen_ms: 0,
        gone_ms: None,
        retired: false,
    };
    for (index, (size, state)) in incarnations.iter().enumerate() {
        let number = source.begin(trace(*size), state.clone(), T + index as u64);
        source.incarnation_mut(number).unwrap().recorded = true;
    }
    source
}

fn away() -> State {
    State::Away { at: None, since_ms: T }
}

fn ended(incarnation: u64, next: u64, gap: Option<(u64, u64, GapReason)>) -> Answer {
    let gap = gap.map(|(from, to, reason)| Gap { incarnation, from, to, reason });
    Answer::Ended { incarnation, next, gap }
}

#[test]
fn numbers_grow_even_within_a_millisecond_or_when_the_clock_goes_back() {
    let mut s = source(&[(1, away()), (1, away())]);
    assert_eq!(s.begin(trace(0), away(), T), T + 2);
    assert_eq!(s.begin(trace(0), away(), T - 50), T + 3);
    assert_eq!(s.begin(trace(0), State::Live, T + 500), T + 500);
}

#[test]
fn the_first_reader_gets_the_oldest_that_no_reader_is_done_with() {
    let mut s = source(&[(5, away()), (5, away()), (5, State::Live)]);
    assert_eq!(s.ask(None, 0), Answer::Read(T));
    s.note_reader(T + 1, 0, T);
    assert_eq!(s.ask(None, 0), Answer::Read(T + 1));
    assert_eq!(s.ask(Some(T), 0), Answer::Read(T), "it may go back as long as the file is there");
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

#[test]
fn a_source_is_over_when_its_path_is_empty_and_all_is_read() {
    let mut s = source(&[(100, State::Live)]);
    let late = T + RETIRE_MS;
    assert!(!s.is_over(late));
    s.leave(None, T);
    assert!(!s.is_over(late), "unread");
    s.note_reader(T, 100, T);
    assert!(!s.is_over(late - 1), "it may come back");
    assert!(s.is_over(late));
    s.begin(trace(0), State::Live, late);
    assert!(!s.is_over(late + RETIRE_MS), "it came back");
}

#[test]
fn what_is_lost_unread_is_noted_when_the_source_retires() {
    let mut s = source(&[(100, State::Live)]);
    s.note_reader(T, 40, T);
    s.lose(T, GapReason::Gone, T);
    assert!(s.is_over(T + RETIRE_MS));
    s.retire();
    s.retire();
    assert_eq!(s.gaps, [Gap { incarnation: T, from: 40, to: 100, reason: GapReason::Gone }]);
}

#[test]
fn too_many_unread_incarnations_lose_the_oldest() {
    let many = vec![(7, away()); INCARNATIONS_MAX + 1];
    let s = source(&many);
    assert_eq!(s.incarnations.len(), INCARNATIONS_MAX);
    assert_eq!(s.gaps, [Gap { incarnation: T, from: 0, to: 7, reason: GapReason::Gone }]);
}
