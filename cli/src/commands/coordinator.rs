//! `rota coordinator`: one server of a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::Args;
use nix::sys::stat::Mode;
use rota_coordinator::Tls;
use rota_coordinator::config::{Config, Limits, Timing, Zookeeper};
use rota_coordinator::env::{Env, Listener, SystemClock, SystemRandomSource, TcpConnector};
use rota_coordinator::server::Server;

use super::services::{listen, reachable_at, told_to_stop};

/// Run a coordinator: one server of a cluster.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  A cluster of one:
    rota coordinator --id 1 --data /var/lib/rota
  One of three; the same --peers on each:
    rota coordinator --id 1 --data /var/lib/rota --http 0.0.0.0:7710 --peer 0.0.0.0:7720 \\
      --advertise 10.0.0.1:7710 --peers 1=10.0.0.1:7720,2=10.0.0.2:7720,3=10.0.0.3:7720 \\
      --zookeeper 0.0.0.0:2181 --zookeeper-advertise 10.0.0.1:2181
  A fourth, to be added with `rota cluster add 4 10.0.0.4:7720`:
    rota coordinator --id 4 --data /var/lib/rota --http 0.0.0.0:7710 --peer 0.0.0.0:7720 \\
      --advertise 10.0.0.4:7710 --join")]
