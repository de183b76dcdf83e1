//! How long it takes until the last of many watching sessions has heard of a change.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::systems::{Kind, System};
use crate::watching::Client;

/// Sessions that watch one node, spread over the servers.
const WATCHERS: usize = 200;
/// Changes, one after the other.
const CHANGES: usize = 50;
/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

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
    let mut writer = Client::connect(kind, &system.follower().await).await?;
    writer.make().await?;
    let (ready, mut watching) = mpsc::channel(WATCHERS);
    let (heard, mut events) = mpsc::channel(WATCHERS);
    let mut watchers = JoinSet::new();
    for number in 0..WATCHERS {
        let client = Client::connect(kind, &addresses[number % addresses.len()]).await?;
        watchers.spawn(watch(client, ready.clone(), heard.clone()));
    }
    let mut took = Vec::new();
    for change in 0..CHANGES {
        for _ in 0..WATCHERS {
            timeout(PATIENCE, next(&mut watching, &mut watchers)).await??;
        }
        let began = Instant::now();
        writer.change(&change.to_string()).await?;
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
async fn watch(
    mut client: Client,
    ready: mpsc::Sender<()>,
    heard: mpsc::Sender<Instant>,
) -> anyhow::Result<()> {
    loop {
        client.watch().await?;
        ready.send(()).await?;
        client.hear().await?;
        heard.send(Instant::now()).await?;
    }
}
