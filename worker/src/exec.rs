//! Work in any language: a command is run for every bucket.
//!
//! It finds `ROTA_POOL`, `ROTA_BUCKET`, `ROTA_MEMBER`, `ROTA_FENCE` and
//! `ROTA_CHECKPOINT` in its environment (for a named pool also `ROTA_ITEM`, the
//! item as JSON). Lines `progress TEXT` and `checkpoint POSITION` on its standard
//! output are taken; others go on to the worker's own. When the bucket is to go,
//! it gets TERM, and KILL after a grace. If it fails it is started again after a
//! pause; if it ends well, it has nothing more to do.

use std::future::Future;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rota_client::ClientError;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use crate::lease::Lease;
use crate::worker::{Handler, HandlerError};

/// How long a command may take to end after TERM, unless told otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);

/// Runs a shell command for every bucket.
#[derive(Debug, Clone)]
pub struct Exec {
    /// What `sh -c` is given.
    pub command: String,
    /// How long it may take to end after TERM.
    pub grace: Duration,
}

/// Why a command's run failed.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("the command could not be run: {0}")]
    Spawn(#[source] std::io::Error),
    #[error("the command ended with {0}")]
    Failed(ExitStatus),
    #[error("the command's output could not be read: {0}")]
    Output(#[source] std::io::Error),
}

impl Handler for Exec {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        let checkpoint = lease.read_checkpoint().await?;
        let mut child = self.spawn(&lease, checkpoint.as_deref())?;
        let mut group = Group(child.id());
        let stdout =
            child.stdout.take().ok_or_else(|| ExecError::Output(std::io::ErrorKind::BrokenPipe.into()))?;
        let status = Attendance {
            lines: Some(BufReader::new(stdout).lines()),
            lease: &lease,
            unwritten: None,
            writing: None,
            kill_at: None,
        }
        .until_ended(&mut child, &mut group, self.grace)
        .await?;
        if status.success() || lease.is_cancelled() { Ok(()) } else { Err(ExecError::Failed(status).into()) }
    }
}

impl Exec {
    fn spawn(&self, lease: &Lease, checkpoint: Option<&str>) -> Result<Child, ExecError> {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(&self.command)
            .env("ROTA_POOL", lease.pool())
            .env("ROTA_BUCKET", lease.bucket())
            .env("ROTA_MEMBER", lease.member())
            .env("ROTA_FENCE", lease.fence().to_string())
            .env("ROTA_CHECKPOINT", checkpoint.unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(item) = lease.item().and_then(|item| serde_json::to_string(item).ok()) {
            command.env("ROTA_ITEM", item);
        }
        die_with_parent(&mut command);
        command.spawn().map_err(ExecError::Spawn)
    }
}

/// Has the command end when this worker is killed: nobody would stop it when its
/// bucket goes to another.
#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed;
    // prctl(2) is a bare system call that allocates nothing.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
}

/// The command's process group, killed when it is dropped: whatever it started
/// goes with it.
struct Group(Option<u32>);

impl Group {
    /// The command itself has ended: so does what it left behind. After this its
    /// number may be somebody else's, and is not used again.
    fn end(&mut self) {
        self.signal(Signal::SIGKILL);
        self.0 = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // A group that is gone already is as good.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

type Writing<'a> = Pin<Box<dyn Future<Output = Result<(), ClientError>> + Send + 'a>>;

/// One run of a command, attended to.
struct Attendance<'a> {
    /// `None` when the output has ended.
    lines: Option<Lines<BufReader<ChildStdout>>>,
    lease: &'a Lease,
    /// The newest position, not being written yet.
    unwritten: Option<String>,
    writing: Option<Writing<'a>>,
    /// TERM was sent; KILL follows then.
    kill_at: Option<Instant>,
}

enum Happened {
    Line(std::io::Result<Option<String>>),
    Written(Result<(), ClientError>),
    Exited(std::io::Result<ExitStatus>),
    Cancelled,
    GraceOver,
}

impl Attendance<'_> {
    /// Attends to the command until it has ended, its output is read, and the
    /// last position in it is put down.
    async fn until_ended(
        mut self,
        child: &mut Child,
        group: &mut Group,
        grace: Duration,
    ) -> Result<ExitStatus, ExecError> {
        let mut status = None;
        loop {
            if let Some(status) = status
                && self.lines.is_none()
                && self.writing.is_none()
            {
                return Ok(status);
            }
            match self.next(child, status.is_none()).await {
                Happened::Line(Ok(Some(line))) => self.take_line(&line),
                Happened::Line(Ok(None)) => self.lines = None,
                Happened::Line(Err(error)) => return Err(ExecError::Output(error)),
                Happened::Written(result) => self.written(result),
                Happened::Exited(result) => {
                    status = Some(result.map_err(ExecError::Spawn)?);
                    group.end();
                }
                Happened::Cancelled => {
                    group.signal(Signal::SIGTERM);
                    self.kill_at = Some(Instant::now() + grace);
                }
                Happened::GraceOver => {
                    tracing::warn!(
                        bucket = self.lease.bucket(),
                        "the command did not end after TERM: it is killed"
                    );
                    group.signal(Signal::SIGKILL);
                    self.kill_at = Some(Instant::now() + grace);
                }
            }
        }
    }

    async fn next(&mut self, child: &mut Child, running: bool) -> Happened {
        let (lines, writing, lease, kill_at) = (&mut self.lines, &mut self.writing, self.lease, self.kill_at);
        tokio::select! {
            line = next_line(lines) => Happened::Line(line),
            result = next_written(writing) => Happened::Written(result),
            status = child.wait(), if running => Happened::Exited(status),
            () = lease.cancelled(), if running && kill_at.is_none() => Happened::Cancelled,
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if running && kill_at.is_some() => {
                Happened::GraceOver
            }
        }
    }

    fn take_line(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("progress", text)) => self.lease.progress(text),
            Some(("checkpoint", position)) => {
                self.unwritten = Some(position.to_owned());
                self.write_next();
            }
            _ => println!("{line}"),
        }
    }

    /// One position is written at a time; of those that come meanwhile, only
    /// the newest.
    fn write_next(&mut self) {
        if self.writing.is_none()
            && let Some(position) = self.unwritten.take()
        {
            self.writing = Some(Box::pin(self.lease.write_checkpoint(position)));
        }
    }

    fn written(&mut self, result: Result<(), ClientError>) {
        self.writing = None;
        if let Err(error) = result {
            // A stale fence has cancelled the lease already.
            tracing::warn!(bucket = self.lease.bucket(), %error, "a checkpoint was not written");
        }
        self.write_next();
    }
}

async fn next_line(lines: &mut Option<Lines<BufReader<ChildStdout>>>) -> std::io::Result<Option<String>> {
    match lines {
        Some(lines) => lines.next_line().await,
        None => std::future::pending().await,
    }
}

async fn next_written(writing: &mut Option<Writing<'_>>) -> Result<(), ClientError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
