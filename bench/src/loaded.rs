//! A load under way, in a process of its own.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::load::{Operation, Protocol, Report, flag};

/// How a line begins that tells how much is done.
const DONE: &str = "done";

/// What is asked, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    pub protocol: Protocol,
    pub servers: Vec<String>,
    pub operation: Operation,
    pub connections: u64,
    pub outstanding: usize,
    pub value_bytes: usize,
    pub keys: u64,
    /// Whether they are there already.
    pub filled: bool,
    pub warm_up: Duration,
    pub time: Duration,
    pub run: u32,
}

/// A load that is being measured. It ends when this is dropped.
pub struct Loaded {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Loaded {
    /// Begins; returns when the keys are there, it is warm, and it is measured from now on.
    pub async fn begin(plan: &Plan) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["load", "--protocol", &flag(&plan.protocol), "--operation", &flag(&plan.operation)])
            .args(["--servers", &plan.servers.join(",")])
            .args(["--connections", &plan.connections.to_string()])
            .args(["--outstanding", &plan.outstanding.to_string()])
            .args(["--value-bytes", &plan.value_bytes.to_string()])
            .args(["--keys", &plan.keys.to_string(), "--run", &plan.run.to_string()])
            .args(["--warm-up", &plan.warm_up.as_secs_f64().to_string()])
            .args(["--seconds", &plan.time.as_secs_f64().to_string()])
            .args(plan.filled.then_some("--filled"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let out = child.stdout.take().context("it has an output")?;
        let mut lines = BufReader::new(out).lines();
        for expected in ["ready", "begin"] {
            ensure!(lines.next_line().await?.as_deref() == Some(expected), "the load broke off");
        }
        Ok(Self { child, lines })
    }

    /// Returns when so much more is done than was a moment ago.
    pub async fn goes_on_by(&mut self, more: u64) -> anyhow::Result<()> {
        let mut wanted = None;
        loop {
            let line = self.line().await?;
            let done = line.strip_prefix(DONE).context("its time was over before so much was done")?;
            let done: u64 = done.trim().parse()?;
            // What it has told meanwhile is taken first.
            let waits = self.lines.get_ref().buffer().is_empty();
            match wanted {
                Some(wanted) if done >= wanted => return Ok(()),
                None if waits => wanted = Some(done + more),
                _ => {}
            }
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        self.lines.next_line().await?.context("the load broke off")
    }

    /// What has come out so far, and no more.
    pub async fn report_now(self) -> anyhow::Result<Report> {
        let id = self.child.id().context("its time was over before")?;
        kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGINT)?;
        self.report().await
    }

    /// What came out. Waits until its time is over.
    pub async fn report(mut self) -> anyhow::Result<Report> {
        let mut report = self.line().await?;
        while report.starts_with(DONE) {
            report = self.line().await?;
        }
        ensure!(self.child.wait().await?.success(), "the load failed");
        Ok(serde_json::from_str(&report)?)
    }
}
