//! A worker whose process alone is stopped, while its commands are not: they end with its lease,
//! so that none works beside the next owner's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rota_protocol::http::PoolChange;
use rota_tests::{Cluster, LIVENESS, Pool, eventually};

const TIMEOUT: Duration = Duration::from_secs(2);

/// A command that says every 50 ms who works on which bucket and when, by the clock that all
/// processes share, and that runs on its own whatever its worker does.
fn chronicler(file: &Path) -> String {
    let file = file.display();
    format!(
        "while :; do read -r up rest < /proc/uptime; echo \"$ROTA_MEMBER $ROTA_BUCKET $up\" >> '{file}'; sleep 0.05; done"
    )
}

/// When members worked on buckets, in seconds since the boot.
#[derive(Debug)]
struct Work(Vec<(String, String, f64)>);

impl Work {
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(entry).collect())
    }

    fn by<'a>(&'a self, member: &'a str, bucket: &'a str) -> impl Iterator<Item = f64> + 'a {
        let is_theirs = move |entry: &&(String, String, f64)| entry.0 == member && entry.1 == bucket;
        self.0.iter().filter(is_theirs).map(|entry| entry.2)
    }

    fn last_by(&self, member: &str) -> Option<f64> {
        self.0.iter().filter(|entry| entry.0 == member).map(|entry| entry.2).reduce(f64::max)
    }
}

fn uptime() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Waits until `member` works on a bucket after `since`, in seconds since the boot.
async fn works(file: &Path, member: &str, since: f64) {
    eventually(&format!("{member} works"), LIVENESS, async || {
        let last = Work::read(file).last_by(member).context("it never has")?;
        ensure!(last > since, "it did last at {last}, and not after {since}");
        Ok(())
    })
    .await;
}

async fn cluster_and_pool(settings: PoolChange) -> (Cluster, Pool, PathBuf) {
    let cluster = Cluster::start(1).await;
    let settings = PoolChange { buckets: Some(2), ..settings };
    let pool = Pool::create(&cluster, "work", rota_protocol::http::PoolKind::Hashed, settings, TIMEOUT).await;
    let file = cluster.dir().join("work");
    (cluster, pool, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_a_stopped_worker_end_before_the_next_owners_begin() {
    let (_cluster, pool, file) = cluster_and_pool(PoolChange::default()).await;
    let mut paused = pool.start_worker("paused", &chronicler(&file));
    pool.is_shared_by(&["paused"], 2).await;
    works(&file, "paused", 0.0).await;
    let mut next = pool.start_worker("next", &chronicler(&file));
    pool.is_shared_by(&["paused", "next"], 2).await;
    let paused_at = uptime();
    works(&file, "paused", paused_at).await;
    paused.pause();
    // All is the other's now, and it works on both.
    pool.has_shares(&[("next", 2)], &["paused"]).await;
    let taken_over_at = uptime();
    for bucket in ["0", "1"] {
        eventually("the next owner works on it", LIVENESS, async || {
            let last = Work::read(&file).by("next", bucket).reduce(f64::max).context("it never has")?;
            ensure!(last > taken_over_at, "not since it was given all");
            Ok(())
        })
        .await;
    }
    let work = Work::read(&file);
    let last = work.last_by("paused").unwrap();
    for bucket in ["0", "1"] {
        let since_pause: Vec<f64> = work.by("paused", bucket).filter(|at| *at > paused_at).collect();
        let Some(ended) = since_pause.into_iter().reduce(f64::max) else { continue };
        let began = work.by("next", bucket).reduce(f64::min).unwrap();
        assert!(ended <= began, "bucket {bucket}: until {ended} beside the next owner's, from {began}");
    }
    assert!(last < taken_over_at, "the commands of the stopped worker went on until {last}");

    // When it goes on, it finds its session gone, and starts nothing again.
    paused.resume();
    assert_eq!(paused.process().ended(LIVENESS).await.code(), Some(1), "{}", paused.process().said());
    let said = paused.process().said();
    assert!(said.contains("commands were killed at the lease's deadline"), "{said}");
    assert_eq!(Work::read(&file).last_by("paused"), Some(last), "it began again: {said}");
    assert!(next.process().runs());
    pool.histories().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_may_outlive_its_lease_goes_on_while_its_worker_is_stopped() {
    let on_lease_expiry = Some(rota_core::pool::OnLeaseExpiry::KeepRunning);
    let (_cluster, pool, file) =
        cluster_and_pool(PoolChange { on_lease_expiry, ..PoolChange::default() }).await;
    let mut worker = pool.start_worker("w1", &chronicler(&file));
    pool.is_shared_by(&["w1"], 2).await;
    works(&file, "w1", 0.0).await;
    let paused_at = uptime();
    worker.pause();
    works(&file, "w1", paused_at + 2.0 * TIMEOUT.as_secs_f64()).await;
    worker.process().kill9();
    let killed_at = uptime();
    eventually("it ends with the worker", LIVENESS, async || {
        let last = Work::read(&file).last_by("w1").unwrap_or_default();
        let now = uptime();
        ensure!(now > killed_at + 0.5 && last < now - 0.5, "it works at {last}, and now is {now}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_begin_again_when_the_session_lived_on_though_its_lease_was_over() {
    // While the only server is stopped, nobody ends the session.
    let (mut cluster, pool, file) = cluster_and_pool(PoolChange::default()).await;
    let mut worker = pool.start_worker("w1", &chronicler(&file));
    pool.is_shared_by(&["w1"], 2).await;
    works(&file, "w1", 0.0).await;
    cluster.pause(1);
    worker.process().pause();
    let paused_at = uptime();
    eventually("the commands end with the lease", LIVENESS, async || {
        let (last, now) = (Work::read(&file).last_by("w1").unwrap_or_default(), uptime());
        ensure!(now > paused_at + 0.5 && last < now - 0.5, "they work at {last}, and now is {now}");
        Ok(())
    })
    .await;
    cluster.resume(1);
    worker.process().resume();
    works(&file, "w1", uptime()).await;
    assert!(worker.process().runs(), "{}", worker.process().said());
}
