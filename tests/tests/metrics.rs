//! For those who run the servers: metrics, and whether one is healthy and ready.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use rota_coordinator::metrics::{ALL, Kind};
use rota_protocol::http::{Code, NodeBody, NodeCreate, OpenSession, SessionOpened};
use rota_tests::{Call, Cluster, LIVENESS, Pool, Settings, eventually};

/// Names that a sound cluster never shows: they count bugs.
const NEVER: &[&str] = &["rota_assignment_invalid_plans_total"];

/// A page in Prometheus' text format: the kind of each name, and the values.
#[derive(Debug, Default)]
struct Page {
    kinds: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                page.kinds.insert(name.to_owned(), kind.to_owned());
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and its meaning");
                page.helps.insert(name.to_owned(), help.to_owned());
            } else {
                assert!(!line.starts_with('#'), "{line}");
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
                assert!(page.values.insert(series.to_owned(), value).is_none(), "twice: {series}");
            }
        }
        page
    }

    async fn of(cluster: &Cluster, id: u64) -> Self {
        let answer = cluster.ask(id, Call::get("/metrics")).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
        Self::parse(&answer.text())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_with_its_kind_and_meaning() {
    let flags = ["--reap-period-ms", "100"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(3, Settings { flags, ..Settings::default() }).await;
    // Something of everything: writes, a session that ends, a node that is reaped,
    // grants, moves.
    let leader = cluster.leader().await;
    let made = cluster.ask(leader, Call::post("/v1/nodes/n", &NodeCreate::default())).await;
    let _: NodeBody = made.ok().unwrap();
    let short = NodeCreate { ttl_ms: Some(1), ..NodeCreate::default() };
    let _: NodeBody = cluster.ask(leader, Call::post("/v1/nodes/short", &short)).await.ok().unwrap();
    let body = OpenSession { timeout_ms: Some(1_000) };
    let _: SessionOpened = cluster.ask(leader, Call::post("/v1/sessions", &body)).await.ok().unwrap();
    let pool = Pool::hashed(&cluster, "work", 8, Duration::from_secs(10)).await;
    let _first = pool.join("w1").await;
    pool.is_shared_by(&["w1"], 8).await;
    let _second = pool.join("w2").await;
    pool.is_shared_by(&["w1", "w2"], 8).await;
    let page = eventually("the session ends and the node is reaped", LIVENESS, async || {
        let page = Page::of(&cluster, leader).await;
        for name in ["rota_sessions_expired_total", "rota_reaped_nodes_total"] {
            ensure!(page.values.contains_key(name), "{name}: not yet");
        }
        Ok(page)
    })
    .await;

    for (name, kind, labels, meaning) in ALL.iter().filter(|(name, ..)| !NEVER.contains(name)) {
        let expected = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(page.kinds.get(*name).map(String::as_str), Some(expected), "{name}");
        assert_eq!(page.helps.get(*name).map(String::as_str), Some(*meaning), "{name}");
        let begins = |series: &&String| {
            let bare = series.split('{').next().unwrap_or_default();
            bare == *name
                || bare.strip_prefix(name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
        };
        let series: Vec<&String> = page.values.keys().filter(begins).collect();
        assert!(!series.is_empty(), "{name} has no value");
        for label in labels.split(", ").filter(|label| !label.is_empty()) {
            let labelled = series.iter().all(|series| series.contains(&format!("{label}=\"")));
            assert!(labelled, "{name} lacks the label {label}: {series:?}");
        }
    }
    let unknown: Vec<&String> =
        page.kinds.keys().filter(|name| !ALL.iter().any(|(known, ..)| known == name)).collect();
    assert!(unknown.is_empty(), "these are not described: {unknown:?}");
    for never in NEVER {
        assert!(page.values.get(*never).is_none_or(|value| *value == 0.0), "{never}");
    }

    assert_eq!(page.values["rota_raft_is_leader"], 1.0);
    assert_eq!(page.values["rota_assignment_grants_total"], 8.0 + 4.0);
    assert_eq!(page.values["rota_assignment_moves_planned_total"], 4.0);
    assert_eq!(page.values["rota_pool_unassigned_buckets{pool=\"work\"}"], 0.0);
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let other = Page::of(&cluster, follower).await;
    assert_eq!(other.values["rota_raft_is_leader"], 0.0);
    assert_eq!(other.values["rota_raft_term"], page.values["rota_raft_term"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_of_three_is_healthy_and_not_ready() {
    let mut cluster = Cluster::prepare(3, Settings::default()).await;
    let healthy = async |cluster: &Cluster| {
        eventually("it is healthy", LIVENESS, async || {
            let healthy = cluster.send(2, Call::get("/healthz")).await?;
            ensure!(healthy.status == 200, "{}", healthy.text());
            Ok(())
        })
        .await;
    };
    // A new cluster is made when all are there.
    cluster.restart(2);
    healthy(&cluster).await;
    let _ = cluster.ask(2, Call::get("/readyz")).await.refused(Code::NotServing, &["server 1", "server 3"]);
    cluster.restart(1);
    cluster.restart(3);
    cluster.all_follow_one_leader().await;
    for id in [1, 2, 3] {
        cluster.kill9(id);
    }
    cluster.restart(2);
    healthy(&cluster).await;
    let _ = cluster.ask(2, Call::get("/readyz")).await.refused(Code::NoLeader, &["leader"]);
    let page = Page::of(&cluster, 2).await;
    assert_eq!(page.values["rota_raft_is_leader"], 0.0);
    let consistent = cluster.ask(2, Call::get("/v1/nodes?consistent=true")).await;
    let _ = consistent.refused(Code::NoLeader, &["majority"]);

    cluster.restart(3);
    for id in [2, 3] {
        eventually("two of three are ready", LIVENESS, async || {
            let ready = cluster.send(id, Call::get("/readyz")).await?;
            ensure!(ready.status == 200, "{}: {}", ready.status, ready.text());
            Ok(())
        })
        .await;
    }
    // And not any more when one is gone again, be it the leader or the other.
    for the_leader_dies in [true, false] {
        // Server 1 stays away.
        let leader = eventually("2 and 3 follow one leader", LIVENESS, async || {
            let [seen, also] = [cluster.view(2).await?.leader, cluster.view(3).await?.leader];
            ensure!(seen == also && seen.is_some_and(|id| id != 1), "{seen:?} and {also:?}");
            Ok(seen.unwrap_or_default())
        })
        .await;
        let other = if leader == 2 { 3 } else { 2 };
        let (dies, left) = if the_leader_dies { (leader, other) } else { (other, leader) };
        cluster.kill9(dies);
        eventually("the one left is not ready", LIVENESS, async || {
            let ready = cluster.send(left, Call::get("/readyz")).await?;
            ensure!(ready.code() == Some(Code::NoLeader), "{}: {}", ready.status, ready.text());
            ensure!(cluster.view(left).await?.leader.is_none(), "it names a leader");
            Ok(())
        })
        .await;
        assert_eq!(cluster.ask(left, Call::get("/healthz")).await.status, 200);
        cluster.restart(dies);
    }
}
