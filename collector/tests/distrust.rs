//! The agent believes nobody: forged requests change nothing, and what is released
//! is what the coordinator's checkpoint covers.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use rota_collector::collector::checkpoint::Checkpoint;
use rota_collector::collector::fetch::{Agents, Ask, Fetched};
use rota_collector::collector::gaps;
use rota_collector::naming::url_segment;
use rota_collector::wire::GapReason;
use support::{Running, Store, append, bench, get, item, log, output, sources, start, until, until_seen};

const SCAN: Duration = Duration::from_millis(100);

fn data_path(file: &str) -> String {
    format!("/v1/sources/{}/data", url_segment(&item(file)))
}

fn lines(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

/// How many deleted files this process, and so the agent, holds open.
fn deleted_files_held(dir: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    let dir = dir.canonicalize().unwrap();
    targets
        .filter(|target| target.starts_with(&dir) && target.to_string_lossy().ends_with("(deleted)"))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_beyond_the_end_changes_nothing() {
    let dir = bench();
    append(&log(dir.path(), "x.log"), &lines(1..=1000));
    let store = Arc::new(Store::default());
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    let puller = start(dir.path(), &agent.address, &store, &Agents::default());
    until("all is collected", || output(dir.path(), "x.log") == lines(1..=1000).as_bytes()).await;
    let before = sources(&agent.address).await.sources[0].incarnations[0].clone();
    let tag = format!("\"{}\"", before.incarnation);

    for offset in [before.size + 1, 999_999, u64::MAX] {
        let range = format!("bytes={offset}-");
        let headers = [("if-match", tag.as_str()), ("range", range.as_str())];
        let refused = get(&agent.address, &format!("{}?wait_ms=2000", data_path("x.log")), &headers).await;
        assert_eq!(refused.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(refused.headers()["content-range"], format!("bytes */{}", before.size).as_str());
        assert!(!refused.headers().contains_key("rota-next-incarnation"), "{range}");
    }
    // What comes later is collected, and nothing else.
    append(&log(dir.path(), "x.log"), &lines(1001..=1010));
    until("the rest is collected", || output(dir.path(), "x.log").ends_with(b"line 1010\n")).await;
    assert_eq!(output(dir.path(), "x.log"), lines(1..=1010).as_bytes());
    let after = &sources(&agent.address).await.sources[0].incarnations;
    assert_eq!((after.len(), after[0].incarnation), (1, before.incarnation));
    assert!(gaps::read(&dir.path().join("out")).unwrap().is_empty());
    puller.abort();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_position_releases_nothing_and_a_checkpoint_does() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, &lines(1..=1000));
    let store = Arc::new(Store::default());
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    // Rotated away and deleted, held open, and nobody has it.
    fs::rename(&path, log(dir.path(), "x.log.1")).unwrap();
    append(&path, &lines(1001..=1010));
    let numbers = until_seen("the rotation is seen", async || {
        let numbers: Vec<u64> =
            sources(&agent.address).await.sources[0].incarnations.iter().map(|i| i.incarnation).collect();
        if numbers.len() == 2 { Ok(numbers) } else { Err(format!("{numbers:?}")) }
    })
    .await;
    fs::remove_file(log(dir.path(), "x.log.1")).unwrap();
    until("the file is held", || deleted_files_held(dir.path()) == 1).await;

    // A stranger says that all is collected. So does the checkpoint of somebody who
    // is ahead of what there is, and one of an incarnation that is not known.
    for offset in [0, 5, u64::MAX] {
        let position = format!("{}:{offset}:0", numbers[1]);
        get(&agent.address, &data_path("x.log"), &[("rota-collected", position.as_str())]).await;
    }
    store.set(Some(Checkpoint { incarnation: numbers[1] + 1, ..Checkpoint::default() }));
    let position = format!("{}:0:0", numbers[1]);
    let reads = store.reads();
    until_seen("the agent looks at the checkpoint", async || {
        get(&agent.address, &data_path("x.log"), &[("rota-collected", position.as_str())]).await;
        if store.reads() >= reads + 3 { Ok(()) } else { Err(format!("{} times", store.reads() - reads)) }
    })
    .await;
    assert_eq!(deleted_files_held(dir.path()), 1, "it is still there");
    store.set(None);

    let puller = start(dir.path(), &agent.address, &store, &Agents::default());
    until("all is collected", || output(dir.path(), "x.log") == lines(1..=1010).as_bytes()).await;
    until("the file is released", || {
        append(&path, "");
        deleted_files_held(dir.path()) == 0
    })
    .await;
    assert!(gaps::read(&dir.path().join("out")).unwrap().is_empty());
    puller.abort();
    agent.stop().await;
}

/// A machine that lost its newest bytes, in a crash say: the checkpoint is the
/// witness that they were there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_beyond_the_end_has_all_begin_anew() {
    let dir = bench();
    append(&log(dir.path(), "x.log"), "1\n");
    let store = Arc::new(Store::default());
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    let puller = start(dir.path(), &agent.address, &store, &Agents::default());
    until("it is collected", || store.checkpoint().is_some_and(|c| c.out_len == 2)).await;
    puller.abort();
    let before = store.checkpoint().unwrap();
    store.set(Some(Checkpoint { offset: 500, ..before }));

    let agents = Agents::default();
    let name = item("x.log");
    let seen = until_seen("it is begun anew", async || {
        // As a collector that starts again does.
        let ask = Ask {
            address: &agent.address,
            item: &name,
            incarnation: Some(before.incarnation),
            offset: 500,
            wait: Duration::ZERO,
            collected: store.checkpoint(),
        };
        match agents.fetch(&ask).await.unwrap() {
            Fetched::Ended { next, gap, .. } => Ok((next, gap)),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(seen.0 > before.incarnation);
    assert_eq!(seen.1, Some((500, None, GapReason::Truncated)));
    agent.stop().await;
}

/// A file that is deleted while nobody looks has no successor; the ledger has it
/// all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_incarnation_that_is_lost_is_in_the_ledger() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "1\n");
    let store = Arc::new(Store::default());
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    let puller = start(dir.path(), &agent.address, &store, &Agents::default());
    until("it is collected", || store.checkpoint().is_some_and(|c| c.offset == 2)).await;
    puller.abort();
    agent.stop().await;
    append(&path, "unseen\n");
    fs::remove_file(&path).unwrap();
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    let puller = start(dir.path(), &agent.address, &store, &Agents::default());
    let out = dir.path().join("out");
    until("the ledger has it", || !gaps::read(&out).unwrap().is_empty()).await;
    // Whoever takes over is not told again; and the file may come back.
    until("the checkpoint is beyond it", || store.checkpoint().is_some_and(|c| c.offset == 3)).await;
    puller.abort();
    let puller = start(dir.path(), &agent.address, &store, &Agents::default());
    append(&path, "2\n");
    until("what comes later is collected", || output(dir.path(), "x.log") == b"1\n2\n").await;
    let recorded = gaps::read(&out).unwrap();
    let ranges: Vec<_> = recorded.iter().map(|g| (g.from, g.to, g.reason)).collect();
    assert_eq!(ranges, [(2, None, GapReason::Gone)]);
    puller.abort();
    agent.stop().await;
}
