//! The processes of the demo: started, killed, and gone when the demo is.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rota_worker::monotonic_ns;
use tokio::process::{Child, Command};

/// The session timeout of everyone in the demo: a death goes unnoticed so long.
pub(super) const SESSION_TIMEOUT: &str = "2s";
/// The pool that the workers share.
pub(super) const MAIL: &str = "mail";
/// The pool of log sources.
pub(super) const LOGS: &str = "logs";
/// What the sources' host is called.
pub(super) const HOST: &str = "localhost";

/// A stand-in for fetching mailboxes: a round a second, from where the last
/// owner stopped.
const WORK: &str = r#"round=${ROTA_CHECKPOINT:-0}
while sleep 1; do round=$((round+1)); echo "checkpoint $round"; echo "progress round $round"; done"#;

/// All processes of the demo.
pub(super) struct Cast {
    home: PathBuf,
    program: PathBuf,
    servers: BTreeMap<u64, Addresses>,
    running: BTreeMap<String, Child>,
    /// When each process was killed, in nanoseconds of the monotonic clock.
    pub(super) killed: BTreeMap<String, u64>,
}

#[derive(Clone)]
struct Addresses {
    http: String,
    peer: String,
}

impl Cast {
    /// Sets the stage below `home`.
    pub(super) fn new(home: &Path) -> anyhow::Result<Self> {
        let ports = free_ports(6)?;
        let address = |at: usize| format!("127.0.0.1:{}", ports[at]);
        let servers =
            (0..3).map(|n| (n as u64 + 1, Addresses { http: address(2 * n), peer: address(2 * n + 1) }));
        Ok(Self {
            home: home.to_owned(),
            program: std::env::current_exe().context("cannot find the rota binary itself")?,
            servers: servers.collect(),
            running: BTreeMap::new(),
            killed: BTreeMap::new(),
        })
    }

    /// The coordinators' HTTP addresses.
    pub(super) fn servers(&self) -> Vec<String> {
        self.servers.values().map(|a| a.http.clone()).collect()
    }

    /// Where a worker or collector records what it owned.
    pub(super) fn history(&self, name: &str) -> PathBuf {
        self.home.join(format!("{name}.history"))
    }

    pub(super) fn start_coordinator(&mut self, id: u64) -> anyhow::Result<()> {
        let Addresses { http, peer } = self.servers[&id].clone();
        let peers: Vec<String> = self.servers.iter().map(|(id, a)| format!("{id}={}", a.peer)).collect();
        let data = self.home.join(format!("coordinator-{id}"));
        self.start(&format!("coordinator-{id}"), |command| {
            command
                .args([
                    "coordinator",
                    "--id",
                    &id.to_string(),
                    "--http",
                    &http,
                    "--peer",
                    &peer,
                    "--zookeeper",
                    "off",
                ])
                .args(["--peers", &peers.join(","), "--cluster", "demo", "--data"])
                .arg(data);
        })
    }

    pub(super) fn start_agent(&mut self, app: &str, glob: &str, excluded: &[String]) -> anyhow::Result<()> {
        let state = self.home.join(format!("agent-{app}"));
        self.start(&format!("agent-{app}"), |command| {
            command.args(["agent", "--app", app, "--host", HOST, "--session-timeout", SESSION_TIMEOUT]);
            command.args(["--path", glob]);
            for excluded in excluded {
                command.args(["--exclude", excluded]);
            }
            command.arg("--state").arg(state);
        })
    }

    pub(super) fn start_collector(&mut self, name: &str, out: &Path) -> anyhow::Result<()> {
        let history = self.history(name);
        self.start(name, |command| {
            command
                .args(["collector", "--name", name, "--session-timeout", SESSION_TIMEOUT, "--out"])
                .arg(out)
                .arg("--history")
                .arg(history);
        })
    }

    pub(super) fn start_worker(&mut self, name: &str) -> anyhow::Result<()> {
        let history = self.history(name);
        self.start(name, |command| {
            command
                .args(["worker", "--pool", MAIL, "--name", name, "--session-timeout", SESSION_TIMEOUT])
                .args(["--exec", WORK, "--history"])
                .arg(history);
        })
    }

    fn start(&mut self, name: &str, set_up: impl FnOnce(&mut Command)) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.home.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.program);
        set_up(&mut command);
        rota_worker::exec::die_with_parent(&mut command);
        let child = command
            .env("ROTA_SERVERS", self.servers().join(","))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            // Ctrl-C is for the demo, which then takes stock.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        self.running.insert(name.to_owned(), child);
        Ok(())
    }

    /// Kills a process without a word: SIGKILL.
    pub(super) async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let mut child = self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        child.start_kill()?;
        self.killed.insert(name.to_owned(), monotonic_ns());
        child.wait().await?;
        Ok(())
    }

    /// Names of processes that have ended without being asked to.
    pub(super) fn fallen(&mut self) -> Vec<String> {
        let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)));
        self.running.iter_mut().filter_map(|(name, child)| ended(child).then(|| name.clone())).collect()
    }

    /// The last lines of a process's log.
    pub(super) fn last_words(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.home.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Asks everyone to stop, those who do the work first.
    pub(super) async fn dismiss(&mut self) {
        for part in ["worker", "collector", "agent", "coordinator"] {
            let names: Vec<String> = self.running.keys().filter(|n| n.starts_with(part)).cloned().collect();
            let mut leaving = Vec::new();
            for name in names {
                if let Some(child) = self.running.remove(&name) {
                    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
                        // One that has just ended is as good.
                        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                    }
                    leaving.push(child);
                }
            }
            for mut child in leaving {
                let patience = std::time::Duration::from_secs(5);
                if tokio::time::timeout(patience, child.wait()).await.is_err() {
                    drop(child.kill().await);
                }
            }
        }
    }
}

/// Where ports are looked for: below those that outgoing connections get (from
/// 32768 on Linux). One of those could be taken before its coordinator starts, or
/// while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Ports that are free now. Another process could take one before we do: the
/// start of a coordinator would then fail, and say so.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    // Two demos begin at different places.
    let start = usize::try_from(std::process::id())? * 611 % PORTS.len();
    let ports = PORTS.skip(start).chain(PORTS.take(start));
    let free: Vec<u16> =
        ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect();
    if free.len() < count { bail!("no free ports in {PORTS:?}") } else { Ok(free) }
}
