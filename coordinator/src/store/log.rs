//! The log of one server: votes, entries and the committed index, in one
//! sequence of records with one writer thread (`raft-log`).
//!
//! A vote and an entry are on the disk before they count. The committed index
//! is not worth a sync of its own: it rides along with the next one. See
//! `docs/decisions/0002-log.md`.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use raft_log::api::raft_log_writer::RaftLogWriter;
use rota_protocol::peer;
use tokio::sync::oneshot;

use super::codec::Stored;
use super::log_position::{LogPosition, Pending, Position};
use super::torn_tail::{self, Tail};
use super::{StoreError, create_directory};
use crate::low_priority;
use crate::raft::types::{TypeConfig, log_id_in, log_id_out, payload_in, payload_out, vote_in, vote_out};
use crate::timings::Timings;

/// A log file is closed, and may be removed when all in it is purged, at this
/// size. All entries of the file that is open are in memory.
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entries that are kept in memory for followers and for applying, those of the open file
/// among them.
const CACHE_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// Most bytes of entries read for one request to a follower. Larger ones gain
/// nothing and starve the cluster when a server catches up.
const READ_BYTES_MAX: usize = peer::APPEND_CLOSED_BYTES;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Types;

impl raft_log::Types for Types {
    type LogId = Stored<peer::LogId>;
    type LogPayload = Stored<peer::Payload>;
    type Vote = Stored<peer::Vote>;
    type Callback = Flushed;
    type UserData = Stored<()>;

    fn log_index(log_id: &Self::LogId) -> u64 {
        log_id.0.index
    }

    fn payload_size(payload: &Self::LogPayload) -> u64 {
        match &payload.0 {
            peer::Payload::Batch(bytes) => bytes.len() as u64 + 64,
            peer::Payload::Blank | peer::Payload::Membership(_) => 256,
        }
    }
}

/// What is to be done when what was written is on the disk.
pub(super) enum Flushed {
    Entries {
        callback: IOFlushed<TypeConfig>,
        reached: Pending,
        positions: Arc<LogPosition>,
        timings: Arc<Timings>,
        began: Instant,
    },
    Waiter(oneshot::Sender<io::Result<()>>),
}

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Entries { callback, reached, positions, timings, began } => {
                let is_synced = result.is_ok();
                timings.fsync.record(began.elapsed());
                callback.io_completed(result);
                if is_synced {
                    positions.reached(reached);
                }
            }
            Self::Waiter(waiter) => drop(waiter.send(result)),
        }
    }
}

/// A handle on the log. All handles share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Mutex<raft_log::RaftLog<Types>>>,
    positions: Arc<LogPosition>,
    timings: Arc<Timings>,
}

impl LogStore {
    /// Opens the log in `directory`, making it if there is none. Whatever is
    /// found is synced before it counts: after a crash of the process it may be
    /// in the system's memory only.
    ///
    /// # Errors
    /// When a record before the end of the log is damaged, when the log ends before the
    /// position that it is known to have reached, or for I/O. A last record that was not
    /// written whole is dropped.
    pub(crate) async fn open(
        directory: &Path,
        positions: LogPosition,
        timings: Arc<Timings>,
    ) -> Result<Self, StoreError> {
        create_directory(directory)?;
        let tail = torn_tail::repair(directory).map_err(|e| StoreError::io(directory, e))?;
        let mut config = raft_log::Config::new(directory.display());
        config.wal.chunk_max_size = Some(CHUNK_BYTES_MAX);
        // Few large entries are in flight, so there is nothing to wait for.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.wal.truncate_incomplete_record = Some(true);
        config.log_cache_capacity = Some(CACHE_BYTES_MAX);
        let log = raft_log::RaftLog::open(Arc::new(config)).map_err(|e| open_error(directory, tail, e))?;
        let found = position_of(&log);
        if let Some(cause) = missing(&positions.get(), &found, tail) {
            return Err(StoreError::LogLost { path: directory.to_owned(), cause });
        }
        let known = positions.get();
        let store = Self { log: Arc::new(Mutex::new(log)), positions: Arc::new(positions), timings };
        if let Some(vote) = known.vote.filter(|_| found.vote < known.vote) {
            tracing::warn!(
                term = vote.term,
                "torn vote record at the end of the log; rewriting it from the log position file"
            );
            store.lock().save_vote(Stored(vote)).map_err(|e| StoreError::io(directory, e))?;
        }
        store.flush().await.map_err(|e| StoreError::io(directory, e))?;
        // A record that was dropped is not expected at the next start.
        store.positions.lower(found.last).map_err(|e| StoreError::io(directory, e))?;
        Ok(store)
    }

    async fn flush(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.lock().flush(true, Some(Flushed::Waiter(sender)))?;
        receiver.await.map_err(io::Error::other)?
    }

    /// The last entry that may be purged so that at most `bytes` of the log's files are
    /// left, and the file that is written to.
    pub(crate) fn purgeable_beyond(&self, bytes: u64) -> Option<u64> {
        let closed = self.lock().stat().closed_chunks;
        let mut kept = 0;
        let beyond = closed.iter().rev().find(|chunk| {
            kept += chunk.size;
            kept > bytes
        });
        beyond.and_then(|chunk| chunk.log_state.last().map(|id| id.0.index))
    }

