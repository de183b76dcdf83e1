//! While leaders are killed, moved and paused, every write that was answered has
//! taken effect exactly once, and one whose answer was lost at most once.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::ensure;
use http::Method;
use rota_client::{Client, ClientError, Idempotency};
use rota_protocol::http::{Children, Code, Mode, NodeBody, NodeCreate, NodeSet, TransferLeader};
use rota_tests::{Call, Cluster, Http, LIVENESS, Load, Outcome, Rng, Settings, eventually};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const DISTURBANCES: usize = 12;

/// What became of each piece of data that somebody tried to write.
#[derive(Debug, Default)]
struct Tally {
    done: Vec<String>,
    not_done: Vec<String>,
    unknown: Vec<String>,
}

impl Tally {
    fn merge(tallies: Vec<Tally>) -> Self {
        let mut all = Self::default();
        for tally in tallies {
            all.done.extend(tally.done);
            all.not_done.extend(tally.not_done);
            all.unknown.extend(tally.unknown);
        }
        all
    }
}

fn sequential(data: &str) -> NodeCreate {
    NodeCreate { data: data.to_owned(), mode: Mode::PersistentSequential, ..NodeCreate::default() }
}

/// Creates sequential nodes through one server.
async fn create_plainly(server: String, writer: usize, stop: CancellationToken) -> Tally {
    let http = Http::default();
    let mut tally = Tally::default();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let data = format!("plain {writer} {number}");
        let became = match http.write(&server, Call::post("/v1/nodes/line/n-", &sequential(&data))).await {
            Outcome::Done(_) => &mut tally.done,
            Outcome::NotDone => &mut tally.not_done,
            Outcome::Unknown => &mut tally.unknown,
        };
        became.push(data.clone());
        if tally.done.last() != Some(&data) {
            http.until_there(&server, &stop).await;
        }
    }
    tally
}

/// Creates sequential nodes by the client, which looks for a server that answers
/// and must not send again what may have been done.
async fn create_by_client(client: Client, writer: usize, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let data = format!("client {writer} {number}");
        let body = sequential(&data);
        let made =
            client.request(Method::POST, "/v1/nodes/line/n-", Some(&body), &[], Idempotency::Unsafe).await;
        match made {
            Ok(NodeBody { .. }) => tally.done.push(data),
            Err(ClientError::OutcomeUnknown) => tally.unknown.push(data),
            Err(error) if error.code() == Some(Code::OutcomeUnknown) => tally.unknown.push(data),
            Err(error) if error.is_unreachable() => tally.not_done.push(data),
            Err(error) => panic!("a sound write was refused: {error}"),
        }
    }
    tally
}

/// Adds one to a number, again and again, each time only if it is still what was
/// read. Counts what was acknowledged and what may have been done.
async fn increment(server: String, stop: CancellationToken) -> (u64, u64) {
    let http = Http::default();
    let (mut done, mut unknown) = (0, 0);
    while !stop.is_cancelled() {
        let Ok(answer) = http.send(&server, Call::get("/v1/nodes/count")).await else {
            http.until_there(&server, &stop).await;
            continue;
        };
        let Ok(node) = answer.ok::<NodeBody>() else { continue };
        let number: u64 = node.data.unwrap().data.parse().expect("the count is a number");
        let body = NodeSet {
            data: (number + 1).to_string(),
            version: Some(node.stat.version),
            ..NodeSet::default()
        };
        match http.send(&server, Call::put("/v1/nodes/count", &body)).await {
            Ok(answer) if answer.status.is_success() => done += 1,
            Ok(answer) if answer.code() == Some(Code::BadVersion) => {}
            _ => unknown += 1,
        }
    }
    (done, unknown)
}

