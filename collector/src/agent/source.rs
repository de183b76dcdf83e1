//! A source and its incarnations: how they follow one another. Pure: files are
//! looked at elsewhere, the time comes as an argument.
//!
//! ```text
//!            renamed, deleted, truncated with a copy     cannot be found, or dropped
//!   Live ────────────────────────────────────────► Away ──────────────────────────► Lost
//!     └──────────────────────────────────────────────────────────────────────────►
//!            truncated, overwritten, without a copy (and the next one is Live)
//! ```

use std::path::PathBuf;

use super::classify::is_born_between;
use super::gap_list::GapState;
use super::identity::Fingerprint;
use crate::clock::Now;
use crate::collector::checkpoint::PreviousIncarnation;
use crate::wire::{Gap, GapReason};

/// Most incarnations of one source that are remembered. A source that rotates
/// so often without being read loses its oldest, and that is a gap.
pub const INCARNATIONS_MAX: usize = 256;
/// How long the path of a source may lead nowhere, with everything read, until
/// the source is no item any more.
pub const RETIRE_MS: u64 = 60_000;
/// How long a source that is no item any more is remembered. If its path comes
/// to life again within this time, its reader goes on without a gap.
pub const REMEMBER_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// A time in milliseconds as one in nanoseconds. What an index says may be any number.
pub(super) fn nanoseconds(milliseconds: u64) -> u64 {
    milliseconds.saturating_mul(1_000_000)
}

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
    /// What is collected, as the coordinator's checkpoint says.
    pub reader: Option<Reader>,
    /// What no reader comes to by reading on, ascending by number: see
    /// [`super::gap_list`].
    pub gaps: Vec<Gap>,
    /// How far that list is final.
    pub gap_state: GapState,
    /// When the path was last seen to lead to the live incarnation, in
    /// milliseconds since 1970: it is compared with the births of files. Growth
    /// does not update it: a rotated file can still grow.
    pub seen_ms: u64,
    /// Since when the path leads nowhere.
    pub gone: Option<Now>,
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
    pub trace: Fingerprint,
    /// Where its file is.
    pub state: State,
    /// Where its file was, if a symbolic link at the source's path led there. A
    /// file that was rotated away is searched for around that place, too.
    pub real_path: Option<PathBuf>,
    /// Since when it has neither grown nor been rotated, by the monotonic clock
    /// of this process.
    pub quiet_since_ms: u64,
    /// When the reader went on to a later one, in milliseconds since 1970.
    pub passed_ms: Option<u64>,
    /// Readers may be told of it. Usually the index knows it then: a number that
    /// a restart forgets would be taken for one that is unknown.
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
    },
    /// Its bytes are gone.
    Lost(Loss),
}

/// How an incarnation was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: GapReason,
    /// Whether its known size is certainly all that it ever had. If not, bytes
    /// may be missing that nobody ever saw.
    pub is_end_known: bool,
}

/// What is collected for good: all before `offset`, and all earlier incarnations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The incarnation.
    pub incarnation: u64,
    /// The offset in it.
    pub offset: u64,
    /// The number of the last listed gap that is recorded.
    pub gaps: u64,
}

impl Incarnation {
    /// The offset at which a reader has all that can be had of it, and has
    /// recorded what cannot. One beyond the known size when the end was not
    /// seen: so the position itself says whether that was recorded.
    #[must_use]
    pub fn end(&self) -> u64 {
        let is_open = matches!(self.state, State::Lost(Loss { is_end_known: false, .. }));
        self.trace.stat.size + u64::from(is_open)
    }

