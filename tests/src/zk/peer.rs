//! Servers of the real ZooKeeper.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use super::client::Raw;
use crate::eventually::eventually;
use crate::ports::free_port;
use crate::process::Process;

/// A JVM starts in seconds, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Which ZooKeeper: what clients see of it has changed between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// 3.8.0, as Debian packages it.
    V3_8,
    /// 3.9.5: see `tests/clients/zookeeper/set-up.sh`.
    V3_9,
}

impl Release {
    /// Where its classes are.
    #[must_use]
    pub fn class_path(self) -> String {
        match self {
            Self::V3_8 => "/usr/share/java/zookeeper.jar".to_owned(),
            Self::V3_9 => format!("{}/*", current_jars().display()),
        }
    }
}

/// The folder that holds the jars of ZooKeeper 3.9 and of Curator 5.
fn current_jars() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/zookeeper-3.9"))
}

/// What servers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// To see what they answer: they start fast, are small, and need not survive.
    ForAnswers,
    /// To see how fast they are: as they would run, every write on disk before it is
    /// acknowledged.
    ForSpeed,
}

impl Tuning {
    /// Lines of `zoo.cfg`.
    fn config(self) -> &'static str {
        match self {
            Self::ForAnswers => {
                "tickTime=500\ninitLimit=20\nsyncLimit=10\nminSessionTimeout=1000\nmaxSessionTimeout=60000\n\
                 reconfigEnabled=true\nenforceQuota=true\n"
            }
            // As in the sample that comes with it.
            Self::ForSpeed => "tickTime=2000\ninitLimit=10\nsyncLimit=5\n",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::ForAnswers => {
                &["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no"]
            }
            Self::ForSpeed => &["-Xmx2g"],
        }
    }
}

/// Three servers of ZooKeeper, killed when this is dropped.
#[derive(Debug)]
pub struct ZooKeeper {
    servers: Vec<Process>,
    addresses: Vec<String>,
    dir: TempDir,
    release: Release,
    tuning: Tuning,
}

impl ZooKeeper {
    /// Starts them, and waits until each has a session for a client.
    ///
    /// # Panics
    /// When they cannot be started: `make test-setup` installs them.
    pub async fn start(release: Release) -> Self {
        Self::start_with(release, Tuning::ForAnswers).await
    }

    /// The same, tuned for something else.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with(release: Release, tuning: Tuning) -> Self {
        Self::start_with_peer_ports(release, tuning, |port| port).await
    }

    /// The same; each server reaches a peer port of another at the port that `proxied_port` returns.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub async fn start_with_peer_ports(
        release: Release,
        tuning: Tuning,
        mut proxied_port: impl FnMut(u16) -> u16,
    ) -> Self {
        let dir = TempDir::with_prefix("rota-zookeeper-").expect("there is room for temporary files");
        let ports: Vec<[u16; 3]> = (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
        let reached: Vec<[u16; 3]> = ports
            .iter()
            .map(|[client, peer, election]| [*client, proxied_port(*peer), proxied_port(*election)])
            .collect();
        let members = |own: usize| -> String {
            let all = ports.iter().zip(&reached).enumerate();
            let line = |(at, (listens, reached)): (usize, (&[u16; 3], &[u16; 3]))| {
                let [client, peer, election] = if at == own { listens } else { reached };
                format!("server.{}=127.0.0.1:{peer}:{election};127.0.0.1:{client}\n", at + 1)
            };
            all.map(line).collect()
        };
        let mut servers = Vec::new();
        for at in 0..ports.len() {
            let data = dir.path().join(format!("{}", at + 1));
            fs::create_dir(&data).expect("the directory can be made");
            fs::write(data.join("myid"), format!("{}\n", at + 1)).expect("the file can be written");
            let config = data.join("zoo.cfg");
            let text = format!(
                "{}dataDir={}\nadmin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{}",
                tuning.config(),
                data.display(),
                members(at)
            );
            fs::write(&config, text).expect("the file can be written");
            servers.push(Process::spawn(java(release, &config, tuning), &data.join("log")));
        }
        let addresses: Vec<String> = ports.iter().map(|[client, ..]| format!("127.0.0.1:{client}")).collect();
        for address in &addresses {
            eventually("a server of ZooKeeper has a session", START, async || {
                let raw = Raw::connect(address, None, 10_000, 0).await?;
                (raw.greeting.session != 0).then_some(()).context("no session")
            })
            .await;
        }
        Self { servers, addresses, dir, release, tuning }
    }

    /// Where they serve clients.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where one of them, from 0, keeps what it has.
    #[must_use]
    pub fn data(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("{}", at + 1))
    }

    /// Starts one, from 0, that has ended.
    pub fn restart(&mut self, at: usize) {
        let data = self.data(at);
        let command = java(self.release, &data.join("zoo.cfg"), self.tuning);
        self.servers[at] = Process::spawn(command, &data.join("log"));
    }

    /// One of them, from 0.
    pub fn process(&mut self, at: usize) -> &mut Process {
        &mut self.servers[at]
    }
}

fn java(release: Release, config: &PathBuf, tuning: Tuning) -> Command {
    let mut command = Command::new("java");
    command
        .args(tuning.flags())
        .args(["-cp", &release.class_path(), "-Dzookeeper.extendedTypesEnabled=true"])
        .arg("-Dzookeeper.DigestAuthenticationProvider.superDigest=super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(config);
    command
}