/// Kills, moves and pauses leaders, at random.
async fn disturb(cluster: &mut Cluster, chance: &mut Rng) {
    for _ in 0..DISTURBANCES {
        let leader = cluster.leader().await;
        // After so many more writes.
        let zxid = cluster.view(leader).await.map_or(0, |view| view.zxid) + 50 + chance.below(1_000);
        eventually("the writers go on", LIVENESS, async || {
            let view = cluster.view(leader).await?;
            ensure!(view.zxid >= zxid, "at {} of {zxid}", view.zxid);
            Ok(())
        })
        .await;
        match chance.below(4) {
            0 | 1 => {
                cluster.kill9(leader);
                cluster.leader_after(leader).await;
                cluster.restart(leader);
            }
            2 => {
                let to = TransferLeader { server: chance.below(3) + 1 };
                // It may be refused: the leader may be another by now.
                let _ = cluster.send(leader, Call::post("/v1/cluster/leader", &to)).await;
            }
            _ => {
                cluster.pause(leader);
                cluster.leader_after(leader).await;
                cluster.resume(leader);
            }
        }
        cluster.all_follow_one_leader().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_took_effect_once() {
    let mut chance = Rng::seeded("exactly_once");
    let mut cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let leader = cluster.leader().await;
    for (path, data) in [("/line", ""), ("/count", "0"), ("/load", "")] {
        let body = NodeCreate { data: data.into(), ..NodeCreate::default() };
        let _: NodeBody =
            cluster.ask(leader, Call::post(&format!("/v1/nodes{path}"), &body)).await.ok().unwrap();
    }

    let stop = CancellationToken::new();
    let (mut creators, mut counters) = (JoinSet::new(), JoinSet::new());
    for (writer, server) in cluster.addresses().into_iter().enumerate() {
        for more in 0..2 {
            creators.spawn(create_plainly(server.clone(), writer * 2 + more, stop.clone()));
        }
        creators.spawn(create_by_client(cluster.client(), writer, stop.clone()));
        counters.spawn(increment(server, stop.clone()));
    }
    let load = Load::begin("/load", &cluster.addresses(), 1);
    disturb(&mut cluster, &mut chance).await;
    stop.cancel();
    let tally = Tally::merge(creators.join_all().await);
    let counts = counters.join_all().await;
    let record = load.stop().await;
    cluster.agree(&[1, 2, 3]).await;

    check_line(&read_line(&cluster).await, &tally);
    let node: NodeBody = cluster.ask(1, Call::get("/v1/nodes/count?consistent=true")).await.ok().unwrap();
    let count: u64 = node.data.unwrap().data.parse().unwrap();
    let (done, unknown) = counts.iter().fold((0, 0), |(d, u), (done, unknown)| (d + done, u + unknown));
    println!("count: {count}; acknowledged {done}, unknown {unknown}");
    assert!(done <= count && count <= done + unknown, "increments were lost or doubled");
    assert_eq!(u64::try_from(node.stat.version).unwrap(), count, "each change added one");
    assert!(record.times_ns.len() > 100, "there was a load");
}

/// How often each piece of data is in the line.
async fn read_line(cluster: &Cluster) -> BTreeMap<String, usize> {
    let client = Arc::new(cluster.client());
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/nodes/line?children=true&consistent=true&after={after}");
        let children: Children = client.get(&path).await.unwrap();
        for name in &children.children {
            let node: NodeBody = client.get(&format!("/v1/nodes/line/{name}")).await.unwrap();
            *found.entry(node.data.unwrap().data).or_default() += 1;
        }
        match children.children.last() {
            Some(last) if children.more => after.clone_from(last),
            _ => return found,
        }
    }
}

fn check_line(found: &BTreeMap<String, usize>, tally: &Tally) {
    let nodes: usize = found.values().sum();
    println!("line: {nodes} nodes; {} answered, {} unknown", tally.done.len(), tally.unknown.len());
    for data in &tally.done {
        assert_eq!(found.get(data), Some(&1), "{data:?} was answered");
    }
    for data in &tally.unknown {
        assert!(found.get(data).is_none_or(|times| *times == 1), "{data:?} was done twice");
    }
    for data in &tally.not_done {
        assert_eq!(found.get(data), None, "{data:?} was said not to have been done");
    }
    assert!((tally.done.len()..=tally.done.len() + tally.unknown.len()).contains(&nodes));
    assert!(tally.done.len() > 100, "there was a load");
}
