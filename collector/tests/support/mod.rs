//! What the tests of this folder share: a real agent on a real socket, and
//! checkpoints in memory that are fenced as the coordinator's are.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rota_collector::agent::confirm::{CheckpointSource, ReadError};
use rota_collector::agent::rooted_fs::Links;
use rota_collector::agent::{Agent, AgentError, AgentOptions};
use rota_collector::collector::checkpoint::{Checkpoint, Checkpoints};
use rota_collector::collector::fetch::Agents;
use rota_collector::collector::pull::{Job, pull};
use rota_collector::collector::sink::{Modes, Place};
use rota_collector::naming::{item_name, labels};
use rota_collector::wire::Sources;
use rota_core::pool::Item;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// An agent of application `app` on host `host`.
pub struct Running {
    pub address: String,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts an agent that follows `glob` below `dir`/logs.
    pub async fn start(dir: &Path, glob: &str, scan_interval: Duration) -> Self {
        Self::start_with(dir, glob, scan_interval, Arc::new(Store::default())).await
    }

    /// The same; the checkpoint of its source is in `store`.
    pub async fn start_with(dir: &Path, glob: &str, scan_interval: Duration, store: Arc<Store>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let agent = open(dir, glob, scan_interval).unwrap();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { agent.run(listener, store, stop).await.unwrap() });
        Self { address, shutdown, task }
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// Opens an agent that follows `glob` below `dir`/logs.
pub fn open(dir: &Path, glob: &str, scan_interval: Duration) -> Result<Agent, AgentError> {
    Agent::open(AgentOptions {
        app: "app".into(),
        host: "host".into(),
        globs: vec![format!("{}/logs/{glob}", dir.display())],
        exclude: Vec::new(),
        state_dir: dir.join("state"),
        scan_interval,
        links: Links::Refused,
        open_files_max: 100,
        connections_max: 100,
    })
}

/// Checkpoints of one bucket, which the holders of all grants share.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Inner>,
    /// How often an agent has read it.
    reads: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    fence: u64,
    data: Option<String>,
    only: Option<u64>,
    history: Vec<(u64, u64)>,
    refused: BTreeSet<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("stale fence")]
pub struct Stale;

impl Store {
    /// Grants the bucket anew: earlier grants can write no more.
    pub fn grant(self: &Arc<Self>) -> Granted {
        let mut inner = self.inner.lock().unwrap();
        inner.fence += 1;
        Granted { store: Arc::clone(self), fence: inner.fence }
    }

    /// How often an agent has read it.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let inner = self.inner.lock().unwrap();
        inner.data.as_deref().map(|data| Checkpoint::decode(data).unwrap())
    }

    pub fn write(&self, fence: u64, data: String) -> Result<(), Stale> {
        let mut inner = self.inner.lock().unwrap();
        let Checkpoint { incarnation, out_len, .. } = Checkpoint::decode(&data).unwrap();
        if inner.fence != fence || inner.only.is_some_and(|only| only != incarnation) {
            inner.refused.insert(fence);
            return Err(Stale);
        }
        inner.history.push((fence, out_len));
        inner.data = Some(data);
        Ok(())
    }

    /// All checkpoints: by which fence, and how long the output was.
    pub fn history(&self) -> Vec<(u64, u64)> {
        self.inner.lock().unwrap().history.clone()
    }

    /// Whether a checkpoint of that fence was ever refused.
    pub fn has_refused(&self, fence: u64) -> bool {
        self.inner.lock().unwrap().refused.contains(&fence)
    }

    /// Refuses checkpoints of other incarnations, as if the owner died before
    /// it could write one.
    pub fn only(&self, incarnation: Option<u64>) {
        self.inner.lock().unwrap().only = incarnation;
    }

    pub fn set(&self, checkpoint: Option<Checkpoint>) {
        self.inner.lock().unwrap().data = checkpoint.map(|c| c.encode());
    }
}

impl CheckpointSource for Store {
    fn read<'a>(&'a self, _item: &'a str) -> BoxFuture<'a, Result<Option<String>, ReadError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(self.inner.lock().unwrap().data.clone()) })
    }
}

/// One grant.
#[derive(Debug)]
pub struct Granted {
    store: Arc<Store>,
    pub fence: u64,
}

impl Checkpoints for Granted {
    type Error = Stale;

    async fn read(&self) -> Result<Option<String>, Stale> {
        tokio::task::yield_now().await;
        Ok(self.store.inner.lock().unwrap().data.clone())
    }

    async fn write(&self, data: String) -> Result<(), Stale> {
        tokio::task::yield_now().await;
        self.store.write(self.fence, data)?;
        // The answer takes its time, and may find nobody any more.
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// The work on `file` under a new grant, into `dir`/out.
pub fn job(dir: &Path, address: &str, file: &str, store: &Arc<Store>, agents: &Agents) -> Job<Granted> {
    let checkpoints = store.grant();
    Job {
        place: place(dir, file),
        address: address.to_owned(),
        fence: checkpoints.fence,
        checkpoints,
        agents: agents.clone(),
        lock_wait: Duration::from_millis(200),
    }
}

/// Starts a puller of `x.log` under a new grant, for as long as it is not aborted.
pub fn start(dir: &Path, address: &str, store: &Arc<Store>, agents: &Agents) -> JoinHandle<()> {
    let job = job(dir, address, "x.log", store, agents);
    tokio::spawn(async move {
        let outcome = pull(&job, &CancellationToken::new(), |_| {}).await;
        panic!("nobody stopped it: {outcome:?}");
    })
}

/// Where the output of `file` is in `dir`/out.
pub fn place(dir: &Path, file: &str) -> Place {
    let item = Item { labels: labels("app", "host", file), ..Item::default() };
    Place::of(&dir.join("out"), &item_name("app", "host", file), &item, Modes::default()).unwrap()
}

pub fn item(file: &str) -> String {
    item_name("app", "host", file)
}

/// A directory with an empty directory `logs`.
pub fn bench() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("logs")).unwrap();
    dir
}

pub fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join("logs").join(name)
}

pub fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

pub fn output(dir: &Path, file: &str) -> Vec<u8> {
    fs::read(dir.join("out/app/host").join(file)).unwrap_or_default()
}

/// Asks an agent.
pub async fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut request = Request::get(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client.request(request.body(Empty::new()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

/// What an agent serves.
pub async fn sources(address: &str) -> Sources {
    serde_json::from_slice(get(address, "/v1/sources", &[]).await.body()).unwrap()
}

/// Waits until an agent knows that the last incarnation of its only source is so
/// long.
pub async fn until_size(address: &str, size: u64) {
    until_seen("the agent has seen it", async || {
        let known = sources(address).await.sources[0].incarnations.last().map(|last| last.size);
        if known >= Some(size) { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
}

/// Waits until `reached` says so.
pub async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    until_seen(what, async || if reached() { Ok(()) } else { Err(String::new()) }).await;
}

/// Waits until `look` sees it; what it saw instead is told when it does not.
pub async fn until_seen<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(saw) => assert!(Instant::now() < deadline, "not reached: {what}: {saw}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// The seeds to try: `count` of them, or those in `ROTA_TEST_SEEDS` (`from..to`).
pub fn seeds(count: u64) -> std::ops::Range<u64> {
    let given = std::env::var("ROTA_TEST_SEEDS").ok();
    let range = given.as_deref().and_then(|range| range.split_once(".."));
    range.map_or(1..count + 1, |(from, to)| from.parse().unwrap()..to.parse().unwrap())
}

/// Chance from a seed (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
