//! The gaps of a source that no reader comes to by reading on: bytes that were
//! written to a rotated file after its reader had moved on, and incarnations
//! that were dropped. They are numbered; a collector fetches those after the last
//! that its checkpoint counts, delivers the late bytes that can still be read, and
//! records the rest in its ledger. Nothing falls off the list: when it is full,
//! the two oldest gaps become one with an open end.
//!
//! A gap is extended until it is sealed, and published to readers when the index has it
//! sealed: a published gap never changes, across restarts too.

use super::source::Source;
use crate::clock::Now;
use crate::wire::{Gap, GapReason};

/// Most gaps of one source that are listed one by one.
pub const GAPS_MAX: usize = 256;
/// How long a new gap is extended by bytes that follow it, in milliseconds: a writer
/// that trickles into a rotated file makes a gap every two seconds, not one for each
/// line. Doubled with every [`UNREAD_STEP`] gaps that no reader has recorded.
pub const EXTEND_MS: u64 = 2_000;
const UNREAD_STEP: usize = 32;

/// How far the list of gaps is final. Gaps are final in the order of their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GapState {
    /// When the last gap was added, by the monotonic clock of this process.
    added_ms: Option<u64>,
    /// The number of the last gap that is not extended any more.
    sealed: u64,
    /// The number of the last gap that is published to readers.
    published: u64,
}

impl GapState {
    /// All gaps up to number `last` are in the index.
    #[must_use]
    pub fn recorded(last: u64) -> Self {
        Self { added_ms: None, sealed: last, published: last }
    }
}

impl Source {
    /// The number of the last gap in the list; 0 if there is none.
    #[must_use]
    pub fn last_gap(&self) -> u64 {
        self.gaps.last().map_or(0, |gap| gap.number)
    }

    /// The number of the last gap that is published to readers.
    #[must_use]
    pub fn last_published_gap(&self) -> u64 {
        self.gap_state.published
    }

    /// The published gaps after number `after`.
    #[must_use]
    pub fn published_gaps(&self, after: u64) -> Vec<Gap> {
        let is_published = |gap: &&Gap| gap.number > after && gap.number <= self.gap_state.published;
        self.gaps.iter().filter(is_published).copied().collect()
    }

    /// Whether a reader has still to record a gap of that incarnation.
    #[must_use]
    pub fn has_unread_gap(&self, incarnation: u64) -> bool {
        let recorded = self.recorded_gap();
        self.gaps.iter().any(|gap| gap.number > recorded && gap.incarnation == incarnation)
    }

    /// Adds a gap; `to` is `None` when its end is not known. Its number is the time in
    /// milliseconds, or one more than the last if that is larger: like that of an
    /// incarnation, larger than all that an index that was lost may have given.
    pub fn note_gap(&mut self, incarnation: u64, from: u64, to: Option<u64>, reason: GapReason, now: Now) {
        let state = self.gap_state;
        if let Some(last) = self.gaps.last_mut().filter(|last| last.number > state.sealed)
            && (last.incarnation, last.reason, last.to) == (incarnation, reason, Some(from))
        {
            last.to = to;
            return;
        }
        let before = self.last_gap().max(state.published).max(self.recorded_gap());
        self.gaps.push(Gap { number: now.unix_ms.max(before + 1), incarnation, from, to, reason });
        self.gap_state.added_ms = Some(now.monotonic_ms);
        if self.gaps.len() > GAPS_MAX {
            let recorded = self.recorded_gap();
            self.gaps.retain(|gap| gap.number > recorded);
        }
        if self.gaps.len() > GAPS_MAX {
            let oldest = self.gaps.remove(0);
            // The larger number: a reader that recorded only the first gets both.
            self.gaps[0] = Gap { number: self.gaps[0].number, to: None, ..oldest };
        }
    }

    /// Seals the gaps that have been there for long enough. Returns whether some are
    /// not published yet.
    pub fn seal_gaps(&mut self, now: Now) -> bool {
        let recorded = self.recorded_gap();
        let unread = self.gaps.iter().filter(|gap| gap.number > recorded).count();
        let extend_ms = EXTEND_MS << (unread / UNREAD_STEP).min(16);
        let state = &mut self.gap_state;
        let is_old = |at: u64| now.monotonic_ms.saturating_sub(at) >= extend_ms;
        let is_last_sealed = state.added_ms.is_none_or(is_old);
        let sealed = self.gaps.iter().rev().nth(usize::from(!is_last_sealed)).map_or(0, |gap| gap.number);
        state.sealed = state.sealed.max(sealed);
        state.sealed > state.published
    }

