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
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};

use super::classify::{Disposition, classify};
use super::glob::Patterns;
use super::identity::{FileId, Fingerprint, look};
use super::index::Index;
use super::open_files::Key;
use super::rooted_fs::{Opened, is_link_error};
use super::scan::{Scan, Scope};
use super::settle::IndexState;
use super::shared::Shared;
use super::source::{Source, State};
use super::table::Unreadable;
use super::unseen::UnseenFilter;
use crate::clock::Now;
use crate::naming::{display_text, path_text};
use crate::wire::UnreadableBody;

/// Most files and directories that are listed as not readable.
const UNREADABLE_MAX: usize = 1_000;
/// Most of which it is said in the log after one look.
const SAID_MAX: usize = 10;

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
    pub(super) index: Index,
    pub(super) index_state: IndexState,
    dirs: BTreeSet<PathBuf>,
    subdirs: BTreeSet<PathBuf>,
    linked_dirs: BTreeSet<PathBuf>,
}

impl Follower {
    /// A follower that goes on where `index` ends. Nothing is looked at yet.
    #[must_use]
    pub fn new(owner: Owner, patterns: Patterns, index: Index, shared: Arc<Shared>) -> Self {
        for source in index.load(Now::read()) {
            shared.table().insert(source);
        }
        Self {
            owner,
            patterns,
            shared,
            index,
            index_state: IndexState::default(),
            dirs: BTreeSet::new(),
            subdirs: BTreeSet::new(),
            linked_dirs: BTreeSet::new(),
        }
    }

    /// The directories that the last look at everything came to.
    #[must_use]
    pub fn dirs(&self) -> &BTreeSet<PathBuf> {
        &self.dirs
    }

    /// Looks, once. Blocks.
    pub fn scan(&mut self, scope: &Scope) {
        let now = Now::read();
        let mut survey = Scan::of(scope, &self.patterns, &self.shared.beneath, &self.linked_dirs);
        for path in self.departed(scope, &survey, now) {
            self.revisit(&path, &mut survey, now);
        }
        for path in self.unclaimed(&survey) {
            if let Err(error) = self.adopt(&path, &mut survey, now) {
                survey.failed.push((path, error));
            }
        }
        if *scope == Scope::All {
            self.dirs = std::mem::take(&mut survey.dirs);
            self.subdirs = std::mem::take(&mut survey.subdirs);
            self.linked_dirs = std::mem::take(&mut survey.linked_dirs);
            self.maintain(&mut survey, now);
            self.open_closed(&mut survey);
            self.report(&survey);
            self.retire(now);
        }
        self.settle(scope, now);
        // A new directory may have more directories in it.
        if !survey.subdirs.is_subset(&self.subdirs) {
            self.shared.hints.all();
        }
    }

