//! Finds the copy that a rotation by `copytruncate` made: a file with a rotated
//! name that begins with all that is known of the truncated one. What was written
//! between the last look and the truncation is only there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use tracing::{info, warn};

use super::classify::{BIRTH_SLACK_NS, is_born_between, is_rotated_name};
use super::follow::Follower;
use super::identity::{Fingerprint, look};
use super::open_files::Key;
use super::rooted_fs::Opened;
use super::scan::{SEARCHES_MAX, Scan, is_transient};
use super::source::{Loss, State, nanoseconds};
use crate::clock::Now;
use crate::naming::display_text;
use crate::wire::GapReason;

/// Whether a copy was written after incarnation `number` began, which is a time: an
/// earlier rotation's copy may begin with the same lines. Its own time of change
/// does not tell: a rotation renames it.
fn is_of_this_rotation(file: &File, number: u64) -> bool {
    let modified = file.metadata().and_then(|meta| meta.modified()).ok();
    let since = modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
    // The kernel stamps files with a clock that is a little behind.
    since.is_some_and(|since| since.as_nanos() + u128::from(BIRTH_SLACK_NS) > u128::from(number) * 1_000_000)
}

/// A copy of what a file contained before it was truncated.
pub(super) struct FoundCopy {
    /// Where it is.
    pub(super) at: PathBuf,
    /// Its trace.
    pub(super) trace: Fingerprint,
    /// The file, open.
    pub(super) opened: Opened,
}

impl Follower {
    /// A file was truncated or overwritten. What it contained is in a copy, or
    /// lost: to which end, nobody saw.
    pub(super) fn lose_truncated(&self, key: &Key, known: &Fingerprint, survey: &mut Scan, now: Now) {
        // A copy that cannot be read now is a gap.
        match self.find_copy(key, known, survey).unwrap_or_default() {
            Some(FoundCopy { at, trace, opened }) => {
                info!(path = %display_text(&key.0), at = %display_text(&at), size = trace.stat.size, "file truncated; reading on in its copy");
                self.shared.table().continue_in_copy(key, at, trace, opened, now);
            }
            None => {
                warn!(path = %display_text(&key.0), size = known.stat.size, "file truncated, and no copy found");
                let loss = Loss { reason: GapReason::Truncated, is_end_known: false };
                self.shared.table().mark_lost(key, loss, now);
            }
        }
    }

    /// Where the file of an incarnation was: at its source's path, where links led
    /// from there, and where it was seen last.
    pub(super) fn homes(&self, key: &Key) -> Vec<PathBuf> {
        let table = self.shared.table();
        let incarnation = table.get(&key.0).and_then(|source| source.incarnation(key.1));
        let at = incarnation.and_then(|incarnation| match &incarnation.state {
            State::Away { at } => at.clone(),
            State::Live | State::Lost(_) => None,
        });
        let real_path = incarnation.and_then(|incarnation| incarnation.real_path.clone());
        let mut homes = vec![key.0.clone()];
        for home in [real_path, at].into_iter().flatten() {
            if homes.iter().all(|known| known.parent() != home.parent()) {
                homes.push(home);
            }
        }
        homes
    }

