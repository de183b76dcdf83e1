//! Servers that hold a million nodes: a snapshot under load, memory, and how long a
//! restart takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::load::{Operation, Report};
use crate::loaded::{Loaded, Plan};
use crate::systems::{Blow, Kind, System};

/// How long the load runs without a snapshot, and then as long with one.
const TIME: Duration = Duration::from_secs(4);
/// Keys are filled by this load before it begins; it is not measured.
const NO_TIME: Duration = Duration::from_millis(100);

/// What a system with so many nodes came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Big {
    pub system: Kind,
    pub nodes: u64,
    /// Under a load of sets to any of them, while every server takes snapshots.
    pub report: Report,
    /// Throughput while snapshots were taken, as a share of what it was before.
    pub share: f64,
    /// Memory of each server, in bytes.
    pub resident: Vec<u64>,
    /// From the start of all three servers to the first acknowledged write, in seconds.
    pub restart_s: f64,
}

pub async fn measure(kind: Kind, nodes: u64) -> anyhow::Result<Big> {
    let mut system = System::start(kind).await?;
    let mut plan = Plan {
        protocol: kind.protocol(),
        servers: system.addresses(),
        operation: Operation::Set,
        connections: 20,
        outstanding: 16,
        value_bytes: 256,
        keys: nodes,
        filled: false,
        warm_up: Duration::from_secs(1),
        time: NO_TIME,
        run: 0,
    };
    Loaded::begin(&plan).await?.report().await?;
    // What filling them has begun is over then.
    system.snapshot().await?;
    (plan.filled, plan.time) = (true, TIME);
    let before = Loaded::begin(&plan).await?.report().await?;
    let (loaded, began) = (Loaded::begin(&plan).await?, Instant::now());
    // One after the other, so that there is no moment without.
    while began.elapsed() < TIME {
        if !system.snapshot().await? {
            break;
        }
    }
    let report = loaded.report().await?;
    let resident = system.resident()?;
    let share = report.done as f64 / report.seconds / (before.done as f64 / before.seconds);
    for at in 0..3 {
        system.hit(at, Blow::Kill).await;
    }
    let began = Instant::now();
    for at in 0..3 {
        system.hit(at, Blow::Restart).await;
    }
    // The first thing that it does is to write.
    (plan.time, plan.warm_up) = (NO_TIME, Duration::ZERO);
    let loaded = Loaded::begin(&plan).await?;
    let restart_s = began.elapsed().as_secs_f64();
    loaded.report().await?;
    Ok(Big { system: kind, nodes, report, share, resident, restart_s })
}
