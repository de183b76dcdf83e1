//! The table's side towards readers: what they are answered, and what they have
//! collected for good.
//!
//! What a request says changes nothing here: anybody can send one. A position
//! counts when [`super::confirm`] has read it from the coordinator.

use std::path::PathBuf;

use tokio::sync::watch;

use super::open_files::Key;
use super::plan_read::Answer;
use super::read::Job;
use super::source::{Reader, Source, State};
use super::table::Table;
use crate::clock::Now;
use crate::collector::checkpoint::PreviousIncarnation;
use crate::wire::Gap;

/// What became of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmed {
    /// It is what is known to be collected now.
    Noted,
    /// It is not news, or not of an incarnation that is known.
    Ignored,
    /// It covers more than there ever was, as far as is known.
    BeyondEnd {
        /// Of this incarnation.
        key: Key,
    },
}

/// Whether a reader has come further. Not if any part of it went back.
fn is_later(reader: Reader, known: Reader) -> bool {
    let (new, old) = ((reader.incarnation, reader.offset), (known.incarnation, known.offset));
    (new > old && reader.gaps >= known.gaps) || (new == old && reader.gaps > known.gaps)
}

impl Table {
    /// Whether it is of any use to read the checkpoint of an item, of which a
    /// request says that it is at `claimed`: there is something to release, to
    /// retire or to find out. Not while a reader just follows a file.
    #[must_use]
    pub fn needs_checkpoint(&self, item: &str, claimed: Reader) -> bool {
        let Some(source) = self.paths.get(item).and_then(|path| self.get(path)) else { return false };
        let Some(incarnation) = source.incarnation(claimed.incarnation) else { return false };
        if source.reader.is_some_and(|known| !is_later(claimed, known)) {
            return false;
        }
        let mut earlier = source.incarnations.iter().take_while(|i| i.number < claimed.incarnation);
        let known_gaps = source.reader.map_or(0, |known| known.gaps);
        let has_new_gaps = claimed.gaps > known_gaps && claimed.gaps <= source.last_published_gap();
        earlier.any(|earlier| earlier.passed_ms.is_none())
            || source.live().is_none()
            || has_new_gaps
            || claimed.offset > incarnation.end()
    }

    /// Notes what is collected of an item for good, as its checkpoint says. That
    /// never goes back, and never beyond the end of what is known. `previous` says how
    /// far incarnations before were read.
    pub fn collected(
        &mut self,
        item: &str,
        checkpoint: Reader,
        previous: &[PreviousIncarnation],
        now: Now,
    ) -> Confirmed {
        let Some(path) = self.paths.get(item).cloned() else { return Confirmed::Ignored };
        let Some(entry) = self.sources.get_mut(path.as_os_str()) else { return Confirmed::Ignored };
        let before = entry.source.reader;
        let known = entry.source.incarnation(checkpoint.incarnation).filter(|i| i.recorded);
        let Some(known) = known else { return Confirmed::Ignored };
        if checkpoint.offset > known.end() {
            return Confirmed::BeyondEnd { key: (path, checkpoint.incarnation) };
        }
        if before.is_some_and(|before| !is_later(checkpoint, before)) {
            return Confirmed::Ignored;
        }
        entry.source.note_reader(checkpoint, previous, now);
        self.dirty.insert(path);
        Confirmed::Noted
    }

    /// The gaps of an item after number `after`; `None` if there is no such item.
    #[must_use]
    pub fn gaps(&self, item: &str, after: u64) -> Option<Vec<Gap>> {
        Some(self.get(self.paths.get(item)?)?.published_gaps(after))
    }

    /// What to answer to a reader, and what to read for it. `None` if there is no
    /// such item.
    pub fn ask(
        &mut self,
        item: &str,
        asked: Option<u64>,
        offset: u64,
        now: Now,
    ) -> Option<(Answer, Option<Job>)> {
        let path = self.paths.get(item)?.clone();
        let source = &mut self.sources.get_mut(path.as_os_str())?.source;
        if source.retired || !source.incarnations.iter().any(|i| i.recorded) {
            return None;
        }
        let answer = source.plan_read(asked, offset, now);
        let number = match answer {
            Answer::Read(number) => number,
            Answer::Wait { incarnation, .. } | Answer::Ended { incarnation, .. } => incarnation,
            Answer::Unknown { .. } | Answer::Skipped { .. } => return Some((answer, None)),
        };
        let incarnation = source.incarnation(number)?;
        let is_live = incarnation.state == State::Live;
        let at = match &incarnation.state {
            State::Live => Some(path.clone()),
            State::Away { at } => at.clone(),
            State::Lost(_) => None,
        };
        let trace = incarnation.trace;
        let file = self.open.get(&(path, number));
        let job = matches!(answer, Answer::Read(_)).then_some(Job { file, path: at, is_live, trace, offset });
        Some((answer, job))
    }

