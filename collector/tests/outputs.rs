//! Operators rotate, remove and empty collected files. The collector goes on, and
//! writes down that they did.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rota_collector::collector::fetch::Agents;
use rota_collector::collector::gaps::OutputRecord;
use support::{Running, Store, append, bench, log, output, start, until};

const SCAN: Duration = Duration::from_millis(100);

fn records(dir: &Path) -> Vec<OutputRecord> {
    let text = fs::read_to_string(dir.join("out/.rota/outputs.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns what is in the output in the end, and what was written after the change.
async fn change_and_go_on(is_running: bool, change: fn(&Path)) -> (Vec<u8>, OutputRecord, tempfile::TempDir) {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "1\n2\n");
    let store = Arc::new(Store::default());
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    let mut puller = start(dir.path(), &agent.address, &store, &Agents::default());
    until("it is collected", || store.checkpoint().is_some_and(|c| c.out_len == 4)).await;
    if !is_running {
        puller.abort();
        assert!((&mut puller).await.unwrap_err().is_cancelled());
    }
    change(&dir.path().join("out/app/host/x.log"));
    append(&path, "3\n");
    if !is_running {
        puller = start(dir.path(), &agent.address, &store, &Agents::default());
    }
    until("it goes on", || output(dir.path(), "x.log").ends_with(b"3\n")).await;
    append(&path, "4\n");
    until("and on", || output(dir.path(), "x.log").ends_with(b"3\n4\n")).await;
    until("the checkpoint counts the new output", || {
        store
            .checkpoint()
            .is_some_and(|c| c.offset == 8 && c.out_len == output(dir.path(), "x.log").len() as u64)
    })
    .await;
    until("it is written down", || records(dir.path()).len() == 1).await;
    puller.abort();
    agent.stop().await;
    let record = records(dir.path()).remove(0);
    (output(dir.path(), "x.log"), record, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated() {
    for is_running in [true, false] {
        let rotate = |path: &Path| fs::rename(path, path.with_extension("log.1")).unwrap();
        let (text, record, dir) = change_and_go_on(is_running, rotate).await;
        assert_eq!(
            (text.as_slice(), output(dir.path(), "x.log.1").as_slice()),
            (&b"3\n4\n"[..], &b"1\n2\n"[..])
        );
        assert_eq!((record.offset, record.expected, record.found), (4, 4, 0), "running: {is_running}");
    }
}

/// As logrotate does with `create`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_and_made_again() {
    for is_running in [true, false] {
        let (text, _, dir) = change_and_go_on(is_running, |path| {
            fs::rename(path, path.with_extension("log.1")).unwrap();
            fs::write(path, "").unwrap();
        })
        .await;
        assert_eq!(
            (text.as_slice(), output(dir.path(), "x.log.1").as_slice()),
            (&b"3\n4\n"[..], &b"1\n2\n"[..])
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed() {
    for is_running in [true, false] {
        let (text, ..) = change_and_go_on(is_running, |path| fs::remove_file(path).unwrap()).await;
        assert_eq!(text, b"3\n4\n", "running: {is_running}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied() {
    for is_running in [true, false] {
        let (text, ..) = change_and_go_on(is_running, |path| fs::write(path, "").unwrap()).await;
        assert_eq!(text, b"3\n4\n", "running: {is_running}");
    }
}
