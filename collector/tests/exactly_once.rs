//! The whole way from a log file to an output, with pullers that are killed at
//! any moment: in the end the output is, byte for byte, what was written.
//!
//! A puller is killed by dropping its task. What it had begun on a thread still
//! finishes: so each kill also leaves a zombie for a moment.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rota_collector::collector::checkpoint::Checkpoint;
use rota_collector::collector::fetch::Agents;
use rota_collector::collector::gaps;
use rota_collector::collector::pull::pull;
use rota_collector::wire::GapReason;
use support::{Chance, Running, Store, append, bench, job, log, output, start, until};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const SCAN: Duration = Duration::from_millis(200);

/// Kills the puller again and again, at moments that chance chooses, until the
/// writer has ended and all that it wrote is in the output.
async fn kill_until_done(
    dir: &Path,
    agent: &Running,
    store: &Arc<Store>,
    chance: &mut Chance,
    writer: &Writer,
) {
    let agents = Agents::default();
    let mut kills = 0;
    let deadline = Instant::now() + support::DEADLINE;
    while !writer.is_done_with(&output(dir, "x.log")) {
        assert!(
            Instant::now() < deadline,
            "output incomplete after {kills} kills: {}; done: {}; gaps: {:?}",
            first_difference(&writer.written.lock().unwrap(), &output(dir, "x.log")),
            writer.done.load(Ordering::SeqCst),
            gaps::read(&dir.join("out")),
        );
        // Mostly very soon; now and then it gets far.
        let life_us = if chance.below(5) == 0 { 700_000 } else { 60_000 };
        let puller = start(dir, &agent.address, store, &agents);
        sleep(Duration::from_micros(chance.below(life_us))).await;
        puller.abort();
        kills += 1;
    }
    eprintln!("{kills} kills");
}

/// Where the output differs from what was written, for a failure's message.
fn first_difference(written: &[u8], output: &[u8]) -> String {
    let same = written.iter().zip(output).take_while(|(a, b)| a == b).count();
    let [wanted, found] =
        [written, output].map(|bytes| String::from_utf8_lossy(&bytes[same..bytes.len().min(same + 60)]));
    format!(
        "{} of {} bytes, first difference at byte {same}: {found:?}, expected {wanted:?}",
        output.len(),
        written.len()
    )
}

/// An application that writes lines of all lengths, in halves, and whose log is
/// rotated, sometimes twice in a row.
struct Writer {
    written: Mutex<Vec<u8>>,
    done: AtomicBool,
}

impl Writer {
    fn is_done_with(&self, output: &[u8]) -> bool {
        self.done.load(Ordering::SeqCst) && *self.written.lock().unwrap() == output
    }

    fn append(&self, path: &Path, text: &str) {
        append(path, text);
        self.written.lock().unwrap().extend_from_slice(text.as_bytes());
    }

