//! The log against Raft's own storage suite, and what it survives on disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use openraft::RaftLogReader;
use openraft::alias::VoteOf;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use rota_protocol::peer;
use tempfile::TempDir;

use super::{LogPosition, LogStore, SnapshotStore, StoreError};
use crate::env::SystemClock;
use crate::raft::StateMachine;
use crate::raft::types::{TypeConfig, log_id_in, payload_in, vote_in};
use crate::replica::Replica;
use crate::write_queue::WriteQueue;

type Entry = openraft::alias::EntryOf<TypeConfig>;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = create(dir.path()).await;
        let replica = Arc::new(Replica::new(
            Arc::new(WriteQueue::new(1, 1)),
            Arc::default(),
            Arc::default(),
            Arc::new(SystemClock),
            Arc::default(),
        ));
        let snapshots = SnapshotStore::open(&dir.path().join("snapshots")).unwrap();
        Ok((dir, log, StateMachine::open(replica, snapshots).unwrap()))
    }
}

/// Opens the log of a data directory.
async fn open(data: &Path) -> Result<LogStore, StoreError> {
    LogStore::open(&data.join("log"), LogPosition::open(data)?, Arc::default()).await
}

/// Opens the log of a new data directory.
async fn create(data: &Path) -> LogStore {
    LogPosition::create(data).unwrap();
    open(data).await.unwrap()
}

#[tokio::test]
async fn passes_the_storage_suite_of_the_raft_library() {
    Suite::test_all(Builder).await.unwrap();
}

fn log_id(index: u64) -> peer::LogId {
    peer::LogId { term: 1, leader: 1, index }
}

fn entry(index: u64) -> Entry {
    let batch = peer::Payload::Batch(bytes::Bytes::from(vec![7; 100]));
    let payload = if index == 0 { peer::Payload::Blank } else { batch };
    Entry::new(log_id_in(log_id(index)), payload_in(payload).unwrap())
}

fn vote(term: u64) -> VoteOf<TypeConfig> {
    vote_in(peer::Vote { term, leader: 1, committed: true })
}

/// A data directory whose log has a vote and the entries 0 to 9, closed.
async fn written(data: &Path) {
    let mut log = create(data).await;
    log.save_vote(&vote(1)).await.unwrap();
    for index in 0..10 {
        log.blocking_append([entry(index)]).await.unwrap();
    }
}

/// The log's last file that holds anything.
fn last_file(data: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> = fs::read_dir(data.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files.pop().unwrap()
}

/// A copy of a data directory whose last log file has other bytes.
fn copy_with(data: &Path, bytes: &[u8]) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("log")).unwrap();
    fs::copy(data.join(LogPosition::FILE), copy.path().join(LogPosition::FILE)).unwrap();
    fs::write(copy.path().join("log").join(last_file(data).file_name().unwrap()), bytes).unwrap();
    copy
}

async fn entries(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(0..100).await.unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let mut log = open(dir.path()).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(1)));
    assert_eq!(entries(&mut log).await, (0..10).map(entry).collect::<Vec<_>>());
}

