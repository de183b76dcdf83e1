//! Work in any language: a command is run for every bucket that the worker leads. Others may be
//! run for those that it prepares to own, or follows as a backup.
//!
//! It finds `ROTA_ROLE` (`primary`, `backup`, `preparing`), `ROTA_POOL`, `ROTA_BUCKET`,
//! `ROTA_MEMBER`, `ROTA_FENCE` and `ROTA_CHECKPOINT` in its environment (for a named pool also
//! `ROTA_ITEM`, the item as JSON), and in `ROTA_PRIMARY` the address of whoever leads, if that is
//! another. `ROTA_CHECKPOINT_FILE` and `ROTA_ITEM_FILE` are files with the same bytes, for what is
//! too large for a variable, or has bytes that none can have: that variable is then not set. Lines
//! `progress TEXT`, `checkpoint POSITION`, `load RATE` and `lag NUMBER` on its standard output are
//! taken; others go on to the worker's own. When the bucket is to go, it gets TERM, and KILL after a grace. If it fails it is
//! started again after a pause; if it ends well, it has nothing more to do.
//!
//! Whatever the command has started is killed with it, also when this worker is killed, and at the
//! latest at the deadline of the worker's lease, even while this process is stopped: only what
//! leaves the process group (`setsid`) escapes, and for that there is the fence.

mod environment;
mod output;
pub(crate) mod reaper;
mod spawner;
mod stdout;

use std::future::Future;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rota_client::{Client, ClientError};
use rota_core::pool::Role;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use crate::lease::Lease;
use crate::worker::{Handler, HandlerError, JoinOptions, Worker};
use environment::Environment;
use output::{Line, Output};

/// How long a command may take to end after TERM, unless told otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);

/// Longer graces are taken for this one: the clock has an end.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Pause before a position that could not be written is written again.
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What is left of a stop for the last position to be put down.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Runs a shell command for every bucket.
#[derive(Debug, Clone)]
pub struct Exec {
    /// What `sh -c` is given for a bucket that this worker leads.
    pub command: String,
    /// The same for one that it prepares to own: when it ends well, the worker is ready. Without
    /// one, it is at once.
    pub prepare: Option<String>,
    /// The same for one that it follows as a backup.
    pub follow: Option<String>,
    /// How long it may take to end after TERM.
    pub grace: Duration,
}

/// Why a command's run failed.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("the command could not be run: {0}")]
    Spawn(#[source] std::io::Error),
    #[error("what the command is to know could not be written down: {0}")]
    Environment(#[source] std::io::Error),
    #[error("the command ended with {0}")]
    Failed(ExitStatus),
    #[error("the command was killed: the lease was over, and this process did not run")]
    KilledAtDeadline,
    #[error("the command's output could not be read: {0}")]
    Output(#[source] std::io::Error),
}

impl Handler for Exec {
    fn stop_timeout(&self) -> Duration {
        // Killed after one grace, and waited for as long again at most.
        self.grace() + LAST_WRITE
    }

    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        self.supervise(&self.command, lease).await
    }

    async fn prepare(&self, lease: Lease) -> Result<(), HandlerError> {
        match &self.prepare {
            Some(command) => self.supervise(command, lease).await,
            None => Ok(()),
        }
    }

    async fn follow(&self, lease: Lease) -> Result<(), HandlerError> {
        match &self.follow {
            Some(command) => self.supervise(command, lease).await,
            None => {
                lease.cancelled().await;
                Ok(())
            }
        }
    }
}

impl Exec {
    /// [`Worker::join`] with this handler. Boxed, so that it is compiled here and not
    /// wherever it is called.
    ///
    /// # Errors
    /// As [`Worker::join`].
    pub fn join(
        self,
        client: Client,
        options: JoinOptions,
    ) -> BoxFuture<'static, Result<Worker, ClientError>> {
        Box::pin(Worker::join(client, options, self))
    }

    fn grace(&self) -> Duration {
        self.grace.min(GRACE_MAX)
    }

    async fn supervise(&self, command: &str, lease: Lease) -> Result<(), HandlerError> {
        let checkpoint = lease.read_checkpoint_bytes().await?;
        let environment = Environment::new(&lease, checkpoint).await.map_err(ExecError::Environment)?;
        let (session, command) = (lease.work().key(), command.to_owned());
        let started = spawner::run(move || {
            let (child, watch) = reaper::spawn(session, || shell(&command, &environment))?;
            let group = Group { id: child.id(), watch, was_killed_at_deadline: false };
            // Its files are there for as long as the command runs.
            Ok((child, group, environment))
        });
        let (mut child, mut group, _environment) =
            started.await.and_then(|started| started).map_err(ExecError::Spawn)?;
        let stdout =
            child.stdout.take().ok_or_else(|| ExecError::Output(std::io::ErrorKind::BrokenPipe.into()))?;
        let status = ChildSupervisor {
            output: Some(Output::new(stdout)),
            passing: None,
            lease: &lease,
            unwritten: None,
            writing: None,
            over_at: None,
        }
        .until_ended(&mut child, &mut group, self.grace())
        .await?;
        if status.success() || lease.is_cancelled() {
            Ok(())
        } else if group.was_killed_at_deadline {
            Err(ExecError::KilledAtDeadline.into())
        } else {
            Err(ExecError::Failed(status).into())
        }
    }
}

