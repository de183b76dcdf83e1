//! kazoo's own test suite against Rota: what passes against ZooKeeper passes here
//! (`tests/clients/kazoo/must-pass.txt`).
//!
//! The suite mostly waits, so it runs in parts side by side. Those of its files
//! that stop servers have a cluster of their own, and ask this test to do it; the
//! others share one, each test below a node of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use rota_tests::{Cluster, LIVENESS, Process, Settings, eventually, kazoo_sources, python};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixListener, UnixStream};

/// What the suite's own set-up gives ZooKeeper: the super user is `super:test`.
const FLAGS: [&str; 7] = [
    "--zookeeper-4lw-whitelist",
    "*",
    "--super-digest",
    "super:D/InIHSb7yEEbrWz8b9l71RjZJU=",
    "--zookeeper-read-only",
    "--session-max-ms",
    "60000",
];
/// The version whose behaviour the tests are to expect.
const VERSION: &str = "3.8.0";
/// The files with tests that stop servers.
const STOPPING: [&str; 2] = ["test_client.py", "test_connection.py"];
/// A fair half of the time that the others take.
const HALF: [&str; 2] = ["test_lock.py", "test_partitioner.py"];
/// How long one test of the suite may take, in seconds.
const TEST_TIMEOUT_S: &str = "60";
/// How long all of them may take: several times what they do.
const SUITE_TIMEOUT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_on_zookeeper_passes_here() {
    let settings = || Settings { flags: FLAGS.map(str::to_owned).to_vec(), tls: true, ..Settings::default() };
    let mut stopped = Cluster::start_with(3, settings()).await;
    let mut shared = Cluster::beside(3, settings());
    for id in shared.ids() {
        shared.restart(id);
    }
    shared.all_follow_one_leader().await;

    let control = stopped.dir().join("control");
    let wishes = UnixListener::bind(&control).unwrap();
    let rest = files_beside(&[&STOPPING[..], &HALF[..]].concat());
    let mut stopping = Part::start(&stopped, "stopping", &STOPPING.map(str::to_owned), Some(&control));
    let mut half = Part::start(&shared, "half", &HALF.map(str::to_owned), None);
    let mut other = Part::start(&shared, "other", &rest, None);

    let ended = async { tokio::join!(stopping.ended(), half.ended(), other.ended()) };
    let (a, b, c) = attend(&mut stopped, &wishes, ended).await;
    Expected::read().compare(&[a, b, c].concat());
}

/// The suite's files other than these.
fn files_beside(files: &[&str]) -> Vec<String> {
    let all = std::fs::read_dir(kazoo_sources().join("kazoo/tests")).unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_other = |name: &String| name.starts_with("test_") && !files.contains(&name.as_str());
    names.filter(is_other).collect()
}

/// A part of the suite at work.
struct Part {
    name: &'static str,
    process: Process,
    report: PathBuf,
}

/// What became of a test, as the plugin reports it.
#[derive(Debug, Clone, Deserialize)]
struct Outcome {
    test: String,
    outcome: String,
    why: String,
}

impl Part {
    fn start(cluster: &Cluster, name: &'static str, files: &[String], control: Option<&Path>) -> Self {
        let report = cluster.dir().join(format!("{name}.report"));
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kazoo");
        let mut command = python();
        command.args(["-m", "pytest", "-q", "-p", "rota_cluster", "-p", "no:cacheprovider"]);
        // Not the options that the archive has for its developers.
        command.args(["-o", "addopts=", "-o", "log_cli=false", "--tb=short", "--show-capture=no"]);
        command.args(["--disable-warnings", "--timeout", TEST_TIMEOUT_S]);
        command.args(files.iter().map(|file| format!("kazoo/tests/{file}")));
        command.current_dir(kazoo_sources()).env("PYTHONPATH", plugin);
        command.env("ZOOKEEPER_VERSION", VERSION).env_remove("CI");
        command.env("SUITE_SERVERS", cluster.zookeeper_all()).env("SUITE_REPORT", &report);
        if let Some(files) = cluster.certificates() {
            command.env("SUITE_SECURE_SERVERS", cluster.zookeeper_tls_all());
            command.env("SUITE_CLIENT_KEY", &files.client_key).env("SUITE_CLIENT_CERT", &files.client);
            command.env("SUITE_CA_CERT", &files.authority);
        }
        if let Some(control) = control {
            command.env("SUITE_CONTROL", control);
        }
        Self { name, process: Process::spawn(command, &cluster.dir().join(format!("{name}.log"))), report }
    }

