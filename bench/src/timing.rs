//! What distance and busy machines do to a cluster: its throughput, and whether its leader stays.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::time::sleep;

use crate::load::{Operation, Report, seconds};
use crate::loaded::{Loaded, Plan};
use crate::systems::{Kind, System};

/// Measure throughput over distance, and changes of leader over distance and on a busy machine.
#[derive(Debug, Clone, Args)]
pub struct Timing {
    /// What is compared.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Rota, Kind::Zookeeper, Kind::Etcd])]
    systems: Vec<Kind>,
    /// Delays from one server to another, in milliseconds, for throughput.
    #[arg(long, value_delimiter = ',', default_values_t = [25, 50])]
    distances: Vec<u64>,
    /// How long each throughput is measured, in seconds.
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// How long all systems are watched at once through the longest of those delays, in seconds; 0
    /// leaves that out.
    #[arg(long, default_value = "600", value_parser = seconds)]
    far_seconds: Duration,
    /// How long all systems are watched at once beside busy processes, in seconds; 0 leaves that
    /// out.
    #[arg(long, default_value = "600", value_parser = seconds)]
    busy_seconds: Duration,
    /// Those processes.
    #[arg(long, default_value_t = 40)]
    busy: usize,
}

pub async fn run(args: &Timing) -> anyhow::Result<()> {
    for distance in args.distances.iter().copied().map(Duration::from_millis) {
        let mut rates: Vec<(Kind, [f64; 2], u64)> = Vec::new();
        for kind in &args.systems {
            let system = System::start_apart(*kind, distance).await?;
            let terms = system.term().await?;
            let mut measured = [0.0; 2];
            for (rate, outstanding) in measured.iter_mut().zip([1, 16]) {
                let report = load(&system, *kind, 20, outstanding, args.seconds).await?;
                *rate = report.done as f64 / report.seconds;
            }
            rates.push((*kind, measured, system.term().await? - terms));
        }
        for (kind, [one, sixteen], changes) in &rates {
            let peers = || rates.iter().filter(|(kind, ..)| *kind != Kind::Rota && *kind != Kind::RotaHttp);
            let ratio = |rate: f64, at: usize| {
                let better = peers().map(|(_, rates, _)| rates[at]).reduce(f64::max);
                better.map_or(String::new(), |better| format!("{:.2}", rate / better))
            };
            println!(
                "{:>3} ms one way  {:<10} 1 outstanding {one:>6.0}/s {:>5}   16 outstanding {sixteen:>6.0}/s {:>5}   changes of leader {changes}",
                distance.as_millis(),
                kind.name(),
                ratio(*one, 0),
                ratio(*sixteen, 1),
            );
        }
    }
    if !args.far_seconds.is_zero()
        && let Some(farthest) = args.distances.iter().max()
    {
        let what = format!("{farthest} ms one way");
        watch(&args.systems, Some(Duration::from_millis(*farthest)), args.far_seconds, &what).await?;
    }
    if !args.busy_seconds.is_zero() {
        let _busy = Busy::start(args.busy)?;
        let what = format!("{} busy processes", args.busy);
        watch(&args.systems, None, args.busy_seconds, &what).await?;
    }
    Ok(())
}

/// Watches all systems at once, each with three writers.
async fn watch(kinds: &[Kind], distance: Option<Duration>, time: Duration, what: &str) -> anyhow::Result<()> {
    let mut systems = Vec::new();
    for kind in kinds {
        systems.push(match distance {
            Some(distance) => System::start_apart(*kind, distance).await?,
            None => System::start(*kind).await?,
        });
    }
    let watched = kinds.iter().zip(&systems).map(|(kind, system)| async move {
        let before = system.term().await?;
        let report = load(system, *kind, 3, 1, time).await?;
        // It may be choosing one at this moment.
        sleep(Duration::from_secs(5)).await;
        anyhow::Ok((*kind, system.term().await? - before, report))
    });
    for (kind, changes, report) in futures::future::try_join_all(watched).await? {
        println!(
            "{what}, {} s  {:<10} changes of leader {changes}, {} writes, {} lost, longest without one {:.0} ms",
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

/// Processes that do nothing and always want to. They end when this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> anyhow::Result<Self> {
        let mut busy = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            busy.0.push(command.stdin(Stdio::null()).spawn()?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
