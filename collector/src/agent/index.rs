//! The agent's memory across restarts: which files each source was, in sled.
//!
//! sled acknowledges a write before the disk has it, so after a loss of power
//! the last records may be missing, and a damaged index does not open at all;
//! then it is wiped and begun anew. Neither makes a number mean two things,
//! because numbers are times (see `Source::begin`): what is forgotten costs a
//! reader a gap and a second reading, never wrong bytes. A disk that is full is no
//! damage: the index stays as it is, and is opened again later.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::record::{Record, VERSION};
use super::source::Source;
use crate::clock::Now;
use crate::naming::display_text;

/// Where the time of the last look stands. No path begins like that.
const LAST_LOOK: &[u8] = b"\0last_look_ms";
/// How much older than the last look the recorded time of it may be.
const LAST_LOOK_EVERY_MS: u64 = 10_000;
/// sled's cache. Records are read once, at the start.
const CACHE_BYTES: u64 = 4 << 20;

/// The index of an agent, which no other agent has open.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    /// `None` only after it could not be opened again.
    db: Option<sled::Db>,
    _lock: File,
}

/// Why the index cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Two agents that share an index would undo each other's records.
    #[error("another agent uses {0}: give each agent a state directory of its own")]
    InUse(PathBuf),
    /// The directory cannot be made or locked.
    #[error("state directory {0}")]
    Io(PathBuf, #[source] io::Error),
    /// Not even an empty index opens, or a write failed.
    #[error("index {0}")]
    Sled(PathBuf, #[source] sled::Error),
    /// It could not be opened again after a write had failed.
    #[error("index {0} is closed")]
    Closed(PathBuf),
}

/// Whether an index is damaged, as opposed to one that the system does not let us
/// read or write at the moment: a full disk must not cost the index.
fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof
        ),
        _ => true,
    }
}

/// Whether somebody else has the index open. sled 0.34 says so in words only
/// (`config.rs`, `try_lock`).
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock"))
}

/// How often, and how long apart, a lock is tried.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Tries again while somebody holds what is wanted, but not for ever.
fn while_held<T, E>(attempt: impl Fn() -> Result<T, E>, is_held: impl Fn(&E) -> bool) -> Result<T, E> {
    for _ in 1..LOCK_TRIES {
        match attempt() {
            Err(error) if is_held(&error) => std::thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
    attempt()
}

impl Index {
    /// Opens the index in `dir`, which is made if need be. An index that does
    /// not open is wiped.
    ///
    /// # Errors
    /// When another agent has it open, or the directory cannot be used.
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        let failed = |error| IndexError::Io(dir.to_owned(), error);
        // What is in there names files that others may not be allowed to list.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let lock = options.open(dir.join("lock")).map_err(failed)?;
        // One that was killed just now may hold it for a moment.
        let locked = while_held(|| lock.try_lock(), |error| matches!(error, TryLockError::WouldBlock));
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => IndexError::InUse(dir.to_owned()),
            TryLockError::Error(error) => failed(error),
        })?;
        let path = dir.join("index");
        let db = match open_db(&path) {
            Err(IndexError::Sled(_, error)) if is_locked(&error) => {
                return Err(IndexError::InUse(dir.to_owned()));
            }
            opened => opened?,
        };
        Ok(Self { path, db: Some(db), _lock: lock })
    }

    /// Closes the index and opens it again. After one write has failed sled
    /// refuses all others, and may have lost what was not flushed.
    ///
    /// # Errors
    /// When it does not open; all else then fails until this is tried again.
    pub fn reopen(&mut self) -> Result<(), IndexError> {
        // Closed first: there is one lock.
        self.db = None;
        self.db = Some(open_db(&self.path)?);
        Ok(())
    }

    fn db(&self) -> Result<&sled::Db, IndexError> {
        self.db.as_ref().ok_or_else(|| IndexError::Closed(self.path.clone()))
    }

    /// All sources that are recorded. Every duration begins anew at `now`.
    #[must_use]
    pub fn load(&self, now: Now) -> Vec<Source> {
        let mut sources = Vec::new();
        let last_look_ms = self.last_look_ms();
        for entry in self.db.iter().flat_map(|db| db.scan_prefix(b"/")) {
            let source = entry.map_err(|error| error.to_string()).and_then(|(key, value)| {
                let path = PathBuf::from(std::ffi::OsString::from_vec(key.to_vec()));
                let record: Record = serde_json::from_slice(&value).map_err(|error| error.to_string())?;
                if record.v == VERSION {
                    Ok(record.into_source(path, now))
                } else {
                    Err(format!("version {}", record.v))
                }
            });
            match source {
                Ok(mut source) => {
                    if source.live().is_some() {
                        source.seen_ms = source.seen_ms.max(last_look_ms);
                    }
                    sources.push(source);
                }
                Err(error) => {
                    warn!(%error, "a record of the index is left out: its source will be read again");
                }
            }
        }
        sources
    }

    /// Records when everything was looked at: until then, every source's path
    /// led to what is recorded of it.
    ///
    /// # Errors
    /// When sled refuses.
    pub fn put_last_look(&self, now_ms: u64) -> Result<(), IndexError> {
        if now_ms.abs_diff(self.last_look_ms()) >= LAST_LOOK_EVERY_MS {
            self.db()?.insert(LAST_LOOK, &now_ms.to_be_bytes()).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn last_look_ms(&self) -> u64 {
        let value = self.db.as_ref().and_then(|db| db.get(LAST_LOOK).ok().flatten());
        value.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))).unwrap_or(0)
    }

    /// Records a source.
    ///
    /// # Errors
    /// When sled refuses.
    pub fn put(&self, source: &Source) -> Result<(), IndexError> {
        let record = serde_json::to_vec(&Record::of(source)).expect("a record has no fallible part");
        self.db()?.insert(source.path.as_os_str().as_bytes(), record).map_err(|e| self.failed(e)).map(drop)
    }

    /// Forgets a source.
    ///
    /// # Errors
    /// When sled refuses.
    pub fn remove(&self, path: &Path) -> Result<(), IndexError> {
        self.db()?.remove(path.as_os_str().as_bytes()).map_err(|e| self.failed(e)).map(drop)
    }

    /// Hands everything to the operating system, so that it outlives this
    /// process.
    ///
    /// # Errors
    /// When sled refuses.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db()?.flush().map_err(|e| self.failed(e)).map(drop)
    }

    fn failed(&self, error: sled::Error) -> IndexError {
        IndexError::Sled(self.path.clone(), error)
    }
}

