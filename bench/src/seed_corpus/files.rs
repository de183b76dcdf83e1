//! Seeds of the targets `pool_json`, `agent_files` and `zk_disk`: nodes of pools, what an agent and a
//! collector keep and send, and the files of a ZooKeeper server.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rota_tests::zk::{Raw, Release, ZooKeeper, create};
use rota_tests::{Call, Cluster, Http, LIVENESS, Process, eventually, free_port};
use serde_json::Value;

/// The data of each node below `/rota/pools`, with its path.
pub(super) async fn pool_nodes(cluster: &Cluster) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut nodes = Vec::new();
    let mut paths = vec!["/rota/pools".to_owned()];
    while let Some(path) = paths.pop() {
        let read = async |query: &str| -> anyhow::Result<Value> {
            let call = Call::get(&format!("/v1/nodes{path}?consistent=true{query}"));
            cluster.ask(1, call).await.ok().context(path.clone())
        };
        let listed = read("&children=true").await?;
        let children = listed["children"].as_array().into_iter().flatten().filter_map(Value::as_str);
        paths.extend(children.map(|name| format!("{path}/{name}")));
        let node = read("").await?;
        if let Some(data) = node["data"].as_str().filter(|data| !data.is_empty()) {
            nodes.push((path, data.as_bytes().to_vec()));
        }
    }
    Ok(nodes)
}

/// Lets an agent and a collector run on a file that is rotated and truncated: the records of the
/// agent's index, its list of gaps, and the collector's gap records.
pub(super) async fn agent_files(cluster: &Cluster) -> anyhow::Result<Vec<Vec<u8>>> {
    let dir = cluster.dir().join("agent");
    let [logs, state, out] = ["logs", "state", "out"].map(|name| dir.join(name));
    fs::create_dir_all(&logs)?;
    let path = logs.join("x.log");
    fs::write(&path, "1\n")?;
    let (glob, listen) = (logs.join("*.log"), format!("127.0.0.1:{}", free_port()));
    let start = |args: &[&str], log: &str| {
        let servers = ["--servers".to_owned(), cluster.addresses().join(",")];
        let args = servers.into_iter().chain(args.iter().map(|arg| (*arg).to_owned()));
        Process::start(args, &dir.join(log))
    };
    let [glob, state_dir, out_dir] = [&glob, &state, &out].map(|path| path.display().to_string());
    let agent = ["agent", "--app", "a", "--host", "h", "--path", &glob, "--state", &state_dir];
    let mut agent = start(&[&agent[..], &["--listen", &listen]].concat(), "agent.log");
    let mut collector = start(&["collector", "--out", &out_dir, "--name", "k"], "collector.log");
    let output = out.join("a/h/x.log");
    let collects = async |lines: &str| {
        eventually("the lines are collected", LIVENESS, async || {
            let found = fs::read_to_string(&output).unwrap_or_default();
            ensure!(found == lines, "{found:?}");
            Ok(())
        })
        .await;
    };
    collects("1\n").await;
    fs::rename(&path, logs.join("x.log.1"))?;
    fs::write(&path, "2\n")?;
    collects("1\n2\n").await;
    fs::write(&path, "")?;
    fs::write(&path, "3\n")?;
    collects("1\n2\n3\n").await;
    let ledger = out.join(".rota/gaps.jsonl");
    let records = eventually("the truncation is recorded", LIVENESS, async || {
        let records = fs::read_to_string(&ledger)?;
        ensure!(records.ends_with('\n'), "{records:?}");
        Ok(records)
    })
    .await;
    let gaps = Http::default().send(&listen, Call::get("/v1/sources/a@h:x.log/gaps")).await?;
    ensure!(gaps.status == 200, "{}", gaps.text());
    for process in [&mut collector, &mut agent] {
        process.term();
        process.ended(LIVENESS).await;
    }
    let index = sled::open(state.join("index"))?;
    let sources: Vec<Vec<u8>> =
        index.iter().values().map(|value| Ok(value?.to_vec())).collect::<Result<_, sled::Error>>()?;
    let gaps = std::iter::once(gaps.text().into_bytes());
    Ok(gaps.chain(records.lines().map(|line| line.as_bytes().to_vec())).chain(sources).collect())
}

/// The snapshots and logs that a ZooKeeper server has written.
pub(super) async fn zookeeper_files() -> anyhow::Result<Vec<Vec<u8>>> {
    const EPHEMERAL: i32 = 1;
    let zookeeper = ZooKeeper::start(Release::V3_8).await;
    let mut client = Raw::connect_patiently(&zookeeper.addresses()[0], None, 20_000).await;
    for (path, flags) in [("/a", 0), ("/a/b", 0), ("/a/e", EPHEMERAL)] {
        let xid = client.send(&create(path, "data", flags)).await?;
        client.answer(xid).await?.context("the server closed the connection")?;
    }
    let files = zookeeper.data(0).join("version-2");
    let mut found = Vec::new();
    for path in sorted(&files)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("log.") || name.starts_with("snapshot.") {
            found.push(fs::read(&path)?);
        }
    }
    ensure!(!found.is_empty(), "nothing in {}", files.display());
    Ok(found)
}

fn sorted(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}
