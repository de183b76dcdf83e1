//! The table over HTTP: whole, what changed since, by ETag, by long poll, as a
//! stream; its version never goes back.

use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::{ItemBody, ItemCreate, SnapshotTaken, TableBody};
use rota_tests::{Call, Cluster, Http, LIVENESS, Pool, eventually};
use tokio::time::Instant;

async fn put_item(cluster: &Cluster, pool: &Pool, item: &str) {
    let body = ItemCreate { name: item.into(), persistent: true, ..ItemCreate::default() };
    let _: ItemBody = cluster.ask(1, Call::post(&pool.path("items"), &body)).await.ok().unwrap();
}

/// The table on a server, once exactly these buckets are owned.
async fn table_of(cluster: &Cluster, id: u64, pool: &Pool, buckets: &[&str]) -> TableBody {
    let path = pool.path("table?consistent=true");
    eventually(&format!("exactly {buckets:?} are owned"), LIVENESS, async || {
        let table: TableBody = cluster.send(id, Call::get(&path)).await?.ok()?;
        let owned: Vec<&str> = table.rows.iter().map(|row| row.bucket.as_str()).collect();
        ensure!(owned == buckets && table.rows.iter().all(|row| row.owners.len() == 1), "{table:?}");
        Ok(table)
    })
    .await
}

async fn since(cluster: &Cluster, id: u64, pool: &Pool, version: u64) -> TableBody {
    cluster.ask(id, Call::get(&pool.path(&format!("table?since={version}")))).await.ok().unwrap()
}

