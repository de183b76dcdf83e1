//! The comparison: every system gets the same load, one after the other, over several
//! rounds; what is told is the median of the rounds.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::big;
use crate::events;
use crate::faults::{self, Fault};
use crate::load::{Operation, Report, seconds};
use crate::loaded::{Loaded, Plan};
use crate::results::{Machine, Results};
use crate::sessions;
use crate::systems::{Kind, System};

/// Compare Rota with ZooKeeper and etcd.
#[derive(Debug, Args)]
pub struct Compare {
    /// What is compared, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Kind::Rota, Kind::Zookeeper, Kind::Etcd, Kind::RotaHttp])]
    systems: Vec<Kind>,
    /// Which workloads, by their names, separated by commas: set, create, get, mix, multi,
    /// lone; none for none.
    #[arg(long, value_delimiter = ',', default_value = "set,create,get,mix,multi,lone")]
    workloads: Vec<String>,
    /// How often the workloads are run.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// How long each load is measured, in seconds.
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// How long servers that have just started are loaded before the first workload, in
    /// seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    warm_up: Duration,
    /// Faults to inject, separated by commas: leader-killed, leader-stopped, leader-paused,
    /// follower-paused, follower-killed, follower-behind; `none` for none.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "leader-killed,leader-stopped,leader-paused,follower-paused,follower-killed,follower-behind"
    )]
    faults: Vec<String>,
    /// How often each fault is done.
    #[arg(long, default_value_t = 1)]
    fault_rounds: u32,
    /// How many idle sessions are held, separated by commas; 0 for none.
    #[arg(long, value_delimiter = ',', default_values_t = [3_000, 10_000])]
    sessions: Vec<usize>,
    /// How long they are held, in seconds.
    #[arg(long, default_value_t = 10)]
    session_seconds: u64,
    /// Leaves out the time of an event to the last of 200 watching sessions.
    #[arg(long)]
    no_events: bool,
    /// Nodes of Rota for snapshots and restarts; 0 leaves those out.
    #[arg(long, default_value_t = 1_000_000)]
    nodes: u64,
    /// Nodes of the peers for the same; it takes long until they have a million.
    #[arg(long, default_value_t = 100_000)]
    peer_nodes: u64,
    /// A folder for the results, as text, JSON and a chart.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// In seconds; a client pings three times as often.
const SESSION_TIMEOUT: u64 = 30;

/// A load with a name.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    pub operation: Operation,
    connections: u64,
    outstanding: usize,
}

pub const WORKLOADS: [Workload; 6] = [
    Workload { name: "set", operation: Operation::Set, connections: 20, outstanding: 16 },
    Workload { name: "create", operation: Operation::Create, connections: 20, outstanding: 16 },
    Workload { name: "get", operation: Operation::Get, connections: 20, outstanding: 16 },
    Workload { name: "mix", operation: Operation::Mix, connections: 20, outstanding: 16 },
    Workload { name: "multi", operation: Operation::Multi, connections: 20, outstanding: 16 },
    Workload { name: "lone", operation: Operation::Set, connections: 1, outstanding: 1 },
];

