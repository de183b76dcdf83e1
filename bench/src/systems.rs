//! What is compared: three servers of each, on loopback, every write on disk before it
//! is acknowledged.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use rota_tests::zk::{Release, Tuning, ZooKeeper};
use rota_tests::{Call, Cluster, DelayProxies, Process, Settings, eventually, free_port};
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
    /// Delay proxies between the servers.
    _proxies: Option<DelayProxies>,
}

enum Servers {
    Rota(Box<Cluster>),
    Zookeeper(Box<ZooKeeper>),
    Etcd(Etcd),
}

impl System {
    /// Starts them on empty folders.
    pub async fn start(kind: Kind) -> anyhow::Result<Self> {
        Self::start_with(kind, None).await
    }

    /// Starts three servers with a one-way network delay of `one_way` between them.
    pub async fn start_with_peer_delay(kind: Kind, one_way: Duration) -> anyhow::Result<Self> {
        Self::start_with(kind, Some(DelayProxies::new(one_way))).await
    }

    async fn start_with(kind: Kind, mut proxies: Option<DelayProxies>) -> anyhow::Result<Self> {
        let mut proxied_port = |port| proxies.as_mut().map_or(Ok(port), |proxies| proxies.proxy(port));
        let servers = match kind {
            Kind::Rota | Kind::RotaHttp => {
                // Everybody comes from one address here.
                let flags = ["--zookeeper-connections-max", "0"].map(str::to_owned).to_vec();
                let settings = Settings { alone: true, flags, ..Settings::default() };
                Servers::Rota(Box::new(rota(settings, &mut proxied_port).await?))
            }
            Kind::Zookeeper => {
                let proxied_port = |port| proxied_port(port).expect("loopback has ports");
                Servers::Zookeeper(Box::new(
                    ZooKeeper::start_with_peer_ports(Release::V3_8, Tuning::ForSpeed, proxied_port).await,
                ))
            }
            Kind::Etcd => Servers::Etcd(Etcd::start(&mut proxied_port).await?),
        };
        Ok(Self { kind, servers, _proxies: proxies })
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

    /// A server, from 0.
    fn process(&mut self, at: usize) -> &mut Process {
        match &mut self.servers {
            Servers::Rota(cluster) => cluster.process(id(at)),
            Servers::Zookeeper(servers) => servers.process(at),
            Servers::Etcd(etcd) => &mut etcd.servers[at],
        }
    }

    /// Does something to one of the servers, from 0, as somebody would from outside.
    pub async fn hit(&mut self, at: usize, by: Blow) {
        match by {
            Blow::Kill => drop(self.process(at).kill9()),
            Blow::Stop => {
                self.process(at).term();
                self.process(at).ended(START).await;
            }
            Blow::Pause => self.process(at).pause(),
            Blow::Resume => self.process(at).resume(),
            Blow::Restart => match &mut self.servers {
                Servers::Rota(cluster) => cluster.restart(id(at)),
                Servers::Zookeeper(servers) => servers.restart(at),
                Servers::Etcd(etcd) => etcd.restart(at),
            },
        }
    }

    /// Where clients are served by a server that does not lead.
    pub async fn follower(&self) -> String {
        self.addresses().swap_remove((self.leader().await + 1) % SERVERS)
    }

    /// Which one leads, from 0.
    pub async fn leader(&self) -> usize {
        let addresses: Vec<String> = match &self.servers {
            Servers::Rota(cluster) => cluster.ids().iter().map(|id| cluster.zookeeper(*id)).collect(),
            Servers::Zookeeper(_) | Servers::Etcd(_) => self.addresses(),
        };
        eventually("one of the servers leads", START, async || {
            for (at, address) in addresses.iter().enumerate() {
                let leads = match self.kind {
                    Kind::Etcd => {
                        get(address, "/metrics").await.is_ok_and(|m| m.contains("etcd_server_is_leader 1"))
                    }
                    _ => word(address, "srvr").await.is_ok_and(|said| said.contains("Mode: leader")),
                };
                if leads {
                    return Ok(at);
                }
            }
            anyhow::bail!("none leads")
        })
        .await
    }

    /// A counter that grows with every leader change: Raft's term, ZooKeeper's epoch, the changes
    /// that etcd has seen.
    pub async fn leader_changes(&self) -> anyhow::Result<u64> {
        let mut last = 0;
        let pages: Vec<String> = match &self.servers {
            Servers::Rota(cluster) => cluster.ids().iter().map(|id| cluster.http(*id)).collect(),
            Servers::Zookeeper(_) | Servers::Etcd(_) => self.addresses(),
        };
        for address in pages {
            let term = match &self.servers {
                Servers::Rota(_) => number(&get(&address, "/metrics").await?, "rota_raft_term ")?,
                Servers::Etcd(_) => {
                    number(&get(&address, "/metrics").await?, "etcd_server_leader_changes_seen_total ")?
                }
                // The first half of a zxid is the epoch.
                Servers::Zookeeper(_) => {
                    let said = word(&address, "srvr").await?;
                    let zxid = said.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
                    u64::from_str_radix(zxid.context("no zxid")?.trim(), 16)? >> 32
                }
            };
            last = last.max(term);
        }
        Ok(last)
    }

    /// Processor time that all of them have used since they were started.
    pub fn cpu(&mut self) -> anyhow::Result<Duration> {
        (0..SERVERS).map(|at| cpu(self.process(at).id())).sum()
    }

    /// Memory of each.
    pub fn resident(&mut self) -> anyhow::Result<Vec<u64>> {
        (0..SERVERS).map(|at| resident(self.process(at).id())).collect()
    }

    /// Takes a snapshot on all servers at once. False where that cannot be asked for.
    pub async fn snapshot(&self) -> anyhow::Result<bool> {
        let Servers::Rota(cluster) = &self.servers else { return Ok(false) };
        let asked = cluster.ids().into_iter().map(async |id| {
            let taken = cluster.ask(id, Call::post("/v1/cluster/snapshot", &())).await;
            ensure!(taken.status == 200, "no snapshot: {}", taken.text());
            Ok(())
        });
        futures::future::try_join_all(asked).await?;
        Ok(true)
    }
}

/// Servers of each system.
const SERVERS: usize = 3;

/// Rota numbers its servers from 1.
fn id(at: usize) -> u64 {
    at as u64 + 1
}

/// What may befall a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and its end is waited for.
    Stop,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
    /// It is started again.
    Restart,
}

