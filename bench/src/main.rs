//! Benchmarks: numbers about the built binary, from outside. `ROTA_BIN` names it.

mod scheduler;
mod sessions;

use clap::Parser;

/// Measure Rota.
#[derive(Debug, Parser)]
enum Bench {
    /// What sessions cost that are held by clients which only ping.
    Sessions(sessions::Sessions),
}

fn main() -> anyhow::Result<()> {
    let bench = Bench::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match bench {
            Bench::Sessions(args) => sessions::run(&args).await,
        }
    })
}
