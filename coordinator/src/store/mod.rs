//! What a server keeps on disk: who it is, its log, its snapshots.
//!
//! ```text
//! <data>/identity.json   cluster, server number, count of starts
//! <data>/log/            raft-log: vote, entries, committed index
//! <data>/snapshots/      the newest snapshot, under the index of its last entry
//! ```
//!
//! Every error here is operational: it stops the server, and never becomes part
//! of the replicated state.

mod codec;
mod identity;
mod log;
mod snapshots;
#[cfg(test)]
mod tests;

pub(crate) use identity::Identity;
pub(crate) use log::LogStore;
pub(crate) use snapshots::{SnapshotFile, SnapshotStore, SnapshotWriter};

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
        #[source]
        cause: serde_json::Error,
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
    std::fs::File::open(directory)?.sync_all()
}
