//! Pools, and workers that join them: as processes and inside the test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::ensure;
use rota_client::Client;
use rota_protocol::http::{JoinPool, MemberBody, PoolBody, PoolChange, PoolCreate, PoolKind, TableBody};
use rota_worker::{Handler, HandlerError, JoinOptions, Lease, Worker, monotonic_ns};

use crate::call::Call;
use crate::cluster::{Cluster, LIVENESS};
use crate::eventually::eventually;
use crate::histories::{Fate, Histories};
use crate::process::Process;

/// The part of a timeout for which a lease certainly still holds when its worker
/// is paused: a keep-alive is sent every fifth of it, a fiftieth is margin, and
/// the rest is for a slow machine.
const SURELY_HELD_PERCENT: u64 = 60;

/// A pool, and the histories of all who worked in it.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    servers: Vec<String>,
    dir: PathBuf,
    timeout: Duration,
    fates: Arc<Mutex<BTreeMap<String, Fate>>>,
}

impl Pool {
    /// Creates a hashed pool whose workers have sessions of this timeout.
    pub async fn hashed(cluster: &Cluster, name: &str, buckets: u32, timeout: Duration) -> Self {
        let settings = PoolChange { buckets: Some(buckets), ..PoolChange::default() };
        Self::create(cluster, name, PoolKind::Hashed, settings, timeout).await
    }

    /// Creates a named pool, without items.
    pub async fn named(cluster: &Cluster, name: &str, timeout: Duration) -> Self {
        Self::create(cluster, name, PoolKind::Named, PoolChange::default(), timeout).await
    }

    /// Creates a pool with whatever settings.
    pub async fn create(
        cluster: &Cluster,
        name: &str,
        kind: PoolKind,
        settings: PoolChange,
        timeout: Duration,
    ) -> Self {
        let body = PoolCreate { name: name.to_owned(), kind, settings };
        let created = cluster.ask(cluster.leader().await, Call::post("/v1/pools", &body)).await;
        let _: PoolBody = created.ok().expect("the pool is created");
        let dir = cluster.dir().join(format!("pool-{name}"));
        std::fs::create_dir_all(&dir).expect("there is room for temporary files");
        Self { name: name.to_owned(), servers: cluster.addresses(), dir, timeout, fates: Arc::default() }
    }

    /// The path of something of the pool's, as `/v1/pools/NAME/` and `rest`.
    #[must_use]
    pub fn path(&self, rest: &str) -> String {
        format!("/v1/pools/{}/{rest}", self.name)
    }

