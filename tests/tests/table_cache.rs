//! With all coordinators down, a process started fresh still answers who owns a
//! key, from its copy on disk, and says how old that is.

use std::path::Path;
use std::time::Duration;

use rota_core::pool::bucket_of_key;
use rota_protocol::http::JoinPool;
use rota_tests::{Cluster, Hold, Pool, Ran};
use serde_json::Value;

const BUCKETS: u32 = 16;
const KEY: &str = "alice@example.org";

async fn cluster_and_pool() -> (Cluster, Pool, rota_worker::Worker) {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "mail", BUCKETS, Duration::from_secs(10)).await;
    let join = JoinPool { name: "w".into(), address: "10.0.0.9:99".into(), ..JoinPool::default() };
    let worker = pool.join_as(join, Hold).await;
    pool.is_shared_by(&["w"], BUCKETS as usize).await;
    (cluster, pool, worker)
}

/// Asks, in a process of its own, who owns the key.
async fn owner(cluster: &Cluster, pool: &str, cache: &Path) -> Ran {
    let cache = cache.display().to_string();
    let args = ["--output", "json", "--deadline", "2s", "table", "owner", pool, KEY, "--cache", &cache];
    cluster.operate(&args).await
}

fn check(ran: &Ran, source: &str) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let answer: Value = ran.json().unwrap();
    assert_eq!(answer["source"], source, "{ran:?}");
    assert_eq!(answer["row"]["owners"][0]["member"], "w", "{ran:?}");
    assert_eq!(answer["address"], "10.0.0.9:99", "{ran:?}");
    assert_eq!(answer["row"]["bucket"], bucket_of_key(KEY.as_bytes(), BUCKETS).to_string(), "{ran:?}");
    answer
}

fn kill_all(cluster: &mut Cluster) {
    for id in cluster.ids() {
        cluster.kill9(id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_process_answers_from_its_copy() {
    let (mut cluster, _pool, _worker) = cluster_and_pool().await;
    let cache = cluster.dir().join("cache");
    let asked = check(&owner(&cluster, "mail", &cache).await, "coordinator");
    kill_all(&mut cluster);

    let first = owner(&cluster, "mail", &cache).await;
    let answer = check(&first, "disk");
    assert_eq!(answer["row"], asked["row"], "it is what the coordinators said");
    assert_eq!(answer["version"], asked["version"]);
    assert!(first.err.contains("no coordinator answers"), "it says so to people too: {first:?}");
    let age = answer["age_ms"].as_u64().expect("it says how old it is");
    let later = check(&owner(&cluster, "mail", &cache).await, "disk");
    assert!(later["age_ms"].as_u64().unwrap() > age, "it grows older: {age} ms, then {later}");
    println!("answered from the disk, {age} ms old");

    owner(&cluster, "mail", &cluster.dir().join("empty")).await.failed(&["no coordinator answers"]);
    owner(&cluster, "other", &cache).await.failed(&["no coordinator answers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_rebuilt() {
    let (mut cluster, _pool, _worker) = cluster_and_pool().await;
    let cache = cluster.dir().join("cache");
    check(&owner(&cluster, "mail", &cache).await, "coordinator");
    let damaged = damage(&cache);
    assert!(damaged > 0, "there is something to damage in {}", cache.display());
    // With coordinators: as if it had never been there.
    check(&owner(&cluster, "mail", &cache).await, "coordinator");
    kill_all(&mut cluster);
    check(&owner(&cluster, "mail", &cache).await, "disk");
    // Without: there is no answer, and no wrong one.
    damage(&cache);
    let ran = owner(&cluster, "mail", &cache).await;
    ran.failed(&["no coordinator answers"]);
}

/// Overwrites every file below `directory`: how many.
fn damage(directory: &Path) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            damaged += damage(&entry.path());
        } else {
            std::fs::write(entry.path(), b"this is no copy of a table").unwrap();
            damaged += 1;
        }
    }
    damaged
}
