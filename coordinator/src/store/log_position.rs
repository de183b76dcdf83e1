//! How far the log is known to be on the disk: the end of it, and the vote, as of
//! its last sync. The log itself cannot tell that its end is missing, since a
//! record that was cut off by a crash is dropped; a log that ends before this
//! position has lost what was acknowledged.
//!
//! The file has two slots, written in turn, so that one is whole whatever happens.
//! Slot: `[crc32 of the rest: u32 le][sequence: u64 le][length: u32 le][postcard]`.
//! Writes are not synced: the position may be behind the log, never ahead of it. It is
//! lowered, synced, before the log is truncated.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rota_protocol::peer::{LogId, Vote};
use serde::{Deserialize, Serialize};

use super::{StoreError, private_file, sync_directory};

/// Distance of the slots: a sector each, so that a torn write damages one.
const SLOT_BYTES: u64 = 4096;
const HEAD_BYTES: usize = 4 + 8 + 4;

/// A point that the log has reached for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The last entry.
    pub(crate) last: Option<LogId>,
    /// The vote.
    pub(crate) vote: Option<Vote>,
}

/// A point that the log will have reached at its next sync.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    position: Position,
    /// Truncations before it: what was appended before the last one may be gone.
    truncations: u64,
    /// Order in which points were noted.
    number: u64,
}

/// The file that holds the position.
#[derive(Debug)]
pub(crate) struct LogPosition {
    path: PathBuf,
    /// Atomic, so that log writes never wait for this file's fsync.
    truncations: AtomicU64,
    /// The number that the next point gets.
    next_number: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    position: Position,
    sequence: u64,
    failed: bool,
    /// The number of the last point reached.
    reached_number: u64,
}

impl LogPosition {
    pub(crate) const FILE: &'static str = "log-position";

    /// Makes the file of a new data directory.
    ///
    /// # Errors
    /// For I/O.
    pub(crate) fn create(directory: &Path) -> Result<(), StoreError> {
        let path = directory.join(Self::FILE);
        let create = || {
            let file = private_file().write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&encode(1, &Position::default())?, 0)?;
            file.sync_all()?;
            sync_directory(directory)
        };
        create().map_err(|e| StoreError::io(&path, e))
    }

    /// Reads the position.
    ///
    /// # Errors
    /// For I/O, and when it is gone or damaged.
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(Self::FILE);
        let lost = |cause: &str| StoreError::LogLost { path: path.clone(), cause: cause.to_owned() };
        let file = match private_file().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(lost("the file that says how far the log went is gone"));
            }
            Err(e) => return Err(StoreError::io(&path, e)),
        };
        let slots = [0, SLOT_BYTES].map(|at| read_slot(&file, at));
        let mut newest: Option<(u64, Position)> = None;
        for slot in slots {
            let slot = slot.map_err(|e| StoreError::io(&path, e))?;
            newest = newest.max_by_sequence(slot);
        }
        let Some((sequence, position)) = newest else {
            return Err(lost("the file that says how far the log went is damaged"));
        };
        let inner = Inner { file, position, sequence, failed: false, reached_number: 0 };
        let (truncations, next_number) = (AtomicU64::new(0), AtomicU64::new(1));
        Ok(Self { path, truncations, next_number, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }

    /// The position.
    pub(crate) fn get(&self) -> Position {
        self.lock().position
    }

    /// Notes that the log will be on the disk up to here once it is synced.
    pub(crate) fn pending(&self, position: Position) -> Pending {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        Pending { position, truncations: self.truncations.load(Ordering::Relaxed), number }
    }

    /// The log is on the disk up to here. A failure to note that is logged: the guard is
    /// weaker then, and nothing else is.
    pub(crate) fn reached(&self, pending: Pending) {
        let mut inner = self.lock();
        if pending.truncations != self.truncations.load(Ordering::Relaxed)
            || pending.number <= inner.reached_number
        {
            return;
        }
        inner.reached_number = pending.number;
        let written = inner.write(pending.position);
        if let Err(error) = &written
            && !inner.failed
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot record the log position");
        }
        inner.failed = written.is_err();
    }

    /// Notes durably that the log may end here from now on, before it is truncated.
    ///
    /// # Errors
    /// For I/O: the log must not be truncated then.
    pub(crate) fn lower(&self, last: Option<LogId>) -> io::Result<()> {
        let mut inner = self.lock();
        self.truncations.fetch_add(1, Ordering::Relaxed);
        if inner.position.last <= last {
            return Ok(());
        }
        let lower = Position { last, ..inner.position };
        inner.write(lower)?;
        inner.file.sync_data()
    }
}