    /// The checkpoint says that `offset` bytes of an incarnation were collected,
    /// and its file is shorter. So it had been that long, and the machine has lost
    /// its newest bytes: what is seen next is a truncation.
    pub fn observe_min_size(&mut self, key: &Key, offset: u64) {
        if let Some(incarnation) = self.change(&key.0).and_then(|source| source.incarnation_mut(key.1)) {
            incarnation.trace.stat.size = incarnation.trace.stat.size.max(offset);
        }
    }

    /// The source's path of an item, and a channel that tells its changes.
    #[must_use]
    pub fn subscribe(&self, item: &str) -> Option<(PathBuf, watch::Receiver<u64>)> {
        let path = self.paths.get(item)?;
        Some((path.clone(), self.sources.get(path.as_os_str())?.changed.subscribe()))
    }

    /// The number of the last published gap of an item; 0 if there is none.
    #[must_use]
    pub fn last_gap(&self, item: &str) -> u64 {
        self.paths.get(item).and_then(|path| self.get(path)).map_or(0, Source::last_published_gap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::tests::{T, at, away, reader, source};
    use std::path::Path;

    use super::super::gap_list::GapState;
    use super::*;

    const ITEM: &str = "a@h:f";

    fn table(states: &[(u64, State)]) -> Table {
        let mut table = Table::default();
        table.insert(source(states));
        table
    }

    #[test]
    fn what_is_collected_never_goes_back_or_beyond_the_end() {
        let mut t = table(&[(100, away()), (50, State::Live)]);
        let key = |number| (PathBuf::from("/f"), number);
        let beyond = Confirmed::BeyondEnd { key: key(T + 1) };
        let cases = [
            (reader(T, 40), Confirmed::Noted),
            (reader(T, 30), Confirmed::Ignored),
            (reader(T + 1, 51), beyond),
            (reader(T + 2, 0), Confirmed::Ignored),
            (reader(T + 1, 0), Confirmed::Noted),
            (reader(T, 100), Confirmed::Ignored),
            (Reader { gaps: 2, ..reader(T + 1, 0) }, Confirmed::Noted),
            (Reader { gaps: 1, ..reader(T + 1, 9) }, Confirmed::Ignored),
        ];
        for (checkpoint, wanted) in cases {
            assert_eq!(t.collected(ITEM, checkpoint, &[], at(0)), wanted, "{checkpoint:?}");
        }
        let known = t.get(Path::new("/f")).unwrap();
        assert_eq!(known.reader, Some(Reader { gaps: 2, ..reader(T + 1, 0) }));
        assert_eq!(known.incarnations.iter().filter(|i| i.passed_ms.is_some()).count(), 1);
    }

    /// Ten thousand readers that follow their files must not have ten thousand
    /// checkpoints read with every line.
    #[test]
    fn a_checkpoint_is_read_only_when_there_is_something_to_release() {
        let mut t = table(&[(100, away()), (50, State::Live)]);
        assert!(!t.needs_checkpoint(ITEM, reader(T, 40)), "nothing is released by that");
        assert!(!t.needs_checkpoint(ITEM, reader(T + 7, 0)), "not known");
        assert!(t.needs_checkpoint(ITEM, reader(T + 1, 0)), "the first is released");
        t.collected(ITEM, reader(T + 1, 0), &[], at(0));
        assert!(!t.needs_checkpoint(ITEM, reader(T + 1, 50)), "it just follows");
        assert!(t.needs_checkpoint(ITEM, reader(T + 1, 51)), "the file has lost bytes, or it is a lie");
        let claimed = Reader { gaps: 1, ..reader(T + 1, 0) };
        assert!(!t.needs_checkpoint(ITEM, claimed), "there is no such gap");
        t.change(Path::new("/f")).unwrap().gap_state = GapState::recorded(1);
        assert!(t.needs_checkpoint(ITEM, claimed), "a gap is recorded");
        t.change(Path::new("/f")).unwrap().leave(None, at(0));
        assert!(t.needs_checkpoint(ITEM, reader(T + 1, 50)), "the source may be over");
    }
}
