//! All three servers are killed under load, again and again: what was
//! acknowledged is there, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use rota_client::Client;
use rota_protocol::http::{Children, NodeBody, NodeCreate};
use rota_tests::{Call, Cluster, LIVENESS, Load, Record, Rng, Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const ROUNDS: u64 = 20;
const WRITERS_PER_SERVER: usize = 4;
/// Reads under way at once.
const READS: usize = 16;

async fn make_node(cluster: &Cluster, path: &str) {
    let made =
        cluster.ask(cluster.leader().await, Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default()));
    let _: NodeBody = made.await.ok().unwrap();
}

/// What is below `root` on a server, once it has all that was acknowledged.
async fn read_all(cluster: &Cluster, id: u64, root: &str) -> BTreeMap<String, String> {
    let path = format!("/v1/nodes{root}?children=true&consistent=true");
    let children: Children = cluster.ask(id, Call::get(&path)).await.ok().unwrap();
    assert!(!children.more, "one answer has them all");
    let reads = children.children.into_iter().map(|name| async move {
        let path = format!("{root}/{name}");
        let node: NodeBody = cluster.ask(id, Call::get(&format!("/v1/nodes{path}"))).await.ok().unwrap();
        (path, node.data.unwrap().data)
    });
    futures::stream::iter(reads).buffer_unordered(READS).collect().await
}

/// Everything acknowledged is there as it was written, and nothing is there that
/// nobody wrote.
fn check(found: &BTreeMap<String, String>, record: &Record) {
    for (path, data) in &record.acknowledged {
        let there = found.get(path).unwrap_or_else(|| panic!("{path} was acknowledged and is not there"));
        if !record.marks.contains_key(path) {
            assert_eq!(there, data, "{path} has another value than was acknowledged");
        }
    }
    for (path, data) in found {
        match record.marks.get(path) {
            None => assert_eq!(record.tried.get(path), Some(data), "{path} has what nobody wrote"),
            Some(mark) => {
                let number: u64 = data.parse().expect("a mark is a number");
                let sound = mark.acknowledged <= number && number <= mark.tried;
                assert!(sound, "{path} is {number}, and it should be within {mark:?}");
            }
        }
    }
}

/// Reads the marks of a round over and over, from whichever server answers: no
/// number may ever go back, whatever happens to the servers.
fn watch_marks(client: Client, root: String, stop: CancellationToken) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        let mut looks = 0;
        while !stop.is_cancelled() {
            for writer in 0..WRITERS_PER_SERVER {
                let path = format!("/v1/nodes{root}/s{}w{writer}-mark", looks % 3);
                let Ok(node) = client.get::<NodeBody>(&path).await else { continue };
                let number: u64 = node.data.unwrap().data.parse().expect("a mark is a number");
                let before = seen.insert(path.clone(), number).unwrap_or_default();
                assert!(number >= before, "{path} went back from {before} to {number}");
            }
            looks += 1;
        }
        looks
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_death_of_all_servers() {
    let mut chance = Rng::seeded("durability");
    let mut cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    make_node(&cluster, "/load").await;
    let reader = cluster.client().with_deadline(Duration::from_secs(1));
    let mut records = BTreeMap::new();
    for round in 1..=ROUNDS {
        let root = format!("/load/{round}");
        make_node(&cluster, &root).await;
        let load = Load::begin(&root, &cluster.addresses(), WRITERS_PER_SERVER);
        let stop = CancellationToken::new();
        let watching = watch_marks(reader.clone(), root.clone(), stop.clone());
        load.acknowledges(1, 0, LIVENESS).await;

        // When they are killed is told by what they have done: the first two after as
        // many writes as chance has it, the last one at once.
        let writes = usize::try_from(20 + chance.below(1_500)).unwrap();
        load.acknowledges(writes, 0, LIVENESS).await;
        let mut order = vec![1, 2, 3];
        let mut kill_one = |cluster: &mut Cluster| {
            let at = usize::try_from(chance.below(order.len() as u64)).unwrap();
            cluster.kill9(order.remove(at))
        };
        let first_ns = kill_one(&mut cluster);
        load.acknowledges(writes % 20, first_ns, LIVENESS).await;
        kill_one(&mut cluster);
        kill_one(&mut cluster);
        let record = load.stop().await;
        for id in [1, 2, 3] {
            cluster.restart(id);
        }
        cluster.all_follow_one_leader().await;
        let asked = chance.below(3) + 1;
        check(&read_all(&cluster, asked, &root).await, &record);
        stop.cancel();
        let looks = watching.await.expect("no mark went back");
        println!(
            "round {round}: {} writes acknowledged, all there; marks looked at {looks} times",
            record.times_ns.len()
        );
        records.insert(root, record);
    }
    // Later rounds took nothing away, and all servers have the same.
    cluster.agree(&[1, 2, 3]).await;
    for (root, record) in &records {
        check(&read_all(&cluster, chance.below(3) + 1, root).await, record);
    }
    let all: usize = records.values().map(|record| record.times_ns.len()).sum();
    println!("durability: {ROUNDS} rounds, {all} writes acknowledged, none lost");
    assert!(all > usize::try_from(ROUNDS).unwrap() * 10, "there was a load: {all}");
}
