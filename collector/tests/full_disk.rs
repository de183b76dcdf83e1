//! An agent whose state cannot be written: it serves all the same, says so, and
//! writes everything down when it can again.
//!
//! The disk is full for a process of its own, which is this test binary again:
//! the system lets it write to no file beyond some bytes.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rota_collector::collector::fetch::{Agents, Ask, Fetched};
use rota_collector::wire::Sources;
use support::{Running, append, bench, item, log, sources, until_seen};

/// Tells the child what it is, and where to work.
const DIR: &str = "ROTA_TEST_FULL_DISK";
const SCAN: Duration = Duration::from_millis(50);
/// Far less than the index is long, far more than any log here.
const FULL_BYTES: u64 = 4096;

#[test]
fn an_index_that_cannot_be_written_stops_nothing() {
    let dir = bench();
    // Whoever writes too much is sent a signal, too; the shell has it ignored.
    let ended = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" child --exact --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(ended.success(), "{ended}");
}

/// The process with the full disk. Does nothing when it is run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    if let Some(dir) = std::env::var_os(DIR) {
        fill_and_free(Path::new(&dir)).await;
    }
}

fn limit_files(bytes: Option<u64>) {
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.unwrap_or(most), most).unwrap();
}

async fn served(agent: &Running, file: &str) {
    let (agents, name) = (Agents::default(), item(file));
    until_seen(&format!("{file} is served"), async || {
        let (address, wait) = (agent.address.as_str(), Duration::ZERO);
        let ask = Ask { address, item: &name, incarnation: None, offset: 0, wait, collected: None };
        match agents.fetch(&ask).await {
            Ok(Fetched::Data { bytes, .. }) if bytes.starts_with(file.as_bytes()) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

fn numbers(sources: &Sources) -> Vec<(String, Vec<u64>)> {
    let of = |source: &rota_collector::wire::SourceBody| {
        (source.item.clone(), source.incarnations.iter().map(|i| i.incarnation).collect())
    };
    sources.sources.iter().map(of).collect()
}

async fn fill_and_free(dir: &Path) {
    append(&log(dir, "x.log"), "x.log\n");
    let agent = Running::start(dir, "*.log", SCAN).await;
    served(&agent, "x.log").await;

    limit_files(Some(FULL_BYTES));
    for n in 0..20 {
        append(&log(dir, &format!("{n}.log")), &format!("{n}.log\n"));
    }
    for n in 0..20 {
        served(&agent, &format!("{n}.log")).await;
    }
    let said = until_seen("it says so", async || {
        sources(&agent.address).await.index_error.ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert!(said.contains("index"), "{said}");

    limit_files(None);
    let before = until_seen("it is written again", async || {
        let listed = sources(&agent.address).await;
        if listed.index_error.is_none() { Ok(listed) } else { Err(format!("{:?}", listed.index_error)) }
    })
    .await;
    agent.stop().await;
    // Nothing is forgotten, so nothing is read twice.
    let agent = Running::start(dir, "*.log", SCAN).await;
    assert_eq!(numbers(&sources(&agent.address).await), numbers(&before));
    assert_eq!(before.sources.len(), 21);

    // A full disk at the start is no reason to begin anew, either.
    agent.stop().await;
    limit_files(Some(FULL_BYTES));
    let refused = support::open(dir, "*.log", SCAN);
    limit_files(None);
    drop(refused);
    let agent = Running::start(dir, "*.log", SCAN).await;
    assert_eq!(numbers(&sources(&agent.address).await), numbers(&before));
    agent.stop().await;
}