/// Servers of etcd, as Debian packages it.
struct Etcd {
    servers: Vec<Process>,
    addresses: Vec<String>,
    /// Of each: where clients are served, where it listens for the others, and where they reach it.
    ports: Vec<[u16; 3]>,
    dir: TempDir,
}

impl Etcd {
    async fn start(proxied_port: &mut impl FnMut(u16) -> anyhow::Result<u16>) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("rota-etcd-")?;
        let ports = (0..SERVERS).map(|_| {
            let (client, peer) = (free_port(), free_port());
            Ok([client, peer, proxied_port(peer)?])
        });
        let ports: Vec<[u16; 3]> = ports.collect::<anyhow::Result<_>>()?;
        let addresses = ports.iter().map(|[client, ..]| format!("127.0.0.1:{client}")).collect();
        let mut etcd = Self { servers: Vec::new(), addresses, ports, dir };
        etcd.servers = (0..SERVERS).map(|at| etcd.spawn(at)).collect();
        for address in &etcd.addresses {
            eventually("a server of etcd is well", START, async || {
                let health = get(address, "/health").await?;
                ensure!(health.contains("\"true\""), "{health}");
                Ok(())
            })
            .await;
        }
        Ok(etcd)
    }

    fn spawn(&self, at: usize) -> Process {
        let [client, peer, reached] = self.ports[at].map(|port| format!("http://127.0.0.1:{port}"));
        let cluster =
            self.ports.iter().enumerate().map(|(at, [.., peer])| format!("s{at}=http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("s{at}"), "--logger", "zap", "--log-level", "error"])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("{at}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &reached])
            .args([
                "--initial-cluster",
                &cluster.collect::<Vec<_>>().join(","),
                "--quota-backend-bytes",
                "8589934592",
            ]);
        Process::spawn(command, &self.dir.path().join(format!("{at}.log")))
    }

    fn restart(&mut self, at: usize) {
        self.servers[at] = self.spawn(at);
    }
}

/// Servers of Rota, which reach each other at the ports that `proxied_port` returns.
async fn rota(
    settings: Settings,
    proxied_port: &mut impl FnMut(u16) -> anyhow::Result<u16>,
) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::prepare(SERVERS as u64, settings).await;
    cluster.route_peers(|_, port| proxied_port(port))?;
    for id in cluster.ids() {
        cluster.restart(id);
    }
    cluster.all_follow_one_leader().await;
    Ok(cluster)
}

/// The number after `name` at the beginning of a line.
fn number(page: &str, name: &str) -> anyhow::Result<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("no {name}in the metrics"))?.trim().parse::<f64>()? as u64)
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

/// What a server answers to a four-letter word.
async fn word(address: &str, word: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(word.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("no answer")?;
    Ok(answer)
}
