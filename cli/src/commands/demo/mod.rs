//! `rota demo`: the main job on real input, in real processes, some of which are
//! killed on the way. It ends with an account: what was lost, what was doubled,
//! whether a bucket ever had two owners, how long each event took.
//!
//! ```text
//!   application ─┐                    ┌─ collectors (3) ─► out/
//!   log files ───┴─ agents (2) ◄──────┤
//!                        │            └─ workers (4, later 6): buckets of the pool `mail`
//!                        └── coordinators (3) ──┘
//! ```

mod application;
mod http;
mod inputs;
mod observer;
mod processes;
mod report;
mod scenario;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::args::{Format, Global, duration};

/// Watch Rota at work: coordinators, agents, collectors and workers on this
/// machine, some of which are killed, and an account at the end.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  rota demo
  rota demo --for 2m --logs /var/log/nginx --out /tmp/collected

It exits with 0 only if no line was lost or doubled and no bucket had two owners at one time.")]
pub(crate) struct DemoArgs {
    /// How long it runs before it takes stock. Ctrl-C ends it earlier.
    #[arg(long = "for", default_value = "45s", value_parser = duration, value_name = "DURATION")]
    duration: Duration,
    /// A directory whose files, all of them, are collected. Default: what is
    /// readable of /var/log/**/*.log.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Where the collected files are left. Default: nowhere.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Buckets of the pool that the workers share.
    #[arg(long, default_value_t = 64)]
    buckets: u32,
}

pub(crate) async fn run(global: &Global, args: DemoArgs) -> anyhow::Result<ExitCode> {
    let account = scenario::tell(&args, global.output == Format::Table).await?;
    match global.output {
        Format::Table => account.print(),
        Format::Json => println!("{}", serde_json::to_string(&account)?),
    }
    Ok(if account.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
