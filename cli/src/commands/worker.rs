//! `rota worker`: a command is run for every bucket that is this worker's.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use rota_client::{Client, ClientError};
use rota_protocol::http::JoinPool;
use rota_worker::exec::Exec;
use rota_worker::{Ended, JoinOptions, Worker};

use super::services::{Reminder, told_to_stop};
use crate::args::{Global, REFUSED_DEADLINE, duration};

/// Pause before a worker that could not join tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Join a pool, and run a command for every bucket that this worker owns.
#[derive(Debug, Args)]
#[command(
    after_help = "The command finds ROTA_POOL, ROTA_BUCKET, ROTA_MEMBER, ROTA_FENCE and ROTA_CHECKPOINT in its
environment; in a named pool ROTA_ITEM, the item as JSON; ROTA_ROLE (primary, backup, preparing), and
in ROTA_PRIMARY the address of who leads the bucket, if that is another. ROTA_CHECKPOINT_FILE and
ROTA_ITEM_FILE are files with the same bytes: a checkpoint or item that is too large for a variable
(128 KiB), or has a NUL, is only there. It says `progress TEXT`, `checkpoint POSITION`, `load RATE`
and `lag NUMBER` on its standard output.

While no coordinator answers, the worker waits, and says so every 30 seconds.

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
    #[arg(long, value_name = "CMD", value_parser = shell_command)]
    exec: String,
    /// In a pool with warm handoff: the command for a bucket that this worker prepares to own,
    /// with the address of who leads it in ROTA_PRIMARY. When it ends well, the worker is ready.
    /// Without one it is at once.
    #[arg(long, value_name = "CMD", value_parser = shell_command)]
    prepare: Option<String>,
    /// In a pool with replicas: the command for a bucket that this worker follows as a backup.
    #[arg(long, value_name = "CMD", value_parser = shell_command)]
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

/// Bytes of an argument with its final NUL: execve(2) refuses longer ones (`MAX_ARG_STRLEN`).
const ARGUMENT_BYTES_MAX: usize = 128 * 1024;

/// What `sh -c` can be given. A configuration file can have anything, and a command that cannot be
/// started would be tried for ever.
fn shell_command(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a command is expected".to_owned());
    }
    if text.contains('\0') || text.len() >= ARGUMENT_BYTES_MAX {
        return Err(format!("a command is less than {ARGUMENT_BYTES_MAX} bytes, without a NUL"));
    }
    Ok(text.to_owned())
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
    let worker = tokio::select! {
        joined = join(&client, &options, &exec) => joined?,
        stopped = told_to_stop() => {
            stopped?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    tracing::info!("joined");
    tokio::select! {
        how = worker.ended() => match how {
            Ended::Left => return Ok(ExitCode::SUCCESS),
            Ended::SessionEnded => bail!("the session has ended: the worker's buckets are with others now"),
            Ended::NoMember => bail!("the worker is no member any more: the pool was deleted, or the member"),
            Ended::Failed => bail!("a part of the worker failed, which is a bug: see the log above"),
        },
        stopped = told_to_stop() => stopped?,
    }
    tracing::info!("leaving");
    worker.leave().await;
    Ok(ExitCode::SUCCESS)
}

/// Joins as soon as a coordinator answers, however long that takes.
async fn join(client: &Client, options: &JoinOptions, exec: &Exec) -> Result<Worker, ClientError> {
    // Where nobody is, that is said soon.
    let searching = client.with_refused_deadline(REFUSED_DEADLINE);
    let mut reminder = Reminder::new();
    loop {
        let joined = match searching.get::<serde_json::Value>("/v1/cluster").await {
            Ok(_) => exec.clone().join(client.clone(), options.clone()).await,
            Err(error) => Err(error),
        };
        match joined {
            Err(error) if may_pass(&error) => {
                if let Some(waited) = reminder.due() {
                    tracing::warn!(%error, waited_s = waited.as_secs(), "cannot join: retrying");
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
            joined => return joined,
        }
    }
}

/// Whether trying again may help: it is the coordinators that have trouble, not what is asked.
fn may_pass(error: &ClientError) -> bool {
    error.is_unreachable() || error.code().is_some_and(|code| code.status() >= 500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_started_is_no_command() {
        assert_eq!(shell_command("exec ./job"), Ok("exec ./job".to_owned()));
        for bad in [String::new(), "a\0b".to_owned(), "x".repeat(ARGUMENT_BYTES_MAX)] {
            assert!(shell_command(&bad).is_err(), "{} bytes", bad.len());
        }
    }
}
