//! What is on the disk: a log that was cut off in the middle of its last record
//! opens, one that is damaged before its end is refused, and what is purged takes no room.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rota_protocol::http::{NodeBody, NodeCreate, SnapshotTaken};
use rota_tests::{Call, Cluster, LIVENESS, Load, eventually};

/// The newest file of the log, and its length.
fn newest_file(data: &Path) -> (PathBuf, u64) {
    let files = std::fs::read_dir(data.join("log")).unwrap().flatten();
    let mut files: Vec<PathBuf> = files.map(|file| file.path()).filter(|path| path.is_file()).collect();
    files.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    let newest = files.into_iter().rfind(|path| path.metadata().unwrap().len() > 0).expect("there is a log");
    let len = newest.metadata().unwrap().len();
    (newest, len)
}

async fn cluster_with_data() -> Cluster {
    let cluster = Cluster::start(3).await;
    let made = cluster.ask(1, Call::post("/v1/nodes/load", &NodeCreate::default())).await;
    let _: NodeBody = made.ok().unwrap();
    let load = Load::begin("/load", &cluster.addresses(), 2);
    load.acknowledges(100, 0, LIVENESS).await;
    load.stop().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_off_in_its_last_record_opens() {
    let mut cluster = cluster_with_data().await;
    for cut in [1, 2, 5, 8, 13] {
        // There is a last record of this size at least.
        let made = cluster.ask(1, Call::post(&format!("/v1/nodes/cut{cut}"), &NodeCreate::default())).await;
        let _: NodeBody = made.ok().unwrap();
        cluster.agree(&[1, 2, 3]).await;
        let leader = cluster.leader().await;
        let victim = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
        // All of them, since no leader may remember that the victim has more.
        for id in [1, 2, 3] {
            cluster.kill9(id);
        }
        let (file, len) = newest_file(&cluster.data(victim));
        OpenOptions::new().write(true).open(&file).unwrap().set_len(len - cut).unwrap();
        for id in [1, 2, 3] {
            cluster.restart(id);
        }
        cluster.all_follow_one_leader().await;
        // What it lost, the others have.
        cluster.agree(&[1, 2, 3]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_damaged_before_its_end_is_refused() {
    let mut cluster = cluster_with_data().await;
    cluster.agree(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let victim = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.kill9(victim);
    let (file, len) = newest_file(&cluster.data(victim));
    let said_before = cluster.said(victim).len();
    for part in [4, 2] {
        flip(&file, len / part);
        cluster.restart(victim);
        let status = cluster.process(victim).ended(Duration::from_secs(10)).await;
        flip(&file, len / part);
        let said = cluster.said(victim)[said_before..].to_owned();
        assert_eq!(status.code(), Some(1), "{said}");
        let log = cluster.data(victim).join("log").display().to_string();
        for word in [log.as_str(), "damaged", "rota cluster remove", "rota cluster add"] {
            assert!(said.contains(word), "it does not name {word:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
    // As it was before, it is good.
    cluster.restart(victim);
    cluster.all_follow_one_leader().await;
    cluster.agree(&[1, 2, 3]).await;
}

/// Turns one bit of the file over.
fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused() {
    let mut cluster = cluster_with_data().await;
    let leader = cluster.leader().await;
    let victim = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    assert_eq!(cluster.ask(victim, Call::post("/v1/cluster/snapshot", &())).await.status, 200);
    cluster.kill9(victim);
    let snapshots = std::fs::read_dir(cluster.data(victim).join("snapshots")).unwrap().flatten();
    let [file] = &snapshots.map(|file| file.path()).collect::<Vec<_>>()[..] else { panic!("one snapshot") };
    let len = file.metadata().unwrap().len();
    let said_before = cluster.said(victim).len();
    for at in [10, len / 2, len - 1] {
        flip(file, at);
        cluster.restart(victim);
        let status = cluster.process(victim).ended(Duration::from_secs(10)).await;
        flip(file, at);
        let said = cluster.said(victim)[said_before..].to_owned();
        assert_eq!(status.code(), Some(1), "byte {at} of {len}: {said}");
        for word in [file.to_str().unwrap(), "damaged", "rota cluster remove"] {
            assert!(said.contains(word), "it does not name {word:?}: {said}");
        }
    }
    cluster.restart(victim);
    cluster.all_follow_one_leader().await;
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_is_given_back() {
    let mut cluster = Cluster::start(1).await;
    let make = async |path: &str, data: String| {
        let create = NodeCreate { data, ..NodeCreate::default() };
        let made = cluster.ask(1, Call::post(&format!("/v1/nodes{path}"), &create)).await;
        let _: NodeBody = made.ok().unwrap();
    };
    make("/load", String::new()).await;
    for large in 0..20 {
        make(&format!("/large{large}"), "x".repeat(512 * 1024)).await;
    }
    // The first file is closed by now. Some entries are kept behind a snapshot.
    let log = cluster.data(1).join("log");
    let first = std::fs::read_dir(&log).unwrap().flatten().map(|file| file.path());
    let first = first.filter(|path| path.extension().is_some_and(|end| end == "wal")).min().unwrap();
    let load = Load::begin("/load", &cluster.addresses(), 4);
    // Snapshots are written with what others leave of the processor.
    eventually("the first file of the log is removed", LIVENESS * 6, async || {
        let taken = cluster.ask(1, Call::post("/v1/cluster/snapshot", &())).await;
        let _: SnapshotTaken = taken.ok()?;
        anyhow::ensure!(!first.exists(), "{} is there", first.display());
        Ok(())
    })
    .await;
    load.stop().await;
    // A file that is removed takes room as long as somebody has it open.
    let open = format!("/proc/{}/fd", cluster.process(1).id());
    eventually("removed files are closed", LIVENESS, async || {
        let files = std::fs::read_dir(&open)?.flatten().flat_map(|entry| std::fs::read_link(entry.path()));
        let held: Vec<PathBuf> = files.filter(|file| file.to_string_lossy().ends_with("(deleted)")).collect();
        anyhow::ensure!(held.is_empty(), "{held:?}");
        Ok(())
    })
    .await;
}