/// A last record of which a part is missing, or was never written.
async fn opens_without_its_last_record(data: &Path, bytes: &[u8], what: &str) {
    let copy = copy_with(data, bytes);
    let mut log = open(copy.path()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(entries(&mut log).await, (0..9).map(entry).collect::<Vec<_>>(), "{what}");
    // And it goes on from there.
    log.blocking_append([entry(9)]).await.unwrap();
    drop(log);
    let mut log = open(copy.path()).await.unwrap();
    assert_eq!(entries(&mut log).await.len(), 10, "{what}");
}

#[tokio::test]
async fn a_log_cut_off_in_its_last_record_opens_without_it() {
    let whole = tempfile::tempdir().unwrap();
    written(whole.path()).await;
    let bytes = fs::read(last_file(whole.path())).unwrap();
    for cut in 1..60 {
        opens_without_its_last_record(whole.path(), &bytes[..bytes.len() - cut], &format!("cut by {cut}"))
            .await;
    }
}

#[tokio::test]
async fn zeros_in_the_last_record_are_a_torn_write() {
    let whole = tempfile::tempdir().unwrap();
    written(whole.path()).await;
    let bytes = fs::read(last_file(whole.path())).unwrap();
    let len = bytes.len();
    for zeros in [len - 8..len, len - 60..len, len - 90..len - 20, len - 50..len - 20] {
        let mut torn = bytes.clone();
        torn[zeros.clone()].fill(0);
        opens_without_its_last_record(whole.path(), &torn, &format!("zeros at {zeros:?} of {len}")).await;
    }
    // The file was made longer, and nothing of the record was written.
    let longer = [&bytes[..], &[0; 3000]].concat();
    let copy = copy_with(whole.path(), &longer);
    assert_eq!(entries(&mut open(copy.path()).await.unwrap()).await.len(), 10);
}

#[tokio::test]
async fn a_log_that_ends_before_what_was_synced_is_refused() {
    let whole = tempfile::tempdir().unwrap();
    written(whole.path()).await;
    let bytes = fs::read(last_file(whole.path())).unwrap();
    let refused = async |data: &Path, what: &str| {
        let error = open(data).await.err().unwrap_or_else(|| panic!("{what}: it opened"));
        assert!(matches!(error, StoreError::LogLost { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains("rota cluster remove"), "{error}");
    };
    refused(copy_with(whole.path(), &[]).path(), "emptied").await;
    refused(copy_with(whole.path(), &bytes[..bytes.len() / 2]).path(), "half of it").await;
    // Whole records are missing, and nothing is torn.
    let shorter = tempfile::tempdir().unwrap();
    written(shorter.path()).await;
    let end = fs::metadata(last_file(shorter.path())).unwrap().len();
    let mut log = open(shorter.path()).await.unwrap();
    log.blocking_append([entry(10)]).await.unwrap();
    drop(log);
    let longer = fs::read(last_file(shorter.path())).unwrap();
    let copy = copy_with(shorter.path(), &longer[..usize::try_from(end).unwrap()]);
    refused(copy.path(), "without its last record").await;
    fs::remove_dir_all(whole.path().join("log")).unwrap();
    refused(whole.path(), "removed").await;
}

#[tokio::test]
async fn a_vote_that_is_gone_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let before = fs::read(last_file(dir.path())).unwrap();
    let mut log = open(dir.path()).await.unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    drop(log);
    let copy = copy_with(dir.path(), &before);
    let error = open(copy.path()).await.err().expect("it has forgotten its vote");
    assert!(error.to_string().contains("a vote in term 2"), "{error}");
    // A torn vote is restored from the log position file.
    let after = fs::read(last_file(dir.path())).unwrap();
    assert!(after.len() > before.len() + 5);
    let copy = copy_with(dir.path(), &after[..after.len() - 5]);
    for _ in 0..2 {
        let mut log = open(copy.path()).await.unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(vote(2)));
        assert_eq!(entries(&mut log).await.len(), 10);
    }
}

#[tokio::test]
async fn a_truncated_log_opens() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let mut log = open(dir.path()).await.unwrap();
    log.truncate_after(Some(log_id_in(log_id(4)))).await.unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    drop(log);
    assert_eq!(entries(&mut open(dir.path()).await.unwrap()).await.len(), 5);
}

#[tokio::test]
async fn what_the_system_refuses_is_not_called_damage() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let file = last_file(dir.path());
    fs::remove_file(&file).unwrap();
    // A file that cannot be read as one, whoever asks.
    fs::create_dir(&file).unwrap();
    fs::write(file.join("inside"), b"x").unwrap();
    let error = open(dir.path()).await.err().expect("it is no file");
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    assert!(!error.to_string().contains("remove"), "{error}");
}

#[tokio::test]
async fn a_log_that_is_damaged_before_its_end_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let file = last_file(dir.path());
    let last_record = fs::metadata(&file).unwrap().len();
    let mut log = open(dir.path()).await.unwrap();
    log.blocking_append([entry(10)]).await.unwrap();
    drop(log);
    assert_eq!(last_file(dir.path()), file, "it went on in the same file");
    let mut bytes = fs::read(&file).unwrap();
    // Every byte before the last record, a bit of each: lengths, types, checksums.
    for at in 0..usize::try_from(last_record).unwrap() {
        let bit = 1 << (at % 8);
        bytes[at] ^= bit;
        fs::write(&file, &bytes).unwrap();
        bytes[at] ^= bit;
        let opened = open(dir.path()).await;
        let error =
            opened.err().unwrap_or_else(|| panic!("it opened with byte {at} of {} damaged", bytes.len()));
        assert!(matches!(error, StoreError::DamagedLog { .. }), "byte {at}: {error:?}");
        assert!(error.to_string().contains("rota cluster remove"), "{error}");
        assert_eq!(fs::metadata(&file).unwrap().len(), bytes.len() as u64, "it was changed, byte {at}");
    }
    fs::write(&file, &bytes).unwrap();
    assert!(open(dir.path()).await.is_ok());
}