/// A load that is not told of.
const WARM_UP: Workload =
    Workload { name: "warm-up", operation: Operation::Mix, connections: 20, outstanding: 16 };

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
    let mut workloads = Vec::new();
    for name in args.workloads.iter().filter(|name| *name != "none") {
        let known = WORKLOADS.iter().find(|workload| workload.name == name);
        workloads.push(*known.with_context(|| format!("no workload is called {name:?}: see --help"))?);
    }
    let mut all_faults = Vec::new();
    for name in args.faults.iter().filter(|name| *name != "none") {
        let known = Fault::ALL.into_iter().find(|fault| fault.flag() == name);
        all_faults.push(known.with_context(|| format!("no fault is called {name:?}: see --help"))?);
    }
    let mut results = Results { machine: Machine::this()?, ..Results::default() };
    for round in 0..args.rounds {
        for kind in args.systems.iter().filter(|_| !workloads.is_empty()) {
            let mut system = System::start(*kind).await?;
            // Java compiles what it has run often.
            measure(&mut system, *kind, WARM_UP, round, args.warm_up).await?;
            for workload in &workloads {
                let mut sample = measure(&mut system, *kind, *workload, round, args.seconds).await?;
                if sample.report.done == 0 {
                    eprintln!("{} did nothing for so long: once more", kind.name());
                    sample = measure(&mut system, *kind, *workload, round, args.seconds).await?;
                }
                let sample = with_answers(sample);
                let sample = sample.with_context(|| format!("{} on {}", workload.name, kind.name()))?;
                eprintln!("{}", line(&sample));
                results.samples.push(sample);
            }
        }
    }
    let servers: Vec<Kind> = args.systems.iter().copied().filter(|kind| *kind != Kind::RotaHttp).collect();
    for round in 0..args.fault_rounds {
        for fault in &all_faults {
            for kind in &servers {
                let noticed = faults::notice(*kind, *fault, round).await?;
                let (silence_ms, share) = (noticed.silence_ms, noticed.least_share * 100.0);
                eprintln!("{:<10} {}: {silence_ms:.0} ms, {share:.0} %", kind.name(), fault.name());
                results.noticed.push(noticed);
            }
        }
    }
    for kind in &servers {
        if !args.no_events {
            let told = events::measure(*kind).await?;
            eprintln!("{:<10} events: {:.0} us, at most {:.0} us", kind.name(), told.p50_us, told.max_us);
            results.told.push(told);
        }
        // etcd has leases, which are no sessions.
        for count in args.sessions.iter().filter(|count| **count > 0 && *kind != Kind::Etcd) {
            let held = sessions::measure(*kind, *count, SESSION_TIMEOUT, args.session_seconds).await?;
            eprintln!("{:<10} {count} sessions: {:.1} % of a core", kind.name(), held.core * 100.0);
            results.held.push(held);
        }
    }
    for kind in &servers {
        let nodes = if *kind == Kind::Rota { args.nodes } else { args.peer_nodes };
        if nodes == 0 {
            continue;
        }
        let big = big::measure(*kind, nodes).await?;
        eprintln!(
            "{:<10} {} nodes: snapshot p99.9 {} us, {:.0} % of the throughput; restart {:.1} s",
            kind.name(),
            big.nodes,
            big.report.latency_us.p999,
            big.share * 100.0,
            big.restart_s
        );
        results.big.push(big);
    }
    if let Some(folder) = &args.out {
        results.write(folder)?;
    }
    println!("{}", results.text());
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
    // A lone writer's time depends on whether its server leads.
    let servers = match workload.connections {
        1 => vec![system.follower().await],
        _ => system.addresses(),
    };
    let plan = Plan {
        protocol: kind.protocol(),
        servers,
        operation: workload.operation,
        connections,
        outstanding,
        value_bytes: 256,
        keys: 10_000,
        filled: false,
        warm_up: Duration::from_millis(500),
        time,
        run: round,
    };
    let loaded = Loaded::begin(&plan).await?;
    let before = system.cpu()?;
    let report = loaded.report().await?;
    let used = system.cpu()?.saturating_sub(before);
    let servers_us = used.as_secs_f64() * 1e6 / report.done.max(1) as f64;
    let resident = system.resident()?;
    Ok(Sample { system: kind, workload: workload.name.to_owned(), round, report, servers_us, resident })
}

/// Fails if there are no answers in it, or refusals.
fn with_answers(sample: Sample) -> anyhow::Result<Sample> {
    let Report { done, refused, .. } = sample.report;
    ensure!(done > 0, "nothing was done");
    ensure!(refused == 0, "{refused} of {done} were refused");
    Ok(sample)
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
