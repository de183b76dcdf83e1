//! Follows files: looks at what is there, compares it with what is known, and
//! brings the table and the index up to date.
//!
//! A look is level-triggered: it asks where every file is now, never what
//! happened to it. So a lost event, a restart and a rotation that nobody saw are
//! all the same to it. Its steps:
//!
//! 1. *revisit* each source whose path no longer leads to what it led to;
//! 2. *adopt* each file that no source accounts for;
//! 3. *tend* the files that were rotated away (only when looking at everything);
//! 4. *settle*: retire what is over, record what changed, then let readers see
//!    new incarnations.
//!
//! It blocks, and is the only one that changes what incarnations there are.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, info, warn};

use super::glob::Patterns;
use super::identity::{FileId, Trace, look};
use super::index::{Index, IndexError};
use super::judge::{Verdict, judge};
use super::open_files::Key;
use super::read::open;
use super::shared::Shared;
use super::source::{Source, State};
use super::survey::{Scope, Survey};
use crate::clock::unix_ms;
use crate::naming::path_text;
use crate::wire::{GapReason, UnreadableBody};

/// Whose files they are.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The application.
    pub app: String,
    /// The machine.
    pub host: String,
}

/// Follows the files of one agent.
#[derive(Debug)]
pub struct Follower {
    pub(super) owner: Owner,
    pub(super) patterns: Patterns,
    pub(super) shared: Arc<Shared>,
    index: Index,
    dirs: BTreeSet<PathBuf>,
    subdirs: BTreeSet<PathBuf>,
}

impl Follower {
    /// A follower that goes on where `index` ends. Nothing is looked at yet.
    #[must_use]
    pub fn new(owner: Owner, patterns: Patterns, index: Index, shared: Arc<Shared>) -> Self {
        for source in index.load() {
            shared.table().insert(source);
        }
        Self { owner, patterns, shared, index, dirs: BTreeSet::new(), subdirs: BTreeSet::new() }
    }

    /// The directories that the last look at everything came to.
    #[must_use]
    pub fn dirs(&self) -> &BTreeSet<PathBuf> {
        &self.dirs
    }

    /// Looks, once. Blocks.
    pub fn look(&mut self, scope: &Scope) {
        let now_ms = unix_ms();
        let mut survey = Survey::of(scope, &self.patterns);
        for path in self.departed(scope, &survey, now_ms) {
            self.revisit(&path, &mut survey, now_ms);
        }
        for path in self.unclaimed(&survey) {
            if let Err(error) = self.adopt(&path, &mut survey, now_ms) {
                survey.failed.push((path, error));
            }
        }
        if *scope == Scope::All {
            self.dirs = std::mem::take(&mut survey.dirs);
            self.subdirs = std::mem::take(&mut survey.subdirs);
            self.tend(&mut survey, now_ms);
            self.report(&survey.failed);
            self.retire(now_ms);
        }
        if let Err(error) = self.settle(scope, now_ms) {
            // Readers are not told of what is not recorded; the next look tries again.
            error!(error = &error as &dyn std::error::Error, "index not written");
        }
        // A new directory may have more directories in it.
        if !survey.subdirs.is_subset(&self.subdirs) {
            self.shared.hints.all();
        }
    }

    /// The sources in scope whose path does not lead to exactly what was known.
    fn departed(&self, scope: &Scope, survey: &Survey, now_ms: u64) -> Vec<PathBuf> {
        let mut departed = Vec::new();
        let mut compare = |source: &mut Source| {
            let Some(live) = source.live() else { return };
            match survey.file(&source.path) {
                Some(entry) if entry.stat == live.trace.stat => source.seen_ms = now_ms,
                None if !survey.is_certain(&source.path) => {}
                Some(_) | None => departed.push(source.path.clone()),
            }
        };
        let mut table = self.shared.table();
        match scope {
            Scope::All => table.each(&mut compare),
            Scope::Some { dirs, files } => {
                dirs.iter().for_each(|dir| table.each_in_dir(dir, &mut compare));
                let is_new = |file: &&PathBuf| !file.parent().is_some_and(|dir| dirs.contains(dir));
                files.iter().filter(is_new).for_each(|file| table.each_at(file, &mut compare));
            }
        }
        departed
    }

