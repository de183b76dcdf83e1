//! The crate `zookeeper-client`, which others wrote, against a cluster.

use std::time::Duration;

use rota_tests::{Cluster, eventually};
use zookeeper_client as zk;

const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(cluster: &Cluster) -> zk::Client {
    let connector = zk::Client::connector().with_session_timeout(Duration::from_secs(6));
    connector.connect(&cluster.zookeeper_all()).await.unwrap()
}

fn open(mode: zk::CreateMode) -> zk::CreateOptions<'static> {
    mode.with_acls(zk::Acls::anyone_all())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_watches_and_transactions() {
    let cluster = Cluster::start(3).await;
    let (one, other) = (connect(&cluster).await, connect(&cluster).await);
    let (_, born) = one.check_and_watch_stat("/app").await.unwrap();
    let (stat, _) = other.create("/app", b"1", &open(zk::CreateMode::Persistent)).await.unwrap();
    let event = born.changed().await;
    assert_eq!((event.event_type, event.path.as_str()), (zk::EventType::NodeCreated, "/app"));
    one.sync("/").await.unwrap();
    assert_eq!(one.get_data("/app").await.unwrap(), (b"1".to_vec(), stat));

    let mut below = one.watch("/app", zk::AddWatchMode::PersistentRecursive).await.unwrap();
    let (_, first) = other.create("/app/n-", b"", &open(zk::CreateMode::PersistentSequential)).await.unwrap();
    let (_, second) = other.create("/app/n-", b"", &open(zk::CreateMode::EphemeralSequential)).await.unwrap();
    assert_eq!((first.into_i64(), second.into_i64()), (0, 1));
    for number in 0..2 {
        let event = below.changed().await;
        assert_eq!(event.path, format!("/app/n-{number:010}"));
    }
    assert_eq!(other.list_ephemerals("/app").await.unwrap(), ["/app/n-0000000001"]);
    assert_eq!(other.count_descendants_number("/app").await.unwrap(), 2);

    let mut writer = one.new_multi_writer();
    writer.add_check_version("/app", 0).unwrap();
    writer.add_set_data("/app", b"2", Some(0)).unwrap();
    writer.add_create("/app/made", b"", &open(zk::CreateMode::Container)).unwrap();
    assert_eq!(writer.commit().await.unwrap().len(), 3);
    let mut stale = other.new_multi_writer();
    stale.add_create("/app/not-made", b"", &open(zk::CreateMode::Persistent)).unwrap();
    stale.add_check_version("/app", 0).unwrap();
    assert!(stale.commit().await.is_err());
    other.sync("/").await.unwrap();
    assert_eq!(other.check_stat("/app/not-made").await.unwrap(), None);
    let mut reader = other.new_multi_reader();
    reader.add_get_data("/app").unwrap();
    reader.add_get_children("/app").unwrap();
    assert_eq!(reader.commit().await.unwrap().len(), 2);
    assert!(matches!(other.delete("/app", None).await, Err(zk::Error::NotEmpty)));
    other.auth("digest", b"user:secret").await.unwrap();
    assert!(!other.list_auth_users().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_passes_on_when_its_owner_is_gone_and_servers_are_killed() {
    let mut cluster = Cluster::start(3).await;
    let (one, other) = (connect(&cluster).await, connect(&cluster).await);
    one.mkdir("/locks", &open(zk::CreateMode::Persistent)).await.unwrap();
    let prefix = || zk::LockPrefix::new_curator("/locks", "lock-").unwrap();
    let options = || zk::LockOptions::new(zk::Acls::anyone_all());
    let held = one.lock(prefix(), b"one", options()).await.unwrap();
    let path = held.lock_path().to_owned();
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    cluster.leader_after(leader).await;
    // The session outlives the server, and so does what it holds.
    eventually("the owner's node is there", PATIENCE, async || {
        let stat = other.check_stat(&path).await?;
        anyhow::ensure!(stat.is_some(), "it is gone");
        Ok(())
    })
    .await;
    let waiting = other.lock(prefix(), b"other", options());
    drop(held);
    drop(one);
    let taken = tokio::time::timeout(PATIENCE, waiting).await.expect("the lock passes on").unwrap();
    assert_ne!(taken.lock_path(), path);
}
