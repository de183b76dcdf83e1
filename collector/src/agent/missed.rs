//! Finds files that stood at a source's path and were rotated away before a look saw them there.
//!
//! Such a file has a rotated name of the source's, and was born after the path was last seen to lead
//! to the incarnation before it. Where the file system records no births, it cannot be told from a
//! file that was there all the time, and is not found.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::beneath::{Opened, is_link_error};
use super::follow::Follower;
use super::identity::{FileId, Stat, Trace};
use super::judge::original_names;
use super::source::{RETIRE_MS, Source, State};
use super::survey::{SEARCHES_MAX, Survey};
use crate::clock::Now;
use crate::naming::display_text;

/// Where files were rotated away, and which of those that are found there count.
pub(super) struct Bounds {
    /// The paths at which they stood: that of the source, or where links led from there, once and now.
    pub(super) homes: Vec<PathBuf>,
    /// The file that is at the path now: a second name of it is not another file.
    pub(super) current: Option<FileId>,
    /// They were born after this, in nanoseconds since 1970.
    pub(super) born_after_ns: u64,
    /// They were born no later than this, in nanoseconds since 1970.
    pub(super) born_max_ns: u64,
    /// Whether files that a glob matches count, too: else they become sources of their own.
    pub(super) includes_matched: bool,
}

impl Bounds {
    /// Whether so many files are renamed or made beside these that the rest of the look is better
    /// left to the next one.
    pub(super) fn are_read_too_often(&self, survey: &Survey) -> bool {
        self.homes.iter().filter_map(|home| home.parent()).any(|dir| survey.is_read_too_often(dir))
    }
}

/// A file that was missed.
struct MissedFile {
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
        survey: &mut Survey,
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
            let current = match self.shared.beneath.open(&source_path) {
                Ok(opened) => Some(FileId::of(&opened.file.metadata()?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_link_error(&error) => None,
                Err(error) => return Err(error),
            };
            let gone_max_ns = gone.map_or(u64::MAX, |gone| (gone.unix_ms + RETIRE_MS) * 1_000_000);
            let born_max_ns = current.map_or(gone_max_ns, |current| current.born_ns);
            let homes = vec![real_path.unwrap_or_else(|| source_path.clone())];
            let bounds = Bounds { homes, current, born_after_ns: 0, born_max_ns, includes_matched: true };
            if bounds.are_read_too_often(survey) {
                self.shared.hints.file(path.to_owned());
                return Ok(true);
            }
            self.adopt_missed(&source_path, &bounds, survey, now)?;
            if self.shared.table().owner_of(id).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adopts the files that were missed at a source's path, in the order of their births. One that
    /// this process may not read is a lost incarnation.
    ///
    /// # Errors
    /// When a file cannot be examined for now. Those adopted already stay so.
    pub(super) fn adopt_missed(
        &self,
        path: &Path,
        bounds: &Bounds,
        survey: &mut Survey,
        now: Now,
    ) -> io::Result<()> {
        for _ in 0..SEARCHES_MAX {
            let mut missed = Vec::new();
            let mut failed = Ok(());
            for home in &bounds.homes {
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
                        _ if !self.is_missed(path, &at, stat.id, bounds) => {}
                        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => failed = Err(error),
                        Ok(_) | Err(_) => missed.push(MissedFile { at, stat, real_path: real_path.clone() }),
                    }
                });
            }
            failed?;
            missed.sort_by_key(|file| file.stat.id.born_ns);
            if self.begin_missed(path, missed, now)? {
                return Ok(());
            }
        }
        Err(io::Error::other("its rotated files were renamed again and again"))
    }

    fn is_missed(&self, path: &Path, at: &Path, id: FileId, bounds: &Bounds) -> bool {
        let table = self.shared.table();
        bounds.current != Some(id)
            && id.born_ns > bounds.born_after_ns
            && table.get(path).is_some_and(|source| source.can_have_missed(id.born_ns, bounds.born_max_ns))
            && table.owner_of(id).is_none()
            // It is the next file of the source at that path.
            && table.get(at).is_none()
            && (bounds.includes_matched || !self.patterns.is_match(at))
    }

    /// Begins an incarnation for each of the files. They are opened one by one: there may be more
    /// than the process can have open. Returns false at one that was renamed.
    fn begin_missed(&self, path: &Path, missed: Vec<MissedFile>, now: Now) -> io::Result<bool> {
        for MissedFile { at, stat, real_path } in missed {
            match self.shared.beneath.open(&at) {
                Ok(Opened { file, .. }) => {
                    let trace = Trace::of(&file)?;
                    if trace.stat.id != stat.id {
                        return Ok(false);
                    }
                    info!(path = %display_text(path), at = %display_text(&at), "file found that was rotated away unseen");
                    let opened = Opened { file, real_path };
                    self.shared.table().begin(path, trace, State::Away { at: Some(at) }, opened, now);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    warn!(path = %display_text(path), at = %display_text(&at), %error, "file lost that was rotated away unseen");
                    self.shared.table().begin_unreadable(path, stat, now);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
#[path = "missed_tests.rs"]
mod tests;