pub(crate) struct CoordinatorArgs {
    /// The server's number in the cluster, from 1. With an empty --data, not one of a member.
    #[arg(long, env = "ROTA_ID")]
    id: u64,
    /// Where the server keeps its log and snapshots.
    #[arg(long, env = "ROTA_DATA", value_name = "DIR")]
    data: PathBuf,
    /// The cluster's name. Servers of different clusters refuse each other.
    #[arg(long, env = "ROTA_CLUSTER", default_value = "rota")]
    cluster: String,
    /// Where to listen for HTTP clients.
    #[arg(long, env = "ROTA_HTTP", default_value = "127.0.0.1:7710", value_name = "HOST:PORT")]
    http: String,
    /// How clients reach this server, if not at the address it listens on.
    #[arg(long, env = "ROTA_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where to listen for clients of ZooKeeper; "off" for nowhere.
    #[arg(long, env = "ROTA_ZOOKEEPER", default_value = "127.0.0.1:2181", value_name = "HOST:PORT")]
    zookeeper: String,
    /// How they reach this server, if not at the address it listens on.
    #[arg(long, env = "ROTA_ZOOKEEPER_ADVERTISE", value_name = "HOST:PORT")]
    zookeeper_advertise: Option<String>,
    /// Where to listen for clients of ZooKeeper over TLS.
    #[arg(long, env = "ROTA_ZOOKEEPER_TLS", value_name = "HOST:PORT", requires_all = ["zookeeper_tls_certificate", "zookeeper_tls_key"])]
    zookeeper_tls: Option<String>,
    /// The server's certificate for them, in PEM, with those between it and an authority.
    #[arg(long, env = "ROTA_ZOOKEEPER_TLS_CERTIFICATE", value_name = "FILE", requires = "zookeeper_tls")]
    zookeeper_tls_certificate: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, env = "ROTA_ZOOKEEPER_TLS_KEY", value_name = "FILE", requires = "zookeeper_tls")]
    zookeeper_tls_key: Option<PathBuf>,
    /// The authorities of clients' certificates, in PEM. With it, clients must show one.
    #[arg(long, env = "ROTA_ZOOKEEPER_TLS_AUTHORITIES", value_name = "FILE", requires = "zookeeper_tls")]
    zookeeper_tls_authorities: Option<PathBuf>,
    /// Let clients in that show no certificate, too.
    #[arg(long, env = "ROTA_ZOOKEEPER_TLS_OPTIONAL", requires = "zookeeper_tls_authorities")]
    zookeeper_tls_optional: bool,
    /// Address to listen on for other servers; advertised to them unless --peers names
    /// another. It may change between starts.
    #[arg(long, env = "ROTA_PEER", default_value = "127.0.0.1:7720", value_name = "HOST:PORT")]
    peer: String,
    /// Initial members of a new cluster, this server included: ID=HOST:PORT,... The same on
    /// each; the cluster is made when all of them are there. Without it, this server makes a
    /// cluster of its own. Not needed once --data belongs to a cluster.
    #[arg(long, env = "ROTA_PEERS", value_delimiter = ',', value_parser = initial_member, value_name = "ID=HOST:PORT")]
    peers: Vec<(u64, String)>,
    /// Make no cluster: wait until `rota cluster add` adds this server to one.
    #[arg(long, env = "ROTA_JOIN", conflicts_with = "peers")]
    join: bool,
    /// Milliseconds between Raft's heartbeats.
    #[arg(long, env = "ROTA_HEARTBEAT_MS", default_value_t = Timing::default().heartbeat_ms)]
    heartbeat_ms: u64,
    /// Shortest silence of the leader before an election, in milliseconds; raised to ten round
    /// trips between the servers. A leader whose process has ended is replaced at once.
    #[arg(long, env = "ROTA_ELECTION_MIN_MS", default_value_t = Timing::default().election_min_ms)]
    election_min_ms: u64,
    /// Longest silence of the leader before an election, in milliseconds.
    #[arg(long, env = "ROTA_ELECTION_MAX_MS", default_value_t = Timing::default().election_max_ms)]
    election_max_ms: u64,
    /// Threads that serve; if it is not said, one for up to four processors, and one more
    /// for each four. Files have threads of their own.
    #[arg(long, env = "ROTA_WORKER_THREADS", value_parser = clap::value_parser!(u16).range(1..=256))]
    worker_threads: Option<u16>,
    /// Shortest session timeout, in milliseconds.
    #[arg(long, env = "ROTA_SESSION_MIN_MS", default_value_t = Limits::default().session_min_ms)]
    session_min_ms: u32,
    /// Longest session timeout, in milliseconds.
    #[arg(long, env = "ROTA_SESSION_MAX_MS", default_value_t = Limits::default().session_max_ms)]
    session_max_ms: u32,
    /// Longest body of a request, in bytes.
    #[arg(long, env = "ROTA_BODY_BYTES_MAX", default_value_t = Limits::default().body_bytes_max)]
    body_bytes_max: usize,
    /// Longest wait of a request for any one thing, in milliseconds: for a write to be
    /// applied, for the server to catch up.
    #[arg(long, env = "ROTA_REQUEST_MS_MAX", default_value_t = Limits::default().request_ms_max)]
    request_ms_max: u64,
    /// HTTP connections from one address; 0 for any number.
    #[arg(long, env = "ROTA_HTTP_CONNECTIONS_MAX",
        default_value_t = Limits::default().http_connections_per_address_max)]
    http_connections_max: usize,
    /// Longest packet of a client of ZooKeeper, in bytes: its jute.maxbuffer.
    #[arg(long, env = "ROTA_ZOOKEEPER_PACKET_BYTES_MAX", default_value_t = Zookeeper::default().packet_bytes_max)]
    zookeeper_packet_bytes_max: usize,
    /// Longest answer to a client of ZooKeeper, in bytes.
    #[arg(long, env = "ROTA_ZOOKEEPER_ANSWER_BYTES_MAX", default_value_t = Zookeeper::default().answer_bytes_max)]
    zookeeper_answer_bytes_max: usize,
    /// Connections of clients of ZooKeeper from one address; 0 for any number.
    #[arg(long, env = "ROTA_ZOOKEEPER_CONNECTIONS_MAX",
        default_value_t = Zookeeper::default().connections_per_address_max)]
    zookeeper_connections_max: usize,
    /// Connections of clients of ZooKeeper from all addresses together; 0 for as many as there
    /// are file descriptors for.
    #[arg(long, env = "ROTA_ZOOKEEPER_CONNECTIONS_TOTAL_MAX",
        default_value_t = Zookeeper::default().connections_total_max)]
    zookeeper_connections_total_max: usize,
    /// Refuse to make nodes with a time to live, as ZooKeeper does by default.
    #[arg(long, env = "ROTA_ZOOKEEPER_NO_TTL_NODES")]
    zookeeper_no_ttl_nodes: bool,
    /// Milliseconds between two looks at containers and nodes with a time to live.
    #[arg(long, env = "ROTA_REAP_PERIOD_MS", default_value_t = Zookeeper::default().reap_period_ms)]
    reap_period_ms: u64,
    /// How many of them are removed in a minute at most.
    #[arg(long, env = "ROTA_REAPED_PER_MINUTE_MAX", default_value_t = Zookeeper::default().reaped_per_minute_max)]
    reaped_per_minute_max: u32,
    /// Four-letter words that are answered, separated by commas; `*` for all.
    #[arg(
        long,
        env = "ROTA_ZOOKEEPER_4LW_WHITELIST",
        value_delimiter = ',',
        default_value = "isro,mntr,ruok,srvr",
        value_name = "WORDS"
    )]
    zookeeper_4lw_whitelist: Vec<String>,
    /// Go on without a leader for clients of ZooKeeper that only read.
    #[arg(long, env = "ROTA_ZOOKEEPER_READ_ONLY")]
    zookeeper_read_only: bool,
    /// The super user, whom no access control list stops: USER:DIGEST, as
    /// `rota digest USER:PASSWORD` prints it.
    #[arg(long, env = "ROTA_SUPER_DIGEST", value_name = "USER:DIGEST", value_parser = super_digest)]
    super_digest: Option<String>,
    /// The name in the super user's certificate, such as "CN=admin,O=Example".
    #[arg(long, env = "ROTA_SUPER_X509", value_name = "NAME", value_parser = super_x509)]
    super_x509: Option<String>,
    /// Bytes in the log between two snapshots; as many as the nodes' data, up to twice this,
    /// where those are more.
    #[arg(long, env = "ROTA_SNAPSHOT_LOG_BYTES", default_value_t = Limits::default().snapshot_log_bytes)]
    snapshot_log_bytes: u64,
}

