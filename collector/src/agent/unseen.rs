//! Finds files that stood at a source's path and were rotated away before a look saw them there.
//!
//! Such a file has a rotated name of the source's, and was born after the path was last seen to lead
//! to the incarnation before it. Where the file system records no births, it cannot be distinguished
//! from a file that was there all the time, and is not found.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::classify::original_names;
use super::follow::Follower;
use super::identity::{FileId, Fingerprint, Stat};
use super::rooted_fs::{Opened, is_link_error};
use super::scan::{SEARCHES_MAX, Scan, is_transient};
use super::source::{RETIRE_MS, Source, State, nanoseconds};
use crate::clock::Now;
use crate::naming::display_text;

/// Where unseen files stood before their rotation, and which of the files beside count.
pub(super) struct UnseenFilter {
    /// The paths at which they stood: that of the source, or where links led from there, once and now.
    pub(super) homes: Vec<PathBuf>,
    /// The file that is at the path now: a second name of it is not another file.
    pub(super) current: Option<FileId>,
    /// The files were born after this, in nanoseconds since 1970.
    pub(super) born_after_ns: u64,
    /// The files were born no later than this, in nanoseconds since 1970.
    pub(super) born_max_ns: u64,
    /// Whether files that a glob matches count, too: else they become sources of their own.
    pub(super) includes_matched: bool,
}

impl UnseenFilter {
    /// Whether so many files are renamed or made beside these that the rest of the look is better
    /// left to the next one.
    pub(super) fn is_deferred(&self, survey: &Scan) -> bool {
        self.homes.iter().filter_map(|home| home.parent()).any(|dir| survey.is_read_too_often(dir))
    }
}

/// A file that no look saw at its source's path.
struct UnseenFile {
    at: PathBuf,
    stat: Stat,
    /// Where it stood, if links led there from the source's path.
    real_path: Option<PathBuf>,
}