    /// Publishes the sealed gaps of `recorded`, the copy of this source that the index has.
    /// Returns whether there were any.
    pub fn publish_gaps(&mut self, recorded: &Self) -> bool {
        let is_news = recorded.gap_state.sealed > self.gap_state.published;
        self.gap_state.published = self.gap_state.published.max(recorded.gap_state.sealed);
        is_news
    }

    /// Whether sealed gaps are not published yet.
    #[must_use]
    pub fn has_unpublished_gaps(&self) -> bool {
        self.gap_state.sealed > self.gap_state.published
    }

    fn recorded_gap(&self) -> u64 {
        self.reader.map_or(0, |reader| reader.gaps)
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::{T, at, reader, source};
    use super::*;

    /// A look that finds the index in order.
    fn record(source: &mut Source, now: Now) {
        source.seal_gaps(now);
        let copy = source.clone();
        source.publish_gaps(&copy);
    }

    #[test]
    fn consecutive_bytes_become_one_gap_that_is_published_when_sealed() {
        let mut s = source(&[]);
        s.note_gap(7, 0, Some(10), GapReason::Late, at(0));
        record(&mut s, at(EXTEND_MS - 1));
        assert!(s.published_gaps(0).is_empty());
        s.note_gap(7, 10, Some(12), GapReason::Late, at(EXTEND_MS));
        assert!(s.seal_gaps(at(EXTEND_MS)));
        assert!(s.published_gaps(0).is_empty(), "a restart would forget it");
        record(&mut s, at(EXTEND_MS));
        let whole = Gap { number: T, incarnation: 7, from: 0, to: Some(12), reason: GapReason::Late };
        assert_eq!(s.published_gaps(0), [whole]);
        // With a clock that was read before the gap was published.
        s.note_gap(7, 12, Some(13), GapReason::Late, at(EXTEND_MS - 1));
        assert_eq!(s.published_gaps(0), [whole], "a published gap does not change");
        record(&mut s, at(2 * EXTEND_MS));
        assert_eq!(s.published_gaps(T).len(), 1);
    }

    #[test]
    fn numbers_go_on_after_the_index_was_lost() {
        let mut s = source(&[]);
        s.note_gap(7, 0, Some(1), GapReason::Late, at(0));
        let mut anew = source(&[]);
        anew.note_gap(8, 0, Some(1), GapReason::Late, at(5));
        assert!(anew.gaps[0].number > s.gaps[0].number);
        // The clock was set back.
        s.note_gap(7, 5, Some(6), GapReason::Late, Now { unix_ms: 3, ..at(9) });
        assert_eq!(s.gaps[1].number, T + 1);
    }

    #[test]
    fn a_full_list_loses_nothing() {
        let mut s = source(&[]);
        let count = GAPS_MAX as u64 + 2;
        (0..count).for_each(|n| s.note_gap(n, 5, Some(6), GapReason::Gone, at(n)));
        record(&mut s, at(1 << 40));
        assert_eq!((s.gaps.len(), s.last_gap()), (GAPS_MAX, T + count - 1));
        let merged = Gap { number: T + 2, incarnation: 0, from: 5, to: None, reason: GapReason::Gone };
        assert_eq!(s.gaps[0], merged);
        assert_eq!(s.published_gaps(T + 1)[0], merged, "also for a reader that has the first two");
        // What is recorded makes room first.
        s.reader = Some(Reader { gaps: T + 100, ..reader(1, 0) });
        s.note_gap(count, 5, Some(6), GapReason::Gone, at(count));
        assert_eq!((s.gaps.len() as u64, s.gaps[0].number), (count - 100, T + 101));
    }

    #[test]
    fn gaps_that_nobody_records_grow_longer() {
        let mut s = source(&[]);
        let mut now_ms = 0;
        for byte in 0..100_000 {
            s.note_gap(7, byte, Some(byte + 1), GapReason::Late, at(now_ms));
            now_ms += 100;
            record(&mut s, at(now_ms));
        }
        assert!(s.gaps.iter().all(|gap| gap.to.is_some()), "2.7 hours of trickle fit: {}", s.gaps.len());
    }

    use super::super::source::Reader;
}
