//! Hand-made sources, and what becomes of them.

use super::super::identity::{FileId, Mark, Stat};
use super::*;

pub(in crate::agent) const T: u64 = 1_000_000;

/// A moment so many milliseconds after `T`. The wall clock is an hour ahead of the
/// monotonic one: whatever mixes them up shows.
pub(in crate::agent) fn at(after_ms: u64) -> Now {
    Now { unix_ms: T + after_ms, monotonic_ms: 3_600_000 + after_ms }
}

pub(in crate::agent) fn trace(size: u64) -> Fingerprint {
    let mark = Mark { len: 0, hash: 0 };
    let id = FileId { dev: 1, ino: 1, born_ns: 0 };
    Fingerprint { stat: Stat { id, size, changed_ns: 0 }, head: mark, tail: mark }
}

pub(in crate::agent) fn source(incarnations: &[(u64, State)]) -> Source {
    let mut source = Source {
        path: "/f".into(),
        file: "f".into(),
        item: "a@h:f".into(),
        incarnations: Vec::new(),
        reader: None,
        gaps: Vec::new(),
        gap_state: GapState::default(),
        seen_ms: 0,
        gone: None,
        retired: false,
    };
    for (index, (size, state)) in incarnations.iter().enumerate() {
        let number = source.begin(trace(*size), state.clone(), at(index as u64));
        source.incarnation_mut(number).unwrap().recorded = true;
    }
    source
}

pub(in crate::agent) fn away() -> State {
    State::Away { at: None }
}

pub(in crate::agent) fn lost(reason: GapReason, is_end_known: bool) -> State {
    State::Lost(Loss { reason, is_end_known })
}

pub(in crate::agent) fn reader(incarnation: u64, offset: u64) -> Reader {
    Reader { incarnation, offset, gaps: 0 }
}

#[test]
fn numbers_grow_even_within_a_millisecond_or_when_the_clock_goes_back() {
    let mut s = source(&[(1, away()), (1, away())]);
    assert_eq!(s.begin(trace(0), away(), at(0)), T + 2);
    assert_eq!(s.begin(trace(0), away(), Now { unix_ms: T - 50, ..at(0) }), T + 3);
    assert_eq!(s.begin(trace(0), State::Live, at(500)), T + 500);
}

#[test]
fn a_source_is_over_when_its_path_is_empty_and_all_is_read() {
    let mut s = source(&[(100, State::Live)]);
    assert!(!s.is_over(at(RETIRE_MS)));
    s.leave(None, at(0));
    assert!(!s.is_over(at(RETIRE_MS)), "unread");
    s.note_reader(reader(T, 100), &[], at(0));
    assert!(!s.is_over(at(RETIRE_MS - 1)), "it may come back");
    assert!(s.is_over(at(RETIRE_MS)));
    let set_back = Now { unix_ms: 0, ..at(RETIRE_MS) };
    assert!(s.is_over(set_back), "the wall clock has nothing to do with it");
    s.begin(trace(0), State::Live, at(RETIRE_MS));
    assert!(!s.is_over(at(2 * RETIRE_MS)), "it came back");
}

#[test]
fn a_source_is_not_over_before_what_is_lost_is_recorded() {
    for (is_end_known, end) in [(true, 100), (false, 101)] {
        let mut s = source(&[(100, State::Live)]);
        s.note_reader(reader(T, 100 - u64::from(is_end_known)), &[], at(0));
        s.mark_lost(T, Loss { reason: GapReason::Gone, is_end_known }, at(0));
        assert!(!s.is_over(at(RETIRE_MS)), "its reader was not told");
        s.note_reader(reader(T, end), &[], at(0));
        assert!(s.is_over(at(RETIRE_MS)));
        s.note_gap(T, 200, Some(210), GapReason::Late, at(0));
        assert!(!s.is_over(at(RETIRE_MS)), "a listed gap is not recorded");
        s.note_reader(Reader { gaps: T, ..reader(T, end) }, &[], at(0));
        assert!(s.is_over(at(RETIRE_MS)));
    }
}

#[test]
fn too_many_unread_incarnations_lose_the_oldest() {
    let mut s = source(&vec![(7, away()); INCARNATIONS_MAX + 1]);
    assert_eq!(s.drop_oldest(at(0)).map(|i| i.number), Some(T));
    assert!(s.drop_oldest(at(0)).is_none());
    let gap = Gap { number: T, incarnation: T, from: 0, to: None, reason: GapReason::Gone };
    assert_eq!(s.gaps, [gap]);

    let mut s = source(&vec![(7, away()); INCARNATIONS_MAX + 1]);
    s.note_reader(reader(T + 1, 0), &[], at(0));
    s.drop_oldest(at(0)).unwrap();
    assert!(s.gaps.is_empty(), "it was read");
}

#[test]
fn a_source_out_of_service_comes_back_when_its_file_grows() {
    let mut s = source(&[(100, State::Away { at: Some("/f.1".into()) })]);
    (s.gone, s.reader) = (Some(at(0)), Some(reader(T, 100)));
    s.retired = true;
    assert!(!s.is_forgettable(at(2 * REMEMBER_MS)), "its file is there");
    assert_eq!(s.grow(T, trace(120), at(9)), Some(20));
    assert!(!s.retired && !s.is_over(at(RETIRE_MS)));
}

#[test]
fn growth_after_the_reader_went_on_is_a_gap() {
    let mut s = source(&[(100, away()), (5, State::Live)]);
    s.note_reader(reader(T + 1, 0), &[], at(0));
    assert_eq!(s.grow(T, trace(90), at(0)), None);
    assert_eq!(s.grow(T, trace(130), at(0)), Some(30));
    let late = Gap { number: T, incarnation: T, from: 100, to: Some(130), reason: GapReason::Late };
    assert_eq!(s.gaps, [late]);
}

#[test]
fn growth_before_the_agent_confirmed_the_next_incarnation_is_late() {
    let mut s = source(&[(100, away()), (5, State::Live)]);
    assert_eq!(s.grow(T, trace(130), at(0)), Some(30));
    let previous = |offset| [PreviousIncarnation { incarnation: T, offset }];
    s.note_reader(reader(T + 1, 0), &previous(100), at(0));
    let late = Gap { number: T, incarnation: T, from: 100, to: Some(130), reason: GapReason::Late };
    assert_eq!(s.gaps, [late]);
    // The next checkpoint says the same once more.
    s.note_reader(reader(T + 1, 5), &previous(100), at(0));
    assert_eq!(s.gaps, [late]);

    let mut s = source(&[(130, away()), (5, State::Live)]);
    s.note_reader(reader(T + 1, 0), &previous(130), at(0));
    assert_eq!(s.gaps, []);
}