    async fn run(&self, path: &Path, chance: &mut Chance) {
        let old = |n: u64| path.with_extension(format!("log.{n}"));
        for round in 0..5 {
            for line in 0..if round % 2 == 0 { 200 } else { 3 } {
                let length = if chance.below(50) == 0 { 40_000 } else { chance.below(200) };
                let text = format!("{round}.{line} {}\n", "x".repeat(usize::try_from(length).unwrap()));
                let (first, second) = text.split_at(text.len() / 2);
                self.append(path, first);
                if chance.below(10) == 0 {
                    sleep(Duration::from_millis(chance.below(20))).await;
                }
                self.append(path, second);
            }
            for n in (1..=round).rev() {
                fs::rename(old(n), old(n + 1)).unwrap();
            }
            fs::rename(path, old(1)).unwrap();
            self.append(&old(1), "late\n");
        }
        self.append(path, "end\n");
        self.done.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_while_files_grow_and_rotate() {
    for seed in support::seeds(3) {
        let dir = bench();
        let path = log(dir.path(), "x.log");
        append(&path, "");
        let agent = Running::start(dir.path(), "x.log*", SCAN).await;
        let (store, mut chance) = (Arc::new(Store::default()), Chance(seed));
        let writer = Writer { written: Mutex::default(), done: AtomicBool::new(false) };
        let mut writes = Chance(seed + 1000);
        tokio::join!(
            writer.run(&path, &mut writes),
            kill_until_done(dir.path(), &agent, &store, &mut chance, &writer)
        );
        assert!(gaps::read(&dir.path().join("out")).unwrap().is_empty());
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_restarts_while_the_puller_works() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "1\n");
    let mut agent = Running::start(dir.path(), "x.log", SCAN).await;
    let (store, agents) = (Arc::new(Store::default()), Agents::default());
    let mut written = "1\n".to_owned();
    for round in 2..6 {
        let puller = start(dir.path(), &agent.address, &store, &agents);
        until("the output is complete", || output(dir.path(), "x.log") == written.as_bytes()).await;
        agent.stop().await;
        append(&path, &format!("{round} down\n"));
        fs::rename(&path, path.with_extension(format!("{round}"))).unwrap();
        append(&path, &format!("{round} new\n"));
        written.push_str(&format!("{round} down\n{round} new\n"));
        agent = Running::start(dir.path(), "x.log", SCAN).await;
        puller.abort();
    }
    let puller = start(dir.path(), &agent.address, &store, &agents);
    until("the output is complete", || output(dir.path(), "x.log") == written.as_bytes()).await;
    assert!(gaps::read(&dir.path().join("out")).unwrap().is_empty());
    puller.abort();
    agent.stop().await;
}

/// A crash after every single step: the checkpoint store has what it had at that
/// time, the output has what it has now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_from_any_earlier_time_gives_the_same_output() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "1\n2\n");
    let agent = Running::start(dir.path(), "x.log", SCAN).await;
    let (store, agents) = (Arc::new(Store::default()), Agents::default());
    let mut earlier: Vec<Checkpoint> = Vec::new();

    let puller = start(dir.path(), &agent.address, &store, &agents);
    let mut written = "1\n2\n".to_owned();
    for round in 0..3 {
        let text = format!("line of round {round}\n");
        append(&path, &text);
        written.push_str(&text);
        until("it is collected and put down", || {
            let checkpoint = store.checkpoint();
            earlier.extend(checkpoint);
            checkpoint.is_some_and(|c| c.out_len == written.len() as u64)
        })
        .await;
    }
    puller.abort();
    earlier.dedup();
    assert!(earlier.len() >= 3, "{earlier:?}");
    for checkpoint in earlier {
        store.set(Some(checkpoint));
        let puller = start(dir.path(), &agent.address, &store, &agents);
        until("the output is cut and complete again", || {
            store.checkpoint().is_some_and(|c| c.out_len == written.len() as u64)
        })
        .await;
        puller.abort();
        assert_eq!(String::from_utf8(output(dir.path(), "x.log")).unwrap(), written);
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_without_an_end() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "whole\nhalf");
    let agent = Running::start(dir.path(), "x.log", SCAN).await;
    let (store, agents) = (Arc::new(Store::default()), Agents::default());
    let puller = start(dir.path(), &agent.address, &store, &agents);
    until("the whole line is there", || output(dir.path(), "x.log") == b"whole\n").await;
    until("the half line is there, later", || output(dir.path(), "x.log") == b"whole\nhalf").await;
    append(&path, " and half\nend");
    fs::rename(&path, path.with_extension("1")).unwrap();
    append(&path, "next\n");
    let wanted = b"whole\nhalf and half\nend\nnext\n";
    until("the files are joined by a newline", || output(dir.path(), "x.log") == wanted).await;
    puller.abort();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_recorded_once() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "1\n");
    let agent = Running::start(dir.path(), "x.log", SCAN).await;
    let (store, agents) = (Arc::new(Store::default()), Agents::default());
    let puller = start(dir.path(), &agent.address, &store, &agents);
    until("it is put down", || store.checkpoint().is_some_and(|c| c.out_len == 2)).await;
    puller.abort();
    let before = store.checkpoint().unwrap();

    append(&path, "never seen\n");
    // The agent has seen it, and nobody has read it.
    support::until_size(&agent.address, 13).await;
    fs::write(&path, "2\n").unwrap();
    let out = dir.path().join("out");
    // The first owner dies right after recording the gap.
    store.only(Some(before.incarnation));
    let puller = start(dir.path(), &agent.address, &store, &agents);
    until("the gap is recorded", || !gaps::read(&out).unwrap().is_empty()).await;
    puller.abort();
    store.only(None);
    let puller = start(dir.path(), &agent.address, &store, &agents);
    until("it is put down", || store.checkpoint().is_some_and(|c| c.out_len == 4)).await;
    puller.abort();
    let recorded = gaps::read(&out).unwrap();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!((recorded[0].from, recorded[0].to, recorded[0].reason), (2, None, GapReason::Truncated));
    assert_eq!(output(dir.path(), "x.log"), b"1\n2\n");

    // An agent that knows nothing of the position.
    let foreign = Checkpoint { incarnation: 5, offset: 77, out_len: 4, ..Checkpoint::default() };
    store.set(Some(foreign));
    let puller = start(dir.path(), &agent.address, &store, &agents);
    until("it goes on with what there is", || output(dir.path(), "x.log").ends_with(b"2\n2\n")).await;
    let recorded = gaps::read(&out).unwrap();
    let unknown = recorded.iter().find(|gap| gap.incarnation == 5).unwrap();
    assert_eq!((unknown.from, unknown.to, unknown.reason), (77, None, GapReason::Unknown));
    puller.abort();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_stopped_in_order_leaves_a_checkpoint_of_everything() {
    let dir = bench();
    append(&log(dir.path(), "x.log"), "1\n2\n");
    let agent = Running::start(dir.path(), "x.log", SCAN).await;
    let (store, agents) = (Arc::new(Store::default()), Agents::default());
    let (stop, work) = (CancellationToken::new(), job(dir.path(), &agent.address, "x.log", &store, &agents));
    let (pulled, ()) = tokio::join!(pull(&work, &stop, |_| {}), async {
        until("the output is complete", || output(dir.path(), "x.log") == b"1\n2\n").await;
        stop.cancel();
    });
    pulled.unwrap();
    assert_eq!(store.checkpoint().map(|c| (c.offset, c.out_len)), Some((4, 4)));
    agent.stop().await;
}
