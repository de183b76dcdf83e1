//! Throughput under network delay, and leader changes under network delay and CPU contention.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::time::sleep;

use crate::load::{Operation, Report, seconds};
use crate::loaded::{Loaded, Plan};
use crate::systems::{Kind, System};

/// Measure throughput under network delay, and leader changes under network delay and CPU
/// contention.
#[derive(Debug, Clone, Args)]
pub struct StabilityArgs {
    /// Systems to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Rota, Kind::Zookeeper, Kind::Etcd])]
    systems: Vec<Kind>,
    /// One-way delays between servers, in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [25, 50])]
    peer_delay_ms: Vec<u64>,
    /// Time of each throughput measurement, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Run time of all systems at once at the longest delay, in seconds; 0 skips the run.
    #[arg(long, default_value = "600", value_parser = seconds)]
    delay_run_seconds: Duration,
    /// Run time of all systems at once under CPU load, in seconds; 0 skips the run.
    #[arg(long, default_value = "600", value_parser = seconds)]
    cpu_load_run_seconds: Duration,
    /// Number of CPU-bound processes.
    #[arg(long, default_value_t = 40)]
    cpu_load_processes: usize,
}

pub async fn run(args: &StabilityArgs) -> anyhow::Result<()> {
    for distance in args.peer_delay_ms.iter().copied().map(Duration::from_millis) {
        let mut rates: Vec<(Kind, [f64; 2], u64)> = Vec::new();
        for kind in &args.systems {
            let system = System::start_with_peer_delay(*kind, distance).await?;
            let before = system.leader_changes().await?;
            let mut measured = [0.0; 2];
            for (rate, outstanding) in measured.iter_mut().zip([1, 16]) {
                let report = load(&system, *kind, 20, outstanding, args.seconds).await?;
                *rate = report.done as f64 / report.seconds;
            }
            rates.push((*kind, measured, system.leader_changes().await? - before));
        }
        for (kind, [one, sixteen], changes) in &rates {
            let peers = || rates.iter().filter(|(kind, ..)| *kind != Kind::Rota && *kind != Kind::RotaHttp);
            let ratio = |rate: f64, at: usize| {
                let better = peers().map(|(_, rates, _)| rates[at]).reduce(f64::max);
                better.map_or(String::new(), |better| format!("{:.2}", rate / better))
            };
            println!(
                "{:>3} ms one way  {:<10} 1 outstanding {one:>6.0}/s {:>5}   16 outstanding {sixteen:>6.0}/s {:>5}   leader changes {changes}",
                distance.as_millis(),
                kind.name(),
                ratio(*one, 0),
                ratio(*sixteen, 1),
            );
        }
    }
    if !args.delay_run_seconds.is_zero()
        && let Some(farthest) = args.peer_delay_ms.iter().max()
    {
        let what = format!("{farthest} ms one way");
        count_leader_changes(
            &args.systems,
            Some(Duration::from_millis(*farthest)),
            args.delay_run_seconds,
            &what,
        )
        .await?;
    }
    if !args.cpu_load_run_seconds.is_zero() {
        let _load = CpuLoad::start(args.cpu_load_processes)?;
        let what = format!("{} CPU-bound processes", args.cpu_load_processes);
        count_leader_changes(&args.systems, None, args.cpu_load_run_seconds, &what).await?;
    }
    Ok(())
}

/// Runs all systems at once, each with three writers, and counts leader changes.
async fn count_leader_changes(
    kinds: &[Kind],
    distance: Option<Duration>,
    time: Duration,
    what: &str,
) -> anyhow::Result<()> {
    let mut systems = Vec::new();
    for kind in kinds {
        systems.push(match distance {
            Some(distance) => System::start_with_peer_delay(*kind, distance).await?,
            None => System::start(*kind).await?,
        });
    }
    let watched = kinds.iter().zip(&systems).map(|(kind, system)| async move {
        let before = system.leader_changes().await?;
        let report = load(system, *kind, 3, 1, time).await?;
        // An election may be under way.
        sleep(Duration::from_secs(5)).await;
        anyhow::Ok((*kind, system.leader_changes().await? - before, report))
    });
    for (kind, changes, report) in futures::future::try_join_all(watched).await? {
        println!(
            "{what}, {} s  {:<10} leader changes {changes}, {} writes, {} lost, longest gap {:.0} ms",
            time.as_secs(),
            kind.name(),
            report.done,
            report.lost + report.refused,
            report.longest_silence_ms,
        );
    }
    Ok(())
}

async fn load(
    system: &System,
    kind: Kind,
    connections: u64,
    outstanding: usize,
    time: Duration,
) -> anyhow::Result<Report> {
    let plan = Plan {
        protocol: kind.protocol(),
        servers: system.addresses(),
        operation: Operation::Set,
        connections,
        outstanding,
        value_bytes: 256,
        keys: 1_000,
        filled: false,
        warm_up: Duration::from_secs(2),
        time,
        run: 0,
    };
    let report = Loaded::begin(&plan).await?.report().await;
    report.with_context(|| format!("{} under load", kind.name()))
}

/// CPU-bound processes, killed on drop.
struct CpuLoad(Vec<Child>);

impl CpuLoad {
    fn start(count: usize) -> anyhow::Result<Self> {
        let mut load = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            load.0.push(command.stdin(Stdio::null()).spawn()?);
        }
        Ok(load)
    }
}

impl Drop for CpuLoad {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