fn super_digest(text: &str) -> Result<String, String> {
    match rota_coordinator::is_digest(text) {
        true => Ok(text.to_owned()),
        false => Err("expected USER:DIGEST, as `rota digest USER:PASSWORD` prints it".to_owned()),
    }
}

fn super_x509(text: &str) -> Result<String, String> {
    match text.split(',').all(|part| part.contains('=')) {
        true => Ok(text.to_owned()),
        false => Err("expected a name as in \"CN=admin,O=Example\"".to_owned()),
    }
}

fn initial_member(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("expected ID=HOST:PORT")?;
    let is_number = |id: &u64| *id > 0;
    let id = id.trim().parse().ok().filter(is_number);
    let id = id.ok_or_else(|| format!("{text:?} does not begin with a server's number, from 1"))?;
    Ok((id, address.trim().to_owned()))
}

fn words(given: &[String]) -> BTreeSet<String> {
    // With spaces after the commas, as in ZooKeeper's `4lw.commands.whitelist`.
    let given = || given.iter().map(|word| word.trim()).filter(|word| !word.is_empty());
    match given().any(|word| word == "*") {
        true => Zookeeper::all_words(),
        false => given().map(str::to_owned).collect(),
    }
}

impl CoordinatorArgs {
    /// Threads that serve. Requests pass between few tasks, which wake each other: on one
    /// thread that costs the least, and few servers have work for more.
    pub(crate) fn worker_threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.worker_threads.map_or(processors.div_ceil(4), usize::from)
    }
}

