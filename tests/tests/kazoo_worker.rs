//! The worker of `examples/kazoo_worker.py`, which knows Rota as ZooKeeper only, shares
//! a pool with a worker of Rota's own. All of them count in their buckets, and go on
//! from each other's checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rota_client::Client;
use rota_protocol::http::{CheckpointBody, RowBody};
use rota_tests::{Cluster, LIVENESS, Pool, Process, eventually, python};
use tokio_util::sync::CancellationToken;

const BUCKETS: usize = 8;
/// The timeout of the workers' sessions: far longer than a handoff takes.
const TIMEOUT: Duration = Duration::from_secs(6);
/// What a worker lets go of is granted at once, and not when a session has timed out.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The same work as the example's, as a command.
const COUNT: &str = "n=${ROTA_CHECKPOINT:-0}; echo took $ROTA_BUCKET at $n; \
    while :; do n=$((n + 1)); echo checkpoint $n; sleep 0.1; done";

type Counts = BTreeMap<String, u64>;

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_python_share_a_pool_with_rotas_own() {
    let cluster = Cluster::start(3).await;
    let client = cluster.client();
    let pool = Pool::hashed(&cluster, "work", u32::try_from(BUCKETS).unwrap(), TIMEOUT).await;

    let mut p1 = PythonWorker::start(&cluster, "p1");
    is_shared_by(&pool, &["p1"], LIVENESS).await;
    let mut p2 = PythonWorker::start(&cluster, "p2");
    is_shared_by(&pool, &["p1", "p2"], LIVENESS).await;
    let rust = pool.start_worker("rust", COUNT);
    is_shared_by(&pool, &["p1", "p2", "rust"], LIVENESS).await;
    assert!(p1.said("released").len() >= 4, "buckets of a living worker pass on when it says so");
    advance(&client, &pool.name).await;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch(client.clone(), pool.name.clone(), stop.clone()));

    // Killed: its buckets are others' when its session is over, who count on.
    let before = rows(&pool).await.unwrap();
    let lost: Vec<&RowBody> = before.values().filter(|row| row.owners[0].member == "p1").collect();
    p1.process.kill9();
    let left = counts(&client, &pool.name).await.unwrap();
    is_shared_by(&pool, &["p2", "rust"], TIMEOUT + LIVENESS).await;
    advance(&client, &pool.name).await;
    let took = [p2.said("took"), said(&rust_log(&cluster), "took")].concat();
    for row in &lost {
        // One step was under way, perhaps, when the count was read.
        let went_on = |n: u64| took.contains(&format!("took {} at {n}", row.bucket));
        let stopped = left[&row.bucket];
        assert!(went_on(stopped) || went_on(stopped + 1), "bucket {}: {stopped}, {took:?}", row.bucket);
    }

    a_stale_owner_is_refused(&cluster, &pool, lost[0]).await;

    // Told to stop: its buckets are others' at once.
    p2.process.term();
    is_shared_by(&pool, &["rust"], AT_ONCE).await;
    assert!(p2.process.ended(LIVENESS).await.success(), "{}", p2.process.said());
    advance(&client, &pool.name).await;

    // And the other way round.
    let _p3 = PythonWorker::start(&cluster, "p3");
    is_shared_by(&pool, &["p3", "rust"], LIVENESS).await;
    drop(rust);
    is_shared_by(&pool, &["p3"], TIMEOUT + LIVENESS).await;
    advance(&client, &pool.name).await;
    stop.cancel();
    println!("no count went back in {} looks", watching.await.unwrap());
}

/// Whoever takes a step as the owner that knew the row when it was `stale` is refused
/// because of the row's version; with the present version, since its session is not the owner's.
async fn a_stale_owner_is_refused(cluster: &Cluster, pool: &Pool, stale: &RowBody) {
    let step = async |version: i32| {
        let mut command = python();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kazoo/stale_owner.py");
        command.arg(script).args([&cluster.zookeeper_all(), &pool.name, &stale.bucket]);
        command.arg(version.to_string()).env("PYTHONPATH", examples());
        let log = cluster.dir().join("stale-owner.log");
        drop(std::fs::remove_file(&log));
        let mut process = Process::spawn(command, &log);
        assert!(process.ended(LIVENESS).await.success(), "{}", process.said());
        process.said()
    };
    let said = step(stale.version).await;
    let refused = format!("refused {} BadVersionError RuntimeInconsistency\n", stale.bucket);
    assert!(said.contains(&refused) && said.ends_with("not accepted\n"), "{said}");
    eventually("a step with the row's present version is another's", LIVENESS, async || {
        let version = rows(pool).await?[&stale.bucket].version;
        let said = step(version).await;
        let refused = format!("refused {} RolledBackError NoAuthError\n", stale.bucket);
        ensure!(said.contains(&refused) && said.ends_with("not accepted\n"), "{said}");
        Ok(())
    })
    .await;
}