impl Follower {
    /// Adopts an unknown file that was rotated away from the path of a known source, or asks for
    /// another look if that is to be decided later. Returns whether it did.
    ///
    /// # Errors
    /// When a file cannot be examined for now; `path` is to be looked at again.
    pub(super) fn adopt_if_rotated(
        &self,
        path: &Path,
        id: FileId,
        survey: &mut Scan,
        now: Now,
    ) -> io::Result<bool> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str)) else {
            return Ok(false);
        };
        for source_path in original_names(name).into_iter().map(|name| dir.join(name)) {
            let (live, real_path, gone) = {
                let table = self.shared.table();
                let is_candidate =
                    |source: &&Source| !source.retired && source.can_have_missed(id.born_ns, u64::MAX);
                let Some(source) = table.get(&source_path).filter(is_candidate) else { continue };
                let real_path = source.incarnations.last().and_then(|last| last.real_path.clone());
                (source.live().map(|live| live.trace.stat.id), real_path, source.gone)
            };
            // A file that cannot be examined is not known to have left.
            if !survey.is_certain(&source_path) {
                continue;
            }
            if let Some(live) = live {
                let has_moved = match fs::metadata(&source_path) {
                    Ok(meta) => FileId::of(&meta) != live,
                    Err(error) => error.kind() == io::ErrorKind::NotFound,
                };
                // It was rotated during this look.
                if has_moved {
                    self.shared.hints.file(source_path);
                    self.shared.hints.file(path.to_owned());
                    return Ok(true);
                }
                continue;
            }
            let current = fs::metadata(&source_path).ok().filter(Metadata::is_file);
            let current = current.map(|meta| FileId::of(&meta));
            let gone_max_ns =
                gone.map_or(u64::MAX, |gone| nanoseconds(gone.unix_ms.saturating_add(RETIRE_MS)));
            let born_max_ns = current.map_or(gone_max_ns, |current| current.born_ns);
            let homes = vec![real_path.unwrap_or_else(|| source_path.clone())];
            let filter =
                UnseenFilter { homes, current, born_after_ns: 0, born_max_ns, includes_matched: true };
            if filter.is_deferred(survey) {
                self.shared.hints.file(path.to_owned());
                return Ok(true);
            }
            self.adopt_unseen(&source_path, &filter, survey, now)?;
            if self.shared.table().owner_of(id).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adopts the files that no look saw at a source's path, in the order of their births. One that
    /// cannot be read is a lost incarnation.
    ///
    /// # Errors
    /// When a file cannot be examined for now. Those adopted already stay so.
    pub(super) fn adopt_unseen(
        &self,
        path: &Path,
        filter: &UnseenFilter,
        survey: &mut Scan,
        now: Now,
    ) -> io::Result<()> {
        for _ in 0..SEARCHES_MAX {
            let mut unseen = Vec::new();
            let mut failed = Ok(());
            for home in &filter.homes {
                let real_path = (home != path).then(|| home.clone());
                self.for_each_rotated_file(home, survey, |at, opened| {
                    let meta = match &opened {
                        Ok(opened) => opened.file.metadata(),
                        Err(error) if is_link_error(error) => return,
                        Err(_) => fs::symlink_metadata(&at),
                    };
                    let Some(stat) = meta.ok().filter(Metadata::is_file).map(|meta| Stat::of(&meta)) else {
                        return;
                    };
                    match opened {
                        _ if !self.is_unseen((path, home), &at, stat.id, filter) => {}
                        Err(error) if is_transient(&error) => failed = Err(error),
                        Ok(_) | Err(_) => unseen.push(UnseenFile { at, stat, real_path: real_path.clone() }),
                    }
                })?;
            }
            failed?;
            unseen.sort_by_key(|file| file.stat.id.born_ns);
            if self.begin_unseen(path, unseen, now)? {
                return Ok(());
            }
        }
        Err(io::Error::other("its rotated files were renamed again and again"))
    }

    /// Whether the file `at` is one that no look saw at `path`. `home` is where it stood.
    fn is_unseen(&self, (path, home): (&Path, &Path), at: &Path, id: FileId, filter: &UnseenFilter) -> bool {
        let table = self.shared.table();
        let name = at.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let belongs_here = || {
            let mut originals = original_names(name).into_iter().map(|name| at.with_file_name(name));
            // `app-error-1.log` belongs to `app-error.log` rather than to `app.log`.
            let original = originals.find(|original| original == home || table.get(original).is_some());
            original.is_some_and(|original| original == home)
        };
        filter.current != Some(id)
            && id.born_ns > filter.born_after_ns
            && table.get(path).is_some_and(|source| source.can_have_missed(id.born_ns, filter.born_max_ns))
            && table.owner_of(id).is_none()
            && belongs_here()
            // Else it is the next file of the source at that path.
            && (table.get(at).is_none() || !self.patterns.is_match(at))
            && (filter.includes_matched || !self.patterns.is_match(at))
    }

    /// Begins an incarnation for each of the files. They are opened one by one: there may be more
    /// than the process can have open. Returns false at one that was renamed.
    fn begin_unseen(&self, path: &Path, unseen: Vec<UnseenFile>, now: Now) -> io::Result<bool> {
        for UnseenFile { at, stat, real_path } in unseen {
            // Two homes may be one directory.
            if self.shared.table().owner_of(stat.id).is_some() {
                continue;
            }
            let opened = self.shared.beneath.open(&at);
            match opened.and_then(|Opened { file, .. }| Ok((Fingerprint::of(&file)?, file))) {
                Ok((trace, _)) if trace.stat.id != stat.id => return Ok(false),
                Ok((trace, file)) => {
                    info!(path = %display_text(path), at = %display_text(&at), "file found that was rotated away unseen");
                    let opened = Opened { file, real_path };
                    self.shared.table().begin(path, trace, State::Away { at: Some(at) }, opened, now);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) if is_transient(&error) => return Err(error),
                Err(error) => {
                    warn!(path = %display_text(path), at = %display_text(&at), %error, "file lost that was rotated away unseen");
                    self.shared.table().begin_unreadable(path, stat, real_path, now);
                }
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "unseen_tests.rs"]
mod tests;
