//! Late bytes: written to a rotated file after the reader advanced to the next one. Each is collected
//! once, or recorded in the ledger.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rota_collector::collector::checkpoint::Checkpoint;
use rota_collector::collector::fetch::{Agents, Ask, Fetched};
use rota_collector::collector::gaps;
use rota_collector::wire::{GapReason, WAIT_MS_MAX};
use support::{Running, Store, append, bench, item, log, output, sources, start, until};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const SCAN: Duration = Duration::from_millis(100);

/// A file with the line 1 that was rotated, and its successor with the line 2; both are collected.
struct Rotation {
    dir: TempDir,
    path: PathBuf,
    rotated: PathBuf,
    /// Open since before the rotation.
    writer: File,
    /// The incarnation of the rotated file.
    first: u64,
    store: Arc<Store>,
    agent: Running,
    puller: JoinHandle<()>,
}

impl Rotation {
    async fn new() -> Self {
        let dir = bench();
        let (path, rotated) = (log(dir.path(), "x.log"), log(dir.path(), "x.log.1"));
        append(&path, "1\n");
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let store = Arc::new(Store::default());
        let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
        let puller = start(dir.path(), &agent.address, &store, &Agents::default());
        until("it is collected", || output(dir.path(), "x.log") == b"1\n").await;
        let first = sources(&agent.address).await.sources[0].incarnations[0].incarnation;
        fs::rename(&path, &rotated).unwrap();
        append(&path, "2\n");
        until("the reader advances", || output(dir.path(), "x.log") == b"1\n2\n").await;
        Self { dir, path, rotated, writer, first, store, agent, puller }
    }

    async fn is_collected(&self, lines: &str) {
        until(lines, || output(self.dir.path(), "x.log") == lines.as_bytes()).await;
    }

    async fn has_checkpoint(&self, what: &str, is_so: impl Fn(Checkpoint) -> bool) {
        until(what, || self.store.checkpoint().is_some_and(&is_so)).await;
    }

    fn start_puller(&mut self) {
        self.puller = start(self.dir.path(), &self.agent.address, &self.store, &Agents::default());
    }

    async fn stop_puller(&self) {
        self.puller.abort();
        until("its task ends", || self.puller.is_finished()).await;
    }

    async fn stop(self) {
        self.stop_puller().await;
        self.agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_bytes_are_collected_or_in_the_ledger() {
    let mut it = Rotation::new().await;
    // The agent may not have confirmed the next incarnation; the checkpoint has the previous one.
    append(&it.rotated, "late\n");
    it.is_collected("1\n2\nlate\n").await;
    append(&it.rotated, "no newline");
    it.is_collected("1\n2\nlate\nno newline\n").await;
    append(&it.path, "3\n");
    it.is_collected("1\n2\nlate\nno newline\n3\n").await;
    let out = it.dir.path().join("out");
    assert_eq!(gaps::read(&out).unwrap(), []);
    it.has_checkpoint("the checkpoint counts all", |c| c.gaps > 0 && c.offset == 4).await;
    it.stop_puller().await;

    append(&it.rotated, "gone\n");
    let collected = it.store.checkpoint().unwrap();
    let wait = Duration::from_millis(WAIT_MS_MAX);
    let ask = Ask {
        address: &it.agent.address,
        item: &item("x.log"),
        incarnation: Some(collected.incarnation),
        offset: collected.offset,
        wait,
        collected: Some(collected),
    };
    let agents = Agents::default();
    let answer = timeout(wait / 2, agents.fetch_with_last_gap(&ask)).await.expect("a late gap ends the wait");
    let (nothing, last_gap) = answer.unwrap();
    assert!(nothing == Fetched::Nothing && last_gap > collected.gaps, "{nothing:?}, gap {last_gap}");
    // An agent that runs on has the file open, and would deliver it.
    it.agent.stop().await;
    fs::remove_file(&it.rotated).unwrap();
    it.agent = Running::start_with(it.dir.path(), "*.log", SCAN, Arc::clone(&it.store)).await;
    it.start_puller();
    until("the ledger has it", || !gaps::read(&out).unwrap().is_empty()).await;
    let recorded = gaps::read(&out).unwrap();
    let ranges: Vec<_> = recorded.iter().map(|g| (g.incarnation, g.from, g.to, g.reason)).collect();
    assert_eq!(ranges, [(it.first, 17, Some(22), GapReason::Late)]);
    it.is_collected("1\n2\nlate\nno newline\n3\n").await;
    it.stop().await;
}

/// Late bytes are then where they stand in their file, and not once more at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_bytes_are_collected_once_after_the_checkpoint_was_deleted() {
    let mut it = Rotation::new().await;
    append(&it.rotated, "late\n");
    it.is_collected("1\n2\nlate\n").await;
    it.has_checkpoint("the checkpoint counts it", |c| c.gaps > 0).await;
    it.stop_puller().await;
    it.store.set(None);
    fs::remove_dir_all(it.dir.path().join("out")).unwrap();
    it.start_puller();
    it.is_collected("1\nlate\n2\n").await;
    append(&it.rotated, "later\n");
    it.is_collected("1\nlate\n2\nlater\n").await;
    it.stop().await;
}

/// A writer may not notice that its file was rotated and deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_bytes_of_a_deleted_file_are_collected() {
    let mut it = Rotation::new().await;
    fs::remove_file(&it.rotated).unwrap();
    it.has_checkpoint("the checkpoint has the rotated file", |c| c.previous[0].is_some()).await;
    it.writer.write_all(b"late\n").unwrap();
    it.is_collected("1\n2\nlate\n").await;
    it.stop().await;
}