    /// Whether its bytes are gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost(_))
    }

    /// What a reader at `offset` cannot get any more.
    #[must_use]
    pub fn gap_from(&self, offset: u64) -> Option<Gap> {
        let State::Lost(Loss { reason, is_end_known }) = self.state else { return None };
        let size = self.trace.stat.size;
        (offset < self.end()).then(|| Gap {
            number: 0,
            incarnation: self.number,
            from: offset.min(size),
            to: is_end_known.then_some(size),
            reason,
        })
    }
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
    pub fn begin(&mut self, trace: Fingerprint, state: State, now: Now) -> u64 {
        let number = self.incarnations.last().map_or(now.unix_ms, |last| now.unix_ms.max(last.number + 1));
        debug_assert!(self.live().is_none(), "the last incarnation has ended");
        if state == State::Live {
            (self.gone, self.seen_ms) = (None, now.unix_ms);
        }
        self.retired = false;
        self.incarnations.push(Incarnation {
            number,
            trace,
            state,
            real_path: None,
            quiet_since_ms: now.monotonic_ms,
            passed_ms: None,
            recorded: false,
        });
        number
    }

    /// Drops the oldest incarnation, if there are too many.
    pub fn drop_oldest(&mut self, now: Now) -> Option<Incarnation> {
        if self.incarnations.len() <= INCARNATIONS_MAX {
            return None;
        }
        let oldest = self.incarnations.remove(0);
        let from = self.unread_from(&oldest);
        if oldest.passed_ms.is_none() && from < oldest.end() {
            let loss = match oldest.state {
                State::Lost(loss) => loss,
                // What it has grown by since it was last looked at is lost, too.
                _ => Loss { reason: GapReason::Gone, is_end_known: false },
            };
            let size = oldest.trace.stat.size;
            let to = loss.is_end_known.then_some(size);
            self.note_gap(oldest.number, from.min(size), to, loss.reason, now);
        }
        Some(oldest)
    }

    /// The path no longer leads to the live incarnation, which is now `at`.
    pub fn leave(&mut self, at: Option<PathBuf>, now: Now) {
        if let Some(last) = self.incarnations.last_mut().filter(|last| last.state == State::Live) {
            last.state = State::Away { at };
            last.quiet_since_ms = now.monotonic_ms;
            self.gone = Some(now);
        }
    }

    /// Whether a file with a rotated name, born at `born_ns`, can have stood at the path unseen since
    /// the last incarnation did, and before a file born at `next_born_ns`, both in nanoseconds since 1970.
    /// A file born before the last incarnation was an incarnation already, which is forgotten now.
    #[must_use]
    pub fn can_have_missed(&self, born_ns: u64, next_born_ns: u64) -> bool {
        let last_born_ns = self.incarnations.last().map_or(0, |last| last.trace.stat.id.born_ns);
        born_ns >= last_born_ns && is_born_between(nanoseconds(self.seen_ms), born_ns, next_born_ns)
    }

    /// The path leads to the last incarnation again. Returns its number.
    pub fn come_back(&mut self, now: Now) -> Option<u64> {
        let last = self.incarnations.last_mut()?;
        last.state = State::Live;
        (self.gone, self.seen_ms, self.retired) = (None, now.unix_ms, false);
        Some(last.number)
    }

    /// The file of an incarnation has been seen with this trace. Returns by how
    /// much it grew; `None` if that is no news.
    pub fn grow(&mut self, number: u64, trace: Fingerprint, now: Now) -> Option<u64> {
        let incarnation = self.incarnation_mut(number)?;
        let known = incarnation.trace;
        let grown = trace.stat.size.checked_sub(known.stat.size).filter(|_| trace != known)?;
        incarnation.trace = trace;
        let is_passed = incarnation.passed_ms.is_some();
        if grown > 0 {
            self.retired = false;
            self.incarnation_mut(number)?.quiet_since_ms = now.monotonic_ms;
        }
        if grown > 0 && is_passed {
            self.note_gap(number, known.stat.size, Some(trace.stat.size), GapReason::Late, now);
        }
        Some(grown)
    }

    /// The bytes of an incarnation are gone.
    pub fn mark_lost(&mut self, number: u64, loss: Loss, now: Now) {
        if let Some(incarnation) = self.incarnation_mut(number) {
            let was_live = incarnation.state == State::Live;
            incarnation.state = State::Lost(loss);
            incarnation.quiet_since_ms = now.monotonic_ms;
            if was_live {
                self.gone = Some(now);
            }
        }
    }

    /// Everything before `offset` of an incarnation is collected, and all earlier
    /// incarnations are, the `previous` ones up to their offsets: bytes after that are
    /// late, or gone.
    pub fn note_reader(&mut self, reader: Reader, previous: &[PreviousIncarnation], now: Now) {
        self.reader = Some(reader);
        let unread = |previous: &PreviousIncarnation| {
            let incarnation = self.incarnation(previous.incarnation)?;
            let is_news = incarnation.number < reader.incarnation && incarnation.passed_ms.is_none();
            let (number, from, size) = (incarnation.number, previous.offset, incarnation.trace.stat.size);
            let late = Gap { number: 0, incarnation: number, from, to: Some(size), reason: GapReason::Late };
            incarnation
                .gap_from(from)
                .or((size > from && !incarnation.is_lost()).then_some(late))
                .filter(|_| is_news)
        };
        let unread: Vec<Gap> = previous.iter().rev().filter_map(unread).collect();
        for gap in unread {
            self.note_gap(gap.incarnation, gap.from, gap.to, gap.reason, now);
        }
        for earlier in self.incarnations.iter_mut().take_while(|i| i.number < reader.incarnation) {
            earlier.passed_ms.get_or_insert(now.unix_ms);
        }
    }

    /// Whether nothing comes of this source any more: its path has long led
    /// nowhere, nothing grew, and its reader has all that can be had and has
    /// recorded what cannot.
    #[must_use]
    pub fn is_over(&self, now: Now) -> bool {
        let Some(gone) = self.gone else { return false };
        let quiet = self.incarnations.iter().map(|i| i.quiet_since_ms).fold(gone.monotonic_ms, u64::max);
        let is_read = |i: &Incarnation| i.passed_ms.is_some() || self.unread_from(i) >= i.end();
        now.monotonic_ms.saturating_sub(quiet) >= RETIRE_MS
            && self.incarnations.iter().all(is_read)
            && self.last_gap() <= self.reader.map_or(0, |reader| reader.gaps)
    }

    /// Whether a source that is out of service need not be remembered. While a
    /// file of it is there, it must be: the file would pass for a new one.
    #[must_use]
    pub fn is_forgettable(&self, now: Now) -> bool {
        let is_there = |i: &Incarnation| matches!(i.state, State::Live | State::Away { at: Some(_) });
        let is_old = self.gone.is_some_and(|gone| now.unix_ms.saturating_sub(gone.unix_ms) > REMEMBER_MS);
        self.retired && is_old && !self.incarnations.iter().any(is_there)
    }

    /// The first byte of an incarnation that is not known to be collected.
    pub fn unread_from(&self, incarnation: &Incarnation) -> u64 {
        self.reader.filter(|r| r.incarnation == incarnation.number).map_or(0, |r| r.offset)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
pub(super) mod tests;