    /// Nothing is awaited while it is held, and no disk read or written but for entries
    /// that are no longer in memory, and for the folder when a file is begun.
    fn lock(&self) -> MutexGuard<'_, raft_log::RaftLog<Types>> {
        self.log.lock().expect("no code panics while it holds the log")
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let log = self.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for record in log.read(from, to) {
            let (log_id, payload) = record?;
            if let peer::Payload::Batch(batch) = &payload.0 {
                bytes += batch.len();
            }
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(openraft::Entry { log_id: log_id_in(log_id.0), payload: payload_in(payload.0)? });
        }
        Ok(entries)
    }
}

/// The files that nothing more is written to.
fn closed_files(log: &raft_log::RaftLog<Types>) -> Vec<String> {
    let files = &log.config().wal;
    log.stat().closed_chunks.into_iter().map(|chunk| files.chunk_path(chunk.chunk_id)).collect()
}

/// Where a log stands.
fn position_of(log: &raft_log::RaftLog<Types>) -> Position {
    let state = log.log_state();
    Position { last: state.last().map(|id| id.0), vote: state.vote().map(|vote| vote.0) }
}

/// What is missing of a log that was known to be on the disk up to `known`. One record may
/// be, if it is there in part: an entry, which other servers have, or a vote, which is known.
fn missing(known: &Position, found: &Position, tail: Tail) -> Option<String> {
    let torn = u64::from(tail == Tail::Torn);
    let next = |position: &Position| position.last.map_or(0, |last| last.index + 1);
    if next(found) + torn < next(known) {
        let ends =
            found.last.map_or_else(|| "it is empty".to_owned(), |last| format!("it ends at {}", last.index));
        let index = next(known) - 1;
        return Some(format!("it was on the disk up to index {index}, and {ends}"));
    }
    let term = |position: &Position| position.vote.map_or(0, |vote| vote.term);
    if found.vote < known.vote && torn == 0 {
        return Some(format!(
            "it held a vote in term {}, and holds one in term {}",
            term(known),
            term(found)
        ));
    }
    None
}

/// What the system refuses (descriptors, permissions, memory) is no damage.
fn open_error(directory: &Path, tail: Tail, cause: io::Error) -> StoreError {
    let is_damage = match cause.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => true,
        _ => tail == Tail::Damaged,
    };
    match is_damage {
        true => StoreError::DamagedLog { path: directory.to_owned(), cause: cause.to_string() },
        false => StoreError::io(directory, cause),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        let from = match range.start_bound() {
            Bound::Included(n) => *n,
            Bound::Excluded(n) => n + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(n) => n + 1,
            Bound::Excluded(n) => *n,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<EntryOf<TypeConfig>>> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        Ok(self.lock().log_state().vote().map(|vote| vote_in(vote.0)))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.lock();
        let state = log.log_state();
        Ok(LogState {
            last_purged_log_id: state.purged().map(|id| log_id_in(id.0)),
            last_log_id: state.last().map(|id| log_id_in(id.0)),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        let reached = {
            let mut log = self.lock();
            log.save_vote(Stored(vote_out(vote)))?;
            self.positions.pending(position_of(&log))
        };
        self.flush().await?;
        self.positions.reached(reached);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.lock().commit(Stored(log_id_out(committed)))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<TypeConfig>>> {
        Ok(self.lock().log_state().committed().map(|id| log_id_in(id.0)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let began = Instant::now();
        let mut log = self.lock();
        let records = entries
            .into_iter()
            .map(|entry| (Stored(log_id_out(entry.log_id)), Stored(payload_out(entry.payload))));
        log.append(records)?;
        let reached = self.positions.pending(position_of(&log));
        let positions = Arc::clone(&self.positions);
        let timings = Arc::clone(&self.timings);
        log.flush(true, Some(Flushed::Entries { callback, reached, positions, timings, began }))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<TypeConfig>>) -> io::Result<()> {
        // What is truncated here may have been acknowledged to an earlier leader.
        let (positions, end) = (Arc::clone(&self.positions), last.map(log_id_out));
        tokio::task::spawn_blocking(move || positions.lower(end)).await??;
        let mut log = self.lock();
        let from = last.map_or(0, |id| id.index + 1);
        if log.log_state().last().is_none_or(|end| end.0.index < from) {
            return Ok(());
        }
        log.truncate(from)?;
        log.flush(false, None)
    }

    /// The files are removed by the writer thread, after the record of the purge
    /// is on the disk. To give back what they hold takes milliseconds for each, in which
    /// nothing would be synced: they are held open, and it is given back elsewhere.
    async fn purge(&mut self, through: LogIdOf<TypeConfig>) -> io::Result<()> {
        let mut log = self.lock();
        let before = closed_files(&log);
        log.purge(Stored(log_id_out(through)))?;
        let after = closed_files(&log);
        // One that cannot be opened is removed as well.
        let gone: Vec<File> =
            before.iter().filter(|file| !after.contains(file)).flat_map(File::open).collect();
        log.flush(true, None)?;
        if !gone.is_empty() {
            let (sender, removed) = oneshot::channel();
            log.flush(true, Some(Flushed::Waiter(sender)))?;
            let begun = low_priority::spawn(move || {
                // However it ended: this holds them no longer.
                let _ = removed.blocking_recv();
                drop(gone);
            });
            if let Err(error) = begun {
                tracing::warn!(%error, "no thread for it: removing old log files may hold up writes");
            }
        }
        Ok(())
    }
}
