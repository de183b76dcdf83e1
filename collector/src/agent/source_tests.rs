//! Hand-made sources, and what becomes of them.

use super::super::identity::{FileId, Mark, Stat};
use super::*;

pub(in crate::agent) const T: u64 = 1_000_000;

pub(in crate::agent) fn trace(size: u64) -> Trace {
    let mark = Mark { len: 0, hash: 0 };
    let id = FileId { dev: 1, ino: 1, born_ns: 0 };
    Trace { stat: Stat { id, size, changed_ns: 0 }, head: mark, tail: mark }
}

pub(in crate::agent) fn source(incarnations: &[(u64, State)]) -> Source {
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

pub(in crate::agent) fn away() -> State {
    State::Away { at: None, since_ms: T }
}

#[test]
fn numbers_grow_even_within_a_millisecond_or_when_the_clock_goes_back() {
    let mut s = source(&[(1, away()), (1, away())]);
    assert_eq!(s.begin(trace(0), away(), T), T + 2);
    assert_eq!(s.begin(trace(0), away(), T - 50), T + 3);
    assert_eq!(s.begin(trace(0), State::Live, T + 500), T + 500);
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
    let mut s = source(&many);
    assert_eq!(s.drop_oldest().map(|i| i.number), Some(T));
    assert!(s.drop_oldest().is_none());
    assert_eq!(s.gaps, [Gap { incarnation: T, from: 0, to: 7, reason: GapReason::Gone }]);
}

#[test]
fn a_source_out_of_service_comes_back_when_its_file_grows() {
    let at = State::Away { at: Some("/f.1".into()), since_ms: T };
    let mut s = source(&[(100, at)]);
    (s.gone_ms, s.reader) = (Some(T), Some(Reader { incarnation: T, offset: 100 }));
    s.retire();
    assert!(!s.is_forgettable(T + 2 * REMEMBER_MS), "its file is there");
    assert_eq!(s.grow(T, trace(120), T + 9), Some(20));
    assert!(!s.retired && !s.is_over(T + RETIRE_MS));
}

#[test]
fn growth_after_the_reader_went_on_is_a_gap() {
    let mut s = source(&[(100, away()), (5, State::Live)]);
    s.note_reader(T + 1, 0, T);
    assert_eq!(s.grow(T, trace(90), T), None);
    assert_eq!(s.grow(T, trace(130), T), Some(30));
    assert_eq!(s.gaps, [Gap { incarnation: T, from: 100, to: 130, reason: GapReason::Late }]);
}
