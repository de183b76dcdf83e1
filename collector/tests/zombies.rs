//! Real collectors' processes, killed and stopped in the middle of whatever they
//! do, and continued when others have taken over: nothing is lost or doubled.
//!
//! This test binary starts itself again, as [`child`], for each process.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rota_collector::collector::checkpoint::{Checkpoint, Checkpoints};
use rota_collector::collector::fetch::Agents;
use rota_collector::collector::gaps;
use rota_collector::collector::pull::{Job, pull};
use rota_collector::collector::sink::Sink;
use serde::{Deserialize, Serialize};
use support::{Chance, Running, Store, append, bench, log, output};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// What a child process is told, as JSON.
const ORDERS: &str = "ROTA_TEST_ORDERS";

#[derive(Serialize, Deserialize)]
struct Orders {
    dir: PathBuf,
    agent: String,
    store: String,
    fence: u64,
    /// Write letters instead of pulling.
    letters: bool,
}

/// The checkpoint of a bucket in another process.
struct Remote {
    http: Client<HttpConnector, Full<Bytes>>,
    store: String,
    fence: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("the store says {0}")]
struct StoreSays(String);

impl Remote {
    async fn call(&self, method: Method, body: &Write) -> Result<Option<String>, StoreSays> {
        let body = serde_json::to_vec(body).unwrap();
        let request = Request::builder().method(method).uri(format!("http://{}/", self.store));
        let request = request.header("content-type", "application/json").body(Full::from(body)).unwrap();
        let response = self.http.request(request).await.map_err(|e| StoreSays(e.to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(StoreSays(response.status().to_string()));
        }
        let body = response.collect().await.map_err(|e| StoreSays(e.to_string()))?.to_bytes();
        Ok(serde_json::from_slice(&body).unwrap())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Write {
    fence: u64,
    data: String,
}

impl Checkpoints for Remote {
    type Error = StoreSays;

    async fn read(&self) -> Result<Option<String>, StoreSays> {
        self.call(Method::GET, &Write::default()).await
    }

    async fn write(&self, data: String) -> Result<(), StoreSays> {
        self.call(Method::PUT, &Write { fence: self.fence, data }).await.map(drop)
    }
}

/// A collector's process. Does nothing when it is run as a test.
#[test]
fn child() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let Orders { dir, agent, store, fence, letters } = serde_json::from_str(&orders).unwrap();
    let http = Client::builder(TokioExecutor::new()).build_http();
    let job = Job {
        place: support::place(&dir, "x.log"),
        address: agent,
        fence,
        checkpoints: Remote { http, store, fence },
        agents: Agents::default(),
        lock_wait: Duration::from_millis(100),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        match letters {
            false => pull(&job, &CancellationToken::new(), |_| {}).await.map_err(|error| error.to_string()),
            true => write_letters(&job).await.map_err(|error| error.to_string()),
        }
    });
    eprintln!("fence {fence}: {ended:?}");
}

/// How long the output of [`write_letters`] becomes.
const LETTERS: u64 = 8 << 20;
/// How much of it is written at once: little, so that a stop often falls between
/// the look at the claims and the write.
const AT_ONCE: usize = 1 << 8;

/// What the holder of this grant writes: nothing but its letter, so that one
/// byte of another owner shows.
fn letter(fence: u64) -> u8 {
    b'a' + u8::try_from(fence % 26).unwrap()
}

/// Does nothing but write, so that a stop nearly always falls within a write.
async fn write_letters(job: &Job<Remote>) -> Result<(), Box<dyn std::error::Error>> {
    let saved = job.checkpoints.read().await?.map(|data| Checkpoint::decode(&data)).transpose()?;
    let mut sink =
        Sink::claim(job.place.clone(), job.fence, saved.map(|saved| saved.out_len), job.lock_wait)?;
    let letters = Bytes::from(vec![letter(job.fence); AT_ONCE]);
    loop {
        if sink.len() % (1 << 17) == 0 {
            sink.sync()?;
            let len = sink.len();
            let checkpoint =
                Checkpoint { incarnation: 1, offset: len, out_len: len, ..Checkpoint::default() };
            job.checkpoints.write(checkpoint.encode()).await?;
        }
        match sink.len() {
            len if len < LETTERS => sink.append(std::slice::from_ref(&letters))?,
            _ => sink.as_owner(|| {
                // A stop may fall here too, while the lock is held.
                std::thread::yield_now();
                Ok(())
            })?,
        }
    }
}

/// Serves a store to the children.
async fn serve(store: Arc<Store>) -> String {
    async fn read(State(store): State<Arc<Store>>) -> Json<Option<String>> {
        Json(store.checkpoint().map(|checkpoint| checkpoint.encode()))
    }
    async fn write(State(store): State<Arc<Store>>, Json(body): Json<Write>) -> Result<Json<()>, StatusCode> {
        store.write(body.fence, body.data).map(Json).map_err(|_| StatusCode::CONFLICT)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route("/", get(read).put(write)).with_state(store);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A collector's process, and the fence that it works with. Killed when it is
/// dropped.
struct Process {
    fence: u64,
    child: Child,
}

impl Process {
    fn start(orders: &Orders) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(ORDERS, serde_json::to_string(orders).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { fence: orders.fence, child }
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
    }
}

/// Waits until each of them has found out that it is not the owner: it has ended,
/// or tries in vain to write a checkpoint.
async fn find_out(mut zombies: Vec<Process>, store: &Store) {
    support::until("every zombie has found out", || {
        zombies.retain_mut(|z| z.child.try_wait().unwrap().is_none() && !store.has_refused(z.fence));
        zombies.is_empty()
    })
    .await;
}

/// Writes 40 MB in three files, of which two are rotated away.
async fn write(path: &Path, chance: &mut Chance) -> Vec<u8> {
    let mut written = Vec::new();
    for round in 0..3 {
        for line in 0..400 {
            let length = usize::try_from(chance.below(70_000)).unwrap();
            let text = format!("{round}.{line} {}\n", "x".repeat(length));
            append(path, &text);
            written.extend_from_slice(text.as_bytes());
            if line % 4 == 0 {
                sleep(Duration::from_millis(chance.below(20))).await;
            }
        }
        if round < 2 {
            fs::rename(path, path.with_extension(round.to_string())).unwrap();
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_stopped_and_continued() {
    for seed in support::seeds(1) {
        kill_stop_and_continue(seed).await;
    }
}

async fn kill_stop_and_continue(seed: u64) {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "");
    let agent = Running::start(dir.path(), "x.log", Duration::from_millis(200)).await;
    let store = Arc::new(Store::default());
    let address = serve(Arc::clone(&store)).await;

    let (mut chance, mut writes) = (Chance(seed), Chance(seed + 1000));
    let writer_path = path.clone();
    let writer = tokio::spawn(async move { write(&writer_path, &mut writes).await });
    let (mut stopped, mut awake): (Vec<Process>, Vec<Process>) = Default::default();
    let (mut kills, mut stops, mut inodes) = (0, 0, BTreeSet::new());
    let deadline = Instant::now() + 2 * support::DEADLINE;
    let mut written = None;
    let mut writer = Some(writer);
    loop {
        if writer.as_ref().is_some_and(|writer| writer.is_finished()) {
            written = Some(writer.take().unwrap().await.unwrap());
        }
        if written.as_ref().is_some_and(|written| *written == output(dir.path(), "x.log")) {
            break;
        }
        assert!(Instant::now() < deadline, "not complete after {kills} kills and {stops} stops");
        inodes.extend(fs::metadata(support::place(dir.path(), "x.log").output).map(|meta| meta.ino()));
        let fence = store.grant().fence;
        let (agent, store) = (agent.address.clone(), address.clone());
        let orders = Orders { dir: dir.path().to_owned(), agent, store, fence, letters: false };
        let process = Process::start(&orders);
        sleep(Duration::from_millis(chance.below(200))).await;
        // Another wakes up while this one works.
        if !stopped.is_empty() && chance.below(2) == 0 {
            let woken = stopped.remove(usize::try_from(chance.below(stopped.len() as u64)).unwrap());
            woken.signal(Signal::SIGCONT);
            awake.push(woken);
        }
        sleep(Duration::from_millis(20 + chance.below(300))).await;
        if chance.below(3) == 0 {
            drop(process);
            kills += 1;
        } else {
            process.signal(Signal::SIGSTOP);
            stopped.push(process);
            stops += 1;
        }
    }
    eprintln!("seed {seed}: {kills} kills, {stops} stops, {} outputs", inodes.len());
    // All awake, and with something more to write: only one of them may.
    stopped.iter().for_each(|zombie| zombie.signal(Signal::SIGCONT));
    let fence = store.grant().fence;
    let (at, agent_address) = (dir.path().to_owned(), agent.address.clone());
    let orders = Orders { dir: at, agent: agent_address, store: address, fence, letters: false };
    let owner = Process::start(&orders);
    append(&path, "the last line\n");
    let written = [written.unwrap(), b"the last line\n".to_vec()].concat();
    support::until("the owner writes it", || written == output(dir.path(), "x.log")).await;
    find_out(stopped.into_iter().chain(awake).collect(), &store).await;
    drop(owner);
    assert!(written == output(dir.path(), "x.log"), "a zombie has changed the output");
    assert!(gaps::read(&dir.path().join("out")).unwrap().is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_within_writes() {
    for seed in support::seeds(1) {
        let dir = bench();
        let (store, mut chance) = (Arc::new(Store::default()), Chance(seed));
        let address = serve(Arc::clone(&store)).await;
        let mut zombies: Vec<Process> = Vec::new();
        let mut inodes = BTreeSet::new();
        let deadline = Instant::now() + 2 * support::DEADLINE;
        while zombies.len() < 12 || store.checkpoint().is_none_or(|c| c.out_len < LETTERS) {
            assert!(Instant::now() < deadline, "not complete: {:?}", store.checkpoint());
            let (dir, fence) = (dir.path().to_owned(), store.grant().fence);
            let orders = Orders {
                dir: dir.clone(),
                agent: String::new(),
                store: address.clone(),
                fence,
                letters: true,
            };
            zombies.push(Process::start(&orders));
            sleep(Duration::from_millis(chance.below(400))).await;
            inodes.extend(fs::metadata(support::place(&dir, "x.log").output).map(|meta| meta.ino()));
            zombies.iter().for_each(|zombie| zombie.signal(Signal::SIGSTOP));
            for _ in 0..2 {
                let at = usize::try_from(chance.below(zombies.len() as u64)).unwrap();
                zombies[at].signal(Signal::SIGCONT);
            }
        }
        zombies.iter().for_each(|zombie| zombie.signal(Signal::SIGCONT));
        let owner = zombies.pop();
        find_out(zombies, &store).await;
        drop(owner);
        eprintln!("seed {seed}: {} outputs", inodes.len());
        let (output, mut from) = (output(dir.path(), "x.log"), 0);
        for (fence, to) in store.history() {
            let to = usize::try_from(to).unwrap();
            let foreign = output[from..to].iter().position(|byte| *byte != letter(fence));
            assert_eq!(foreign, None, "the part from {from} to {to} is what fence {fence} put down");
            from = to;
        }
        assert_eq!(output.len() as u64, LETTERS);
    }
}
