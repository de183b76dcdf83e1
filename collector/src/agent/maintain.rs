//! Looks after files that were rotated away: where they are, whether they still
//! grow, whether anybody needs them. Step 3 of a look.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::classify::{Disposition, classify};
use super::follow::Follower;
use super::identity::{FileId, Fingerprint, Stat, look};
use super::open_files::Key;
use super::rooted_fs::{is_link_error, open};
use super::scan::{SEARCHES_MAX, Scan};
use super::source::State;
use crate::clock::Now;

/// An incarnation that is not live, as it was when the tending began.
struct Tended {
    key: Key,
    trace: Fingerprint,
    /// `None`: its bytes are gone.
    at: Option<Option<PathBuf>>,
    is_passed: bool,
}

impl Follower {
    /// Looks after all files that were rotated away.
    pub(super) fn maintain(&self, survey: &mut Scan, now: Now) {
        for tended in self.tended() {
            let Some(at) = &tended.at else {
                if tended.is_passed {
                    self.shared.table().drop_source(&tended.key);
                }
                continue;
            };
            match self.maintain_one(&tended, at.as_deref(), survey) {
                Ok(()) => self.shared.table().release(&tended.key, now),
                // It became shorter while it was looked at; the next look tells.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => survey.failed.push((at.clone().unwrap_or_else(|| tended.key.0.clone()), error)),
            }
        }
    }

    fn maintain_one(&self, tended: &Tended, at: Option<&Path>, survey: &mut Scan) -> io::Result<()> {
        let Tended { key, trace, is_passed, .. } = tended;
        let now = Now::read();
        let is_there = match at {
            Some(at) => stat_of(at)?.is_some_and(|stat| stat.id == trace.stat.id),
            None => false,
        };
        let at_now = if is_there { at.map(Path::to_owned) } else { self.locate(key, trace, survey) };
        if at_now.is_none() && !survey.is_certain(&key.0) {
            return Ok(());
        }
        let open_file = self.shared.table().open.get(key);
        if at_now.is_none() && open_file.is_none() && *is_passed {
            self.shared.table().drop_source(key);
            return Ok(());
        }
        if at_now.as_deref() != at || (at_now.is_none() && open_file.is_none()) {
            self.shared.table().moved(key, at_now.clone(), now);
        }
        let stat = match (&open_file, &at_now) {
            (Some(file), _) => Some(Stat::of(&file.metadata()?)),
            (None, Some(at)) => stat_of(at)?,
            (None, None) => None,
        };
        // Also one that its reader is done with: what is written to it late is a gap.
        if stat.is_none_or(|stat| stat == trace.stat) {
            return Ok(());
        }
        let file = match (open_file, &at_now) {
            (Some(file), _) => file,
            (None, Some(at)) => Arc::new(open(at)?),
            (None, None) => return Ok(()),
        };
        let seen = look(&file, trace)?;
        match classify(trace, Some(&seen)) {
            Disposition::Same | Disposition::Grown => self.shared.table().grew(key, seen.trace, now),
            _ => self.lose_truncated(key, trace, survey, now),
        }
        Ok(())
    }

    /// Where the file of an incarnation is now. An open file knows it; another
    /// one is searched for in its directories, by inode number, and must still
    /// have the content that was known.
    pub(super) fn locate(&self, key: &Key, known: &Fingerprint, survey: &mut Scan) -> Option<PathBuf> {
        let open_file = self.shared.table().open.get(key);
        // Deleted: there are many of those when nobody collects, so it must be cheap.
        if open_file.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|meta| meta.nlink() == 0) {
            return None;
        }
        if let Some(file) = &open_file
            && let Some(path) = path_of(file)
            && stat_of(&path).ok()?.is_some_and(|stat| stat.id == known.stat.id)
        {
            return Some(path);
        }
        let homes = self.homes(key);
        let dirs: Vec<&Path> = homes.iter().filter_map(|home| home.parent()).collect();
        for _ in 0..SEARCHES_MAX {
            let mut paths = Vec::new();
            for dir in &dirs {
                let names = survey.names_in(dir).iter().filter(|(_, ino)| *ino == known.stat.id.ino);
                paths.extend(names.map(|(name, _)| dir.join(name)));
            }
            for path in paths {
                let Ok(file) = open(&path) else { continue };
                let Ok(seen) = look(&file, known) else { continue };
                if matches!(classify(known, Some(&seen)), Disposition::Same | Disposition::Grown) {
                    if open_file.is_none() {
                        self.shared.table().open.keep(key.clone(), Arc::new(file));
                    }
                    return Some(path);
                }
            }
            // It may have been renamed since the names were read.
            let mut refresh = |dir: &&&Path| survey.refresh_names_in(dir).is_ok_and(|was_read| was_read);
            if dirs.iter().filter(|dir| refresh(dir)).count() == 0 {
                break;
            }
        }
        None
    }

    /// Opens what is not open yet and has not been collected, as long as there is
    /// room: after a restart all files are closed, and one that is closed can be
    /// moved away between two looks.
    pub(super) fn open_closed(&self, survey: &mut Scan) {
        let closed = self.shared.table().closed();
        for (key, at, id) in closed {
            let opened = match at {
                None => self.shared.beneath.open(&key.0).map(|opened| opened.file),
                Some(at) => open(&at).map(Arc::new),
            };
            match opened.and_then(|file| Ok((FileId::of(&file.metadata()?), file))) {
                Ok((found, file)) if found == id => self.shared.table().open.keep_if_absent(&key, file),
                // Another file is there by now: the next look tells.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_link_error(&error) => {}
                Err(error) => survey.failed.push((key.0, error)),
            }
        }
    }

    fn tended(&self) -> Vec<Tended> {
        let table = self.shared.table();
        let mut tended = Vec::new();
        // Also those that are out of service: one that grows comes back.
        for source in table.iter() {
            for incarnation in &source.incarnations {
                let at = match &incarnation.state {
                    State::Live => continue,
                    State::Away { at } => Some(at.clone()),
                    State::Lost(_) => None,
                };
                tended.push(Tended {
                    key: (source.path.clone(), incarnation.number),
                    trace: incarnation.trace,
                    at,
                    is_passed: incarnation.passed_ms.is_some(),
                });
            }
        }
        tended
    }
}

/// The path of an open file, as the kernel knows it: right even after the file
/// was moved to another directory.
fn path_of(file: &File) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

fn stat_of(path: &Path) -> io::Result<Option<Stat>> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Some(Stat::of(&meta))),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
