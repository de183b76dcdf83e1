//! `rota simulate`: tries a change before it is made, without servers.

mod file;
mod picture;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use rota_core::simulation::{Metrics, Phase, simulate};
use serde::Serialize;

use super::change::{shortages, why_short};
use crate::args::Global;
use crate::output::{Output, Table, say};

/// Play a scenario through on a simulated clock: what moves, for how long buckets have nobody,
/// how even it is then.
///
/// The planner and the controller are those of the coordinator; members let go, copy and die as
/// the scenario says. No server is needed.
#[derive(Debug, Args)]
#[command(after_help = "A scenario is a file like this:

  [pool]                        # what `rota pool create` takes, as in the HTTP API
  buckets = 1023
  replicas = 2
  handoff = \"warm\"

  [timing]                      # these are the defaults
  session_timeout = \"10s\"       # from a death until it is known
  look = \"10ms\"                 # from a change until the controller has answered it
  stop = \"100ms\"                # from being asked until an owner has let go
  copy = \"5s\"                   # from being asked until a member is ready

  [[event]]
  join = [{ name = \"w{}\", count = 20, zones = [\"a\", \"b\", \"c\"], weight = 1 }]
  [[event]]
  at = \"1m\"
  die = [\"w3\"]
  [[event]]
  at = \"2m\"
  drain = [\"w1\", \"w2\"]

  also: leave, undrain, cordon, uncordon, remove (names); replace, weight, capacity, load (tables);
  add = [{ name = \"i{}\", count = 9, weight = 1 }] (items); pool = { replicas = 3 }

Examples:
  rota simulate scenario.toml
  rota simulate scenario.toml --svg picture.svg")]
pub(crate) struct SimulateArgs {
    /// The scenario.
    file: PathBuf,
    /// Draw what happened into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    events: Vec<EventOutcome>,
}

/// What an event has cost, until the next.
#[derive(Debug, Serialize)]
struct EventOutcome {
    at_ms: u64,
    event: String,
    moves: u64,
    moves_lower_bound: u32,
    copies: u64,
    promotions: u64,
    settled_after_ms: u64,
    unowned_buckets: u64,
    unowned_ms: u64,
    longest_unowned_ms: u64,
    imbalance_milli: u32,
    short: Vec<String>,
}

pub(crate) fn run(global: &Global, args: &SimulateArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("{name} cannot be read"))?;
    let told = file::read(&text).with_context(|| format!("{name} is no scenario"))?;
    let account = simulate(&told.scenario).with_context(|| format!("{name} cannot be played"))?;
    if let Some(svg) = &args.svg {
        let picture = picture::svg(&account, &told.words);
        std::fs::write(svg, picture).with_context(|| format!("{} cannot be written", svg.display()))?;
        say(&format!("drawn: {}", svg.display()));
    }
    let outcome = outcome(&account, &told.words);
    Output { format: global.output }.document(&outcome, |outcome| render(outcome, &account))?;
    Ok(ExitCode::SUCCESS)
}

fn outcome(account: &Metrics, words: &[String]) -> Outcome {
    let of = |(phase, event): (&Phase, &String)| EventOutcome {
        at_ms: phase.at_ms,
        event: event.clone(),
        moves: phase.moves,
        moves_lower_bound: phase.moves_lower_bound,
        copies: phase.copies,
        promotions: phase.promotions,
        settled_after_ms: phase.settled_ms - phase.at_ms,
        unowned_buckets: phase.unowned,
        unowned_ms: phase.unowned_ms,
        longest_unowned_ms: phase.longest_ms,
        imbalance_milli: phase.report.imbalance_milli,
        short: why_short(&phase.report),
    };
    Outcome { events: account.phases.iter().zip(words).map(of).collect() }
}

fn render(outcome: &Outcome, account: &Metrics) -> String {
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let row = |event: &EventOutcome| {
        [
            seconds(event.at_ms),
            event.event.clone(),
            event.moves.to_string(),
            event.moves_lower_bound.to_string(),
            event.copies.to_string(),
            seconds(event.settled_after_ms),
            event.unowned_buckets.to_string(),
            seconds(event.unowned_ms),
            seconds(event.longest_unowned_ms),
            format!("{:.3}", f64::from(event.imbalance_milli) / 1000.0),
        ]
    };
    let names = [
        "AT S",
        "EVENT",
        "MOVES",
        "FEWEST",
        "COPIES",
        "SETTLED AFTER S",
        "UNOWNED",
        "TOGETHER S",
        "LONGEST S",
        "IMBALANCE",
    ];
    let table = Table::new(names, outcome.events.iter().map(row));
    let left = match account.unowned() {
        0 => String::new(),
        unowned => format!("\nin the end nobody leads {unowned} buckets\n"),
    };
    let short = account.phases.last().map_or(String::new(), |phase| shortages(&phase.report));
    format!("{table}{left}{short}")
}
