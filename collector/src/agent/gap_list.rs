//! The gaps of a source that no reader comes to by reading on: bytes that were
//! written to a rotated file after its reader had moved on, and incarnations
//! that were dropped. They are numbered; a collector fetches those after the last
//! that its checkpoint counts, delivers what can still be had of late bytes, and
//! records the rest in its ledger. Nothing falls off the list: when it is full,
//! the two oldest gaps become one with an open end.

use super::source::Source;
use crate::clock::Now;
use crate::wire::{Gap, GapReason};

/// Most gaps of one source that are listed one by one.
pub const GAPS_MAX: usize = 256;
/// For so long a new gap is told to nobody, and one that goes on where it ended
/// is made part of it: a writer that trickles into a rotated file makes a gap
/// every two seconds, not one for each line.
pub const EXTEND_MS: u64 = 2_000;

impl Source {
    /// The number of the last gap in the list; 0 if there is none.
    #[must_use]
    pub fn last_gap(&self) -> u64 {
        self.gaps.last().map_or(0, |gap| gap.number)
    }

    /// The number of the last gap that will not change any more.
    #[must_use]
    pub fn last_settled_gap(&self, now: Now) -> u64 {
        self.last_gap() - u64::from(self.is_last_gap_open(now))
    }

    /// When the last gap will not change any more, by the monotonic clock; `None` if none does.
    #[must_use]
    pub fn gap_settles_ms(&self, now: Now) -> Option<u64> {
        self.last_gap_ms.filter(|_| self.is_last_gap_open(now)).map(|at| at + EXTEND_MS)
    }

    /// The gaps after number `after` that will not change any more.
    #[must_use]
    pub fn settled_gaps(&self, after: u64, now: Now) -> Vec<Gap> {
        let numbers = after + 1..=self.last_settled_gap(now);
        self.gaps.iter().filter(|gap| numbers.contains(&gap.number)).copied().collect()
    }

    /// Adds a gap; `to` is `None` when its end is not known.
    pub fn note_gap(&mut self, incarnation: u64, from: u64, to: Option<u64>, reason: GapReason, now: Now) {
        if self.is_last_gap_open(now)
            && let Some(last) = self.gaps.last_mut()
            && (last.incarnation, last.reason, last.to) == (incarnation, reason, Some(from))
        {
            last.to = to;
            return;
        }
        let number = self.last_gap() + 1;
        self.gaps.push(Gap { number, incarnation, from, to, reason });
        self.last_gap_ms = Some(now.monotonic_ms);
        if self.gaps.len() > GAPS_MAX {
            let oldest = self.gaps.remove(0);
            // The larger number: a reader that recorded only the first gets both.
            self.gaps[0] = Gap { number: self.gaps[0].number, to: None, ..oldest };
        }
    }

    fn is_last_gap_open(&self, now: Now) -> bool {
        self.last_gap_ms.is_some_and(|at| now.monotonic_ms.saturating_sub(at) < EXTEND_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::{at, source};
    use super::*;

    #[test]
    fn a_trickle_becomes_one_gap_that_is_told_when_it_is_final() {
        let mut s = source(&[]);
        s.note_gap(7, 0, Some(10), GapReason::Late, at(0));
        s.note_gap(7, 10, Some(12), GapReason::Late, at(EXTEND_MS - 1));
        assert!(s.settled_gaps(0, at(EXTEND_MS - 1)).is_empty());
        let whole = Gap { number: 1, incarnation: 7, from: 0, to: Some(12), reason: GapReason::Late };
        assert_eq!(s.settled_gaps(0, at(EXTEND_MS)), [whole]);
        s.note_gap(7, 12, Some(13), GapReason::Late, at(EXTEND_MS));
        assert_eq!(s.settled_gaps(0, at(EXTEND_MS)), [whole], "what was told does not change");
        assert_eq!(s.settled_gaps(1, at(2 * EXTEND_MS)).len(), 1);
    }

    #[test]
    fn a_full_list_loses_nothing() {
        let mut s = source(&[]);
        let count = GAPS_MAX as u64 + 2;
        (0..count).for_each(|n| s.note_gap(n, 5, Some(6), GapReason::Gone, at(n * EXTEND_MS)));
        assert_eq!((s.gaps.len(), s.last_gap()), (GAPS_MAX, count));
        let merged = Gap { number: 3, incarnation: 0, from: 5, to: None, reason: GapReason::Gone };
        assert_eq!(s.gaps[0], merged);
        assert_eq!(s.settled_gaps(2, at(1 << 40))[0], merged, "also for a reader that has the first two");
    }
}
