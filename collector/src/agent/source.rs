//! A source and its incarnations: how they follow one another, and what a
//! reader is answered. Pure: files are looked at elsewhere, the time comes as
//! an argument.
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

/// How long a file that was rotated away must be without growth before its
/// reader is sent on. Writers follow a rotation within milliseconds to a second.
pub const SETTLE_MS: u64 = 1_000;
/// Most incarnations of one source that are remembered. A source that rotates
/// so often without being read loses its oldest, and that is a gap.
pub const INCARNATIONS_MAX: usize = 256;
/// Most gaps of one source that are listed; the oldest are dropped.
pub const GAPS_MAX: usize = 64;
/// How long the path of a source may lead nowhere, with everything read, until
/// the source is no item any more.
pub const RETIRE_MS: u64 = 60_000;

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
    /// Where the reader is.
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

/// Where a reader is: it has everything before `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The incarnation that it asked for.
    pub incarnation: u64,
    /// The offset that it asked for.
    pub offset: u64,
}

/// What a reader is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Read this incarnation.
    Read(u64),
    /// Nothing is there yet.
    Wait {
        /// The incarnation that is read.
        incarnation: u64,
        /// When to look again, even if nothing happens.
        until_ms: Option<u64>,
    },
    /// The incarnation is over.
    Ended {
        /// The incarnation that is read.
        incarnation: u64,
        /// The one to go on with.
        next: u64,
        /// What cannot be had of it.
        gap: Option<Gap>,
    },
    /// There is no such incarnation.
    Unknown {
        /// The one to go on with.
        oldest: u64,
    },
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
        if self.incarnations.len() > INCARNATIONS_MAX {
            let oldest = self.incarnations.remove(0);
            self.note_unread(&oldest, GapReason::Gone);
        }
        number
    }

    /// The path no longer leads to the live incarnation, which is now `at`.
    pub fn leave(&mut self, at: Option<PathBuf>, now_ms: u64) {
        if let Some(last) = self.incarnations.last_mut().filter(|last| last.state == State::Live) {
            last.state = State::Away { at, since_ms: now_ms };
            self.gone_ms = Some(now_ms);
        }
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

    /// The reader asks for `offset` of an incarnation, so it is done with all
    /// earlier ones.
    pub fn note_reader(&mut self, incarnation: u64, offset: u64, now_ms: u64) {
        self.reader = Some(Reader { incarnation, offset });
        for earlier in self.incarnations.iter_mut().take_while(|i| i.number < incarnation) {
            earlier.passed_ms.get_or_insert(now_ms);
        }
    }

    /// What to answer to somebody who asks for `offset` of an incarnation, or
    /// of the oldest one that no reader is done with.
    #[must_use]
    pub fn ask(&self, asked: Option<u64>, offset: u64) -> Answer {
        let mut recorded = self.incarnations.iter().filter(|i| i.recorded);
        let found = match asked {
            Some(number) => recorded.find(|i| i.number == number),
            None => recorded.find(|i| i.passed_ms.is_none()),
        };
        match found {
            None => Answer::Unknown { oldest: self.oldest_after(asked.unwrap_or(0)) },
            Some(found) if matches!(found.state, State::Lost(_)) => self.ended(found, offset),
            Some(found) => Answer::Read(found.number),
        }
    }

    /// What to answer to somebody who has read an incarnation to its end.
    #[must_use]
    pub fn at_end(&self, number: u64, now_ms: u64) -> Answer {
        let wait = |until_ms| Answer::Wait { incarnation: number, until_ms };
        let Some(found) = self.incarnation(number) else { return wait(None) };
        let settled_ms = match found.state {
            State::Live => return wait(None),
            State::Lost(_) => 0,
            State::Away { since_ms, .. } => since_ms.max(found.grown_ms) + SETTLE_MS,
        };
        // An empty successor says that the file was made, not that the writers
        // use it. There is nothing to read there, so nothing is lost by waiting.
        match self.next_after(number) {
            Some(next) if next.trace.stat.size == 0 && next.state == State::Live => wait(None),
            Some(_) if now_ms < settled_ms => wait(Some(settled_ms)),
            Some(_) => self.ended(found, found.trace.stat.size),
            None => wait(None),
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

    /// Whether nothing can come of this source any more: its path has long led
    /// nowhere and its reader has all that can be had.
    #[must_use]
    pub fn is_over(&self, now_ms: u64) -> bool {
        let gone = self.gone_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= RETIRE_MS);
        let all_read = |i: &Incarnation| {
            i.passed_ms.is_some() || matches!(i.state, State::Lost(_)) || self.unread_from(i) >= i.trace.stat.size
        };
        gone && self.live().is_none() && self.incarnations.iter().all(all_read)
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

    /// The first byte of an incarnation that no reader is known to have.
    fn unread_from(&self, incarnation: &Incarnation) -> u64 {
        self.reader.filter(|r| r.incarnation == incarnation.number).map_or(0, |r| r.offset)
    }

    fn ended(&self, found: &Incarnation, offset: u64) -> Answer {
        let incarnation = found.number;
        let Some(next) = self.next_after(incarnation) else {
            return Answer::Wait { incarnation, until_ms: None };
        };
        let gap = match found.state {
            State::Lost(reason) if offset < found.trace.stat.size => {
                Some(Gap { incarnation, from: offset, to: found.trace.stat.size, reason })
            }
            _ => None,
        };
        Answer::Ended { incarnation, next: next.number, gap }
    }

    fn next_after(&self, number: u64) -> Option<&Incarnation> {
        self.incarnations.iter().find(|i| i.recorded && i.number > number)
    }

    /// The oldest incarnation after `number`; the last one if there is none.
    fn oldest_after(&self, number: u64) -> u64 {
        let last = self.incarnations.iter().rfind(|i| i.recorded);
        self.next_after(number).or(last).map_or(0, |i| i.number)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