pub(crate) async fn run(args: CoordinatorArgs) -> anyhow::Result<ExitCode> {
    // What this process writes is its own: no other user is to read data or passwords.
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    let (http_listener, http) = listen(&args.http, "--http").await?;
    let (peer_listener, peer) = listen(&args.peer, "--peer").await?;
    let mut zookeeper_listener: Option<Box<dyn Listener>> = None;
    let mut zookeeper_address = None;
    if args.zookeeper != "off" {
        let (listener, address) = listen(&args.zookeeper, "--zookeeper").await?;
        zookeeper_listener = Some(Box::new(listener));
        zookeeper_address = Some(reachable_at(address, args.zookeeper_advertise, "--zookeeper-advertise")?);
    }
    let mut initial_members: BTreeMap<u64, String> = BTreeMap::new();
    for (id, address) in &args.peers {
        if initial_members.insert(*id, address.clone()).is_some() {
            bail!("--peers names server {id} twice");
        }
    }
    let mut zookeeper_tls_listener: Option<Box<dyn Listener>> = None;
    let mut zookeeper_tls_address = None;
    if let Some(address) = &args.zookeeper_tls {
        let (listener, address) = listen(address, "--zookeeper-tls").await?;
        zookeeper_tls_listener = Some(Box::new(listener));
        zookeeper_tls_address = Some(address.to_string());
    }
    let zookeeper_tls = match (args.zookeeper_tls_certificate, args.zookeeper_tls_key) {
        (Some(certificate), Some(key)) if zookeeper_tls_address.is_some() => Some(Tls {
            certificate,
            key,
            authorities: args.zookeeper_tls_authorities,
            client_certificate_optional: args.zookeeper_tls_optional,
        }),
        _ => None,
    };
    if args.join && !initial_members.is_empty() {
        bail!(
            "--join waits to be added to a cluster, and --peers makes one: give one of the two (one may be in the \
             configuration file)"
        );
    }
    if initial_members.is_empty() && !args.join {
        initial_members.insert(args.id, reachable_at(peer, None, "--peers ID=HOST:PORT")?);
    }
    let listens_at = (!peer.ip().is_unspecified()).then(|| peer.to_string());
    let peer_address = initial_members.get(&args.id).cloned().or(listens_at);
    let config = Config {
        server: args.id,
        cluster: args.cluster,
        initial_members,
        peer_address,
        http_address: reachable_at(http, args.advertise, "--advertise")?,
        zookeeper_address: zookeeper_address.clone(),
        zookeeper_tls_address: zookeeper_tls_address.clone(),
        zookeeper_tls,
        timing: Timing {
            heartbeat_ms: args.heartbeat_ms,
            election_min_ms: args.election_min_ms,
            election_max_ms: args.election_max_ms,
        },
        limits: Limits {
            session_min_ms: args.session_min_ms,
            session_max_ms: args.session_max_ms,
            body_bytes_max: args.body_bytes_max,
            request_ms_max: args.request_ms_max,
            http_connections_per_address_max: args.http_connections_max,
            snapshot_log_bytes: args.snapshot_log_bytes,
        },
        zookeeper: Zookeeper {
            packet_bytes_max: args.zookeeper_packet_bytes_max,
            answer_bytes_max: args.zookeeper_answer_bytes_max,
            connections_per_address_max: args.zookeeper_connections_max,
            words: words(&args.zookeeper_4lw_whitelist),
            read_only: args.zookeeper_read_only,
            connections_total_max: args.zookeeper_connections_total_max,
            ttl_nodes: !args.zookeeper_no_ttl_nodes,
            reap_period_ms: args.reap_period_ms,
            reaped_per_minute_max: args.reaped_per_minute_max,
        },
        super_digest: args.super_digest,
        super_x509: args.super_x509,
    };
    let parts = Env {
        peer_listener: Box::new(peer_listener),
        http_listener: Box::new(http_listener),
        zookeeper_listener,
        zookeeper_tls_listener,
        dialer: Arc::new(TcpConnector),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemRandomSource),
        directory: args.data,
    };
    let server = Server::start(config, parts).await?;
    let zookeeper = zookeeper_address.as_deref().unwrap_or("off");
    let zookeeper_tls = zookeeper_tls_address.as_deref().unwrap_or("off");
    tracing::info!(id = args.id, %http, %peer, zookeeper, zookeeper_tls, "serving");
    if args.join && !server.is_member() {
        tracing::info!(
            "this server waits to be added: `rota cluster add {} HOST:PORT` with its --peer address",
            args.id
        );
    }
    tokio::select! {
        error = server.failed() => return Err(error.into()),
        stopped = told_to_stop() => stopped?,
    }
    tracing::info!("stopping");
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}
