//! What a server keeps on disk: who it is, its log, its snapshots.
//!
//! ```text
//! <data>/identity.json   cluster and its id, server, id of this directory, count of starts
//! <data>/log-position    how far the log is known to be on the disk
//! <data>/log/            raft-log: vote, entries, committed index
//! <data>/snapshots/      the newest snapshot, under the index of its last entry
//! ```
//!
//! Every error here is operational: it stops the server, and never becomes part
//! of the replicated state.

mod codec;
mod identity;
mod log;
mod log_position;
mod snapshots;
#[cfg(test)]
mod tests;
mod torn_tail;

pub(crate) use identity::{Identity, NewDisk};
pub(crate) use log::LogStore;
pub(crate) use log_position::LogPosition;
pub(crate) use snapshots::{SnapshotFile, SnapshotStore, SnapshotWriter};

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory, or something in it, cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It belongs to another cluster.
    #[error(
        "{path} belongs to cluster {found:?}, not {wanted:?}: give the server its own data directory, or the right --cluster"
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// What its identity file says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// It belongs to another server.
    #[error("{path} belongs to server {found}, not {wanted}: give each server its own data directory")]
    OtherServer {
        /// The directory.
        path: PathBuf,
        /// What its identity file says.
        found: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// It holds something, and no server's identity.
    #[error(
        "{path} is not empty and has no identity file of a server: give --data a directory of its own; if it was a \
         server's, {REBUILD}"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A running server has it.
    #[error("{path} is in use by another running server")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The identity file is not what was written.
    #[error("{path} is damaged: {cause}; if the cluster has a quorum without this server, {REBUILD}")]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// How.
        cause: String,
    },
    /// A newer version wrote it.
    #[error(
        "{path} was written by a newer version of Rota (format {found}, this version knows {known}): start that version"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format of this version.
        known: u32,
    },
    /// The server was removed from its cluster, or has lost data.
    #[error("{path} is out of service: {why}")]
    OutOfService {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The log ends before what it is known to have held.
    #[error(
        "the log in {path} has lost data: {cause}; if the cluster has a quorum without this server, {REBUILD}"
    )]
    LogLost {
        /// The directory, or the file that says how far the log went.
        path: PathBuf,
        /// What is missing.
        cause: String,
    },
    /// The directory and the log in it belong to different clusters.
    #[error(
        "{path} belongs to cluster {expected}, and its log to cluster {found}: one of the two was replaced; {REBUILD}"
    )]
    MixedUp {
        /// The directory.
        path: PathBuf,
        /// The cluster of the identity file.
        expected: String,
        /// The cluster of the log.
        found: String,
    },
    /// The log holds a damaged record before its end.
    #[error(
        "the log in {path} is damaged: {cause}; if the cluster has a quorum without this server, {REBUILD}"
    )]
    DamagedLog {
        /// The directory.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// A snapshot does not verify.
    #[error(
        "the snapshot {path} is damaged: {cause}; if the cluster has a quorum without this server, {REBUILD}"
    )]
    DamagedSnapshot {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
}

/// How to bring back a server whose disk lies. Its number is not used again: a
/// voter that forgot its votes could help to elect two leaders.
const REBUILD: &str = "remove it with `rota cluster remove ID`, move its data directory away, and add a server with a new number: `rota coordinator --id NEW --join`, `rota cluster add NEW ADDRESS`, `rota cluster promote NEW`";

impl StoreError {
    pub(crate) fn io(path: &Path, cause: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), cause }
    }
}

/// Makes what was renamed or created in `directory` outlive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// How a file is opened that, if it is made, only its owner may read.
pub(crate) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes `directory` and those above it that are missing, durably. Only its owner may
/// look into it, also if it was there before.
///
/// # Errors
/// For I/O.
pub(crate) fn create_directory(directory: &Path) -> Result<(), StoreError> {
    let missing: Vec<&Path> =
        directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let create = || {
        for path in missing.iter().rev() {
            match fs::create_dir(path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_directory(parent.unwrap_or(Path::new(".")))?;
        }
        let is_private = fs::metadata(directory)?.permissions().mode() & 0o077 == 0;
        if !is_private {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    };
    create().map_err(|e| StoreError::io(directory, e))
}
