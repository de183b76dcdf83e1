//! Seed corpus of the fuzz targets in `fuzz/`: traffic between the servers and clients of a small
//! cluster, and the files of its data directories.

mod files;
mod http;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rota_client::Client;
use rota_core::pool::layout::FOLDERS;
use rota_protocol::http::{NodeCreate, PoolChange, PoolKind, TableBody};
use rota_protocol::peer::{self, AppendRequest, Hello, Payload, StreamKind};
use rota_tests::{Call, Cluster, ConnectionTrace, DelayProxies, Pool, Settings, Traces};
use serde_json::json;

use crate::load::{Operation, Protocol};
use crate::loaded::{Loaded, Plan};

/// Most seeds per target and message kind.
const SEEDS_MAX: usize = 8;
/// Largest seed, in bytes.
const SEED_BYTES_MAX: usize = 16 * 1024;

/// Record a seed corpus for the fuzz targets from a small cluster's traffic and files.
#[derive(Debug, Clone, Args)]
pub struct SeedCorpusArgs {
    /// Output directory; one subdirectory per target.
    #[arg(long, default_value = "fuzz/seeds")]
    out: PathBuf,
}

pub async fn run(args: &SeedCorpusArgs) -> anyhow::Result<()> {
    let mut proxies = DelayProxies::new(Duration::ZERO);
    let mut cluster = Cluster::prepare(3, Settings { alone: true, ..Settings::default() }).await;
    let mut traffic = Vec::new();
    cluster.route_peers(|_, port| {
        let (proxy, recorded) = proxies.recording_proxy(port)?;
        traffic.push(recorded);
        Ok(proxy)
    })?;
    for id in cluster.ids() {
        cluster.restart(id);
    }
    cluster.all_follow_one_leader().await;
    let zookeeper: SocketAddr = cluster.zookeeper(2).parse()?;
    let (port, clients) = proxies.recording_proxy(zookeeper.port())?;
    let server: SocketAddr = cluster.http(2).parse()?;
    let (http_port, http_clients) = proxies.recording_proxy(server.port())?;
    http::generate_traffic(&Client::new([format!("127.0.0.1:{http_port}")])?).await?;
    let mut seeds = SeedCorpus::default();
    // Later ones are too large.
    let leader = cluster.leader().await;
    take_snapshot(&cluster, leader).await?;
    seeds.add_snapshots(&cluster.data(leader))?;
    generate_traffic(&mut cluster, &format!("127.0.0.1:{port}")).await?;

    for recorded in &traffic {
        each(recorded, |trace| seeds.add_peer_traffic(trace));
    }
    each(&clients, |trace| seeds.add_client_traffic(trace));
    each(&http_clients, |trace| seeds.add_http_traffic(trace));
    for bytes in files::agent_files(&cluster).await? {
        seeds.add("agent_files", 0, bytes);
    }
    for (path, data) in files::pool_nodes(&cluster).await? {
        let folder = path.split('/').nth(4);
        match folder.and_then(|folder| FOLDERS.iter().position(|known| *known == folder)) {
            Some(number) if FOLDERS[number] == "checkpoints" => seeds.add("agent_files", 1, data),
            Some(number) => seeds.add("pool_json", u8::try_from(number)? + 1, data),
            // The pool itself, and its plan.
            None => seeds.add("pool_json", 0, data),
        }
    }
    for bytes in files::zookeeper_files().await? {
        // A log is filled with zeros.
        seeds.add("zk_disk", 0, bytes.into_iter().take(SEED_BYTES_MAX).collect());
    }
    for id in cluster.ids() {
        cluster.stop_in_order(id).await;
        seeds.add_data_directory(&cluster.data(id))?;
    }
    seeds.write(&args.out)
}