    /// Finds out what became of a source's live file.
    fn revisit(&self, path: &Path, survey: &mut Survey, now_ms: u64) {
        let Some((key, known)) = self.live(path) else { return };
        let seen = match survey.file(path) {
            Some(entry) if entry.stat.id.ino == known.stat.id.ino => {
                let file = self.open_known(&key, path, known.stat.id);
                file.and_then(|file| Ok(Some((look(&file, &known)?, file))))
            }
            Some(_) | None => Ok(None),
        };
        let seen = match seen {
            Ok(seen) => seen,
            // It became shorter while it was looked at: look again.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return self.shared.hints.file(path.into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return survey.failed.push((path.to_owned(), error)),
        };
        let verdict = judge(&known, seen.as_ref().map(|(seen, _)| seen));
        match (verdict, seen) {
            (Verdict::Same | Verdict::Grown, Some((seen, file))) => {
                let mut table = self.shared.table();
                table.grew(&key, seen.trace, now_ms);
                table.open.keep(key, file);
            }
            (Verdict::Truncated, Some((seen, file))) => {
                info!(path = %path.display(), size = known.stat.size, "file truncated");
                let mut table = self.shared.table();
                table.lose(&key, GapReason::Truncated, now_ms);
                table.begin(path, seen.trace, State::Live, file, now_ms);
            }
            _ => {
                let at = self.locate(&key, &known, survey);
                info!(path = %path.display(), at = ?at, "file rotated away");
                let mut table = self.shared.table();
                if let Some(source) = table.change(path) {
                    source.leave(at.clone(), now_ms);
                }
                table.moved(&key, at, now_ms);
            }
        }
    }

    fn live(&self, path: &Path) -> Option<(Key, Trace)> {
        let table = self.shared.table();
        let live = table.get(path)?.live()?;
        Some(((path.to_owned(), live.number), live.trace))
    }

    /// The open file of an incarnation, or `path` opened, if it leads there.
    fn open_known(&self, key: &Key, path: &Path, id: FileId) -> io::Result<Arc<File>> {
        if let Some(file) = self.shared.table().open.get(key)
            && FileId::of(&file.metadata()?) == id
        {
            return Ok(file);
        }
        open(path).map(Arc::new)
    }

    fn report(&self, failed: &[(PathBuf, io::Error)]) {
        let mut now: Vec<UnreadableBody> = failed
            .iter()
            .map(|(path, error)| UnreadableBody { path: path_text(path), error: error.to_string() })
            .collect();
        now.dedup();
        let mut table = self.shared.table();
        for news in now.iter().filter(|body| !table.unreadable.contains(body)) {
            warn!(path = %news.path, error = %news.error, "not readable: tried again at every scan");
        }
        table.unreadable = now;
    }

    fn retire(&self, now_ms: u64) {
        let mut table = self.shared.table();
        let over: Vec<PathBuf> =
            table.iter().filter(|s| !s.retired && s.is_over(now_ms)).map(|s| s.path.clone()).collect();
        over.iter().for_each(|path| table.retire(path));
        let forgotten: Vec<PathBuf> =
            table.iter().filter(|s| s.is_forgettable(now_ms)).map(|s| s.path.clone()).collect();
        for path in forgotten {
            table.remove(&path);
            if let Err(error) = self.index.remove(&path) {
                warn!(path = %path.display(), error = &error as &dyn std::error::Error, "record not removed");
            }
        }
    }

    /// Records what changed, and only then lets readers see new incarnations.
    fn settle(&self, scope: &Scope, now_ms: u64) -> Result<(), IndexError> {
        let is_all = *scope == Scope::All;
        let Some(dirty) = self.shared.table().take_dirty(is_all) else { return Ok(()) };
        let record = || {
            dirty.iter().try_for_each(|source| self.index.put(source))?;
            let unrecorded = |source: &Source| {
                let path = source.path.clone();
                source
                    .incarnations
                    .iter()
                    .filter(|i| !i.recorded)
                    .map(move |i| (path.clone(), i.number))
                    .collect()
            };
            let fresh: Vec<Key> =
                dirty.iter().flat_map(|source| -> Vec<Key> { unrecorded(source) }).collect();
            if !fresh.is_empty() {
                self.index.flush()?;
                self.shared.table().recorded(&fresh);
            }
            if is_all { self.index.put_last_look(now_ms) } else { Ok(()) }
        };
        record().inspect_err(|_| self.shared.table().mark_dirty(&dirty))
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