    /// The timeout of its workers' sessions.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    fn history(&self, member: &str) -> (String, PathBuf) {
        // Each life of a member has a history of its own.
        let lives = (1..).map(|life| format!("{member}.{life}.history"));
        let mut unused = lives.map(|file| (file.clone(), self.dir.join(file)));
        unused.find(|(_, path)| !path.exists()).expect("there are numbers enough")
    }

    /// A worker process that runs `command` for every bucket.
    #[must_use]
    pub fn start_worker(&self, member: &str, command: &str) -> ExecWorker {
        self.start_worker_with(member, command, &[])
    }

    /// As [`Pool::start_worker`], with more flags.
    #[must_use]
    pub fn start_worker_with(&self, member: &str, command: &str, flags: &[&str]) -> ExecWorker {
        self.start_worker_at(&self.servers, member, command, flags)
    }

    /// As [`Pool::start_worker_with`], with other addresses of the servers.
    #[must_use]
    pub fn start_worker_at(
        &self,
        servers: &[String],
        member: &str,
        command: &str,
        flags: &[&str],
    ) -> ExecWorker {
        let (file, history) = self.history(member);
        let timeout = format!("{}ms", self.timeout.as_millis());
        let servers = servers.join(",");
        let history = history.display().to_string();
        let args = [
            "worker",
            "--servers",
            &servers,
            "--pool",
            &self.name,
            "--name",
            member,
            "--session-timeout",
            &timeout,
            "--history",
            &history,
            "--exec",
            command,
        ];
        let args = args.iter().chain(flags);
        let process = Process::start(args, &self.dir.join(format!("../{}-{member}.log", self.name)));
        let fates = Arc::clone(&self.fates);
        ExecWorker { process, file, timeout: self.timeout, fates, paused_ns: 0 }
    }

    /// A worker inside the test, with a handler that does nothing.
    ///
    /// # Panics
    /// When it cannot join.
    pub async fn join(&self, member: &str) -> Worker {
        self.join_with(member, Hold).await
    }

    /// A worker inside the test, with a handler.
    ///
    /// # Panics
    /// When it cannot join.
    pub async fn join_with<H: Handler>(&self, member: &str, handler: H) -> Worker {
        self.join_as(JoinPool { name: member.to_owned(), ..JoinPool::default() }, handler).await
    }

    /// A worker inside the test, that says this of itself.
    ///
    /// # Panics
    /// When it cannot join.
    pub async fn join_as<H: Handler>(&self, join: JoinPool, handler: H) -> Worker {
        let client = Client::new(self.servers.iter().cloned()).expect("the addresses are sound");
        let options = JoinOptions {
            history: Some(self.history(&join.name).1),
            join,
            pool: self.name.clone(),
            session_timeout: self.timeout,
        };
        Worker::join(client, options, handler).await.expect("the worker can join")
    }

    /// What all its workers wrote down until now.
    #[must_use]
    pub fn histories(&self) -> Histories {
        Histories::read(&self.dir, &self.fates.lock().expect("no test panics while it holds this"))
    }

    /// Its table, from the first server that answers.
    ///
    /// # Errors
    /// When none answers.
    pub async fn table(&self) -> anyhow::Result<TableBody> {
        Ok(self.client().get(&self.path("table?consistent=true")).await?)
    }

    /// Its members, from the first server that answers.
    ///
    /// # Errors
    /// When none answers.
    pub async fn members(&self) -> anyhow::Result<Vec<MemberBody>> {
        Ok(self.client().get(&self.path("members?consistent=true")).await?)
    }

    fn client(&self) -> Client {
        let client = Client::new(self.servers.iter().cloned()).expect("the addresses are sound");
        client.with_deadline(Duration::from_secs(2))
    }

    /// Waits until these members, and nobody else, work on all `buckets`, each
    /// with its fair share, and say so in their histories.
    pub async fn is_shared_by(&self, members: &[&str], buckets: usize) {
        self.is_shared_within(members, buckets, LIVENESS).await;
    }

    /// As [`Pool::is_shared_by`], with a deadline.
    pub async fn is_shared_within(&self, members: &[&str], buckets: usize, within: Duration) {
        let (least, most) = (buckets / members.len(), buckets.div_ceil(members.len()));
        let fair = |shares: &BTreeMap<String, usize>| {
            let each =
                members.iter().all(|name| shares.get(*name).is_some_and(|n| (least..=most).contains(n)));
            each && shares.len() == members.len() && shares.values().sum::<usize>() == buckets
        };
        let what = format!("{members:?} share {buckets} buckets of {}", self.name);
        eventually(&what, within, async || {
            let shares = self.histories().shares(&[]);
            ensure!(fair(&shares), "they have {shares:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until the members work on so many buckets each, not counting what
    /// those among `frozen` believe to work on.
    pub async fn has_shares(&self, wanted: &[(&str, usize)], frozen: &[&str]) {
        let wanted: BTreeMap<String, usize> =
            wanted.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        eventually(&format!("the shares of {} are {wanted:?}", self.name), LIVENESS, async || {
            let shares = self.histories().shares(frozen);
            ensure!(shares == wanted, "they are {shares:?}");
            Ok(())
        })
        .await;
    }
}

/// A handler that does nothing until its lease is cancelled.
#[derive(Debug, Clone, Copy)]
pub struct Hold;

impl Handler for Hold {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        lease.cancelled().await;
        Ok(())
    }
}

/// A worker process. What is done to it is taken into account when its history
/// is read.
#[derive(Debug)]
pub struct ExecWorker {
    process: Process,
    file: String,
    timeout: Duration,
    fates: Arc<Mutex<BTreeMap<String, Fate>>>,
    paused_ns: u64,
}

impl ExecWorker {
    /// Kills it with SIGKILL. Returns when, by `CLOCK_MONOTONIC`.
    pub fn kill9(&mut self) -> u64 {
        let at_ns = self.process.kill9();
        self.meets(Fate::Killed { at_ns });
        at_ns
    }

    /// Stops it where it stands (SIGSTOP). Returns when, by `CLOCK_MONOTONIC`.
    pub fn pause(&mut self) -> u64 {
        self.paused_ns = monotonic_ns();
        self.process.pause();
        self.paused_ns
    }

    /// Lets it go on (SIGCONT), after others have taken over from it. Returns when,
    /// by `CLOCK_MONOTONIC`.
    pub fn resume(&mut self) -> u64 {
        let resumed_ns = monotonic_ns();
        let timeout_ns = u64::try_from(self.timeout.as_nanos()).expect("tests are short");
        let held_ns = self.paused_ns + timeout_ns / 100 * SURELY_HELD_PERCENT;
        assert!(resumed_ns > held_ns, "this is for pauses beyond the lease");
        self.meets(Fate::Paused { held_ns, resumed_ns });
        self.process.resume();
        resumed_ns
    }

    fn meets(&self, fate: Fate) {
        let mut fates = self.fates.lock().expect("no test panics while it holds this");
        fates.insert(self.file.clone(), fate);
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
