//! What is compared: three servers of each, on loopback, every write on disk before it
//! is acknowledged.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use rota_tests::zk::{Tuning, ZooKeeper};
use rota_tests::{Cluster, Process, Settings, eventually, free_port};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::Protocol;
use crate::scheduler::{cpu, resident};

/// Servers start in seconds, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A system, and what its clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Rota, by clients of ZooKeeper.
    Rota,
    /// Rota, over HTTP.
    RotaHttp,
    /// ZooKeeper.
    Zookeeper,
    /// etcd, over gRPC.
    Etcd,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rota => "Rota",
            Self::RotaHttp => "Rota, HTTP",
            Self::Zookeeper => "ZooKeeper",
            Self::Etcd => "etcd",
        }
    }

    pub fn protocol(self) -> Protocol {
        match self {
            Self::Rota | Self::Zookeeper => Protocol::Zookeeper,
            Self::RotaHttp => Protocol::Http,
            Self::Etcd => Protocol::Etcd,
        }
    }
}

/// Three servers that run. They are killed when it is dropped.
pub struct System {
    kind: Kind,
    servers: Servers,
}

enum Servers {
    Rota(Box<Cluster>),
    Zookeeper(Box<ZooKeeper>),
    Etcd(Etcd),
}

impl System {
    /// Starts them on empty folders.
    pub async fn start(kind: Kind) -> anyhow::Result<Self> {
        let servers = match kind {
            Kind::Rota | Kind::RotaHttp => {
                let settings = Settings { alone: true, ..Settings::default() };
                Servers::Rota(Box::new(Cluster::start_with(3, settings).await))
            }
            Kind::Zookeeper => Servers::Zookeeper(Box::new(ZooKeeper::start_with(Tuning::ForSpeed).await)),
            Kind::Etcd => Servers::Etcd(Etcd::start().await?),
        };
        Ok(Self { kind, servers })
    }

    /// Where clients are served.
    pub fn addresses(&self) -> Vec<String> {
        match &self.servers {
            Servers::Rota(cluster) => {
                let ids = cluster.ids().into_iter();
                match self.kind {
                    Kind::RotaHttp => ids.map(|id| cluster.http(id)).collect(),
                    _ => ids.map(|id| cluster.zookeeper(id)).collect(),
                }
            }
            Servers::Zookeeper(servers) => servers.addresses().to_vec(),
            Servers::Etcd(etcd) => etcd.addresses.clone(),
        }
    }

    fn pids(&mut self) -> Vec<u32> {
        match &mut self.servers {
            Servers::Rota(cluster) => {
                let ids = cluster.ids();
                ids.into_iter().map(|id| cluster.process(id).id()).collect()
            }
            Servers::Zookeeper(servers) => (0..3).map(|at| servers.process(at).id()).collect(),
            Servers::Etcd(etcd) => etcd.servers.iter().map(Process::id).collect(),
        }
    }

    /// Processor time that all of them have used.
    pub fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.pids().into_iter().map(cpu).sum()
    }

    /// Memory of each.
    pub fn resident(&mut self) -> anyhow::Result<Vec<u64>> {
        self.pids().into_iter().map(resident).collect()
    }
}

/// Servers of etcd, as Debian packages it.
struct Etcd {
    servers: Vec<Process>,
    addresses: Vec<String>,
    _dir: TempDir,
}

impl Etcd {
    async fn start() -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("rota-etcd-")?;
        let ports: Vec<[u16; 2]> = (0..3).map(|_| [free_port(), free_port()]).collect();
        let cluster: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(at, [_, peer])| format!("s{at}=http://127.0.0.1:{peer}"))
            .collect();
        let servers = ports.iter().enumerate().map(|(at, [client, peer])| {
            let command = etcd(dir.path(), at, *client, *peer, &cluster.join(","));
            Process::spawn(command, &dir.path().join(format!("{at}.log")))
        });
        let servers = servers.collect();
        let addresses: Vec<String> = ports.iter().map(|[client, _]| format!("127.0.0.1:{client}")).collect();
        for address in &addresses {
            eventually("a server of etcd is well", START, async || {
                let health = get(address, "/health").await?;
                ensure!(health.contains("\"true\""), "{health}");
                Ok(())
            })
            .await;
        }
        Ok(Self { servers, addresses, _dir: dir })
    }
}

fn etcd(dir: &Path, at: usize, client: u16, peer: u16, cluster: &str) -> Command {
    let mut command = Command::new("etcd");
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    command
        .args(["--name", &format!("s{at}"), "--logger", "zap", "--log-level", "error"])
        .arg("--data-dir")
        .arg(dir.join(format!("{at}")))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", cluster, "--initial-cluster-token", "bench"]);
    command
}

/// What a server says over HTTP.
async fn get(address: &str, target: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {target} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("no answer")?;
    Ok(answer)
}
