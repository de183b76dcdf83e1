//! `rota collector`: collects the log files that agents serve.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rota_collector::POOL_DEFAULT;
use rota_collector::collector::sink::Modes;
use rota_collector::collector::{self, CollectorConfig};
use rota_protocol::http::JoinPool;

use super::services::run_until_told;
use super::worker::default_name;
use crate::args::{Global, duration};

/// Collect the log files that agents serve, each record once.
#[derive(Debug, Args)]
#[command(
    after_help = "Every record is written once to DIR/APP/HOST/FILE, whichever collectors are killed meanwhile.
The collectors of one pool share DIR.

Example:
  rota collector --out /srv/logs --name collector-1"
)]
pub(crate) struct CollectorArgs {
    /// Where the collected files go.
    #[arg(long, env = "ROTA_OUT", value_name = "DIR")]
    out: PathBuf,
    /// The mode of collected files, in octal. Users who can read the files can also enter
    /// their directories. Existing files keep their mode.
    #[arg(long, env = "ROTA_FILE_MODE", default_value = "0600", value_name = "MODE", value_parser = file_mode)]
    file_mode: u32,
    /// This collector's name in the pool. Default: host name and process id.
    #[arg(long, env = "ROTA_NAME")]
    name: Option<String>,
    /// The pool that the sources belong to.
    #[arg(long, env = "ROTA_POOL", default_value = POOL_DEFAULT)]
    pool: String,
    /// This collector's share of the work, relative to the others'.
    #[arg(long, env = "ROTA_WEIGHT", default_value_t = 1, allow_negative_numbers = true)]
    weight: u32,
    /// How long its death goes unnoticed, e.g. 10s.
    #[arg(long, env = "ROTA_SESSION_TIMEOUT", default_value = "10s", value_parser = duration)]
    session_timeout: Duration,
    /// A file to record in when each source was worked on.
    #[arg(long, env = "ROTA_HISTORY", value_name = "FILE")]
    history: Option<PathBuf>,
}

pub(crate) async fn run(global: &Global, args: CollectorArgs) -> anyhow::Result<ExitCode> {
    let config = CollectorConfig {
        client: super::client(global)?,
        out_dir: args.out,
        pool: args.pool,
        join: JoinPool {
            name: args.name.unwrap_or_else(default_name),
            weight: Some(args.weight),
            ..JoinPool::default()
        },
        session_timeout: args.session_timeout,
        history: args.history,
        modes: Modes::of_files(args.file_mode),
    };
    run_until_told(|stop| collector::run(config, stop)).await?;
    Ok(ExitCode::SUCCESS)
}

fn file_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o666 && mode & 0o111 == 0 => Ok(mode),
        _ => Err("expected an octal mode without execute bits, such as 0640".to_owned()),
    }
}
