//! A source and its incarnations: how they follow one another. Pure: files are
//! looked at elsewhere, the time comes as an argument.
//!
//! ```text
//!            renamed, deleted                cannot be found, or dropped
//!   Live ─────────────────────► Away ─────────────────────────────────► Lost
//!     └───────────────────────────────────────────────────────────────►
//!            truncated, overwritten (and the next one is Live)
//! ```

use std::path::PathBuf;

use super::identity::Trace;
use crate::wire::{Gap, GapReason};

/// Most incarnations of one source that are remembered. A source that rotates
/// so often without being read loses its oldest, and that is a gap.
pub const INCARNATIONS_MAX: usize = 256;
/// Most gaps of one source that are listed; the oldest are dropped.
pub const GAPS_MAX: usize = 64;
/// How long the path of a source may lead nowhere, with everything read, until
/// the source is no item any more.
pub const RETIRE_MS: u64 = 60_000;
/// How long a source that is no item any more is remembered. If its path comes
/// to life again within this time, its reader goes on without a gap.
pub const REMEMBER_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// One path as an application sees it.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path.
    pub path: PathBuf,
    /// Its name within (app, host).
    pub file: String,
    /// The item that it is.
    pub item: String,
    /// Ascending by number; at most the last one is [`State::Live`].
    pub incarnations: Vec<Incarnation>,
    /// What is collected.
    pub reader: Option<Reader>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
    /// When the path was last seen to lead to the live incarnation.
    pub seen_ms: u64,
    /// Since when the path leads nowhere.
    pub gone_ms: Option<u64>,
    /// Not an item any more; remembered so that its numbers go on if it returns.
    pub retired: bool,
}

/// What a source contained from one beginning to one end.
#[derive(Debug, Clone)]
pub struct Incarnation {
    /// Larger than that of every earlier incarnation of the source, also of
    /// those that an earlier index knew: see [`Source::begin`].
    pub number: u64,
    /// What is known of its file.
    pub trace: Trace,
    /// Where its file is.
    pub state: State,
    /// When it was last seen to grow.
    pub grown_ms: u64,
    /// When the reader went on to a later one.
    pub passed_ms: Option<u64>,
    /// The index knows it. Only then may a reader: a number that a restart
    /// forgets would be taken for one that is unknown.
    pub recorded: bool,
}

/// Where an incarnation's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The source's path leads to it.
    Live,
    /// It was rotated away.
    Away {
        /// Where it is now; `None`: nowhere, it lives only as an open file.
        at: Option<PathBuf>,
        /// Since when.
        since_ms: u64,
    },
    /// Its bytes are gone.
    Lost(GapReason),
}

/// What is collected for good: all before `offset`, and all earlier incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The incarnation.
    pub incarnation: u64,
    /// The offset in it.
    pub offset: u64,
}

impl Source {
    /// The incarnation that the path leads to.
    #[must_use]
    pub fn live(&self) -> Option<&Incarnation> {
        self.incarnations.last().filter(|last| last.state == State::Live)
    }

    /// The incarnation of that number.
    #[must_use]
    pub fn incarnation(&self, number: u64) -> Option<&Incarnation> {
        self.incarnations.iter().find(|i| i.number == number)
    }

    /// The same, to be changed.
    pub fn incarnation_mut(&mut self, number: u64) -> Option<&mut Incarnation> {
        self.incarnations.iter_mut().find(|i| i.number == number)
    }

    /// Begins a new incarnation and returns its number: the time in
    /// milliseconds, or one more than the last if that is larger. So it is
    /// larger than every number an index that was lost may have given.
    pub fn begin(&mut self, trace: Trace, state: State, now_ms: u64) -> u64 {
        let number = self.incarnations.last().map_or(now_ms, |last| now_ms.max(last.number + 1));
        debug_assert!(self.live().is_none(), "the last incarnation has ended");
        if state == State::Live {
            (self.gone_ms, self.seen_ms) = (None, now_ms);
        }
        self.retired = false;
        let grown_ms = now_ms;
        self.incarnations.push(Incarnation {
            number,
            trace,
            state,
            grown_ms,
            passed_ms: None,
            recorded: false,
        });
        number
    }

    /// Drops the oldest incarnation, if there are too many.
    pub fn drop_oldest(&mut self) -> Option<Incarnation> {
        if self.incarnations.len() <= INCARNATIONS_MAX {
            return None;
        }
        let oldest = self.incarnations.remove(0);
        self.note_unread(&oldest, GapReason::Gone);
        Some(oldest)
    }

