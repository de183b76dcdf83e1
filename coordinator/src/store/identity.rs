//! Who a data directory belongs to: one server of one cluster, for ever. A voter
//! that came up with another's log, or none, could undo what was acknowledged.
//!
//! `identity.json` is written whole under a temporary name and renamed. It is held
//! with a lock on the directory for as long as the server lives.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rota_protocol::peer::{ClusterId, DiskId};
use serde::{Deserialize, Serialize};

use super::log_position::LogPosition;
use super::{StoreError, create_directory, private_file, sync_directory};

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
/// How often, and how long apart, the lock is tried.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const FORMAT: u32 = 1;

/// A server's identity, and the lock on its data directory.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The server.
    pub(crate) server: u64,
    /// The cluster's name.
    pub(crate) cluster: String,
    /// The directory's own id.
    pub(crate) disk: DiskId,
    /// Counts the server's starts, from 1. It keeps what is submitted after a
    /// restart apart from what was before.
    pub(crate) boot: u64,
    directory: PathBuf,
    stored: Mutex<Stored>,
    _lock: fs::File,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    format: u32,
    cluster: String,
    /// 16 hexadecimal digits; none before the server belongs to a cluster.
    cluster_id: Option<String>,
    server: u64,
    /// 16 hexadecimal digits.
    disk_id: String,
    boot: u64,
    /// Why the server must not take part any more: it was removed, or has lost data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    out_of_service: Option<String>,
}

/// The part that every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What a new data directory becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewDisk {
    pub(crate) id: DiskId,
    /// Milliseconds since 1970. Starts are counted from here: those of a server that had the same
    /// number before, in another directory, are all lower.
    pub(crate) now_ms: u64,
}

impl Identity {
    /// Takes `directory` for this server, making it if there is none, and counts
    /// the start. A new directory becomes `new_disk`.
    ///
    /// # Errors
    /// When the directory belongs to another server or cluster, was written by a newer
    /// version, is in use, or cannot be read and written.
    pub(crate) fn claim(
        directory: &Path,
        cluster: &str,
        server: u64,
        new_disk: NewDisk,
    ) -> Result<Self, StoreError> {
        create_directory(directory)?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        let before = read(&path)?;
        let stored = match before {
            Some(stored) => stored,
            None if holds_something(directory).map_err(|e| StoreError::io(directory, e))? => {
                return Err(StoreError::NotEmpty { path: directory.to_owned() });
            }
            None => {
                // Before the identity, which says that it is there.
                LogPosition::create(directory)?;
                Stored {
                    format: FORMAT,
                    cluster: cluster.to_owned(),
                    cluster_id: None,
                    server,
                    disk_id: new_disk.id.to_string(),
                    boot: new_disk.now_ms,
                    out_of_service: None,
                }
            }
        };
        let path_of = || directory.to_owned();
        if stored.cluster != cluster {
            let (found, wanted) = (stored.cluster, cluster.to_owned());
            return Err(StoreError::OtherCluster { path: path_of(), found, wanted });
        }
        if stored.server != server {
            return Err(StoreError::OtherServer { path: path_of(), found: stored.server, wanted: server });
        }
        if let Some(why) = stored.out_of_service {
            return Err(StoreError::OutOfService { path: directory.to_owned(), why });
        }
        let bad =
            || StoreError::BadIdentity { path: path.clone(), cause: "an id is not hexadecimal".to_owned() };
        let disk = stored.disk_id.parse().map_err(|_| bad())?;
        if let Some(id) = &stored.cluster_id {
            id.parse::<ClusterId>().map_err(|_| bad())?;
        }
        let next = Stored { boot: stored.boot + 1, ..stored };
        write(directory, &next).map_err(|e| StoreError::io(&path, e))?;
        Ok(Self {
            server,
            cluster: cluster.to_owned(),
            disk,
            boot: next.boot,
            directory: directory.to_owned(),
            stored: Mutex::new(next),
            _lock: lock,
        })
    }