fn shell(text: &str, environment: &Environment) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(text)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    environment.apply(&mut command);
    die_with_parent(&mut command);
    command
}

/// Has the command end when this process is killed: nobody would stop it when its
/// bucket goes to another. What the command has started in turn, the reaper ends.
/// (prctl(2), `PR_SET_PDEATHSIG`.)
#[allow(unsafe_code)]
pub fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed;
    // prctl(2) and getppid(2) are bare system calls that allocate nothing.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before it was asked for.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }
        });
    }
}

/// The command's process group, killed when it is dropped, or by the reaper when this process is
/// gone or its lease is over: whatever it started goes with it.
struct Group {
    id: Option<u32>,
    watch: reaper::Watch,
    was_killed_at_deadline: bool,
}

impl Group {
    /// The command itself has ended: so does what it left behind. After this its
    /// number may be somebody else's, and is not used again.
    fn end(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.id.take().is_some() {
            self.was_killed_at_deadline = self.watch.end();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id.and_then(|id| i32::try_from(id).ok()) {
            // A group that is gone already is as good.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

type Writing<'a> = Pin<Box<dyn Future<Output = (String, Result<(), ClientError>)> + Send + 'a>>;

/// One run of a command, attended to.
struct ChildSupervisor<'a> {
    /// `None` when the output has ended.
    output: Option<Output<ChildStdout>>,
    /// A line that goes on to our own output, once there is room.
    passing: Option<Vec<u8>>,
    lease: &'a Lease,
    /// The newest position, not being written yet.
    unwritten: Option<String>,
    writing: Option<Writing<'a>>,
    /// TERM was sent, or the command has ended by itself: after this no more is
    /// waited for.
    over_at: Option<Instant>,
}

enum ChildEvent {
    Line(std::io::Result<Option<Line>>),
    Passed,
    Written(String, Result<(), ClientError>),
    Exited(std::io::Result<ExitStatus>),
    Cancelled,
    GraceOver,
}

impl ChildSupervisor<'_> {
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
                && self.output.is_none()
                && self.writing.is_none()
            {
                return Ok(status);
            }
            match self.next(child, status.is_none()).await {
                ChildEvent::Line(Ok(Some(line))) => self.take_line(line),
                ChildEvent::Line(Ok(None)) => self.output = None,
                ChildEvent::Line(Err(error)) => return Err(ExecError::Output(error)),
                ChildEvent::Passed => {}
                ChildEvent::Written(position, result) => self.written(position, result),
                ChildEvent::Exited(result) => {
                    status = Some(result.map_err(ExecError::Spawn)?);
                    group.end();
                    self.over_at = Some(Instant::now() + grace);
                }
                ChildEvent::Cancelled => {
                    group.signal(Signal::SIGTERM);
                    self.over_at = Some(Instant::now() + grace);
                }
                ChildEvent::GraceOver if status.is_some() => {
                    // Somebody outside the group holds it open.
                    self.output = None;
                    self.over_at = None;
                }
                ChildEvent::GraceOver => {
                    tracing::warn!(
                        bucket = self.lease.bucket(),
                        "the command did not end after TERM: it is killed"
                    );
                    group.signal(Signal::SIGKILL);
                    self.over_at = Some(Instant::now() + grace);
                }
            }
        }
    }

