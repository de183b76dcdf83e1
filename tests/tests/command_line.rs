//! What the command line means when nothing is as it should be: variables that are set and empty,
//! coordinators that are not there, or not there yet.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rota_tests::{Cluster, LIVENESS, Process, Ran, Turn, command, eventually, free_port, rota};

/// A `--deadline`, and how much longer a command may take on a busy machine. A search that goes on
/// for as long as an answer may take takes far longer.
const DEADLINE: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(9);

/// The exit code of a command line that is not one.
const USAGE: i32 = 2;

/// Nobody listens there.
fn nobody() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn with_variable(name: &str, value: &str, args: &[&str]) -> Ran {
    let mut command = tokio::process::Command::new(rota());
    command.args(args).env(name, value).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIVENESS, command.output()).await.expect("it ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_is_set_and_empty_is_as_one_that_is_not_set() {
    let _turn = Turn::shared().await;
    let servers = nobody();
    for name in ["ROTA_OUTPUT", "ROTA_DEADLINE", "ROTA_CONFIG", "ROTA_LOG"] {
        let ran = with_variable(name, "", &["--servers", &servers, "status"]).await;
        ran.failed(&["no coordinator answers", &servers]);
    }
    // The default is asked: whether or not a server is there, the arguments are right.
    let ran = with_variable("ROTA_SERVERS", "", &["--deadline", "1ms", "status"]).await;
    assert_ne!(ran.code, Some(USAGE), "{ran:?}");
    let ran = with_variable("ROTA_SERVERS", ",", &["--deadline", "1ms", "status"]).await;
    assert_eq!(ran.code, Some(USAGE), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_timeout_or_log_filter_of_a_worker_is_the_default() {
    let _turn = Turn::shared().await;
    let dir = tempfile::tempdir().unwrap();
    let mut worker = std::process::Command::new(rota());
    worker.env("ROTA_SESSION_TIMEOUT", "").env("ROTA_LOG", "");
    worker.args(["worker", "--servers", &nobody(), "--pool", "mail", "--exec", "true"]);
    let worker = Process::spawn(worker, &dir.path().join("worker.log"));
    eventually("it warns that it waits", LIVENESS, async || {
        let said = worker.said();
        ensure!(said.contains("cannot join: retrying"), "{said}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_bounds_the_search_for_a_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.kill9(1);
    cluster.kill9(2);
    let server = cluster.addresses()[2].clone();
    let began = Instant::now();
    let args = ["--servers", &server, "--deadline", "1s", "cluster", "add", "7", "127.0.0.1:1", "--force"];
    let ran = command(&args).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let took = began.elapsed();
    assert!(took < DEADLINE + SLACK, "it took {took:?}: {ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_bounds_the_whole_search_whatever_the_answer_may_take() {
    let _turn = Turn::shared().await;
    let servers = nobody();
    for args in [
        &["status"][..],
        &["cluster", "snapshot"],
        &["cluster", "add", "7", "127.0.0.1:1"],
        &["cluster", "remove", "7", "--yes", "7"],
        &["table", "show", "mail", "--follow"],
        &["watch", "/"],
        &["drain", "mail", "w1"],
        &["pool", "list"],
    ] {
        let began = Instant::now();
        let all = [&["--servers", &servers, "--deadline", "1s"], args].concat();
        command(&all).await.failed(&["no coordinator answers"]);
        let took = began.elapsed();
        assert!(took >= DEADLINE - Duration::from_millis(100), "{args:?} gave up after {took:?}");
        assert!(took < DEADLINE + SLACK, "{args:?} took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_address_refuses_an_operator_is_told_soon() {
    let _turn = Turn::shared().await;
    let (one, other) = (nobody(), nobody());
    let servers = format!("{one},{other}");
    let began = Instant::now();
    let ran = command(&["--servers", &servers, "status"]).await;
    ran.failed(&["no coordinator answers", &one, &other, "connection refused", "--servers"]);
    assert!(!ran.err.contains("os error") && ran.err.lines().count() == 1, "one clear sentence: {ran:?}");
    assert!(began.elapsed() < Duration::from_secs(12), "it took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_before_its_coordinators_waits_for_them() {
    let mut cluster = Cluster::start(1).await;
    let created = cluster.operate(&["pool", "create", "mail", "--buckets", "1"]).await;
    assert_eq!(created.code, Some(0), "{created:?}");
    cluster.kill9(1);
    let servers = cluster.addresses().join(",");
    let worked = cluster.dir().join("worked");
    let touch = format!("touch '{}'; exec sleep 1000000", worked.display());
    let args = ["--deadline", "1s", "worker", "--servers", &servers, "--pool", "mail", "--exec", &touch];
    let mut worker = Process::start(args, &cluster.dir().join("worker.log"));
    eventually("it says that it waits", LIVENESS, async || {
        let said = worker.said();
        ensure!(said.contains("cannot join: retrying"), "{said}");
        Ok(())
    })
    .await;
    assert!(worker.runs(), "{}", worker.said());
    cluster.restart(1);
    eventually("it works", LIVENESS, async || {
        ensure!(worked.exists(), "{}", worker.said());
        Ok(())
    })
    .await;
    assert_eq!(worker.said().matches("cannot join: retrying").count(), 1, "{}", worker.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_its_coordinators_stops_when_it_is_told_to() {
    let _turn = Turn::shared().await;
    let dir = tempfile::tempdir().unwrap();
    let servers = nobody();
    let args = ["worker", "--servers", &servers, "--pool", "mail", "--exec", "true"];
    let mut worker = Process::start(args, &dir.path().join("worker.log"));
    eventually("it says that it waits", LIVENESS, async || {
        let said = worker.said();
        ensure!(said.contains("cannot join: retrying"), "{said}");
        Ok(())
    })
    .await;
    worker.term();
    assert_eq!(worker.ended(LIVENESS).await.code(), Some(0), "{}", worker.said());
}
