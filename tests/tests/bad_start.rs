//! Servers and workers that cannot start say why, what to do, and exit with 1;
//! strangers among the servers are turned away.

use std::net::TcpListener;
use std::path::Path;

use anyhow::ensure;
use rota_tests::{Cluster, LIVENESS, Process, Settings, Turn, command, eventually, free_port};

struct Command<'a> {
    id: &'a str,
    cluster: &'a str,
    data: &'a Path,
    http: String,
    peer: String,
    more: Vec<&'a str>,
}

impl<'a> Command<'a> {
    fn in_directory(data: &'a Path) -> Self {
        let (http, peer) = (free(), free());
        Self { id: "1", cluster: "rota", data, http, peer, more: Vec::new() }
    }

    fn args(&self) -> Vec<String> {
        let data = self.data.display().to_string();
        let fixed = [
            "coordinator",
            "--id",
            self.id,
            "--cluster",
            self.cluster,
            "--data",
            &data,
            "--http",
            &self.http,
            "--peer",
            &self.peer,
            "--zookeeper",
            "off",
        ];
        fixed.iter().chain(&self.more).map(ToString::to_string).collect()
    }

    async fn fails(&self, naming: &[&str]) {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        command(&args).await.failed(naming);
    }
}

fn free() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let _turn = Turn::shared().await;
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sound = Command::in_directory(dir.path());
    Command { http: address.clone(), ..Command::in_directory(dir.path()) }.fails(&[&address, "--http"]).await;
    Command { peer: address.clone(), ..Command::in_directory(dir.path()) }.fails(&[&address, "--peer"]).await;
    Command { http: "nonsense".into(), ..sound }.fails(&["nonsense", "--http"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_belongs_to_one_server_of_one_cluster() {
    let mut cluster = Cluster::start(1).await;
    let data = cluster.data(1);
    let directory = data.display().to_string();
    Command::in_directory(&data).fails(&[&directory, "in use"]).await;
    cluster.stop_in_order(1).await;
    let other = Command { cluster: "other", ..Command::in_directory(&data) };
    other.fails(&[&directory, "\"rota\"", "\"other\"", "--cluster"]).await;
    let second = Command { id: "2", ..Command::in_directory(&data) };
    second.fails(&[&directory, "server 1", "its own data directory"]).await;
    // Whoever it belongs to finds it as it was.
    cluster.restart(1);
    cluster.all_follow_one_leader().await;
    cluster.stop_in_order(1).await;

    let file = cluster.dir().join("file");
    std::fs::write(&file, b"").unwrap();
    Command::in_directory(&file).fails(&[&file.display().to_string()]).await;
    std::fs::write(data.join("identity.json"), b"{").unwrap();
    Command::in_directory(&data).fails(&["identity.json", "damaged", "rota cluster remove"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_is_refused() {
    let _turn = Turn::shared().await;
    let dir = tempfile::tempdir().unwrap();
    let with = |more: &[&'static str]| Command { more: more.to_vec(), ..Command::in_directory(dir.path()) };
    with(&["--peers", "2=127.0.0.1:1,3=127.0.0.1:2"]).fails(&["--peers", "(1)"]).await;
    with(&["--peers", "1=127.0.0.1:1,1=127.0.0.1:2"]).fails(&["--peers", "server 1 twice"]).await;
    with(&["--heartbeat-ms", "800"]).fails(&["heartbeat_ms (800)", "election_min_ms (1000)"]).await;
    with(&["--session-min-ms", "9000", "--session-max-ms", "8000"]).fails(&["session_min_ms (9000)"]).await;
    with(&["--body-bytes-max", "1"]).fails(&["body_bytes_max (1)"]).await;
    Command { id: "0", ..with(&[]) }.fails(&["1 or more"]).await;
    Command { cluster: "a/b", ..with(&[]) }.fails(&["a/b"]).await;

    // What is no command line at all is exit code 2.
    for more in [
        vec!["--nonsense"],
        vec!["--peers", "1"],
        vec!["--peers", "x=y"],
        vec!["--peers", "0=127.0.0.1:1,1=127.0.0.1:2"],
        vec!["--heartbeat-ms", "soon"],
    ] {
        let args = Command { more: more.clone(), ..Command::in_directory(dir.path()) }.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = command(&args).await;
        assert_eq!(ran.code, Some(2), "{more:?}: {ran:?}");
        assert!(ran.err.contains(more[0]), "{ran:?}");
    }
}

/// Waits until a server has said all of these words in one line.
async fn says(cluster: &Cluster, id: u64, words: &[&str]) {
    eventually(&format!("server {id} says {words:?}"), LIVENESS, async || {
        let said = cluster.said(id);
        let found = said.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "it said: {said}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_cluster_is_turned_away_and_both_say_so() {
    let one = Cluster::start(3).await;
    let settings = Settings { cluster: "two".into(), ..Settings::default() };
    let mut two = Cluster::beside(1, settings);
    // Server 4 of cluster "two", which takes server 1 of cluster "rota" for its own.
    two.start_founder(4, &[(1, &one.peer(1))]);
    says(&two, 4, &["refuses", "two", "rota", "--cluster"]).await;
    says(&one, 1, &["refused", "two", "rota", "--cluster"]).await;
    // Nothing has come of it.
    assert_eq!(two.view(4).await.unwrap().leader, None);
    let view = one.view(1).await.unwrap();
    assert_eq!((view.cluster.as_str(), view.servers.len()), ("rota", 3));
    one.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_anothers_address_is_turned_away() {
    let one = Cluster::start(1).await;
    let mut two = Cluster::beside(1, Settings::default());
    // It looks for server 3, and finds server 1.
    two.start_founder(2, &[(3, &one.peer(1))]);
    says(&two, 2, &["server 3", "found 1", "--peers"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_join_says_why() {
    let cluster = Cluster::start(1).await;
    let servers = cluster.addresses().join(",");
    let worker = async |servers: &str, pool: &str, more: &[&str]| {
        let fixed = ["--servers", servers, "--deadline", "1s", "worker", "--pool", pool, "--exec", "true"];
        command(&[fixed.as_slice(), more].concat()).await
    };
    worker(&servers, "nowhere", &[]).await.failed(&["\"nowhere\""]);
    let body = serde_json::json!({"name": "p", "kind": "hashed", "buckets": 4});
    assert_eq!(cluster.ask(1, rota_tests::Call::post("/v1/pools", &body)).await.status, 201);
    worker(&servers, "p", &["--weight", "0"]).await.failed(&["weight is 0"]);
    worker(&servers, "p", &["--name", "a/b"]).await.failed(&["'/'"]);
    let history = cluster.dir().join("no-such-directory/history").display().to_string();
    worker(&servers, "p", &["--history", &history]).await.failed(&[&history]);

    // A name is one member's.
    let log = cluster.dir().join("first.log");
    let args = ["worker", "--servers", &servers, "--pool", "p", "--name", "w", "--exec", "exec sleep 100000"];
    let _first = Process::start(args, &log);
    eventually("the first joins", LIVENESS, async || {
        let answer = cluster.send(1, rota_tests::Call::get("/v1/pools/p/members/w")).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    })
    .await;
    let second = worker(&servers, "p", &["--name", "w", "--session-timeout", "1s"]).await;
    second.failed(&["\"w\"", "a name of its own"]);
}
