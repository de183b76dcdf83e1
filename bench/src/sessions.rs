//! Idle sessions: opened over ZooKeeper's protocol, spread over three servers, and held
//! by pings.

use std::time::Duration;

use clap::Args;
use rota_protocol::zk::Request;
use rota_tests::zk::Lasting;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout_at};

use crate::systems::{Kind, System};

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Sessions {
    /// Of what; the others have no sessions of this kind, and are refused.
    #[arg(long, value_enum, default_value_t = Kind::Rota)]
    system: Kind,
    /// How many.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Their timeout, in seconds. They ping three times as often.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// How long they are held and measured, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// What so many sessions cost a system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    pub system: Kind,
    pub count: usize,
    pub opened_s: f64,
    /// Sessions that ended although their clients lived.
    pub lost: u64,
    pub reconnections: u64,
    /// Memory of all three servers for one session, in bytes.
    pub bytes: f64,
    /// The share of one core that all three servers use for them, and without any.
    pub core: f64,
    pub core_before: f64,
}

pub async fn run(args: &Sessions) -> anyhow::Result<()> {
    let held = measure(args.system, args.count, args.timeout, args.seconds).await?;
    println!("{held:#?}");
    Ok(())
}

/// Opens them on a system that has just started and holds them for so many seconds.
pub async fn measure(kind: Kind, count: usize, timeout: u64, seconds: u64) -> anyhow::Result<Held> {
    anyhow::ensure!(matches!(kind, Kind::Rota | Kind::Zookeeper), "{} has no such sessions", kind.name());
    let mut system = System::start(kind).await?;
    let addresses = system.addresses();
    // What the servers cost without any session.
    let core_before = share(&mut system, Duration::from_secs(seconds) / 3).await?;
    let memory_before: u64 = system.resident()?.iter().sum();
    let began = Instant::now();
    let timeout_ms = i32::try_from(timeout * 1000)?;
    let mut opening = JoinSet::new();
    for batch in 0..count.div_ceil(100) {
        let addresses = addresses.clone();
        let size = (count - batch * 100).min(100);
        opening.spawn(async move {
            let mut clients = Vec::new();
            for number in 0..size {
                let mut client = Lasting::new(addresses.clone(), batch + number, timeout_ms);
                client.ensure(Instant::now() + PATIENCE).await?;
                clients.push(client);
            }
            anyhow::Ok(clients)
        });
    }
    let mut clients = Vec::new();
    while let Some(opened) = opening.join_next().await {
        clients.extend(opened??);
    }
    let opened_s = began.elapsed().as_secs_f64();
    let period = Duration::from_secs(timeout) / 3;
    let end = Instant::now() + period / 2 + Duration::from_secs(seconds);
    let mut holding = JoinSet::new();
    let total = u32::try_from(clients.len())?;
    for (number, client) in (0..total).zip(clients) {
        // Spread over the period, as the clients of many machines are.
        let first = Instant::now() + period * number / total;
        holding.spawn(hold(client, first, period, end));
    }
    // Half a period, so that what opening left behind is over.
    interval_at(Instant::now() + period / 2, period).tick().await;
    let core = share(&mut system, Duration::from_secs(seconds)).await?;
    let memory = system.resident()?.iter().sum::<u64>().saturating_sub(memory_before);
    let (mut lost, mut reconnections) = (0, 0);
    while let Some(held) = holding.join_next().await {
        let client = held??;
        lost += u64::from(client.expired);
        reconnections += u64::from(client.resumed);
    }
    let bytes = memory as f64 / count as f64;
    Ok(Held { system: kind, count, opened_s, lost, reconnections, bytes, core, core_before })
}

async fn hold(
    mut client: Lasting,
    first: Instant,
    period: Duration,
    end: Instant,
) -> anyhow::Result<Lasting> {
    let mut beat = interval(period);
    beat.reset_at(first);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while timeout_at(end, beat.tick()).await.is_ok() {
        while client.ask(&Request::Ping, Instant::now() + PATIENCE).await?.is_none() {}
    }
    Ok(client)
}

/// The share of one core that the servers use in all, over so long.
async fn share(system: &mut System, period: Duration) -> anyhow::Result<f64> {
    let (before, began) = (system.cpu()?, Instant::now());
    interval_at(began + period, period).tick().await;
    Ok(system.cpu()?.saturating_sub(before).as_secs_f64() / began.elapsed().as_secs_f64())
}
