//! Turns the operating system's events into hints.
//!
//! Directories are watched, not files, and not recursively. Events may be lost,
//! merged or late; whatever goes wrong here is answered with a hint to look at
//! everything, and costs latency, nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tracing::{debug, info, warn};

use super::identity::FileId;
use super::shared::Shared;
use crate::naming::display_text;

/// Most directories that are watched. The usual limit of the system is larger,
/// but belongs to all programs; directories beyond are found by scans alone.
pub const WATCHES_MAX: usize = 4096;

/// Delay before a failed directory watch is retried: the inotify limit may have been raised, or
/// watches released.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Watches directories.
pub struct DirWatcher {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, Option<FileId>>,
    /// Directories that could not be watched, and when they are tried again.
    failed: BTreeMap<PathBuf, Instant>,
}

impl DirWatcher {
    /// A watcher that watches nothing yet. Where the system has no events, it
    /// never will, and scans do all.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let watcher = notify::recommended_watcher(move |event| note(&shared, event));
        let watcher = watcher
            .inspect_err(|error| warn!(%error, "no events about files: changes are found by scans"))
            .ok();
        Self { watcher, watched: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Watches exactly these directories, and returns those that were not watched
    /// before. A directory that was deleted and made again is another one, and
    /// watched anew; one that could not be watched is tried again after [`RETRY_AFTER`].
    pub fn set(&mut self, dirs: &BTreeSet<PathBuf>, now: Instant) -> Vec<PathBuf> {
        let Some(watcher) = &mut self.watcher else { return Vec::new() };
        self.failed.retain(|dir, _| dirs.contains(dir));
        self.watched.retain(|dir, inode| {
            let kept = dirs.contains(dir) && inode_of(dir) == *inode;
            if !kept {
                // The system has dropped the watch if the directory is gone.
                let _ = watcher.unwatch(dir);
            }
            kept
        });
        let mut added = Vec::new();
        for dir in dirs {
            if self.watched.len() >= WATCHES_MAX
                || self.watched.contains_key(dir)
                || self.failed.get(dir).is_some_and(|retry_at| now < *retry_at)
            {
                continue;
            }
            let inode = inode_of(dir);
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    if self.failed.remove(dir).is_some() {
                        info!(dir = %display_text(dir), "directory watch restored");
                    }
                    self.watched.insert(dir.clone(), inode);
                    added.push(dir.clone());
                }
                Err(error) => {
                    if self.failed.insert(dir.clone(), now + RETRY_AFTER).is_none() {
                        warn!(dir = %display_text(dir), %error, "directory not watched: changes in it are found by scans");
                    }
                }
            }
        }
        added
    }
}

fn inode_of(dir: &Path) -> Option<FileId> {
    std::fs::metadata(dir).ok().map(|meta| FileId::of(&meta))
}

fn note(shared: &Shared, event: notify::Result<Event>) {
    let hints = &shared.hints;
    let event = match event {
        Ok(event) if event.need_rescan() => return hints.all(),
        Ok(event) => event,
        Err(error) => {
            debug!(%error, "event lost");
            return hints.all();
        }
    };
    match event.kind {
        // Our own reading makes these.
        EventKind::Access(_) => {}
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            event.paths.into_iter().for_each(|path| hints.file(path));
        }
        _ => event
            .paths
            .iter()
            .filter_map(|path| path.parent().map(Path::to_owned))
            .for_each(|dir| hints.dir(dir)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::rooted_fs::{Links, RootedFs};
    use super::super::scan::Scope;
    use super::*;

    /// Waits for a hint that covers `path`.
    fn hinted(shared: &Shared, path: &Path) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !shared.hints.take().is_some_and(|scope: Scope| scope.covers(path)) {
            assert!(Instant::now() < deadline, "no hint for {}", path.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn creation_growth_renaming_and_deletion_give_hints() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::new(RootedFs::new(Vec::new(), Links::Refused), 1));
        let mut watcher = DirWatcher::new(Arc::clone(&shared));
        watcher.set(&[dir.path().to_owned()].into(), Instant::now());
        let path = dir.path().join("f");
        fs::write(&path, "").unwrap();
        hinted(&shared, &path);
        fs::write(&path, "x").unwrap();
        hinted(&shared, &path);
        fs::rename(&path, dir.path().join("g")).unwrap();
        hinted(&shared, &dir.path().join("g"));
        fs::remove_file(dir.path().join("g")).unwrap();
        hinted(&shared, &dir.path().join("g"));
    }

    #[test]
    fn a_directory_made_again_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("d");
        let shared = Arc::new(Shared::new(RootedFs::new(Vec::new(), Links::Refused), 1));
        let mut watcher = DirWatcher::new(Arc::clone(&shared));
        for _ in 0..2 {
            fs::create_dir(&dir).unwrap();
            watcher.set(&[dir.clone()].into(), Instant::now());
            shared.hints.take();
            fs::write(dir.join("f"), "").unwrap();
            hinted(&shared, &dir.join("f"));
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_failure() {
        let mut watcher =
            DirWatcher::new(Arc::new(Shared::new(RootedFs::new(Vec::new(), Links::Refused), 1)));
        assert!(watcher.set(&[PathBuf::from("/no/such/dir")].into(), Instant::now()).is_empty());
        assert!(watcher.set(&BTreeSet::new(), Instant::now()).is_empty());
    }

    #[test]
    fn a_directory_that_could_not_be_watched_is_tried_again_after_a_while() {
        let parent = tempfile::tempdir().unwrap();
        let dirs = BTreeSet::from([parent.path().join("late")]);
        let mut watcher =
            DirWatcher::new(Arc::new(Shared::new(RootedFs::new(Vec::new(), Links::Refused), 1)));
        let start = Instant::now();
        assert!(watcher.set(&dirs, start).is_empty());
        fs::create_dir(parent.path().join("late")).unwrap();
        assert!(watcher.set(&dirs, start + RETRY_AFTER / 2).is_empty(), "not at once");
        assert_eq!(watcher.set(&dirs, start + RETRY_AFTER), Vec::from_iter(dirs));
    }
}
