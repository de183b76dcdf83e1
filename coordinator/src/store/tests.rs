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

use super::{LogStore, SnapshotStore, StoreError};
use crate::outbox::Outbox;
use crate::raft::Machine;
use crate::raft::types::{TypeConfig, log_id_in, payload_in, vote_in};
use crate::replica::Replica;

type Entry = openraft::alias::EntryOf<TypeConfig>;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), openraft::StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = LogStore::open(&dir.path().join("log")).await.unwrap();
        let replica = Arc::new(Replica::new(Arc::new(Outbox::new(1, 1)), Arc::default(), Arc::default()));
        let snapshots = SnapshotStore::open(&dir.path().join("snapshots")).unwrap();
        Ok((dir, log, Machine::open(replica, snapshots).unwrap()))
    }
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

/// A log with a vote and the entries 0 to 9, closed.
async fn written(dir: &Path) {
    let mut log = LogStore::open(dir).await.unwrap();
    log.save_vote(&vote(1)).await.unwrap();
    for index in 0..10 {
        log.blocking_append([entry(index)]).await.unwrap();
    }
}

/// The log's last file that holds anything.
fn last_file(dir: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files.pop().unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let mut log = LogStore::open(dir.path()).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote(1)));
    let entries = log.try_get_log_entries(0..100).await.unwrap();
    assert_eq!(entries, (0..10).map(entry).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_cut_off_in_its_last_record_opens_without_it() {
    let whole = tempfile::tempdir().unwrap();
    written(whole.path()).await;
    let file = last_file(whole.path());
    let bytes = fs::read(&file).unwrap();
    for cut in 1..60 {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join(file.file_name().unwrap());
        fs::write(&copy, &bytes[..bytes.len() - cut]).unwrap();
        let mut log = LogStore::open(dir.path()).await.unwrap();
        let entries = log.try_get_log_entries(0..100).await.unwrap();
        assert_eq!(entries, (0..9).map(entry).collect::<Vec<_>>(), "cut off by {cut}");
        // And it goes on from there.
        log.blocking_append([entry(9)]).await.unwrap();
        drop(log);
        let mut log = LogStore::open(dir.path()).await.unwrap();
        assert_eq!(log.try_get_log_entries(0..100).await.unwrap().len(), 10);
    }
}

#[tokio::test]
async fn a_log_that_is_damaged_before_its_end_is_refused_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path()).await;
    let file = last_file(dir.path());
    let last_record = fs::metadata(&file).unwrap().len();
    let mut log = LogStore::open(dir.path()).await.unwrap();
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
        let opened = LogStore::open(dir.path()).await;
        let error =
            opened.err().unwrap_or_else(|| panic!("it opened with byte {at} of {} damaged", bytes.len()));
        assert!(matches!(error, StoreError::DamagedLog { .. }), "byte {at}: {error:?}");
        assert!(error.to_string().contains("rota cluster remove"), "{error}");
        assert_eq!(fs::metadata(&file).unwrap().len(), bytes.len() as u64, "it was changed, byte {at}");
    }
    fs::write(&file, &bytes).unwrap();
    assert!(LogStore::open(dir.path()).await.is_ok());
}
