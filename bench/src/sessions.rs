//! Idle sessions: opened over ZooKeeper's protocol, spread over three servers, and held
//! by pings.

use std::time::Duration;

use clap::Args;
use rota_protocol::zk::Request;
use rota_tests::zk::Lasting;
use rota_tests::{Cluster, Settings};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::scheduler::{cpu, resident};

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Sessions {
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

pub async fn run(args: &Sessions) -> anyhow::Result<()> {
    let flags = ["--zookeeper-connections-max", "0"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start_with(3, Settings { flags, alone: true, ..Settings::default() }).await;
    let ids = cluster.ids();
    let addresses: Vec<String> = ids.iter().map(|id| cluster.zookeeper(*id)).collect();
    let pids: Vec<u32> = ids.iter().map(|id| cluster.process(*id).id()).collect();
    // What the servers cost without any session.
    let alone = share(&pids, Duration::from_secs(args.seconds) / 2).await?;
    let memory_before: u64 = sum(&pids, resident)?;
    let began = Instant::now();
    let timeout_ms = i32::try_from(args.timeout * 1000)?;
    let mut opening = JoinSet::new();
    for batch in 0..args.count.div_ceil(100) {
        let addresses = addresses.clone();
        let count = (args.count - batch * 100).min(100);
        opening.spawn(async move {
            let mut clients = Vec::new();
            for number in 0..count {
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
    let opened_in = began.elapsed();
    let period = Duration::from_secs(args.timeout) / 3;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut holding = JoinSet::new();
    let total = u32::try_from(clients.len())?;
    for (number, client) in (0..total).zip(clients) {
        // Spread over the period, as the clients of many machines are.
        let first = Instant::now() + period * number / total;
        holding.spawn(hold(client, first, period, end));
    }
    // Half a period, so that what opening left behind is over.
    interval_at(Instant::now() + period / 2, period).tick().await;
    let measured = end.saturating_duration_since(Instant::now()) / 2;
    let held = share(&pids, measured).await?;
    let memory = sum(&pids, resident)?.saturating_sub(memory_before);
    let (mut lost, mut again) = (0, 0);
    while let Some(held) = holding.join_next().await {
        let client = held??;
        lost += client.expired;
        again += client.resumed;
    }
    println!("sessions opened                 {:>10}", args.count);
    println!("opened in                       {:>10.1} s", opened_in.as_secs_f64());
    println!(
        "held for                        {:>10} s, a ping every {:.1} s each",
        args.seconds,
        period.as_secs_f64()
    );
    println!("lost                            {lost:>10}");
    println!("reconnections                   {again:>10}");
    println!(
        "memory of all three servers     {:>10.1} KB for each session",
        memory as f64 / args.count as f64 / 1000.0
    );
    println!(
        "processor time of all three     {:>10.1} % of one core, for {:.1} s; {:.1} % before there were sessions",
        held * 100.0,
        measured.as_secs_f64(),
        alone * 100.0
    );
    Ok(())
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
    while Instant::now() < end {
        beat.tick().await;
        while client.ask(&Request::Ping, Instant::now() + PATIENCE).await?.is_none() {}
    }
    Ok(client)
}

fn sum(pids: &[u32], of: impl Fn(u32) -> anyhow::Result<u64>) -> anyhow::Result<u64> {
    pids.iter().map(|pid| of(*pid)).sum()
}

/// The share of one core that these processes use in all, over so long.
async fn share(pids: &[u32], period: Duration) -> anyhow::Result<f64> {
    let (before, began) = (sum_time(pids)?, Instant::now());
    interval_at(began + period, period).tick().await;
    Ok((sum_time(pids)? - before).as_secs_f64() / began.elapsed().as_secs_f64())
}

fn sum_time(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}
