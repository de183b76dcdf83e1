//! The comparison: every system gets the same load, one after the other, over several
//! rounds; what is told is the median of the rounds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::load::{Operation, Report, duration};
use crate::systems::{Kind, System};

/// Compare Rota with ZooKeeper and etcd.
#[derive(Debug, Args)]
pub struct Compare {
    /// What is compared, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Rota, Kind::Zookeeper, Kind::Etcd, Kind::RotaHttp])]
    systems: Vec<Kind>,
    /// Which workloads, by their names, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// How often everything is done.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each load is measured.
    #[arg(long, default_value = "4s", value_parser = duration)]
    time: Duration,
    /// Where the results are written, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A load with a name.
#[derive(Debug, Clone, Copy)]
struct Workload {
    name: &'static str,
    operation: Operation,
    connections: u64,
    outstanding: usize,
}

const WORKLOADS: [Workload; 6] = [
    Workload { name: "set", operation: Operation::Set, connections: 20, outstanding: 16 },
    Workload { name: "create", operation: Operation::Create, connections: 20, outstanding: 16 },
    Workload { name: "get", operation: Operation::Get, connections: 20, outstanding: 16 },
    Workload { name: "mix", operation: Operation::Mix, connections: 20, outstanding: 16 },
    Workload { name: "multi", operation: Operation::Multi, connections: 20, outstanding: 16 },
    Workload { name: "lone", operation: Operation::Set, connections: 1, outstanding: 1 },
];

/// What one load on one system came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// What was loaded.
    pub system: Kind,
    /// With what.
    pub workload: String,
    /// In which round.
    pub round: u32,
    /// What the load saw.
    pub report: Report,
    /// Processor time of all three servers, in microseconds for each answer.
    pub servers_us: f64,
    /// Memory of each server afterwards, in bytes.
    pub resident: Vec<u64>,
}

pub async fn run(args: &Compare) -> anyhow::Result<()> {
    let known: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
    for name in &args.workloads {
        ensure!(
            known.contains(&name.as_str()),
            "no workload is called {name:?}: there are {}",
            known.join(", ")
        );
    }
    let mut samples = Vec::new();
    for round in 0..args.rounds {
        for kind in &args.systems {
            let mut system = System::start(*kind).await?;
            for workload in WORKLOADS {
                if args.workloads.is_empty() || args.workloads.iter().any(|name| name == workload.name) {
                    let sample = measure(&mut system, *kind, workload, round, args.time).await;
                    let sample = sample.with_context(|| format!("{} on {}", workload.name, kind.name()))?;
                    eprintln!("{}", line(&sample));
                    samples.push(sample);
                }
            }
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&samples)?)?;
    }
    print(&samples, &args.systems);
    Ok(())
}

async fn measure(
    system: &mut System,
    kind: Kind,
    workload: Workload,
    round: u32,
    time: Duration,
) -> anyhow::Result<Sample> {
    // HTTP has one question under way on a connection.
    let (connections, outstanding) = match kind {
        Kind::RotaHttp if workload.connections > 1 => (64, 1),
        _ => (workload.connections, workload.outstanding),
    };
    let mut load = Command::new(std::env::current_exe()?);
    load.args(["load", "--protocol", kind.protocol().name(), "--operation", workload.operation.name()])
        .args(["--servers", &system.addresses().join(",")])
        .args(["--connections", &connections.to_string(), "--outstanding", &outstanding.to_string()])
        .args(["--time", &format!("{}ms", time.as_millis()), "--run", &round.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut load = load.spawn()?;
    let out = load.stdout.take().context("it has an output")?;
    let mut lines = BufReader::new(out).lines();
    ensure!(lines.next_line().await?.as_deref() == Some("ready"), "the load did not begin");
    ensure!(lines.next_line().await?.as_deref() == Some("begin"), "the load broke off");
    let before = system.cpu()?;
    let report = lines.next_line().await?.context("the load broke off")?;
    let used = system.cpu()?.saturating_sub(before);
    let report: Report = serde_json::from_str(&report)?;
    ensure!(load.wait().await?.success(), "the load failed");
    ensure!(report.done > 0, "nothing was done");
    ensure!(report.refused == 0, "{} of {} were refused", report.refused, report.done);
    let servers_us = used.as_secs_f64() * 1e6 / report.done as f64;
    let resident = system.resident()?;
    Ok(Sample { system: kind, workload: workload.name.to_owned(), round, report, servers_us, resident })
}

fn line(sample: &Sample) -> String {
    let Report { done, seconds, latency_us, own_us, .. } = &sample.report;
    format!(
        "{:<10} {:<6} {:>9.0}/s  servers {:>6.1} us  load {:>4.1} us  p50 {:>6} p99 {:>6} p99.9 {:>6} max {:>7} us  {} MB",
        sample.system.name(),
        sample.workload,
        *done as f64 / seconds,
        sample.servers_us,
        own_us,
        latency_us.p50,
        latency_us.p99,
        latency_us.p999,
        latency_us.max,
        sample.resident.iter().map(|bytes| (bytes / 1_000_000).to_string()).collect::<Vec<_>>().join("+"),
    )
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let (at, odd) = (numbers.len() / 2, numbers.len() % 2 == 1);
    match numbers.get(at) {
        None => f64::NAN,
        Some(middle) if odd => *middle,
        Some(middle) => f64::midpoint(numbers[at - 1], *middle),
    }
}

fn print(samples: &[Sample], systems: &[Kind]) {
    let mut by: BTreeMap<(&str, Kind), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by.entry((&sample.workload, sample.system)).or_default().push(sample);
    }
    println!(
        "{:<8} {:<11} {:>10} {:>11} {:>9} {:>9} {:>9} {:>9}",
        "", "", "ops/s", "servers us", "p50 us", "p99 us", "p99.9 us", "RSS MB"
    );
    for workload in WORKLOADS {
        for kind in systems {
            let Some(all) = by.get(&(workload.name, *kind)) else { continue };
            let middle = |of: fn(&Sample) -> f64| median(all.iter().map(|sample| of(sample)).collect());
            println!(
                "{:<8} {:<11} {:>10.0} {:>11.1} {:>9.0} {:>9.0} {:>9.0} {:>9.0}",
                workload.name,
                kind.name(),
                middle(|s| s.report.done as f64 / s.report.seconds),
                middle(|s| s.servers_us),
                middle(|s| s.report.latency_us.p50 as f64),
                middle(|s| s.report.latency_us.p99 as f64),
                middle(|s| s.report.latency_us.p999 as f64),
                middle(|s| s.resident.iter().max().copied().unwrap_or(0) as f64 / 1e6),
            );
        }
    }
}
