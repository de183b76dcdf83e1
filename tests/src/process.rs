//! A child process: started, sent signals, waited for, and killed at the latest
//! when its value is dropped.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rota_worker::monotonic_ns;

use crate::cluster::LIVENESS;
use crate::eventually::eventually;

/// A running program, mostly `rota`. What it says is appended to its log file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Process {
    /// Starts `rota` with these arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>, log: &Path) -> Self {
        let mut command = Command::new(crate::rota());
        command.args(args);
        Self::spawn(command, log)
    }

    /// Starts another program.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("the log can be written");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be cloned"))
            .stderr(file)
            .spawn()
            .expect("the binary can be started");
        Self { child, log: log.to_owned(), ended: false }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        assert!(!self.ended, "the process has ended: its number may be another's now");
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid fits"));
        kill(pid, signal).expect("the child was not waited for, so its number is its own");
    }

    /// Kills it with SIGKILL, and returns when it is gone: the time of the kill,
    /// in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn kill9(&mut self) -> u64 {
        let at = monotonic_ns();
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a child can be waited for");
        self.ended = true;
        at
    }

    /// Asks it with SIGTERM to stop.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Stops it where it stands, with SIGSTOP. Returns when all its threads are stopped: on a busy
    /// machine they run on for some time after the signal was sent.
    ///
    /// # Panics
    /// When they are not stopped after [`LIVENESS`].
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let deadline = Instant::now() + LIVENESS;
        while !are_threads_stopped(self.child.id()) {
            assert!(Instant::now() < deadline, "process {} does not stop", self.child.id());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on, with SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `within`.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let log = self.log.clone();
        let what = format!("the process that writes {} ends", log.display());
        let status = eventually(&what, within, async || {
            self.child.try_wait()?.ok_or_else(|| anyhow::anyhow!("it still runs; it said: {}", said(&log)))
        })
        .await;
        self.ended = true;
        status
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.ended = self.ended || matches!(self.child.try_wait(), Ok(Some(_)));
        !self.ended
    }

    /// All that it, and others with the same log, said until now.
    #[must_use]
    pub fn said(&self) -> String {
        said(&self.log)
    }
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.runs() {
            // SIGKILL ends a paused process too.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether each thread of a process is stopped, or gone.
fn are_threads_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process was not waited for");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The name before the state may contain anything.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
        state.is_none_or(|state| matches!(state, b'T' | b't' | b'Z' | b'X'))
    })
}
