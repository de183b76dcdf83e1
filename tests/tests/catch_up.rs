//! A server that was away comes back to the same state as the others: by the
//! log, and by a snapshot when the log is gone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rota_protocol::http::{NodeBody, NodeCreate, SnapshotTaken, TransferLeader};
use rota_tests::{Call, Cluster, ConnectionTrace, DelayProxies, LIVENESS, Load, eventually};
use rota_worker::monotonic_ns;

async fn make_node(cluster: &Cluster, path: &str) {
    let made =
        cluster.ask(cluster.leader().await, Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default()));
    let _: NodeBody = made.await.ok().unwrap();
}

/// Takes a snapshot on a server: the index of the last entry in it.
async fn snapshot(cluster: &Cluster, id: u64) -> u64 {
    let taken: SnapshotTaken = cluster.ask(id, Call::post("/v1/cluster/snapshot", &())).await.ok().unwrap();
    assert_eq!(taken.server, id);
    taken.index
}

fn snapshots_in(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join("snapshots")).expect("a server has a folder for snapshots");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_log() {
    let mut cluster = Cluster::start(3).await;
    make_node(&cluster, "/load").await;
    let leader = cluster.leader().await;
    let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.kill9(away);
    let others: Vec<String> =
        cluster.ids().into_iter().filter(|id| *id != away).map(|id| cluster.http(id)).collect();
    let load = Load::begin("/load", &others, 4);
    load.acknowledges(300, 0, LIVENESS).await;
    // It catches up while the others go on.
    cluster.restart(away);
    load.acknowledges(600, 0, LIVENESS).await;
    let record = load.stop().await;
    cluster.agree(&[1, 2, 3]).await;
    assert_eq!(snapshots_in(&cluster.data(away)), Vec::<String>::new(), "the log was enough");
    for (path, data) in record.acknowledged.iter().step_by(50) {
        let node: NodeBody = cluster.ask(away, Call::get(&format!("/v1/nodes{path}"))).await.ok().unwrap();
        if !path.ends_with("-mark") {
            assert_eq!(node.data.unwrap().data, *data);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_snapshot_when_the_log_is_gone() {
    let mut cluster = Cluster::prepare(3, rota_tests::Settings::default()).await;
    // Two that take snapshots often, and one that takes none: if it has one in
    // the end, another server sent it.
    for id in [1, 2] {
        cluster.restart_with(id, &["--snapshot-log-bytes", "16384"]);
    }
    cluster.restart(3);
    cluster.all_follow_one_leader().await;
    make_node(&cluster, "/load").await;
    let lead = Call::post("/v1/cluster/leader", &TransferLeader { server: 1 });
    let _: rota_protocol::http::Cluster = cluster.ask(1, lead).await.ok().unwrap();
    cluster.kill9(3);
    let before = snapshot(&cluster, 1).await;

    let load = Load::begin("/load", &[cluster.http(1), cluster.http(2)], 4);
    eventually("the log begins after what server 3 has", Duration::from_secs(60), async || {
        snapshot(&cluster, 1).await;
        let page = cluster.send(1, Call::get("/metrics")).await?.text();
        let purged = page.lines().find_map(|line| line.strip_prefix("rota_raft_log_purged_index "));
        let purged: f64 = purged.context("it has no such metric")?.parse()?;
        anyhow::ensure!(purged > before as f64, "it begins after {purged}, and server 3 ends at {before}");
        Ok(())
    })
    .await;
    cluster.restart(3);
    let far = load.acknowledged_since(0);
    load.acknowledges(far + 200, 0, LIVENESS).await;
    load.stop().await;
    let digest = cluster.agree(&[1, 2, 3]).await;
    let kept = snapshots_in(&cluster.data(3));
    assert_eq!(kept.len(), 1, "{kept:?}");
    println!("caught up by the snapshot {}", kept[0]);

    // The one that came back is a full member again: it can lead.
    let lead = Call::post("/v1/cluster/leader", &TransferLeader { server: 3 });
    let _: rota_protocol::http::Cluster = cluster.ask(2, lead).await.ok().unwrap();
    make_node(&cluster, "/load/after").await;

    // And all come back from their snapshots and what the log has beyond.
    for id in [1, 2, 3] {
        cluster.kill9(id);
    }
    for id in [1, 2, 3] {
        cluster.restart(id);
    }
    cluster.all_follow_one_leader().await;
    // A new leader applies what is at the end of its log once it has committed something
    // itself; a consistent read waits for that.
    for id in [1, 2, 3] {
        let there = Call::get("/v1/nodes/load/after?consistent=true");
        let _: NodeBody = cluster.ask(id, there).await.ok().unwrap();
    }
    assert_ne!(cluster.agree(&[1, 2, 3]).await, digest, "the last node is in the state too");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_asked_for_while_one_is_taken_are_taken_too() {
    let cluster = Cluster::start(3).await;
    make_node(&cluster, "/load").await;
    let load = Load::begin("/load", &cluster.addresses(), 4);
    load.acknowledges(100, 0, LIVENESS).await;
    for _ in 0..5 {
        // Each is of what is applied when it is asked for, which the others are not.
        tokio::join!(
            snapshot(&cluster, 1),
            snapshot_after(&cluster, &load, 2),
            snapshot_after(&cluster, &load, 5),
            snapshot_after(&cluster, &load, 10),
        );
    }
    load.stop().await;
}

/// Asks server 1 for a snapshot as soon as so many more writes are acknowledged.
async fn snapshot_after(cluster: &Cluster, load: &Load, writes: usize) {
    load.acknowledges(writes, monotonic_ns(), LIVENESS).await;
    snapshot(cluster, 1).await;
}

/// The host loses power during a snapshot: its connections stay silent for ever, and new ones work
/// when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn by_another_snapshot_when_the_host_of_the_first_lost_power() {
    let settings = rota_tests::Settings {
        flags: ["--snapshot-log-bytes", "16384"].map(str::to_owned).to_vec(),
        ..rota_tests::Settings::default()
    };
    let mut cluster = Cluster::prepare(3, settings).await;
    let mut proxies = DelayProxies::new(Duration::ZERO);
    let mut of_third = None;
    let route = |id, port| match id {
        3 => {
            let (proxy, traces) = proxies.recording_proxy(port)?;
            of_third = Some(traces);
            Ok(proxy)
        }
        _ => Ok(port),
    };
    cluster.route_peers(route).unwrap();
    let traces = of_third.unwrap();
    for id in cluster.ids() {
        cluster.restart(id);
    }
    cluster.all_follow_one_leader().await;
    cluster.kill9(3);
    let data = "x".repeat(900_000);
    for n in 0..40 {
        let node = NodeCreate { data: data.clone(), ..NodeCreate::default() };
        let made = cluster.ask(1, Call::post(&format!("/v1/nodes/n{n}"), &node)).await;
        let _: NodeBody = made.ok().unwrap();
    }
    let leader = cluster.leader().await;
    snapshot(&cluster, leader).await;
    traces.lock().unwrap().clear();
    cluster.restart(3);
    eventually("a part of the snapshot has arrived", LIVENESS, async || {
        let bytes = |trace: &Arc<ConnectionTrace>| trace.to_server.lock().unwrap().len();
        let most = traces.lock().unwrap().iter().map(bytes).max().unwrap_or(0);
        anyhow::ensure!(most > 5_000_000, "{most} bytes of it");
        Ok(())
    })
    .await;
    proxies.freeze();
    cluster.kill9(3);
    cluster.restart(3);
    eventually("it has the last node", Duration::from_secs(60), async || {
        let node: NodeBody = cluster.send(3, Call::get("/v1/nodes/n39")).await?.ok()?;
        anyhow::ensure!(node.data.is_some_and(|read| read.data == data));
        Ok(())
    })
    .await;
    cluster.agree(&[1, 2, 3]).await;
}