trait NewestSlot {
    fn max_by_sequence(self, other: Self) -> Self;
}

impl NewestSlot for Option<(u64, Position)> {
    fn max_by_sequence(self, other: Self) -> Self {
        match (self, other) {
            (Some(one), Some(two)) => Some(if two.0 > one.0 { two } else { one }),
            (one, two) => one.or(two),
        }
    }
}

impl Inner {
    fn write(&mut self, position: Position) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = encode(sequence, &position)?;
        self.file.write_all_at(&slot, (sequence % 2) * SLOT_BYTES)?;
        (self.position, self.sequence) = (position, sequence);
        Ok(())
    }
}

fn encode(sequence: u64, position: &Position) -> io::Result<Vec<u8>> {
    let payload = postcard::to_allocvec(position).map_err(io::Error::other)?;
    let mut slot = vec![0; 4];
    slot.extend(sequence.to_le_bytes());
    slot.extend(u32::try_from(payload.len()).map_err(io::Error::other)?.to_le_bytes());
    slot.extend(payload);
    let checksum = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&checksum.to_le_bytes());
    Ok(slot)
}

/// A slot that is whole, with its sequence.
fn read_slot(file: &File, at: u64) -> io::Result<Option<(u64, Position)>> {
    let mut slot = vec![0; usize::try_from(SLOT_BYTES).map_err(io::Error::other)?];
    let mut len = 0;
    while len < slot.len() {
        match file.read_at(&mut slot[len..], at + len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    slot.truncate(len);
    Ok(decode(&slot))
}

fn decode(slot: &[u8]) -> Option<(u64, Position)> {
    let (checksum, rest) = slot.split_first_chunk::<4>()?;
    let (sequence, after) = rest.split_first_chunk::<8>()?;
    let (len, payload) = after.split_first_chunk::<4>()?;
    let payload = payload.get(..usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    let covered = rest.get(..HEAD_BYTES - 4 + payload.len())?;
    if crc32fast::hash(covered) != u32::from_le_bytes(*checksum) {
        return None;
    }
    Some((u64::from_le_bytes(*sequence), postcard::from_bytes(payload).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        let last = Some(LogId { term: 3, leader: 1, index });
        let vote = Some(Vote { term: 3, leader: 1, committed: true });
        Position { last, vote }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        LogPosition::create(dir.path()).unwrap();
        let positions = LogPosition::open(dir.path()).unwrap();
        assert_eq!(positions.get(), Position::default());
        let late = positions.pending(at(1));
        for index in 2..=5 {
            positions.reached(positions.pending(at(index)));
        }
        positions.reached(late);
        assert_eq!(LogPosition::open(dir.path()).unwrap().get(), at(5));
        // The slot that was written last is torn.
        let path = dir.path().join(LogPosition::FILE);
        let bytes = std::fs::read(&path).unwrap();
        let newest = if decode(&bytes).unwrap().1 == at(5) { 0 } else { 4096 };
        let mut torn = bytes;
        torn[newest + 20] ^= 1;
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(LogPosition::open(dir.path()).unwrap().get(), at(4));
        std::fs::write(&path, vec![0; 5000]).unwrap();
        let damaged = LogPosition::open(dir.path()).unwrap_err();
        assert!(matches!(damaged, StoreError::LogLost { .. }), "{damaged}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(LogPosition::open(dir.path()).unwrap_err(), StoreError::LogLost { .. }));
    }

    #[test]
    fn a_truncation_lowers_the_position_and_what_was_pending_before_it_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        LogPosition::create(dir.path()).unwrap();
        let positions = LogPosition::open(dir.path()).unwrap();
        positions.reached(positions.pending(at(9)));
        positions.lower(at(20).last).unwrap();
        assert_eq!(positions.get(), at(9));
        let pending = positions.pending(at(12));
        positions.lower(at(4).last).unwrap();
        positions.reached(pending);
        assert_eq!(LogPosition::open(dir.path()).unwrap().get(), at(4));
        positions.reached(positions.pending(at(5)));
        assert_eq!(LogPosition::open(dir.path()).unwrap().get(), at(5));
    }
}
