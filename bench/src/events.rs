//! How long it takes until the last of many watching sessions has heard of a change.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rota_tests::zk::{Raw, create, get, set};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::systems::{Kind, System};

/// Sessions that watch one node, spread over the servers.
const WATCHERS: usize = 200;
/// Changes, one after the other.
const CHANGES: usize = 50;
const TIMEOUT_MS: i32 = 30_000;
/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);
const PATH: &str = "/watched";

/// From sending a change to the last event, in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    pub system: Kind,
    pub watchers: usize,
    pub changes: usize,
    pub p50_us: f64,
    pub max_us: f64,
}

pub async fn measure(kind: Kind) -> anyhow::Result<Told> {
    let system = System::start(kind).await?;
    let addresses = system.addresses();
    let mut writer = Raw::connect_patiently(&addresses[0], None, TIMEOUT_MS).await;
    let xid = writer.send(&create(PATH, "", 0)).await?;
    writer.answer(xid).await?.context("the node is made")?;
    let (ready, mut watching) = mpsc::channel(WATCHERS);
    let (heard, mut events) = mpsc::channel(WATCHERS);
    let mut watchers = JoinSet::new();
    for number in 0..WATCHERS {
        let client = Raw::connect_patiently(&addresses[number % addresses.len()], None, TIMEOUT_MS).await;
        watchers.spawn(watch(client, ready.clone(), heard.clone()));
    }
    let mut took = Vec::new();
    for change in 0..CHANGES {
        for _ in 0..WATCHERS {
            timeout(PATIENCE, next(&mut watching, &mut watchers)).await??;
        }
        let began = Instant::now();
        writer.send(&set(PATH, &change.to_string())).await?;
        let mut last = began;
        for _ in 0..WATCHERS {
            last = last.max(timeout(PATIENCE, next(&mut events, &mut watchers)).await??);
        }
        took.push((last - began).as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let (p50_us, max_us) = (took[CHANGES / 2], took[CHANGES - 1]);
    Ok(Told { system: kind, watchers: WATCHERS, changes: CHANGES, p50_us, max_us })
}

/// What a watcher says next; none of them may end.
async fn next<T>(
    said: &mut mpsc::Receiver<T>,
    watchers: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<T> {
    tokio::select! {
        said = said.recv() => said.context("nobody watches"),
        Some(ended) = watchers.join_next() => bail!("a watcher ended: {ended:?}"),
    }
}

/// Watches, says that it does, says when it heard, and again.
async fn watch(mut client: Raw, ready: mpsc::Sender<()>, heard: mpsc::Sender<Instant>) -> anyhow::Result<()> {
    loop {
        let xid = client.send(&get(PATH, true)).await?;
        let (header, _) = client.answer(xid).await?.context("the connection lives")?;
        ensure!(header.error == 0, "the node cannot be read");
        ready.send(()).await?;
        if client.events.pop_front().is_none() {
            client.receive().await?.context("the connection lives")?;
            client.events.clear();
        }
        heard.send(Instant::now()).await?;
    }
}
