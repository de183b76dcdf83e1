//! HTTP watches: a watch sees the events that match it, and no others.

use rota_protocol::http::{EventKindBody, Missed, MultiOp, MultiReply, MultiRequest, NodeBody, NodeCreate};
use rota_tests::{Call, Cluster, LIVENESS, eventually};
use serde_json::json;

/// Creates `count` nodes below `/busy`, in multis.
async fn create_many(cluster: &Cluster, count: usize) {
    let create = |n: usize| -> MultiOp {
        serde_json::from_value(json!({"op": "create", "path": format!("/busy/{n}")})).unwrap()
    };
    for first in (0..count).step_by(1_000) {
        let ops = (first..first + 1_000).map(create).collect();
        let made = cluster.ask(1, Call::post("/v1/multi", &MultiRequest { ops })).await;
        let _: MultiReply = made.ok().unwrap();
    }
}

fn watch(path: &str, since: u64, wait_ms: u64) -> Call {
    Call::get(&format!("/v1/watch?path={path}&since={since}&wait_ms={wait_ms}"))
}

/// A server remembers 100,000 events: more happen elsewhere while two wait.
#[tokio::test(flavor = "multi_thread")]
async fn watch_survives_event_log_compaction() {
    let cluster = Cluster::start(1).await;
    let made = cluster.ask(1, Call::post("/v1/nodes/busy", &NodeCreate::default())).await;
    let busy: NodeBody = made.ok().unwrap();
    let since = busy.stat.czxid;
    let mut waiting = Vec::new();
    for path in ["/quiet", "/other"] {
        let call = watch(path, since, 30_000);
        let (http, address) = (rota_tests::Http::default(), cluster.http(1));
        waiting.push(tokio::spawn(async move { http.send(&address, call).await }));
    }
    eventually("both wait", LIVENESS, async || {
        let page = cluster.send(1, Call::get("/metrics")).await?.text();
        anyhow::ensure!(page.lines().any(|line| line == "rota_http_watches 2"), "{page}");
        Ok(())
    })
    .await;
    create_many(&cluster, 60_000).await;
    eventually("what happened first is forgotten", LIVENESS, async || {
        let missed: Missed = cluster.send(1, watch("/quiet", since, 0)).await?.ok()?;
        anyhow::ensure!(missed.missed, "{missed:?}");
        Ok(())
    })
    .await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()), "nothing has happened there");
    let made = cluster.ask(1, Call::post("/v1/nodes/quiet", &NodeCreate::default())).await;
    let quiet: NodeBody = made.ok().unwrap();
    let told: Missed = waiting.remove(0).await.unwrap().unwrap().ok().unwrap();
    assert!(!told.missed, "it waited all the time, and nothing was missed");
    let events: Vec<_> = told.events.iter().map(|event| (event.zxid, event.kind)).collect();
    assert_eq!(events, [(quiet.stat.czxid, EventKindBody::Created)]);
    // The other's time is not over, and nothing happened there.
    assert!(!waiting[0].is_finished());
    waiting[0].abort();
    let quick: Missed = cluster.ask(1, watch("/other", quiet.stat.czxid, 50)).await.ok().unwrap();
    assert_eq!((quick.events.len(), quick.missed), (0, false));
    // The leader's own writes (the time, its pools) may have come after the node.
    assert!(quick.through >= quiet.stat.czxid, "{quick:?} ends before {}", quiet.stat.czxid);
}