    /// The path no longer leads to the live incarnation, which is now `at`.
    pub fn leave(&mut self, at: Option<PathBuf>, now_ms: u64) {
        if let Some(last) = self.incarnations.last_mut().filter(|last| last.state == State::Live) {
            last.state = State::Away { at, since_ms: now_ms };
            self.gone_ms = Some(now_ms);
        }
    }

    /// The path leads to the last incarnation again. Returns its number.
    pub fn come_back(&mut self, now_ms: u64) -> Option<u64> {
        let last = self.incarnations.last_mut()?;
        last.state = State::Live;
        (self.gone_ms, self.seen_ms, self.retired) = (None, now_ms, false);
        Some(last.number)
    }

    /// The file of an incarnation has been seen with this trace. Returns by how
    /// much it grew; `None` if that is no news.
    pub fn grow(&mut self, number: u64, trace: Trace, now_ms: u64) -> Option<u64> {
        let incarnation = self.incarnation_mut(number)?;
        let known = incarnation.trace;
        let grown = trace.stat.size.checked_sub(known.stat.size).filter(|_| trace != known)?;
        incarnation.trace = trace;
        let (is_live, is_passed) = (incarnation.state == State::Live, incarnation.passed_ms.is_some());
        if is_live {
            self.seen_ms = now_ms;
        }
        if grown > 0 {
            self.retired = false;
            self.incarnation_mut(number)?.grown_ms = now_ms;
        }
        if grown > 0 && is_passed {
            let (from, to) = (known.stat.size, trace.stat.size);
            self.note_gap(Gap { incarnation: number, from, to, reason: GapReason::Late });
        }
        Some(grown)
    }

    /// The bytes of an incarnation are gone.
    pub fn lose(&mut self, number: u64, reason: GapReason, now_ms: u64) {
        if let Some(incarnation) = self.incarnation_mut(number) {
            let was_live = incarnation.state == State::Live;
            incarnation.state = State::Lost(reason);
            if was_live {
                self.gone_ms = Some(now_ms);
            }
        }
    }

    /// Everything before `offset` of an incarnation is collected, and all earlier
    /// incarnations are.
    pub fn note_reader(&mut self, incarnation: u64, offset: u64, now_ms: u64) {
        self.reader = Some(Reader { incarnation, offset });
        for earlier in self.incarnations.iter_mut().take_while(|i| i.number < incarnation) {
            earlier.passed_ms.get_or_insert(now_ms);
        }
    }

    /// Notes a gap, once.
    pub fn note_gap(&mut self, gap: Gap) {
        if self.gaps.contains(&gap) {
            return;
        }
        if self.gaps.len() == GAPS_MAX {
            self.gaps.remove(0);
        }
        self.gaps.push(gap);
    }

    /// Whether nothing comes of this source any more: its path has long led
    /// nowhere, nothing grew, and its reader has all that can be had.
    #[must_use]
    pub fn is_over(&self, now_ms: u64) -> bool {
        let Some(gone_ms) = self.gone_ms else { return false };
        let last_ms = self.incarnations.iter().map(|i| i.grown_ms).fold(gone_ms, u64::max);
        let is_read = |i: &Incarnation| {
            i.passed_ms.is_some()
                || matches!(i.state, State::Lost(_))
                || self.unread_from(i) >= i.trace.stat.size
        };
        now_ms.saturating_sub(last_ms) >= RETIRE_MS && self.incarnations.iter().all(is_read)
    }

    /// Whether a source that is out of service need not be remembered. While a
    /// file of it is there, it must be: the file would pass for a new one.
    #[must_use]
    pub fn is_forgettable(&self, now_ms: u64) -> bool {
        let is_there = |i: &Incarnation| matches!(i.state, State::Live | State::Away { at: Some(_), .. });
        let is_old = self.gone_ms.is_some_and(|gone_ms| now_ms.saturating_sub(gone_ms) > REMEMBER_MS);
        self.retired && is_old && !self.incarnations.iter().any(is_there)
    }

    /// Takes the source out of service. What was lost unread is noted.
    pub fn retire(&mut self) {
        self.retired = true;
        for lost in self.incarnations.clone() {
            if let (State::Lost(reason), None) = (&lost.state, lost.passed_ms) {
                self.note_unread(&lost, *reason);
            }
        }
    }

    fn note_unread(&mut self, incarnation: &Incarnation, reason: GapReason) {
        let (from, to) = (self.unread_from(incarnation), incarnation.trace.stat.size);
        if from < to && incarnation.passed_ms.is_none() {
            self.note_gap(Gap { incarnation: incarnation.number, from, to, reason });
        }
    }

    /// The first byte of an incarnation that is not known to be collected.
    fn unread_from(&self, incarnation: &Incarnation) -> u64 {
        self.reader.filter(|r| r.incarnation == incarnation.number).map_or(0, |r| r.offset)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
pub(super) mod tests;