fn names(table: &TableBody) -> Vec<&str> {
    table.rows.iter().map(|row| row.bucket.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_sent_a_removal_too() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::named(&cluster, "things", Duration::from_secs(10)).await;
    put_item(&cluster, &pool, "a").await;
    put_item(&cluster, &pool, "b").await;
    let _worker = pool.join("w").await;
    let first = table_of(&cluster, 1, &pool, &["a", "b"]).await;
    assert!(first.whole && first.hashed.is_none() && first.removed.is_empty());
    assert_eq!(first.addresses.keys().collect::<Vec<_>>(), ["w"]);

    for id in cluster.ids() {
        let nothing = since(&cluster, id, &pool, first.version).await;
        assert!(!nothing.whole && nothing.rows.is_empty() && nothing.removed.is_empty(), "{nothing:?}");
        assert_eq!(nothing.version, first.version);
    }
    put_item(&cluster, &pool, "c").await;
    let second = table_of(&cluster, 2, &pool, &["a", "b", "c"]).await;
    for id in cluster.ids() {
        let delta = since(&cluster, id, &pool, first.version).await;
        assert!(!delta.whole && names(&delta) == ["c"], "{delta:?}");
        assert_eq!(delta.version, second.version);
    }

    let deleted = cluster.ask(3, Call::delete(&pool.path("items/a"))).await;
    assert_eq!(deleted.status, 204);
    let third = table_of(&cluster, 3, &pool, &["b", "c"]).await;
    assert!(third.version > second.version, "a removal is a change");
    for id in cluster.ids() {
        let delta = since(&cluster, id, &pool, second.version).await;
        assert!(names(&delta).is_empty() && delta.removed == ["a"], "{delta:?}");
        let both = since(&cluster, id, &pool, first.version).await;
        assert!(names(&both) == ["c"] && both.removed == ["a"], "{both:?}");
        assert_eq!(both.version, third.version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etag_saves_the_table() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "work", 8, Duration::from_secs(10)).await;
    let _worker = pool.join("w").await;
    pool.is_shared_by(&["w"], 8).await;
    let whole = cluster.ask(1, Call::get(&pool.path("table?consistent=true"))).await;
    let etag = whole.header("etag").expect("a table has an ETag").to_owned();
    let table: TableBody = whole.ok().unwrap();
    assert_eq!((table.hashed, table.rows.len()), (Some(8), 8));
    for id in cluster.ids() {
        let call = Call::get(&pool.path("table?consistent=true")).header("if-none-match", &etag);
        let same = cluster.ask(id, call).await;
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
        assert_eq!(same.header("etag"), Some(etag.as_str()));
        let other = Call::get(&pool.path("table")).header("if-none-match", "\"1\"");
        assert_eq!(cluster.ask(id, other).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_when_something_changes() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::named(&cluster, "things", Duration::from_secs(10)).await;
    let _worker = pool.join("w").await;
    put_item(&cluster, &pool, "a").await;
    let before = table_of(&cluster, 1, &pool, &["a"]).await;

    let asked = Instant::now();
    // A version that there has never been, of another life of the cluster, is answered with all.
    for later in [1, u64::MAX / 2] {
        let path = pool.path(&format!("table?since={}&wait_ms=20000", before.version + later));
        let anew: TableBody = cluster.ask(1, Call::get(&path)).await.ok().unwrap();
        assert_eq!((anew.whole, anew.version, &anew.rows), (true, before.version, &before.rows));
    }
    let path = pool.path(&format!("table?since={}&wait_ms=300", before.version));
    let nothing: TableBody = cluster.ask(2, Call::get(&path)).await.ok().unwrap();
    assert!(asked.elapsed() >= Duration::from_millis(300), "nothing came, and it did not wait");
    assert_eq!((nothing.version, nothing.rows.len()), (before.version, 0));

    let path = pool.path(&format!("table?since={}&wait_ms=60000", before.version));
    for id in cluster.ids() {
        assert_eq!(since(&cluster, id, &pool, before.version).await.version, before.version);
    }
    let polls = cluster.ids().into_iter().map(|id| {
        let (address, path) = (cluster.http(id), path.clone());
        tokio::spawn(async move { Http::default().send(&address, Call::get(&path)).await })
    });
    let polls: Vec<_> = polls.collect();
    put_item(&cluster, &pool, "b").await;
    let changed = Instant::now();
    for poll in polls {
        let delta: TableBody = poll.await.unwrap().unwrap().ok().unwrap();
        assert!(delta.version > before.version && names(&delta) == ["b"], "{delta:?}");
    }
    println!("long polls were answered {} ms after the change", changed.elapsed().as_millis());
    assert!(changed.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_brings_every_change() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::named(&cluster, "things", Duration::from_secs(10)).await;
    let _worker = pool.join("w").await;
    put_item(&cluster, &pool, "a").await;
    let mut version = table_of(&cluster, 1, &pool, &["a"]).await.version;
    let mut stream = Http::default().stream(&cluster.http(2), &pool.path("table")).await.unwrap();
    let (kind, first) = stream.next::<TableBody>().await.unwrap();
    assert!(kind == "table" && first.whole, "{kind}: {first:?}");
    for item in ["b", "c"] {
        put_item(&cluster, &pool, item).await;
        loop {
            let (_, delta) = stream.next::<TableBody>().await.unwrap();
            assert!(delta.version >= version && !delta.whole, "{delta:?}");
            version = delta.version;
            if delta.rows.iter().any(|row| row.bucket == item && !row.owners.is_empty()) {
                break;
            }
        }
    }
    assert_eq!(cluster.ask(1, Call::delete(&pool.path("items/a"))).await.status, 204);
    while !stream.next::<TableBody>().await.unwrap().1.removed.contains(&"a".to_owned()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_survives_restarts_and_too_old_a_version_gets_the_whole_table() {
    let mut cluster = Cluster::start(3).await;
    let pool = Pool::named(&cluster, "things", Duration::from_secs(10)).await;
    let worker = pool.join("w").await;
    for item in ["a", "b", "c"] {
        put_item(&cluster, &pool, item).await;
    }
    let before = table_of(&cluster, 1, &pool, &["a", "b", "c"]).await;
    // The last change is a removal, which leaves no row behind to tell its time.
    assert_eq!(cluster.ask(1, Call::delete(&pool.path("items/b"))).await.status, 204);
    let removed = table_of(&cluster, 1, &pool, &["a", "c"]).await;
    assert!(removed.version > before.version);
    // Servers 1 and 2 come back from a snapshot, server 3 from its log.
    for id in [1, 2] {
        let taken = cluster.ask(id, Call::post("/v1/cluster/snapshot", &())).await;
        let _: SnapshotTaken = taken.ok().unwrap();
    }
    for id in [1, 2, 3] {
        cluster.kill9(id);
    }
    for id in [1, 2, 3] {
        cluster.restart(id);
    }
    cluster.all_follow_one_leader().await;
    for id in [1, 2, 3] {
        let now: TableBody =
            cluster.ask(id, Call::get(&pool.path("table?consistent=true"))).await.ok().unwrap();
        assert!(
            now.version >= removed.version,
            "server {id} went back: {} < {}",
            now.version,
            removed.version
        );
        assert_eq!(names(&now), ["a", "c"]);
        let same = since(&cluster, id, &pool, now.version).await;
        assert!(!same.whole && same.rows.is_empty(), "{same:?}");
        // It does not know any more what was removed since then, unless it has
        // the log of it: either way nobody keeps a row that is gone.
        let old = since(&cluster, id, &pool, before.version).await;
        assert!(old.whole || old.removed == ["b"], "server {id}: {old:?}");
        assert!(id == 3 || old.whole, "server {id} forgot, and must say so: {old:?}");
    }
    worker.leave().await;
}