    /// Waits for its end. Returns what became of its tests.
    async fn ended(&mut self) -> Vec<Outcome> {
        let status = self.process.ended(SUITE_TIMEOUT).await;
        let said = self.process.said();
        println!("--- part {:?}:\n{said}", self.name);
        // 1 is for tests that failed. Which of them may, is for the comparison.
        assert!(matches!(status.code(), Some(0 | 1)), "pytest ended with {status}: {said}");
        let report = std::fs::read_to_string(&self.report).unwrap();
        report.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Does with the servers what the suite asks for, until it has ended.
async fn attend<T>(cluster: &mut Cluster, wishes: &UnixListener, ended: impl Future<Output = T>) -> T {
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => return ended,
            accepted = wishes.accept() => {
                let (stream, _) = accepted.unwrap();
                fulfil(cluster, stream).await.unwrap();
            }
        }
    }
}

/// Does one thing with a server, and says when it is done.
async fn fulfil(cluster: &mut Cluster, stream: UnixStream) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut wish = String::new();
    tokio::time::timeout(LIVENESS, stream.read_line(&mut wish)).await.context("no wish")??;
    let (verb, id) = wish.trim().split_once(' ').context("a wish is a verb and a number")?;
    let id: u64 = id.parse()?;
    match verb {
        "stop" => cluster.stop_in_order(id).await,
        "run" => {
            cluster.restart(id);
            let address = cluster.zookeeper(id);
            eventually(&format!("server {id} serves"), LIVENESS, async || {
                Ok(TcpStream::connect(&address).await.map(drop)?)
            })
            .await;
        }
        _ => anyhow::bail!("nobody can {wish:?}"),
    }
    stream.write_all(b"done\n").await?;
    Ok(())
}

/// Which tests are to pass, and which are known not to.
struct Expected {
    passing: BTreeSet<String>,
    not_yet: BTreeSet<String>,
}

impl Expected {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kazoo/must-pass.txt");
        let text = std::fs::read_to_string(path).unwrap();
        let (passing, not_yet) = text.split_once("# NOT YET").expect("the list has that heading");
        let tests = |part: &str| {
            let lines = part.lines().skip(1).filter(|line| line.starts_with("kazoo/"));
            lines.map(str::to_owned).collect()
        };
        Self { passing: tests(passing), not_yet: tests(not_yet) }
    }

    /// Makes sure that the tests that passed are those that are to pass.
    fn compare(&self, outcomes: &[Outcome]) {
        let by_test: BTreeMap<&str, &Outcome> = outcomes.iter().map(|o| (o.test.as_str(), o)).collect();
        let passed = |test: &str| by_test.get(test).is_some_and(|o| o.outcome == "passed");
        let mut faults = Vec::new();
        for test in self.passing.iter().filter(|test| !passed(test)) {
            faults.push(match by_test.get(test.as_str()) {
                Some(found) => format!("{test} must pass: it {}: {}", found.outcome, found.why),
                None => format!("{test} must pass: it was not run"),
            });
        }
        for test in by_test.keys().filter(|test| passed(test) && !self.passing.contains(**test)) {
            let known = if self.not_yet.contains(*test) { "as not yet passing" } else { "not at all" };
            faults.push(format!("{test} passes, and must-pass.txt lists it {known}"));
        }
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
        println!("{} tests of kazoo's suite passed", self.passing.len());
    }
}