/// Generates at least one message of each kind.
async fn generate_traffic(cluster: &mut Cluster, zookeeper: &str) -> anyhow::Result<()> {
    for operation in [Operation::Create, Operation::Multi, Operation::Mix] {
        let plan = Plan {
            protocol: Protocol::Zookeeper,
            servers: vec![zookeeper.to_owned()],
            operation,
            connections: 2,
            outstanding: 2,
            value_bytes: 64,
            keys: 50,
            filled: false,
            warm_up: Duration::ZERO,
            time: Duration::from_millis(200),
            run: 0,
        };
        Loaded::begin(&plan).await?.report().await?;
    }
    let ttl = NodeCreate { ttl_ms: Some(60_000), ..NodeCreate::default() };
    let _: serde_json::Value = cluster.ask(1, Call::post("/v1/nodes/ttl", &ttl)).await.ok()?;
    let settings = PoolChange { buckets: Some(4), rejoin_grace_ms: Some(1_000), ..PoolChange::default() };
    let pool = Pool::create(cluster, "seeds", PoolKind::Hashed, settings, Duration::from_secs(4)).await;
    let [_one, two] = [pool.join("one").await, pool.join("two").await];
    pool.is_shared_by(&["one", "two"], 4).await;
    drop(two);
    let leader = cluster.leader().await;
    take_snapshot(cluster, leader).await?;
    // The next leader asks for votes.
    cluster.stop_in_order(leader).await;
    cluster.restart(leader);
    cluster.all_follow_one_leader().await;
    Ok(())
}

async fn take_snapshot(cluster: &Cluster, server: u64) -> anyhow::Result<()> {
    let taken = cluster.ask(server, Call::post("/v1/cluster/snapshot", &())).await;
    anyhow::ensure!(taken.status == 200, "no snapshot: {}", taken.text());
    Ok(())
}

fn each(recorded: &Traces, mut look: impl FnMut(&ConnectionTrace)) {
    let all = recorded.lock().expect("the lock is not poisoned");
    all.iter().for_each(|trace| look(trace));
}

/// Seeds by target and kind.
#[derive(Default)]
struct SeedCorpus {
    found: BTreeMap<(&'static str, u8), Vec<Vec<u8>>>,
}

impl SeedCorpus {
    fn add(&mut self, target: &'static str, kind: u8, bytes: Vec<u8>) {
        let found = self.found.entry((target, kind)).or_default();
        if found.len() < SEEDS_MAX && bytes.len() <= SEED_BYTES_MAX && !found.contains(&bytes) {
            found.push(bytes);
        }
    }

    /// A message of a kind that the target `peer_message` knows by its first byte.
    fn add_message(&mut self, kind: u8, bytes: &[u8]) {
        self.add("peer_message", kind, [&[kind], bytes].concat());
    }

    fn add_peer_traffic(&mut self, trace: &ConnectionTrace) {
        let there = trace.to_server.lock().expect("the lock is not poisoned");
        let back = trace.to_client.lock().expect("the lock is not poisoned");
        self.add("peer_frames", 0, there.iter().copied().take(SEED_BYTES_MAX).collect());
        let (there, back) = (frames(&there), frames(&back));
        let Some(hello) = there.first() else { return };
        self.add_message(0, hello);
        back.first().into_iter().for_each(|welcome| self.add_message(1, welcome));
        let Ok(Hello { kind, .. }) = peer::decode(hello) else { return };
        let (request_kind, reply_kind) = match kind {
            StreamKind::Append => (Some(2), Some(3)),
            StreamKind::Call => (Some(4), Some(5)),
            StreamKind::Snapshot => (Some(6), Some(7)),
            StreamKind::Units | StreamKind::Probe => (None, None),
        };
        for frame in there.iter().skip(1) {
            if let Some(request_kind) = request_kind {
                self.add_message(request_kind, frame);
            }
            if kind == StreamKind::Units {
                self.add("unit", 0, frame.to_vec());
            }
            if let Some(AppendRequest { entries, .. }) =
                (kind == StreamKind::Append).then(|| peer::decode(frame).ok()).flatten()
            {
                for entry in entries {
                    if let Payload::Batch(batch) = entry.payload {
                        self.add("batch", 0, batch.to_vec());
                    }
                }
            }
            if kind == StreamKind::Snapshot {
                // Only the head is a message; the blocks after it are raw.
                break;
            }
        }
        if let Some(reply_kind) = reply_kind {
            back.iter().skip(1).for_each(|frame| self.add_message(reply_kind, frame));
        }
    }

