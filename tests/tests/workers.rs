//! What commands and handlers may do without harm to the leases of the others.

use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use rota_tests::{Cluster, Hold, LIVENESS, Pool, eventually, rota};
use rota_worker::{Handler, HandlerError, Lease};
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_millis(1_500);
const LAST: &str = "exec sleep 1000000";

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_reads_costs_no_lease() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "work", 8, TIMEOUT).await;
    let servers = cluster.addresses().join(",");
    // More of them than there are threads.
    let chatter = "while :; do echo 0123456789012345678901234567890123456789; done";
    let mut worker = Command::new(rota())
        .args(["worker", "--servers", &servers, "--pool", "work", "--name", "w1", "--exec", chatter])
        .args(["--session-timeout", "1500ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let joined = eventually("it joins", LIVENESS, async || {
        let members = pool.members().await?;
        ensure!(members.len() == 1 && members[0].buckets == 8, "{members:?}");
        Ok(members[0].joined)
    })
    .await;
    // Twice as long as its session lives without being kept alive.
    cluster.outlasts(TIMEOUT).await;
    cluster.outlasts(TIMEOUT).await;
    let members = pool.members().await.unwrap();
    assert_eq!(members.len(), 1, "its session has ended");
    assert_eq!(members[0].joined, joined);
    assert!(worker.try_wait().unwrap().is_none(), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_and_lines_of_any_length_pass() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "work", 1, TIMEOUT).await;
    let command = format!(
        "printf 'caf\\351\\n'; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo checkpoint reached; {LAST}"
    );
    let mut worker = pool.start_worker("w1", &command);
    let client = cluster.client();
    eventually("the command comes to its end", LIVENESS, async || {
        let found: rota_protocol::http::CheckpointBody = client.get(&pool.path("checkpoints/0")).await?;
        ensure!(found.data == "reached", "{found:?}");
        Ok(())
    })
    .await;
    eventually("its output is passed on", LIVENESS, async || {
        let said = std::fs::read(cluster.dir().join("work-w1.log"))?;
        let passed = said.windows(5).any(|bytes| bytes == b"caf\xe9\n");
        ensure!(passed && said.iter().filter(|byte| **byte == b'x').count() >= 5_000_000, "not all of it");
        Ok(())
    })
    .await;
    assert!(worker.process().runs());
}

/// Panics on one bucket, and does nothing on the others.
struct Brittle;

impl Handler for Brittle {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        assert!(lease.bucket() != "0", "this is what the test is about");
        Hold.run(lease).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_is_a_failure_of_its_bucket_alone() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "work", 4, TIMEOUT).await;
    let _brittle = pool.join_with("brittle", Brittle).await;
    pool.is_shared_by(&["brittle"], 4).await;
    let before = pool.members().await.unwrap()[0].joined;
    cluster.outlasts(TIMEOUT).await;
    let members = pool.members().await.unwrap();
    assert_eq!((members.len(), members[0].joined, members[0].buckets), (1, before, 4));
    pool.histories().check();
}

/// Puts down a checkpoint, and then does nothing.
struct Writer(String);

impl Handler for Writer {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        lease.write_checkpoint(self.0.clone()).await?;
        Hold.run(lease).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_no_variable_can_hold_starts_a_command_and_comes_by_file() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "work", 1, TIMEOUT).await;
    let client = cluster.client();
    // Longer than an environment variable may be, with a byte that none may have.
    let checkpoint = format!("{}\0{}", "a".repeat(200_000), "b".repeat(1_000));
    let writer = pool.join_with("writer", Writer(checkpoint.clone())).await;
    eventually("the checkpoint is put down", LIVENESS, async || {
        let found: rota_protocol::http::CheckpointBody = client.get(&pool.path("checkpoints/0")).await?;
        ensure!(found.data.len() == checkpoint.len(), "{} bytes", found.data.len());
        Ok(())
    })
    .await;
    writer.leave().await;
    let (copy, path) = (cluster.dir().join("copy"), cluster.dir().join("path"));
    let command = format!(
        "echo \"$ROTA_CHECKPOINT_FILE ${{ROTA_CHECKPOINT-unset}}\" > '{}'; \
         cat \"$ROTA_CHECKPOINT_FILE\" > '{copy}.part' && mv '{copy}.part' '{copy}'; {LAST}",
        path.display(),
        copy = copy.display()
    );
    let mut worker = pool.start_worker("reader", &command);
    eventually("the command has its checkpoint", LIVENESS, async || {
        ensure!(copy.exists(), "{}", worker.process().said());
        Ok(())
    })
    .await;
    assert!(std::fs::read(&copy).unwrap() == checkpoint.as_bytes(), "it is another");
    let said = std::fs::read_to_string(&path).unwrap();
    let (file, variable) = said.trim_end().rsplit_once(' ').unwrap();
    assert_eq!(variable, "unset");
    worker.process().term();
    assert!(worker.process().ended(LIVENESS).await.success(), "{}", worker.process().said());
    assert!(!std::path::Path::new(file).exists(), "the file is removed with the command");
}
