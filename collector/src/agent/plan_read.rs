//! What a reader of a source is answered. Pure; the time comes as an argument.

use super::source::{Incarnation, Source, State};
use crate::clock::Now;
use crate::wire::Gap;

/// How long a file that was rotated away must be without growth before its
/// reader is sent on. Writers follow a rotation within milliseconds to a second.
/// Measured by the monotonic clock: the wall clock may be set back meanwhile.
pub const SETTLE_MS: u64 = 1_000;

/// What a reader is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Read this incarnation.
    Read(u64),
    /// Nothing is there yet.
    Wait {
        /// The incarnation that is read.
        incarnation: u64,
        /// When to look again, even if nothing happens: by the monotonic clock.
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
    /// The rest of the incarnation is lost, and there is none to go on with yet.
    Skipped {
        /// The offset to go on from in the same incarnation.
        resume: u64,
        /// What cannot be had of it.
        gap: Gap,
    },
    /// There is no such incarnation.
    Unknown {
        /// The one to go on with.
        oldest: u64,
    },
}

impl Source {
    /// What to answer to somebody who asks for `offset` of an incarnation, or
    /// of the oldest one that can be had. One that cannot, and was not collected
    /// either, is a gap.
    #[must_use]
    pub fn plan_read(&self, asked: Option<u64>, offset: u64, now: Now) -> Answer {
        let mut recorded = self.incarnations.iter().filter(|i| i.recorded);
        let found = match asked {
            Some(number) => recorded.find(|i| i.number == number),
            None => recorded.find(|i| i.passed_ms.is_none() || !matches!(i.state, State::Lost(_))),
        };
        match found {
            None => Answer::Unknown { oldest: self.oldest_after(asked.unwrap_or(0)) },
            Some(found) if matches!(found.state, State::Lost(_)) => self.ended(found, offset, now),
            Some(found) => Answer::Read(found.number),
        }
    }

    /// What to answer to somebody who has read an incarnation up to `offset`,
    /// where it ends.
    #[must_use]
    pub fn at_end(&self, number: u64, offset: u64, now: Now) -> Answer {
        let wait = |until_ms| Answer::Wait { incarnation: number, until_ms };
        let Some(found) = self.incarnation(number) else { return wait(None) };
        let settled_ms = match found.state {
            State::Live => return wait(None),
            State::Lost(_) => return self.ended(found, offset, now),
            State::Away { .. } => found.quiet_since_ms + SETTLE_MS,
        };
        // An empty successor says that the file was made, not that the writers
        // use it. There is nothing to read there, so nothing is lost by waiting.
        match self.next_after(number) {
            Some(next) if next.trace.stat.size == 0 && next.state == State::Live => wait(None),
            Some(_) if now.monotonic_ms < settled_ms => wait(Some(settled_ms)),
            Some(_) => self.ended(found, offset, now),
            None => wait(None),
        }
    }

    fn ended(&self, found: &Incarnation, offset: u64, now: Now) -> Answer {
        let (incarnation, gap) = (found.number, found.gap_from(offset));
        // What is lost has mostly a successor, which is seen and recorded a moment later.
        let settled_ms = found.quiet_since_ms + SETTLE_MS;
        let is_early = now.monotonic_ms < settled_ms;
        match (self.next_after(incarnation), gap) {
            (Some(next), gap) => Answer::Ended { incarnation, next: next.number, gap },
            (None, Some(_)) if is_early => Answer::Wait { incarnation, until_ms: Some(settled_ms) },
            (None, Some(gap)) => Answer::Skipped { resume: found.end(), gap },
            (None, None) => Answer::Wait { incarnation, until_ms: None },
        }
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
#[path = "answer_tests.rs"]
mod tests;