    fn add_client_traffic(&mut self, trace: &ConnectionTrace) {
        let there = trace.to_server.lock().expect("the lock is not poisoned");
        self.add("zk_request", 0, there.iter().copied().take(2048).collect());
        // Frame: length, xid, opcode, body.
        let mut rest = &there[..];
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let Some(frame) = after.get(..u32::from_be_bytes(*len) as usize) else { break };
            if let Some(op) = frame.get(4..8) {
                self.add("zk_request", op[3], frame[4..].to_vec());
            }
            rest = &after[frame.len()..];
        }
    }

    fn add_http_traffic(&mut self, trace: &ConnectionTrace) {
        let there = trace.to_server.lock().expect("the lock is not poisoned");
        let back = trace.to_client.lock().expect("the lock is not poisoned");
        let (requests, responses) = (http::messages(&there), http::messages(&back));
        for (request, response) in requests.iter().zip(&responses) {
            if let Some(kind) = http::kind(request.first_line) {
                self.add("http_body", kind, [&[kind], request.body].concat());
            }
            if request.first_line.contains("/table") {
                self.add("client_table", 0, response.body.to_vec());
                self.add_cached_table(response.body);
            }
        }
    }

    /// The records that the client's cache keeps of a table, one a line.
    fn add_cached_table(&mut self, body: &[u8]) {
        let Ok(table) = serde_json::from_slice::<TableBody>(body) else { return };
        let head = json!({"format": 1, "confirmed_at_ms": 1, "version": table.version, "hashed": table.hashed,
            "addresses": table.addresses, "rows": table.rows.len()});
        let rows = table.rows.iter().map(|row| json!(row).to_string());
        let lines: Vec<String> = std::iter::once(head.to_string()).chain(rows).collect();
        self.add("client_table", 1, lines.join("\n").into_bytes());
    }

    fn add_data_directory(&mut self, directory: &Path) -> anyhow::Result<()> {
        for (name, kind) in [("identity.json", 0), ("log-position", 1)] {
            self.add("data_files", kind, fs::read(directory.join(name))?);
        }
        for file in fs::read_dir(directory.join("log"))? {
            // A log may be cut anywhere.
            self.add("log_file", 0, fs::read(file?.path())?.into_iter().take(SEED_BYTES_MAX).collect());
        }
        Ok(())
    }

    fn add_snapshots(&mut self, directory: &Path) -> anyhow::Result<()> {
        for file in fs::read_dir(directory.join("snapshots"))? {
            let bytes = fs::read(file?.path())?;
            // A file has a head of its own before the state.
            if let Some(state) = bytes.windows(8).position(|bytes| bytes == b"ROTASNAP") {
                self.add("snapshot", 0, bytes[state..].to_vec());
            }
        }
        Ok(())
    }

    fn write(&self, out: &Path) -> anyhow::Result<()> {
        for ((target, kind), seeds) in &self.found {
            let folder = out.join(target);
            fs::create_dir_all(&folder)?;
            for (number, seed) in seeds.iter().enumerate() {
                fs::write(folder.join(format!("{kind}-{number}")), seed)?;
            }
            println!("{target} {kind}: {} seeds", seeds.len());
        }
        Ok(())
    }
}

/// Payloads of frames between servers: `[length: u32 be][crc32: u32 be][payload]`.
fn frames(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = stream.split_first_chunk::<8>() {
        let [a, b, c, d, ..] = *head;
        let Some(payload) = rest.get(..u32::from_be_bytes([a, b, c, d]) as usize) else { break };
        frames.push(payload);
        stream = &rest[payload.len()..];
    }
    frames
}
