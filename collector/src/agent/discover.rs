//! Finds a source for every file: step 2 of a look.
//!
//! A file whose identity is known stays what it was, wherever it was moved to;
//! only an unknown one begins an incarnation of the source at its path, or of the
//! source that it was rotated away from (`unseen.rs`). So `app.log.1` is not a source
//! of its own when a glob matches that name too.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rota_core::pool::Item;
use tracing::info;

use super::classify::{Disposition, classify};
use super::follow::Follower;
use super::gap_list::GapState;
use super::glob::whole_name;
use super::identity::{FileId, Fingerprint, look};
use super::open_files::Key;
use super::rooted_fs::{Opened, is_link_error};
use super::scan::Scan;
use super::source::{Source, State};
use super::unseen::UnseenFilter;
use crate::clock::Now;
use crate::naming::{display_text, item_name, labels};

/// Most sources of one agent. A glob that finds more was not meant, and every
/// one costs the coordinator a node and a row.
pub const SOURCES_MAX: usize = 100_000;

impl Follower {
    /// The files seen that no source accounts for. Links come last, so that a
    /// file is known by its own name rather than by that of a link.
    pub(super) fn unclaimed(&self, survey: &Scan) -> Vec<PathBuf> {
        let table = self.shared.table();
        let mut unclaimed = Vec::new();
        for (path, entry) in &survey.files {
            let path = Path::new(path);
            if table.get(path).is_some_and(|source| source.live().is_some()) {
                continue;
            }
            let accounted = table.owner_of(entry.stat.id).is_some_and(|(_, owner)| {
                let same = owner.trace.stat.id == entry.stat.id && owner.trace.stat.size <= entry.stat.size;
                same && match &owner.state {
                    State::Live => true,
                    State::Away { at } => at.as_deref() == Some(path),
                    State::Lost(_) => false,
                }
            });
            if !accounted {
                unclaimed.push((entry.is_link, path.to_owned()));
            }
        }
        unclaimed.sort();
        unclaimed.into_iter().map(|(_, path)| path).collect()
    }

    /// Makes a file part of a source: an incarnation that is known and was
    /// found again, or a new one of the source at its path.
    pub(super) fn adopt(&self, path: &Path, survey: &mut Scan, now: Now) -> io::Result<()> {
        let opened = match self.shared.beneath.open(path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if is_link_error(&error) => {
                survey.skipped.insert(path.to_owned(), error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let trace = Fingerprint::of(&opened.file)?;
        if let Some(key) = self.recognise(&opened.file, trace.stat.id)? {
            self.find_again(&key, path, trace, Arc::clone(&opened.file), now);
            return Ok(());
        }
        let id = trace.stat.id;
        if let Some(homes) = self.homes_at(path, &opened) {
            let (current, born_max_ns) = (Some(id), id.born_ns);
            let filter =
                UnseenFilter { homes, current, born_after_ns: 0, born_max_ns, includes_matched: true };
            if filter.is_deferred(survey) {
                self.shared.hints.file(path.to_owned());
                return Ok(());
            }
            self.adopt_unseen(path, &filter, survey, now)?;
        } else if self.adopt_if_rotated(path, id, survey, now)? {
            return Ok(());
        } else {
            self.insert_source(path)?;
        }
        info!(path = %display_text(path), size = trace.stat.size, "file found");
        self.shared.table().begin(path, trace, State::Live, opened, now);
        Ok(())
    }

    /// Where the files of the source at `path` are or were before, if there is such a source: at the
    /// path, or where links led from there to its last file and lead to this one.
    fn homes_at(&self, path: &Path, opened: &Opened) -> Option<Vec<PathBuf>> {
        let last = self.shared.table().get(path)?.incarnations.last().map(|last| last.real_path.clone());
        let homes = [Some(opened.real_path.clone()), last].into_iter().flatten();
        let mut homes: Vec<PathBuf> =
            homes.map(|real_path| real_path.unwrap_or_else(|| path.to_owned())).collect();
        homes.dedup();
        Some(homes)
    }

    /// The incarnation that a file is, if its content says so too.
    fn recognise(&self, file: &File, id: FileId) -> io::Result<Option<Key>> {
        let owner = self.shared.table().owner_of(id).map(|(key, owner)| (key.clone(), owner.trace));
        let Some((key, known)) = owner else { return Ok(None) };
        let verdict = classify(&known, Some(&look(file, &known)?));
        Ok(matches!(verdict, Disposition::Same | Disposition::Grown).then_some(key))
    }

    fn find_again(&self, key: &Key, path: &Path, trace: Fingerprint, file: Arc<File>, now: Now) {
        let mut table = self.shared.table();
        let Some(source) = table.get(&key.0) else { return };
        let is_last = source.incarnations.last().is_some_and(|last| last.number == key.1);
        // Its own path leads to it: this is another name of the same file.
        if source.live().is_some_and(|live| live.number == key.1) {
            return;
        }
        table.open.keep(key.clone(), file);
        if key.0 == path && is_last {
            table.come_back(path, now);
        } else {
            table.moved(key, Some(path.to_owned()), now);
        }
        table.grew(key, trace, now);
    }

    fn insert_source(&self, path: &Path) -> io::Result<()> {
        let name = |file: &str| item_name(&self.owner.app, &self.owner.host, file);
        let mut table = self.shared.table();
        let mut file = self.patterns.file_name(path);
        if table.is_taken(&name(&file), path) {
            file = whole_name(path);
        }
        // Two paths whose unprintable bytes are escaped alike.
        if table.is_taken(&name(&file), path) {
            return Err(io::Error::other("its name is that of another file"));
        }
        if table.len() >= SOURCES_MAX {
            return Err(io::Error::other(format!("{SOURCES_MAX} sources are as many as an agent follows")));
        }
        let labels = labels(&self.owner.app, &self.owner.host, &file);
        Item { labels, ..Item::default() }.check().map_err(io::Error::other)?;
        table.insert(Source {
            path: path.to_owned(),
            item: name(&file),
            file,
            incarnations: Vec::new(),
            reader: None,
            gaps: Vec::new(),
            gap_state: GapState::default(),
            seen_ms: 0,
            gone: None,
            retired: false,
        });
        Ok(())
    }
}