    /// The copy of an incarnation that was `known`, if there is one. Of several the first one that
    /// was made since the source was seen last, as later ones are of later truncations; else the
    /// one that was changed last, as an older one is an earlier rotation's.
    ///
    /// A compressed copy cannot be read on from an offset, so it does not count. Any file begins
    /// with nothing: a copy of a file that was empty when it was seen last was made since, and no
    /// glob matches it.
    ///
    /// # Errors
    /// When a directory or a file in it cannot be read for now.
    pub(super) fn find_copy(
        &self,
        key: &Key,
        known: &Fingerprint,
        survey: &mut Scan,
    ) -> io::Result<Option<FoundCopy>> {
        let seen_ns = self.shared.table().get(&key.0).map_or(0, |source| nanoseconds(source.seen_ms));
        let is_made_since_seen =
            |trace: &Fingerprint| is_born_between(seen_ns, trace.stat.id.born_ns, u64::MAX);
        let rank = |trace: &Fingerprint| match is_made_since_seen(trace) {
            true => (true, u64::MAX - trace.stat.id.born_ns),
            false => (false, trace.stat.changed_ns),
        };
        let mut failed = Ok(());
        let mut found: Option<FoundCopy> = None;
        for home in self.homes(key) {
            self.for_each_rotated_file(&home, survey, |at, opened| {
                let opened = match opened {
                    Ok(opened) => opened,
                    Err(error) if is_transient(&error) => return failed = Err(error),
                    Err(_) => return,
                };
                let Ok(seen) = look(&opened.file, known) else { return };
                let begins_alike = seen.head_same && seen.tail_same;
                let is_longer = seen.trace.stat.size >= known.stat.size;
                let is_better = found.as_ref().is_none_or(|found| rank(&found.trace) < rank(&seen.trace));
                let is_free = self.shared.table().owner_of(seen.trace.stat.id).is_none();
                let is_recent = is_of_this_rotation(&opened.file, key.1);
                let is_copy =
                    known.stat.size > 0 || is_made_since_seen(&seen.trace) && !self.patterns.is_match(&at);
                if is_copy && is_recent && begins_alike && is_longer && is_better && is_free {
                    found = Some(FoundCopy { at, trace: seen.trace, opened });
                }
            })?;
        }
        failed.map(|()| found)
    }

    /// Whether a file that was empty when it was seen last, as `known`, has been truncated since
    /// after a copy was made of it. Its size does not tell. A copy with which the file still begins
    /// shows no truncation.
    ///
    /// # Errors
    /// When that cannot be found out for now.
    pub(super) fn is_truncated_after_copy(
        &self,
        key: &Key,
        known: &Fingerprint,
        file: &File,
        survey: &mut Scan,
    ) -> io::Result<bool> {
        let Some(copy) = self.find_copy(key, known, survey)? else { return Ok(false) };
        let seen = look(file, &copy.trace);
        let still_begins_so = seen.is_ok_and(|seen| {
            seen.head_same && seen.tail_same && seen.trace.stat.size >= copy.trace.stat.size
        });
        Ok(copy.trace.stat.size > 0 && !still_begins_so)
    }

    /// Calls `visit` once for each file in `path`'s directory whose name is a rotated form of
    /// `path`'s, also if it cannot be opened. The directory is read again while it changes, at most
    /// [`SEARCHES_MAX`] times: a file may be renamed while the names are read.
    ///
    /// # Errors
    /// When the directory cannot be read for now.
    pub(super) fn for_each_rotated_file(
        &self,
        path: &Path,
        survey: &mut Scan,
        mut visit: impl FnMut(PathBuf, io::Result<Opened>),
    ) -> io::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(dir), Some(name)) = (path.parent(), name) else { return Ok(()) };
        // The prefix of all rotated names.
        let stem = &name[..name.rfind('.').unwrap_or(name.len())];
        let is_rotated = |other: &OsStr| other.to_str().is_some_and(|other| is_rotated_name(other, name));
        let mut visited = BTreeSet::new();
        for search in 0..SEARCHES_MAX {
            if !survey.refresh_names_in(dir)? && search > 0 {
                return Ok(());
            }
            let names = survey.names_with_prefix(dir, stem);
            let unvisited = names.filter(|(other, ino)| is_rotated(other) && !visited.contains(ino));
            let found: Vec<(PathBuf, u64)> = unvisited.map(|(other, ino)| (dir.join(other), *ino)).collect();
            for (at, ino) in found {
                let opened = self.shared.beneath.open(&at);
                let ino = match &opened {
                    Ok(opened) => opened.file.metadata().map_or(ino, |meta| meta.ino()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(_) => ino,
                };
                if visited.insert(ino) {
                    visit(at, opened);
                }
            }
        }
        Ok(())
    }
}