    /// The sources in scope whose path does not lead to exactly what was known.
    fn departed(&self, scope: &Scope, survey: &Scan, now: Now) -> Vec<PathBuf> {
        let mut departed = Vec::new();
        let mut compare = |source: &mut Source| {
            let Some(live) = source.live() else { return };
            match survey.file(&source.path) {
                Some(entry) if entry.stat == live.trace.stat => source.seen_ms = now.unix_ms,
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
    pub(super) fn revisit(&self, path: &Path, survey: &mut Scan, now: Now) {
        let Some((key, known)) = self.live(path) else { return };
        let seen = match survey.file(path) {
            Some(entry) if entry.stat.id.ino == known.stat.id.ino => {
                let opened = self.open_known(&key, path, known.stat.id);
                opened.and_then(|opened| Ok(Some((look(&opened.file, &known)?, opened))))
            }
            Some(_) | None => Ok(None),
        };
        let seen = match seen {
            Ok(seen) => seen,
            // It became shorter while it was looked at: look again.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return self.shared.hints.file(path.into());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_link_error(&error) => None,
            Err(error) => return survey.failed.push((path.to_owned(), error)),
        };
        let mut verdict = classify(&known, seen.as_ref().map(|(seen, _)| seen));
        if let (Disposition::Same | Disposition::Grown, Some((_, opened)), 0) =
            (verdict, &seen, known.stat.size)
        {
            if path.parent().is_some_and(|dir| survey.is_read_too_often(dir)) {
                return self.shared.hints.file(path.into());
            }
            match self.is_truncated_after_copy(&key, &known, &opened.file, survey) {
                Ok(true) => verdict = Disposition::Truncated,
                Ok(false) => {}
                Err(error) => return survey.failed.push((path.to_owned(), error)),
            }
        }
        match (verdict, seen) {
            (Disposition::Same | Disposition::Grown, Some((seen, opened))) => {
                let mut table = self.shared.table();
                table.each_at(path, |source| source.seen_ms = now.unix_ms);
                table.grew(&key, seen.trace, now);
                table.open.keep_if_absent(&key, opened.file);
            }
            (Disposition::Truncated, Some((seen, opened))) => {
                let homes = self.homes(&key);
                self.lose_truncated(&key, &known, survey, now);
                self.adopt_copies(path, homes, seen.trace.stat.id, survey, now);
                self.shared.table().begin(path, seen.trace, State::Live, opened, now);
            }
            _ => {
                let at = self.locate(&key, &known, survey);
                let shown = at.as_deref().map(display_text).unwrap_or_default();
                info!(path = %display_text(path), at = %shown, "file rotated away");
                let mut table = self.shared.table();
                if let Some(source) = table.change(path) {
                    source.leave(at.clone(), now);
                }
                table.moved(&key, at, now);
            }
        }
    }

    /// Adopts the copies of a file that was truncated more than once since the last look: they are
    /// younger than the copy of what was known, or than the file if there is none.
    fn adopt_copies(&self, path: &Path, homes: Vec<PathBuf>, id: FileId, survey: &mut Scan, now: Now) {
        let last_born_ns = {
            let table = self.shared.table();
            let last = table.get(path).and_then(|source| source.incarnations.last());
            last.map_or(0, |last| last.trace.stat.id.born_ns)
        };
        let filter = UnseenFilter {
            homes,
            current: Some(id),
            born_after_ns: last_born_ns,
            born_max_ns: u64::MAX,
            includes_matched: false,
        };
        if let Err(error) = self.adopt_unseen(path, &filter, survey, now) {
            survey.failed.push((path.to_owned(), error));
        }
    }

    fn live(&self, path: &Path) -> Option<(Key, Fingerprint)> {
        let table = self.shared.table();
        let live = table.get(path)?.live()?;
        Some(((path.to_owned(), live.number), live.trace))
    }

    /// The open file of an incarnation, or `path` opened, if it leads there.
    fn open_known(&self, key: &Key, path: &Path, id: FileId) -> io::Result<Opened> {
        let (file, real_path) = {
            let table = self.shared.table();
            let incarnation = table.get(path).and_then(|source| source.incarnation(key.1));
            (table.open.get(key), incarnation.and_then(|incarnation| incarnation.real_path.clone()))
        };
        match file {
            Some(file) if FileId::of(&file.metadata()?) == id => Ok(Opened { file, real_path }),
            _ => self.shared.beneath.open(path),
        }
    }

    /// Lists what cannot be read, and says once of each that it cannot.
    fn report(&self, survey: &Scan) {
        let failed = survey.failed.iter().map(|(path, error)| (path_text(path), error.to_string()));
        let skipped = survey.skipped.iter().map(|(path, error)| (path_text(path), error.clone()));
        let mut now: BTreeSet<(String, String)> = failed.chain(skipped).collect();
        let total = now.len();
        while now.len() > UNREADABLE_MAX {
            now.pop_last();
        }
        let mut table = self.shared.table();
        let before: BTreeSet<(&str, &str)> =
            table.unreadable.listed.iter().map(|body| (body.path.as_str(), body.error.as_str())).collect();
        let is_news = |(path, error): &&(String, String)| !before.contains(&(path.as_str(), error.as_str()));
        let news: Vec<_> = now.iter().filter(is_news).collect();
        for (path, error) in news.iter().take(SAID_MAX) {
            warn!(path = %display_text(Path::new(path)), %error, "not read; tried again at every scan");
        }
        if news.len() > SAID_MAX {
            warn!(count = news.len() - SAID_MAX, "more is not read: GET /v1/sources lists it");
        }
        let listed = now.into_iter().map(|(path, error)| UnreadableBody { path, error }).collect();
        table.unreadable = Unreadable { listed, omitted: total.saturating_sub(UNREADABLE_MAX) };
    }

    fn retire(&self, now: Now) {
        let mut table = self.shared.table();
        let over: Vec<PathBuf> =
            table.iter().filter(|s| !s.retired && s.is_over(now)).map(|s| s.path.clone()).collect();
        over.iter().for_each(|path| table.retire(path));
        let forgotten: Vec<PathBuf> =
            table.iter().filter(|s| s.is_forgettable(now)).map(|s| s.path.clone()).collect();
        for path in forgotten {
            table.remove(&path);
            if let Err(error) = self.index.remove(&path) {
                warn!(path = %display_text(&path), error = &error as &dyn std::error::Error, "record not removed");
            }
        }
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
