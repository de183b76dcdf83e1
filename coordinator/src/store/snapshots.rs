//! Snapshot files. One is written under a temporary name, synced, verified if
//! it came from elsewhere, and renamed; then the directory is synced and older
//! ones are removed. A file that has its final name is whole.
//!
//! File: `[length: u32 le][crc32: u32 le][postcard SnapshotHead]`, then the blocks
//! of [`rota_core::state::snapshot`].

use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rota_core::state::State;
use rota_core::state::snapshot::{BLOCK_BYTES_MAX, Decoder};
use rota_protocol::peer::{self, SnapshotHead};

use super::{StoreError, create_directory, private_file, sync_directory};

const SUFFIX: &str = "snapshot";
const TEMPORARY: &str = "tmp";

/// Bytes after which a snapshot is synced: all of it at once would keep the log's syncs
/// waiting for as long as that takes.
const SYNC_BYTES: usize = 2 * 1024 * 1024;

/// The folder of a server's snapshots.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotStore {
    directory: PathBuf,
    /// Snapshots begun since the start.
    written: Arc<AtomicU64>,
}

/// A whole snapshot on the disk.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) head: SnapshotHead,
}

/// A snapshot that is being written.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    file: fs::File,
    path: PathBuf,
    head: SnapshotHead,
    kept: bool,
    /// Bytes that the disk may not have yet.
    unsynced: usize,
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is at the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}

impl SnapshotStore {
    /// The store in `directory`; leftovers of interrupted writes are removed.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self { directory: directory.to_owned(), written: Arc::default() };
        let fail = |e| StoreError::io(directory, e);
        create_directory(directory)?;
        for path in store.files(TEMPORARY).map_err(fail)? {
            fs::remove_file(path).map_err(fail)?;
        }
        Ok(store)
    }

    fn files(&self, suffix: &str) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|s| s == suffix) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The newest snapshot, if there is one. Only its head is read.
    ///
    /// # Errors
    /// For I/O, and when the head is damaged.
    pub(crate) fn newest(&self) -> Result<Option<SnapshotFile>, StoreError> {
        let mut paths = self.files(SUFFIX).map_err(|e| StoreError::io(&self.directory, e))?;
        let Some(path) = paths.pop() else { return Ok(None) };
        let mut file = fs::File::open(&path).map_err(|e| StoreError::io(&path, e))?;
        let head = read_head(&mut file).map_err(|e| unreadable(&path, e))?;
        Ok(Some(SnapshotFile { path, head }))
    }

    /// Begins to write a snapshot.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn writer(&self, head: SnapshotHead) -> io::Result<SnapshotWriter> {
        // Each has a file of its own: two servers may send the same snapshot at a time.
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{}.{number}.{TEMPORARY}", name(&head)));
        let mut file = private_file().write(true).create_new(true).open(&path)?;
        let payload = peer::encode(&head);
        file.write_all(&u32::try_from(payload.len()).map_err(io::Error::other)?.to_le_bytes())?;
        file.write_all(&crc32fast::hash(&payload).to_le_bytes())?;
        file.write_all(&payload)?;
        Ok(SnapshotWriter { file, path, head, kept: false, unsynced: 0 })
    }

    /// Puts a written snapshot in its place and removes older ones.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn keep(&self, mut writer: SnapshotWriter) -> io::Result<SnapshotFile> {
        writer.file.sync_all()?;
        let path = self.directory.join(format!("{}.{SUFFIX}", name(&writer.head)));
        fs::rename(&writer.path, &path)?;
        writer.kept = true;
        sync_directory(&self.directory)?;
        for older in self.files(SUFFIX)? {
            if older < path {
                fs::remove_file(older)?;
            }
        }
        Ok(SnapshotFile { path, head: writer.head.clone() })
    }
}

impl SnapshotStore {
    /// Takes a copy of a snapshot from wherever it stands, verified.
    ///
    /// # Errors
    /// For I/O, and when the snapshot is damaged.
    pub(crate) fn adopt(&self, file: &SnapshotFile) -> io::Result<(SnapshotFile, State)> {
        let state = file.load().map_err(io::Error::other)?;
        let mut writer = self.writer(file.head.clone())?;
        io::copy(&mut file.body()?, &mut writer.file)?;
        Ok((self.keep(writer)?, state))
    }
}

/// Sorts by the index of the last entry.
fn name(head: &SnapshotHead) -> String {
    let (index, term) = head.last.map_or((0, 0), |id| (id.index + 1, id.term));
    format!("{index:020}-{term:020}")
}

impl SnapshotWriter {
    /// Adds bytes of the state's snapshot.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.unsynced += bytes.len();
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Where it is being written, to read it back before it is kept.
    pub(crate) fn as_file(&self) -> SnapshotFile {
        SnapshotFile { path: self.path.clone(), head: self.head.clone() }
    }
}

impl SnapshotFile {
    /// Reads the state back and verifies all of it.
    ///
    /// # Errors
    /// For I/O, and when anything in it is damaged.
    pub(crate) fn load(&self) -> Result<State, StoreError> {
        let mut body = self.body().map_err(|e| unreadable(&self.path, e))?;
        let mut decoder = Decoder::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match body.read(&mut buffer).map_err(|e| StoreError::io(&self.path, e))? {
                0 => break,
                n => decoder.push(&buffer[..n]).map_err(|e| damaged(&self.path, &e))?,
            }
        }
        decoder.finish().map_err(|e| damaged(&self.path, &e))
    }

    /// The state's part of the file, after the head.
    ///
    /// # Errors
    /// For I/O, and when the head is damaged.
    pub(crate) fn body(&self) -> io::Result<BufReader<fs::File>> {
        let mut file = fs::File::open(&self.path)?;
        read_head(&mut file)?;
        Ok(BufReader::new(file))
    }
}

fn read_head(file: &mut fs::File) -> io::Result<SnapshotHead> {
    let mut frame = [0; 8];
    file.read_exact(&mut frame)?;
    let [a, b, c, d, e, f, g, h] = frame;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let crc = u32::from_le_bytes([e, f, g, h]);
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if len > BLOCK_BYTES_MAX {
        return Err(bad("its head has an absurd length"));
    }
    let mut payload = vec![0; len];
    file.read_exact(&mut payload)?;
    if crc32fast::hash(&payload) != crc {
        return Err(bad("the checksum of its head is wrong"));
    }
    peer::decode(&payload).map_err(|e| bad(&e.to_string()))
}

/// What the system refuses (descriptors, permissions, memory) is no damage.
fn unreadable(path: &Path, cause: io::Error) -> StoreError {
    match cause.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(path, &cause),
        _ => StoreError::io(path, cause),
    }
}

fn damaged(path: &Path, cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::DamagedSnapshot { path: path.to_owned(), cause: cause.to_string() }
}
