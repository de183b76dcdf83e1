//! The table's side towards readers: what they are answered, and what they have
//! collected for good.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::answer::Answer;
use super::open_files::Key;
use super::read::Job;
use super::source::{Reader, State};
use super::table::Table;

impl Table {
    /// Notes what is collected of an item for good.
    pub fn collected(&mut self, item: &str, collected: Reader, now_ms: u64) {
        let Some(path) = self.paths.get(item).cloned() else { return };
        let Some(entry) = self.sources.get_mut(path.as_os_str()) else { return };
        let before = entry.source.reader;
        let is_known = entry.source.incarnation(collected.incarnation).is_some_and(|i| i.recorded);
        if !is_known || before == Some(collected) {
            return;
        }
        entry.source.note_reader(collected.incarnation, collected.offset, now_ms);
        self.dirty.insert(path.clone());
        if before.is_none_or(|before| before.incarnation < collected.incarnation) {
            self.close_passed(&path);
        }
    }

    /// What to answer to a reader, and what to read for it. `None` if there is no
    /// such item.
    pub fn ask(&mut self, item: &str, asked: Option<u64>, offset: u64) -> Option<(Answer, Option<Job>)> {
        let path = self.paths.get(item)?.clone();
        let source = &mut self.sources.get_mut(path.as_os_str())?.source;
        if source.retired || !source.incarnations.iter().any(|i| i.recorded) {
            return None;
        }
        let answer = source.ask(asked, offset);
        let number = match answer {
            Answer::Read(number) => number,
            Answer::Wait { incarnation, .. } | Answer::Ended { incarnation, .. } => incarnation,
            Answer::Unknown { .. } => return Some((answer, None)),
        };
        if let Answer::Ended { gap: Some(gap), .. } = answer {
            source.note_gap(gap);
        }
        let incarnation = source.incarnation(number)?;
        let at = match &incarnation.state {
            State::Live => Some(path.clone()),
            State::Away { at, .. } => at.clone(),
            State::Lost(_) => None,
        };
        let trace = incarnation.trace;
        let file = self.open.get(&(path, number));
        let job = matches!(answer, Answer::Read(_)).then_some(Job { file, path: at, trace, offset });
        Some((answer, job))
    }

    /// A reader was at `offset` of an incarnation whose file is shorter now. So
    /// it had been that long: what is seen next is a truncation.
    pub fn had(&mut self, key: &Key, offset: u64) {
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

    fn close_passed(&mut self, path: &Path) {
        let Some(entry) = self.sources.get(path.as_os_str()) else { return };
        for passed in entry.source.incarnations.iter().filter(|i| i.passed_ms.is_some()) {
            self.open.close(&(path.to_owned(), passed.number));
        }
    }
}
