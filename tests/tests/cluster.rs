//! Three servers from three command lines: they elect, serve, and go on serving
//! when their leader is killed, stopped, moved or paused.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use rota_client::{Client, Idempotency, WatchItem};
use rota_protocol::http::{NodeBody, NodeCreate, NodeSet, TransferLeader};
use rota_tests::{Call, Cluster, LIVENESS, Load, Settings, eventually};
use rota_worker::monotonic_ns;

/// No leader's end may cost more: generous, for a busy machine. What it did cost
/// is printed.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Acknowledged writes after which a cluster counts as recovered.
const WRITES: usize = 100;

async fn measured() -> Cluster {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    make_node(&cluster, "/load").await;
    cluster
}

async fn make_node(cluster: &Cluster, path: &str) {
    let made =
        cluster.ask(cluster.leader().await, Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default()));
    let _: NodeBody = made.await.ok().unwrap();
}

/// Writers at every server but one, of which enough has been acknowledged that
/// the connections are warm.
async fn load_but_at(cluster: &Cluster, root: &str, except: u64) -> Load {
    make_node(cluster, root).await;
    let others: Vec<String> =
        cluster.ids().into_iter().filter(|id| *id != except).map(|id| cluster.http(id)).collect();
    let load = Load::begin(root, &others, 4);
    load.acknowledges(WRITES, 0, LIVENESS).await;
    load
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_takes_any_request() {
    let cluster = Cluster::start(3).await;
    for id in cluster.ids() {
        let body = NodeCreate { data: format!("from {id}"), ..NodeCreate::default() };
        let made = cluster.ask(id, Call::post(&format!("/v1/nodes/n{id}"), &body)).await;
        let zxid = made.header("rota-zxid").expect("every answer says what it is based on").to_owned();
        let _: NodeBody = made.ok().unwrap();
        for reader in cluster.ids() {
            // Both ways of seeing what another server has just acknowledged.
            let path = format!("/v1/nodes/n{id}");
            let patient = Call::get(&path).header("rota-min-zxid", &zxid);
            for call in [patient, Call::get(&format!("{path}?consistent=true"))] {
                let node: NodeBody = cluster.ask(reader, call).await.ok().unwrap();
                assert_eq!(node.data.unwrap().data, format!("from {id}"));
            }
        }
    }
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_another_leads() {
    let mut cluster = measured().await;
    for round in 1..=3 {
        let leader = cluster.all_follow_one_leader().await;
        let load = load_but_at(&cluster, &format!("/load/{round}"), leader).await;
        let killed_ns = cluster.kill9(leader);
        load.acknowledges(WRITES, killed_ns + 1_000_000, LIVENESS).await;
        let successor = cluster.leader_after(leader).await;
        let silence = load.stop().await.longest_silence(killed_ns);
        println!("leader killed: {} ms without an acknowledged write", silence.as_millis());
        assert!(silence < SILENCE_MAX, "{silence:?}");
        assert_ne!(successor, leader);
        cluster.restart(leader);
        cluster.all_follow_one_leader().await;
        cluster.agree(&[1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_stop_hands_over() {
    let mut cluster = measured().await;
    for round in 1..=3 {
        let leader = cluster.all_follow_one_leader().await;
        let load = load_but_at(&cluster, &format!("/load/{round}"), leader).await;
        let told_ns = monotonic_ns();
        cluster.stop_in_order(leader).await;
        let stopped_ns = monotonic_ns();
        load.acknowledges(WRITES, stopped_ns, LIVENESS).await;
        let silence = load.stop().await.longest_silence(told_ns);
        println!(
            "leader stopped in order: {} ms without an acknowledged write; it took {} ms to end",
            silence.as_millis(),
            (stopped_ns - told_ns) / 1_000_000
        );
        assert!(silence < SILENCE_MAX, "{silence:?}");
        assert!(cluster.said(leader).contains("handed over the leadership"), "{}", cluster.said(leader));
        cluster.restart(leader);
        cluster.all_follow_one_leader().await;
        cluster.agree(&[1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_goes_where_it_is_sent() {
    let cluster = measured().await;
    let load = load_but_at(&cluster, "/load/moved", 0).await;
    let began_ns = monotonic_ns();
    for round in 0..6_u64 {
        let (to, asked) = (round % 3 + 1, (round / 2) % 3 + 1);
        let sent_ns = monotonic_ns();
        let moved =
            cluster.ask(asked, Call::post("/v1/cluster/leader", &TransferLeader { server: to })).await;
        let view: rota_protocol::http::Cluster = moved.ok().unwrap();
        assert_eq!(view.leader, Some(to), "the answer comes when it is done");
        eventually("the new leader knows", LIVENESS, async || {
            anyhow::ensure!(cluster.leader_now().await == Some(to));
            Ok(())
        })
        .await;
        load.acknowledges(WRITES, monotonic_ns(), LIVENESS).await;
        println!("leadership moved in {} ms", (monotonic_ns() - sent_ns) / 1_000_000);
    }
    let silence = load.stop().await.longest_silence(began_ns);
    println!("six moves of the leadership: at most {} ms without an acknowledged write", silence.as_millis());
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_follower_does_not_depose_the_leader() {
    let mut cluster = measured().await;
    let leader = cluster.all_follow_one_leader().await;
    let term = cluster.view(leader).await.unwrap().term;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let load = load_but_at(&cluster, "/load/paused", follower).await;
    let paused_ns = monotonic_ns();
    cluster.pause(follower);
    // The others go on, long after it would have called for an election.
    load.acknowledges(WRITES, paused_ns + 1_000_000_000, LIVENESS).await;
    cluster.resume(follower);
    let resumed_ns = monotonic_ns();
    load.acknowledges(WRITES, resumed_ns, LIVENESS).await;
    let silence = load.stop().await.longest_silence(paused_ns);
    println!("follower paused: at most {} ms without an acknowledged write", silence.as_millis());
    assert!(silence < Duration::from_secs(2), "a paused follower must not be waited for: {silence:?}");
    cluster.agree(&[1, 2, 3]).await;
    let view = cluster.view(leader).await.unwrap();
    assert_eq!((view.leader, view.term), (Some(leader), term), "the same leader in the same term");
}

/// How often server `from` has dialled server `to` in vain.
async fn failed_dials(cluster: &Cluster, from: u64, to: u64) -> u64 {
    let page = cluster.ask(from, Call::get("/metrics")).await.text();
    let name = format!("rota_peer_connects_total{{peer=\"{to}\",outcome=\"failed\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_follower_is_dialled_at_a_pace_and_told_of_once() {
    let mut cluster = measured().await;
    let leader = cluster.all_follow_one_leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let load = load_but_at(&cluster, "/load/dialled", follower).await;
    assert_eq!(failed_dials(&cluster, leader, follower).await, 0);
    let killed_ns = cluster.kill9(follower);
    load.acknowledges(5_000, killed_ns, LIVENESS).await;
    let (dials, lasted_ms) =
        (failed_dials(&cluster, leader, follower).await, (monotonic_ns() - killed_ns) / 1_000_000);
    load.stop().await;
    println!("follower dead: dialled {dials} times in {lasted_ms} ms, while 5000 writes were acknowledged");
    // Several connections, each about every 100 ms; never one for each write.
    assert!(dials > 0 && dials < 100 + lasted_ms / 10, "{dials} in {lasted_ms} ms");
    let said = cluster.said(leader);
    let lines = said.lines().filter(|line| line.contains("cannot reach another server")).count();
    assert!((1..=3).contains(&lines), "it is told {lines} times: {said}");
    cluster.restart(follower);
    cluster.agree(&[1, 2, 3]).await;
    eventually("it is told that the follower is back", LIVENESS, async || {
        ensure!(cluster.said(leader).contains("connected to server again"), "{}", cluster.said(leader));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_waited_for_a_new_leader_leave_at_once() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.all_follow_one_leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.pause(leader);
    // Far more bytes than leave in one portion.
    let data = "x".repeat(900_000);
    let writes = (0..32).map(|n| {
        let body = NodeCreate { data: data.clone(), ..NodeCreate::default() };
        cluster.ask(follower, Call::post(&format!("/v1/nodes/waited-{n}"), &body))
    });
    for written in futures::future::join_all(writes).await {
        assert_eq!(written.status, 201, "{}", written.text());
    }
    cluster.resume(leader);
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_first_server_hangs_asks_another() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.all_follow_one_leader().await;
    let hung = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let others = cluster.ids().into_iter().filter(|id| *id != hung);
    let servers: Vec<String> = std::iter::once(hung).chain(others).map(|id| cluster.http(id)).collect();
    cluster.pause(hung);
    // Less than any server may take for a single request.
    let client = || Client::new(servers.clone()).unwrap().with_deadline(Duration::from_secs(9));
    let body = NodeCreate { data: "x".into(), ..NodeCreate::default() };
    let once_client = client();
    let once = once_client.request(Method::POST, "/v1/nodes/hung", Some(&body), &[], Idempotency::Unsafe);
    let _: NodeBody = once.await.expect("what must not be repeated is not sent to a server that hangs");
    let read: NodeBody = client().get("/v1/nodes/hung?consistent=true").await.unwrap();
    assert_eq!(read.data.unwrap().data, "x");
    // Those who wait for news there learn from whoever finds out.
    let client = client();
    let stream = client.clone();
    let watching =
        tokio::spawn(async move { stream.watch("/hung", false, Some(read.stat.mzxid)).next().await });
    client.get::<NodeBody>("/v1/nodes/hung").await.unwrap();
    let set = NodeSet { data: "y".into(), ..NodeSet::default() };
    let _: NodeBody = cluster.ask(leader, Call::put("/v1/nodes/hung", &set)).await.ok().unwrap();
    let seen = tokio::time::timeout(LIVENESS, watching).await.expect("it does not wait for the hung server");
    assert!(matches!(seen.unwrap(), Ok(WatchItem::Events(events)) if events.len() == 1));
    cluster.resume(hung);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_replaced_and_follows_when_it_comes_back() {
    let mut cluster = measured().await;
    let leader = cluster.all_follow_one_leader().await;
    let load = load_but_at(&cluster, "/load/paused", leader).await;
    let paused_ns = monotonic_ns();
    cluster.pause(leader);
    // A read that was on its way to it is passed on to its successor.
    let other = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let read = cluster.ask(other, Call::get("/v1/nodes/load/paused?consistent=true")).await;
    let _: NodeBody = read.ok().expect("it is answered by whoever leads next");
    let successor = cluster.leader_after(leader).await;
    load.acknowledges(WRITES, monotonic_ns(), LIVENESS).await;
    let news = NodeSet { data: "since it was paused".into(), ..NodeSet::default() };
    let _: NodeBody = cluster.ask(successor, Call::put("/v1/nodes/load/paused", &news)).await.ok().unwrap();
    cluster.resume(leader);
    // It still takes itself for the leader, and must not say what was true then.
    let fresh = cluster.ask(leader, Call::get("/v1/nodes/load/paused?consistent=true")).await;
    if let Ok(node) = fresh.ok::<NodeBody>() {
        assert_eq!(node.data.unwrap().data, news.data);
    }
    let silence = load.stop().await.longest_silence(paused_ns);
    println!("leader paused: {} ms without an acknowledged write", silence.as_millis());
    assert!(silence < SILENCE_MAX, "{silence:?}");
    assert_eq!(cluster.all_follow_one_leader().await, successor);
    cluster.agree(&[1, 2, 3]).await;
}
