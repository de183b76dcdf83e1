//! Benchmarks: numbers about the built binary, from outside. `ROTA_BIN` names it.

mod assignment;
mod big;
mod chart;
mod compare;
mod events;
mod faults;
mod load;
mod loaded;
mod results;
mod scheduler;
mod seed_corpus;
mod sessions;
mod stability;
mod systems;
mod watching;

use clap::Parser;

/// Measure Rota.
#[derive(Debug, Parser)]
enum Bench {
    Compare(compare::Compare),
    Load(load::Load),
    /// Measure what handing out work costs: plans, and how fast changes reach those whom they
    /// concern.
    Assignment(assignment::AssignmentArgs),
    /// Start three servers, and measure what sessions cost that are held by clients which
    /// only ping.
    Sessions(sessions::Sessions),
    Stability(stability::StabilityArgs),
    SeedCorpus(seed_corpus::SeedCorpusArgs),
}

fn main() -> anyhow::Result<()> {
    match Bench::parse() {
        Bench::Compare(args) => runtime()?.block_on(compare::run(&args)),
        Bench::Assignment(args) => runtime()?.block_on(assignment::run(&args)),
        Bench::Load(args) => load::run(&args),
        Bench::Sessions(args) => runtime()?.block_on(sessions::run(&args)),
        Bench::Stability(args) => runtime()?.block_on(stability::run(&args)),
        Bench::SeedCorpus(args) => runtime()?.block_on(seed_corpus::run(&args)),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