/// The example, as a process.
struct PythonWorker {
    process: Process,
}

impl PythonWorker {
    fn start(cluster: &Cluster, name: &str) -> Self {
        let mut command = python();
        command.arg(examples().join("kazoo_worker.py")).arg(cluster.zookeeper_all());
        command.args(["work", name, &TIMEOUT.as_secs().to_string()]);
        Self { process: Process::spawn(command, &cluster.dir().join(format!("{name}.log"))) }
    }

    /// The lines it said that begin so.
    fn said(&self, word: &str) -> Vec<String> {
        lines(&self.process.said(), word)
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// What [`Pool::start_worker`] has its worker write to.
fn rust_log(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("work-rust.log")
}

fn said(log: &Path, word: &str) -> Vec<String> {
    lines(&std::fs::read_to_string(log).unwrap(), word)
}

fn lines(said: &str, word: &str) -> Vec<String> {
    said.lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect()
}

async fn rows(pool: &Pool) -> anyhow::Result<BTreeMap<String, RowBody>> {
    Ok(pool.table().await?.rows.into_iter().map(|row| (row.bucket.clone(), row)).collect())
}

/// Waits until these members, and nobody else, own all buckets, each its fair share.
async fn is_shared_by(pool: &Pool, members: &[&str], within: Duration) {
    let (least, most) = (BUCKETS / members.len(), BUCKETS.div_ceil(members.len()));
    eventually(&format!("{members:?} share the pool"), within, async || {
        let mut shares: BTreeMap<String, usize> = BTreeMap::new();
        for row in rows(pool).await?.values() {
            let owner = row.owners.first().context("a bucket has no owner")?;
            *shares.entry(owner.member.clone()).or_default() += 1;
        }
        let named: BTreeSet<&str> = shares.keys().map(String::as_str).collect();
        let fair = shares.values().all(|n| (least..=most).contains(n));
        ensure!(named == members.iter().copied().collect() && fair, "they have {shares:?}");
        Ok(())
    })
    .await;
}

/// How far the work on each bucket has come.
async fn counts(client: &Client, pool: &str) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for bucket in 0..BUCKETS {
        let path = format!("/v1/pools/{pool}/checkpoints/{bucket}?consistent=true");
        let found: CheckpointBody = client.get(&path).await?;
        counts.insert(found.bucket, found.data.parse()?);
    }
    Ok(counts)
}

/// Waits until every bucket's count is larger than it was.
async fn advance(client: &Client, pool: &str) {
    let counts = async || counts(client, pool).await;
    let before = eventually("every bucket has a count", LIVENESS, counts).await;
    eventually("every count advances", LIVENESS, async || {
        let now = counts().await?;
        ensure!(before.iter().all(|(bucket, count)| now[bucket] > *count), "{before:?}, then {now:?}");
        Ok(())
    })
    .await;
}

/// Looks at the counts whenever one of them changes, until it is told to stop: none
/// may go back. Returns how often it looked.
async fn watch(client: Client, pool: String, stop: CancellationToken) -> usize {
    let mut changes = client.watch(&format!("/rota/pools/{pool}/checkpoints"), true, None);
    let (mut last, mut looks) = (Counts::new(), 0);
    loop {
        let now = counts(&client, &pool).await.unwrap();
        for (bucket, count) in &now {
            let before = last.get(bucket).copied().unwrap_or_default();
            assert!(before <= *count, "bucket {bucket} went back from {before} to {count}");
        }
        (last, looks) = (now, looks + 1);
        tokio::select! {
            () = stop.cancelled() => return looks,
            change = changes.next() => drop(change.unwrap()),
        }
    }
}
