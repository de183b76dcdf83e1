//! Agents and collectors with a real coordinator: sources become items, each
//! has one collector, and position moves with it.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rota_client::Client;
use rota_collector::agent::register::Registration;
use rota_collector::agent::rooted_fs::Links;
use rota_collector::agent::{self, AgentConfig, AgentOptions};
use rota_collector::collector::sink::Modes;
use rota_collector::collector::{self, CollectorConfig, gaps};
use rota_coordinator::config::{Config, Limits, Timing, Zookeeper};
use rota_coordinator::env::{Env, SystemClock, SystemRandomSource, TcpConnector};
use rota_coordinator::server::Server;
use rota_protocol::http::{ItemBody, JoinPool, MemberBody};
use support::{append, bench, log, output, until, until_seen};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const POOL: &str = "logs";
const SESSION: Duration = Duration::from_secs(2);

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn coordinator(dir: &Path) -> (Server, Client) {
    let ((peer_listener, peer), (http_listener, http)) = (bind().await, bind().await);
    let config = Config {
        server: 1,
        cluster: "test".into(),
        initial_members: BTreeMap::from([(1, peer.to_string())]),
        peer_address: None,
        http_address: http.to_string(),
        timing: Timing::default(),
        limits: Limits::default(),
        zookeeper: Zookeeper::default(),
        zookeeper_address: None,
        zookeeper_tls_address: None,
        zookeeper_tls: None,
        super_digest: None,
        super_x509: None,
    };
    let parts = Env {
        peer_listener: Box::new(peer_listener),
        http_listener: Box::new(http_listener),
        zookeeper_listener: None,
        zookeeper_tls_listener: None,
        dialer: Arc::new(TcpConnector),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemRandomSource),
        directory: dir.join("coordinator"),
    };
    let server = Server::start(config, parts).await.unwrap();
    (server, Client::new([http.to_string()]).unwrap())
}

/// Something that runs until it is told to stop.
struct Service {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Service {
    async fn agent(dir: &Path, client: &Client) -> Self {
        let (listener, address) = bind().await;
        let config = AgentConfig {
            options: AgentOptions {
                app: "app".into(),
                host: "host".into(),
                globs: vec![format!("{}/logs/*.log", dir.display())],
                exclude: Vec::new(),
                state_dir: dir.join("state"),
                scan_interval: Duration::from_millis(200),
                links: Links::Refused,
                open_files_max: 100,
                connections_max: 100,
            },
            listener,
            registration: Registration {
                client: client.clone(),
                pool: POOL.into(),
                advertise: address.to_string(),
                session_timeout: SESSION,
            },
        };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { agent::run(config, stop).await.unwrap() }) }
    }

    fn collector(dir: &Path, client: &Client, name: &str) -> Self {
        let config = CollectorConfig {
            client: client.clone(),
            out_dir: dir.join("out"),
            pool: POOL.into(),
            join: JoinPool { name: name.into(), ..JoinPool::default() },
            session_timeout: SESSION,
            history: None,
            modes: Modes::default(),
        };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        Self { shutdown, task: tokio::spawn(async move { collector::run(config, stop).await.unwrap() }) }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

async fn members(client: &Client) -> Vec<MemberBody> {
    client.get(&Client::path(["v1", "pools", POOL, "members"])).await.unwrap_or_default()
}

async fn items(client: &Client) -> Vec<String> {
    let items: Vec<ItemBody> =
        client.get(&Client::path(["v1", "pools", POOL, "items"])).await.unwrap_or_default();
    items.into_iter().map(|item| item.name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_are_shared_and_move_with_their_positions() {
    let dir = bench();
    let (server, client) = coordinator(dir.path()).await;
    let files: Vec<String> = (0..8).map(|n| format!("{n}.log")).collect();
    let write = |text: &str| files.iter().for_each(|file| append(&log(dir.path(), file), text));
    let mut written = String::new();
    let mut all_have = async |text: &str, what: &str| {
        written.push_str(text);
        until(what, || files.iter().all(|file| output(dir.path(), file) == written.as_bytes())).await;
    };

    write("1\n");
    let agent = Service::agent(dir.path(), &client).await;
    let first = Service::collector(dir.path(), &client, "first");
    all_have("1\n", "the first collector collects").await;
    assert_eq!(items(&client).await, files.iter().map(|file| support::item(file)).collect::<Vec<_>>());

    let second = Service::collector(dir.path(), &client, "second");
    until_seen("the sources are shared", async || {
        let shares: Vec<_> = members(&client).await.iter().map(|member| member.buckets).collect();
        if shares == [4, 4] { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
    write("2\n");
    all_have("2\n", "both collect").await;

    first.stop().await;
    write("3\n");
    all_have("3\n", "the second collects alone").await;

    // It comes back at another address, and files were rotated meanwhile.
    agent.stop().await;
    write("4\n");
    for file in &files {
        fs::rename(log(dir.path(), file), log(dir.path(), &format!("{file}.1"))).unwrap();
    }
    write("5\n");
    let agent = Service::agent(dir.path(), &client).await;
    all_have("4\n5\n", "it goes on at the agent's new address").await;

    assert!(gaps::read(&dir.path().join("out")).unwrap().is_empty());
    second.stop().await;
    agent.stop().await;
    assert!(items(&client).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_no_checkpoint_explains_is_refused_and_left_alone() {
    let dir = bench();
    let (server, client) = coordinator(dir.path()).await;
    fs::create_dir_all(dir.path().join("out/app/host")).unwrap();
    fs::write(dir.path().join("out/app/host/x.log"), "older\n").unwrap();
    append(&log(dir.path(), "x.log"), "1\n");
    append(&log(dir.path(), "y.log"), "2\n");
    let agent = Service::agent(dir.path(), &client).await;
    let collector = Service::collector(dir.path(), &client, "one");
    until("the other source is collected", || output(dir.path(), "y.log") == b"2\n").await;
    until_seen("it is told", async || {
        let progress: Vec<_> = members(&client).await.into_iter().map(|member| member.progress).collect();
        let said = progress.first().and_then(|progress| progress.get(&support::item("x.log")));
        let is_told = said.is_some_and(|said| said.contains("refused") && said.contains("no checkpoint"));
        if is_told { Ok(()) } else { Err(format!("{progress:?}")) }
    })
    .await;
    assert_eq!(output(dir.path(), "x.log"), b"older\n");
    collector.stop().await;
    agent.stop().await;
    server.stop().await;
}