    fn stored(&self) -> std::sync::MutexGuard<'_, Stored> {
        self.stored.lock().expect("no code panics while it holds this")
    }

    /// The cluster that the server belongs to, if any.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.stored().cluster_id.as_ref().and_then(|id| id.parse().ok())
    }

    /// Notes the cluster that the server belongs to, durably. It never belongs to
    /// another one: false if it does already.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn join_cluster(&self, id: ClusterId) -> std::io::Result<bool> {
        let mut stored = self.stored();
        if let Some(own) = &stored.cluster_id {
            return Ok(*own == id.to_string());
        }
        let next = Stored { cluster_id: Some(id.to_string()), ..stored.clone() };
        write(&self.directory, &next)?;
        *stored = next;
        Ok(true)
    }

    /// Notes durably that the server must not take part any more, and why.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn mark_out_of_service(&self, why: &str) -> std::io::Result<()> {
        let mut stored = self.stored();
        if stored.out_of_service.is_none() {
            let next = Stored { out_of_service: Some(why.to_owned()), ..stored.clone() };
            write(&self.directory, &next)?;
            *stored = next;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Stored>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io(path, e)),
    };
    let bad = |e: serde_json::Error| StoreError::BadIdentity { path: path.to_owned(), cause: e.to_string() };
    let Format { format } = serde_json::from_slice(&bytes).map_err(bad)?;
    if format > FORMAT {
        return Err(StoreError::NewerFormat { path: path.to_owned(), found: format, known: FORMAT });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(bad)
}

/// Whether there is anything in a directory besides our lock: another program's files,
/// or a server's data whose identity is gone.
fn holds_something(directory: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        // The second is where file systems begin; the third is made just before the identity.
        let known = [LOCK, "lost+found", LogPosition::FILE];
        if !known.iter().any(|name| entry.as_ref().is_ok_and(|e| e.file_name() == *name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A process that was killed just now may hold its lock for a moment.
fn lock(directory: &Path) -> Result<fs::File, StoreError> {
    let path = directory.join(LOCK);
    let file = private_file().write(true).create(true).truncate(true).open(&path);
    let file = file.map_err(|e| StoreError::io(&path, e))?;
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

fn write(directory: &Path, identity: &Stored) -> std::io::Result<()> {
    let path = directory.join(FILE);
    let temporary = path.with_extension("tmp");
    let mut file = private_file().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(identity)?)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskId = DiskId(0xd15c);
    const NEW: NewDisk = NewDisk { id: DISK, now_ms: 0 };

    #[test]
    fn a_directory_has_one_owner_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |cluster, server| Identity::claim(dir.path(), cluster, server, NEW);
        let first = claim("a", 1).unwrap();
        assert!(matches!(claim("a", 1).unwrap_err(), StoreError::InUse { .. }));
        drop(first);
        assert!(matches!(claim("b", 1).unwrap_err(), StoreError::OtherCluster { .. }));
        assert!(matches!(claim("a", 2).unwrap_err(), StoreError::OtherServer { .. }));
        assert_eq!(claim("a", 1).unwrap().boot, 2);
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("thesis.tex"), b"mine").unwrap();
        let error = Identity::claim(other.path(), "a", 1, NEW).unwrap_err();
        assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(matches!(claim("a", 1).unwrap_err(), StoreError::BadIdentity { .. }));
        fs::write(dir.path().join(FILE), br#"{"format": 99, "anything": {}}"#).unwrap();
        let newer = claim("a", 1).unwrap_err();
        assert!(matches!(newer, StoreError::NewerFormat { found: 99, .. }), "{newer}");
    }

    #[test]
    fn a_server_joins_one_cluster_and_leaves_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |disk| Identity::claim(dir.path(), "a", 1, NewDisk { id: disk, ..NEW }).unwrap();
        let identity = claim(DISK);
        assert_eq!(identity.cluster_id(), None);
        assert!(identity.join_cluster(ClusterId(5)).unwrap());
        assert!(!identity.join_cluster(ClusterId(6)).unwrap());
        drop(identity);
        let again = claim(DiskId(1));
        assert_eq!((again.cluster_id(), again.disk), (Some(ClusterId(5)), DISK));
        again.mark_out_of_service("it was removed").unwrap();
        drop(again);
        let refused = Identity::claim(dir.path(), "a", 1, NEW).unwrap_err();
        assert!(refused.to_string().contains("it was removed"), "{refused}");
    }

    #[test]
    fn what_a_server_keeps_is_its_own() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("new/data");
        let identity = Identity::claim(&directory, "a", 1, NEW).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for file in [FILE, LOCK, LogPosition::FILE] {
            assert_eq!(mode(&directory.join(file)), 0o600, "{file}");
        }
        drop(identity);
    }
}