    async fn next(&mut self, child: &mut Child, running: bool) -> ChildEvent {
        let (output, passing, writing) = (&mut self.output, &mut self.passing, &mut self.writing);
        let (lease, over_at) = (self.lease, self.over_at);
        tokio::select! {
            () = stdout::pass(passing), if passing.is_some() => ChildEvent::Passed,
            line = next_line(output), if passing.is_none() => ChildEvent::Line(line),
            (position, result) = next_written(writing) => ChildEvent::Written(position, result),
            status = child.wait(), if running => ChildEvent::Exited(status),
            () = lease.cancelled(), if running && over_at.is_none() => ChildEvent::Cancelled,
            () = tokio::time::sleep_until(over_at.unwrap_or_else(Instant::now)), if over_at.is_some() => {
                ChildEvent::GraceOver
            }
        }
    }

    fn take_line(&mut self, line: Line) {
        let text = line.is_whole.then(|| std::str::from_utf8(&line.bytes).ok()).flatten();
        match text.and_then(|text| text.split_once(' ')) {
            Some(("progress", text)) => self.lease.progress(text),
            Some(("load", rate)) if rate.trim().parse::<f64>().is_ok() => {
                self.lease.load(rate.trim().parse().unwrap_or_default());
            }
            Some(("lag", lag)) if lag.trim().parse::<f64>().is_ok() => {
                self.lease.lag(lag.trim().parse().unwrap_or_default());
            }
            // Where the work stands is the primary's to say.
            Some(("checkpoint", position)) if self.lease.role() == Role::Primary => {
                self.unwritten = Some(position.to_owned());
                self.write_next();
            }
            _ => self.passing = Some(line.with_end()),
        }
    }

    /// One position is written at a time; of those that come meanwhile, only
    /// the newest.
    fn write_next(&mut self) {
        if self.writing.is_none()
            && let Some(position) = self.unwritten.take()
        {
            self.write_after(Duration::ZERO, position);
        }
    }

    fn write_after(&mut self, pause: Duration, position: String) {
        let lease = self.lease;
        self.writing = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            let result = lease.write_checkpoint(position.clone()).await;
            (position, result)
        }));
    }

    /// A position that could not be written is written again, unless a newer one
    /// has come or the grant has ended.
    fn written(&mut self, position: String, result: Result<(), ClientError>) {
        self.writing = None;
        if let Err(error) = result {
            tracing::warn!(bucket = self.lease.bucket(), %error, "a checkpoint was not written");
            let is_final = matches!(&error, ClientError::Refused(body) if body.code.status() < 500);
            if !is_final && self.unwritten.is_none() {
                return self.write_after(WRITE_AGAIN_AFTER, position);
            }
        }
        self.write_next();
    }
}

async fn next_line(output: &mut Option<Output<ChildStdout>>) -> std::io::Result<Option<Line>> {
    match output {
        Some(output) => output.next().await,
        None => std::future::pending().await,
    }
}

async fn next_written(writing: &mut Option<Writing<'_>>) -> (String, Result<(), ClientError>) {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