/// Opens the database, and begins a damaged one anew.
fn open_db(path: &Path) -> Result<sled::Db, IndexError> {
    let failed = |error| IndexError::Sled(path.to_owned(), error);
    let open = || sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open();
    // sled lets go of its own lock some time after it was closed. The lock of the
    // directory is ours, so nobody else has it: that is no damage.
    match while_held(open, is_locked) {
        Err(error) if is_damage(&error) => {
            let shown = display_text(path);
            warn!(path = %shown, error = &error as &dyn std::error::Error, "index damaged: starting an empty one");
            // What cannot be removed shows when it is opened.
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
            open().map_err(failed)
        }
        opened => opened.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str) -> Source {
        Source {
            path: path.into(),
            file: "f".into(),
            item: "a@h:f".into(),
            incarnations: Vec::new(),
            reader: None,
            gaps: Vec::new(),
            gap_state: super::super::gap_list::GapState::default(),
            seen_ms: 0,
            gone: None,
            retired: false,
        }
    }

    #[test]
    fn it_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.put(&source("/a")).unwrap();
        index.put(&source("/b")).unwrap();
        index.remove(Path::new("/a")).unwrap();
        index.put_last_look(12_345).unwrap();
        assert!(matches!(Index::open(dir.path()), Err(IndexError::InUse(_))));
        drop(index);
        let index = Index::open(dir.path()).unwrap();
        assert_eq!(index.last_look_ms(), 12_345);
        let loaded = index.load(Now::read());
        assert_eq!(loaded.iter().map(|s| s.path.as_path()).collect::<Vec<_>>(), [Path::new("/b")]);
    }

    /// A lock that sled has not let go of yet is no damage.
    #[test]
    fn an_index_that_is_still_held_is_not_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.put(&source("/a")).unwrap();
        let held = index.db.clone();
        drop(index);
        assert!(matches!(Index::open(dir.path()), Err(IndexError::InUse(_))));
        drop(held);
        assert_eq!(Index::open(dir.path()).unwrap().load(Now::read()).len(), 1);
    }

    #[test]
    fn a_damaged_index_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path()).unwrap();
        index.put(&source("/a")).unwrap();
        drop(index);
        fs::write(dir.path().join("index/conf"), "no such thing").unwrap();
        let index = Index::open(dir.path()).unwrap();
        assert!(index.load(Now::read()).is_empty());
        index.put(&source("/a")).unwrap();
    }
}
