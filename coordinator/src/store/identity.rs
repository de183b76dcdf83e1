//! Who a data directory belongs to. A directory is used by one server of one
//! cluster for ever: a voter that came up with another's log, or none, could
//! undo what was acknowledged.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{StoreError, sync_directory};

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
/// How often, and how long apart, the lock is tried.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const FORMAT: u32 = 1;

/// A server's identity, and the lock on its data directory, which is held for as
/// long as this value lives.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Counts the server's starts, from 1. It keeps what is submitted after a
    /// restart apart from what was before.
    pub(crate) boot: u64,
    _lock: fs::File,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    cluster: String,
    server: u64,
    boot: u64,
}

impl Identity {
    /// Takes `directory` for this server, making it if there is none, and counts
    /// the start.
    ///
    /// # Errors
    /// When the directory belongs to somebody else, is in use, or cannot be
    /// read and written.
    pub(crate) fn claim(directory: &Path, cluster: &str, server: u64) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|e| StoreError::io(directory, e))?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let stored = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|cause| StoreError::BadIdentity { path: path.clone(), cause })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if holds_something(directory).map_err(|e| StoreError::io(directory, e))? {
                    return Err(StoreError::NotEmpty { path: directory.to_owned() });
                }
                Stored { format: FORMAT, cluster: cluster.to_owned(), server, boot: 0 }
            }
            Err(e) => return Err(StoreError::io(&path, e)),
        };
        let directory_of = || directory.to_owned();
        if stored.cluster != cluster {
            let (found, wanted) = (stored.cluster, cluster.to_owned());
            return Err(StoreError::OtherCluster { path: directory_of(), found, wanted });
        }
        if stored.server != server {
            return Err(StoreError::OtherServer {
                path: directory_of(),
                found: stored.server,
                wanted: server,
            });
        }
        let next = Stored { boot: stored.boot + 1, ..stored };
        write(directory, &path, &next).map_err(|e| StoreError::io(&path, e))?;
        Ok(Self { boot: next.boot, _lock: lock })
    }
}

/// Whether there is anything in a directory besides our lock: somebody's files, or
/// a server's data whose identity is gone.
fn holds_something(directory: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        // The second is where file systems begin.
        if ![LOCK, "lost+found"].iter().any(|name| entry.as_ref().is_ok_and(|e| e.file_name() == *name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A process that was killed just now may hold its lock for a moment.
fn lock(directory: &Path) -> Result<fs::File, StoreError> {
    let path = directory.join(LOCK);
    let file = fs::File::create(&path).map_err(|e| StoreError::io(&path, e))?;
    let mut tries = 0..LOCK_TRIES;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if tries.next().is_some() => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { path: directory.to_owned() });
            }
            Err(fs::TryLockError::Error(e)) => return Err(StoreError::io(&path, e)),
        }
    }
}

fn write(directory: &Path, path: &Path, identity: &Stored) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(identity)?)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |cluster, server| Identity::claim(dir.path(), cluster, server);
        let first = claim("a", 1).unwrap();
        assert!(matches!(claim("a", 1).unwrap_err(), StoreError::InUse { .. }));
        drop(first);
        assert!(matches!(claim("b", 1).unwrap_err(), StoreError::OtherCluster { .. }));
        assert!(matches!(claim("a", 2).unwrap_err(), StoreError::OtherServer { .. }));
        assert_eq!(claim("a", 1).unwrap().boot, 2);
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.tex"), b"mine").unwrap();
        let error = Identity::claim(other.path(), "a", 1).unwrap_err();
        assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(matches!(claim("a", 1).unwrap_err(), StoreError::BadIdentity { .. }));
    }
}
