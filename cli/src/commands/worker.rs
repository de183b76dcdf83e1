//! `rota worker`: a command is run for every bucket that is this worker's.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use rota_protocol::http::JoinPool;
use rota_worker::exec::Exec;
use rota_worker::{Ended, JoinOptions};

use super::services::told_to_stop;
use crate::args::{Global, duration};

/// Join a pool, and run a command for every bucket that this worker owns.
#[derive(Debug, Args)]
#[command(
    after_help = "The command finds ROTA_POOL, ROTA_BUCKET, ROTA_MEMBER, ROTA_FENCE and ROTA_CHECKPOINT in its
environment; in a named pool ROTA_ITEM, the item as JSON; ROTA_ROLE (primary, backup, preparing), and
in ROTA_PRIMARY the address of who leads the bucket, if that is another. It says `progress TEXT`,
`checkpoint POSITION`, `load RATE` and `lag NUMBER` on its standard output.

Example:
  rota worker --pool mail --name w1 --exec 'exec ./fetch-mailboxes --bucket $ROTA_BUCKET'"
)]
pub(crate) struct WorkerArgs {
    /// The pool to join.
    #[arg(long, env = "ROTA_POOL")]
    pool: String,
    /// This worker's name in the pool. Default: host name and process id.
    #[arg(long, env = "ROTA_NAME")]
    name: Option<String>,
    /// The command, given to `sh -c`, once for each bucket. If it fails, it is started
    /// again after a pause, doubled each time, from 200 ms to 30 s.
    #[arg(long, value_name = "CMD", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    exec: String,
    /// In a pool with warm handoff: the command for a bucket that this worker prepares to own,
    /// with the address of who leads it in ROTA_PRIMARY. When it ends well, the worker is ready.
    /// Without one it is at once.
    #[arg(long, value_name = "CMD", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    prepare: Option<String>,
    /// In a pool with replicas: the command for a bucket that this worker follows as a backup.
    #[arg(long, value_name = "CMD", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    follow: Option<String>,
    /// How others reach this worker; shown in the table.
    #[arg(long, env = "ROTA_ADDRESS", default_value = "")]
    address: String,
    /// This worker's share of the work, relative to the others'.
    #[arg(long, env = "ROTA_WEIGHT", default_value_t = 1, allow_negative_numbers = true)]
    weight: u32,
    /// Most buckets that it takes. Default: as many as are its share.
    #[arg(long, env = "ROTA_CAPACITY")]
    capacity: Option<u32>,
    /// Join without getting a bucket, until `rota cordon --undo` or `rota replace`.
    #[arg(long)]
    cordoned: bool,
    /// Where it stands.
    #[arg(long, env = "ROTA_ZONE", default_value = "")]
    zone: String,
    /// Anything else that is known of it: KEY=VALUE, more than once.
    #[arg(long = "label", value_parser = label, value_name = "KEY=VALUE")]
    labels: Vec<(String, String)>,
    /// How long its death goes unnoticed, e.g. 3s.
    #[arg(long, env = "ROTA_SESSION_TIMEOUT", default_value = "10s", value_parser = duration)]
    session_timeout: Duration,
    /// How long the command may take to end after TERM; then it is killed, with all
    /// that it has started. When the session's lease ends unheard, it gets TERM a
    /// tenth of the session's timeout before and is killed at the end, whatever this
    /// says.
    #[arg(long, env = "ROTA_GRACE", default_value = "5s", value_parser = duration)]
    grace: Duration,
    /// A file to record in when each bucket was worked on.
    #[arg(long, env = "ROTA_HISTORY", value_name = "FILE")]
    history: Option<PathBuf>,
}

/// `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A name that no other process has.
pub(crate) fn default_name() -> String {
    format!("{}-{}", host_name(), std::process::id())
}

/// What this machine calls itself.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

pub(crate) async fn run(global: &Global, args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let client = super::client(global)?;
    let options = JoinOptions {
        join: JoinPool {
            name: args.name.unwrap_or_else(default_name),
            address: args.address,
            weight: Some(args.weight),
            zone: args.zone,
            labels: args.labels.into_iter().collect(),
            capacity: args.capacity,
            cordoned: args.cordoned,
        },
        pool: args.pool,
        session_timeout: args.session_timeout,
        history: args.history,
    };
    let exec = Exec { command: args.exec, prepare: args.prepare, follow: args.follow, grace: args.grace };
    let worker = exec.join(client, options).await?;
    tracing::info!("joined");
    tokio::select! {
        how = worker.ended() => match how {
            Ended::Left => return Ok(ExitCode::SUCCESS),
            Ended::SessionEnded => bail!("the session has ended: the worker's buckets are with others now"),
            Ended::NoMember => bail!("the worker is no member any more: the pool was deleted, or the member"),
        },
        stopped = told_to_stop() => stopped?,
    }
    tracing::info!("leaving");
    worker.leave().await;
    Ok(ExitCode::SUCCESS)
}
