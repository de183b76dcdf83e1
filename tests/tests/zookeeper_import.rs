//! What a cluster of ZooKeeper held is found again in Rota: nodes with all their
//! Stats, access control lists, sessions, and the number of the last write.

use std::collections::BTreeMap;

use bytes::Bytes;
use rota_core::state::{AclEntry, Identity, Stat, perms};
use rota_protocol::zk::{Auth, Body, Create, PathWatch, Request};
use rota_tests::zk::{Raw, Release, Session, Target, ZooKeeper, create, play_alone, random_script};
use rota_tests::{Call, Cluster, LIVENESS, Ran, Rng, Settings, eventually};

type Tree = BTreeMap<String, (Option<Bytes>, Vec<AclEntry>, Stat)>;

async fn ask(raw: &mut Raw, request: Request) -> Option<(u64, Body)> {
    let xid = raw.send(&request).await.unwrap();
    let (header, mut body) = raw.answer(xid).await.unwrap().unwrap();
    let read = |body: &mut Bytes| Body::read(request.op(), body).unwrap();
    (header.error == 0).then(|| (header.zxid, read(&mut body)))
}

async fn as_super(address: &str) -> Raw {
    let mut raw = Raw::connect_patiently(address, None, 20_000).await;
    let auth = Auth { auth_type: 0, scheme: "digest".into(), auth: Some(Bytes::from_static(b"super:test")) };
    assert!(ask(&mut raw, Request::Auth(auth)).await.is_some());
    ask(&mut raw, Request::Sync("/".into())).await.unwrap();
    raw
}

/// All nodes but those that every server has for itself.
async fn tree(raw: &mut Raw) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec!["/".to_owned()];
    while let Some(path) = open.pop() {
        let watch = |path: &str| PathWatch { path: path.to_owned(), watch: false };
        let (_, children) = ask(raw, Request::GetChildren(watch(&path))).await.unwrap();
        let Body::Names(names) = children else { panic!("{children:?}") };
        let slash = if path == "/" { "" } else { "/" };
        open.extend(names.iter().map(|name| format!("{path}{slash}{name}")));
        let Some((_, Body::DataStat(data, stat))) = ask(raw, Request::GetData(watch(&path))).await else {
            panic!()
        };
        let Some((_, Body::AclStat(mut acl, _))) = ask(raw, Request::GetAcl(path.clone())).await else {
            panic!()
        };
        acl.sort();
        if path != "/zookeeper/config" {
            tree.insert(path, (data, acl, stat));
        }
    }
    tree
}

fn assert_same(found: &Tree, expected: &Tree) {
    let beyond = |one: &Tree, other: &Tree| -> Vec<_> {
        one.iter()
            .filter(|(path, _)| !other.contains_key(*path))
            .map(|(p, n)| (p.clone(), n.clone()))
            .collect()
    };
    assert_eq!((beyond(found, expected), beyond(expected, found)), (vec![], vec![]));
    for (path, node) in expected {
        assert_eq!(found.get(path), Some(node), "{path}");
    }
}

fn succeeded(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_zookeeper_held_is_found_again() {
    let mut zookeeper = ZooKeeper::start(Release::V3_8).await;
    let target = Target { name: "zookeeper".into(), addresses: zookeeper.addresses().to_vec() };
    let mut chance = Rng::seeded("zookeeper_import");
    for number in 0..4 {
        play_alone(&target, number, &random_script(Release::V3_8, &mut chance, 300)).await.unwrap();
    }
    // Sessions of long timeouts, which survive what follows.
    let mut owner = Raw::connect_patiently(&target.addresses[1], None, 60_000).await;
    let session = owner.session();
    assert!(ask(&mut owner, create("/mine", "m", 1)).await.is_some());
    let mut raw = as_super(&target.addresses[0]).await;
    // A node that strangers may not read: the random script makes one only by chance.
    let acl = vec![AclEntry {
        perms: perms::ALL,
        who: Identity { scheme: "digest".into(), id: "owner:nobody".into() },
    }];
    let hidden = Create { path: "/hidden".into(), data: Some(Bytes::from_static(b"h")), acl, flags: 0 };
    assert!(ask(&mut raw, Request::Create(hidden)).await.is_some());
    let (last, _) = ask(&mut raw, create("/last", "", 0)).await.unwrap();
    let before = tree(&mut raw).await;
    drop(raw);

    // From a living one, without what sessions own.
    let living = Cluster::start_with(1, with_super()).await;
    let args = ["import", "zookeeper", "--connect", &target.addresses[2]];
    let refused = living.operate(&args).await;
    assert_ne!(refused.code, Some(0), "it takes over what it cannot see");
    assert!(refused.err.contains("--auth"), "{}", refused.err);
    succeeded(&living.operate(&[&args[..], &["--auth", "digest:super:test"]].concat()).await);
    let found = tree(&mut as_super_of(&living).await).await;
    let (owned, lasting): (Tree, Tree) =
        before.clone().into_iter().partition(|(_, (_, _, stat))| stat.ephemeral_owner != 0);
    assert!(!owned.is_empty());
    for (path, (data, acl, stat)) in &lasting {
        let (found_data, found_acl, found_stat) = &found[path];
        assert_eq!((found_data, found_acl), (data, acl), "{path}");
        assert_eq!(
            (found_stat.czxid, found_stat.mzxid, found_stat.version),
            (stat.czxid, stat.mzxid, stat.version)
        );
    }
    assert_eq!(found.len(), lasting.len());

    // From the files of one that has ended.
    for at in 0..3 {
        zookeeper.process(at).kill9();
    }
    let cluster = Cluster::start_with(3, with_super()).await;
    let folder = zookeeper.data(0).display().to_string();
    succeeded(&cluster.operate(&["import", "zookeeper", "--from", &folder]).await);
    for id in cluster.ids() {
        assert_same(&tree(&mut as_super_of_server(&cluster, id).await).await, &before);
    }
    cluster.agree(&cluster.ids()).await;
    // Its session goes on, and writes are numbered on.
    let mut owner = Raw::connect(&cluster.zookeeper(2), Some(&session), 60_000, last).await.unwrap();
    assert_eq!(owner.session(), Session { ..session });
    let (next, _) = ask(&mut owner, create("/mine-too", "", 1)).await.unwrap();
    assert!(next > last, "{next:x} after {last:x}");
    let (_, own) = ask(&mut owner, Request::GetEphemerals("/".into())).await.unwrap();
    assert_eq!(own, Body::Names(vec!["/mine".into(), "/mine-too".into()]));
    // A second time there is something to lose.
    let again = cluster.operate(&["import", "zookeeper", "--from", &folder]).await;
    assert_ne!(again.code, Some(0));
    assert!(again.err.contains("not empty"), "{}", again.err);
}

fn with_super() -> Settings {
    let flags = ["--super-digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU="].map(str::to_owned).to_vec();
    Settings { flags, ..Settings::default() }
}

async fn as_super_of(cluster: &Cluster) -> Raw {
    as_super_of_server(cluster, 1).await
}

async fn as_super_of_server(cluster: &Cluster, id: u64) -> Raw {
    as_super(&cluster.zookeeper(id)).await
}

fn part(nodes: &[(&str, u64)], sessions: &[(u64, u32)]) -> serde_json::Value {
    let stamps = serde_json::json!({"czxid": 5, "mzxid": 5, "pzxid": 5, "ctime_ms": 1, "mtime_ms": 1,
        "version": 0, "aversion": 0, "child_creations": 0});
    let node =
        |(path, owner): &(&str, u64)| serde_json::json!({"path": path, "owner": owner, "stamps": stamps});
    let session = |(id, timeout_ms): &(u64, u32)| serde_json::json!({"session": format!("{id:016x}"), "password": "00".repeat(16), "timeout_ms": timeout_ms});
    let nodes: Vec<_> = nodes.iter().map(node).collect();
    let sessions: Vec<_> = sessions.iter().map(session).collect();
    serde_json::json!({"step": "more", "sessions": sessions, "nodes": nodes})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_a_new_beginning_for_everybody() {
    let cluster = Cluster::start(3).await;
    let send = async |part: serde_json::Value| cluster.ask(1, Call::post("/v1/import", &part)).await.status;
    // One who watches what is not there yet.
    let mut watcher = Raw::connect_patiently(&cluster.zookeeper(2), None, 10_000).await;
    let exists = Request::Exists(PathWatch { path: "/a".into(), watch: true });
    assert!(ask(&mut watcher, exists).await.is_none());

    assert_eq!(send(serde_json::json!({"step": "begin"})).await, 200);
    // Its session is gone, and it is told so at once: no ping is answered any more.
    assert!(watcher.receive().await.unwrap().is_none(), "the connection ends");
    let again = Raw::connect_patiently(&cluster.zookeeper(2), Some(&watcher.session()), 10_000).await;
    assert_eq!(again.greeting.session, 0, "the session is gone");
    let mut other = Raw::connect_patiently(&cluster.zookeeper(3), None, 10_000).await;

    // Nobody writes, over any face.
    let made = cluster.operate(&["pool", "create", "mail", "--buckets", "4"]).await;
    assert!(made.code != Some(0) && made.err.contains("import"), "{made:?}");
    assert!(ask(&mut other, create("/mine", "", 0)).await.is_none());

    // A session that nobody goes on with ends when its time is over, with what it owns.
    assert_eq!(send(part(&[("/a", 0), ("/a/mine", 7)], &[(7, 1_000)])).await, 200);
    assert_eq!(send(serde_json::json!({"step": "end", "zxid": 100})).await, 200);
    assert!(other.receive().await.unwrap().is_none(), "everybody comes back and looks");
    let mut other = Raw::connect_patiently(&cluster.zookeeper(3), Some(&other.session()), 10_000).await;
    let there = Request::Exists(PathWatch { path: "/a".into(), watch: false });
    assert!(ask(&mut other, there).await.is_some());
    eventually("the session is over, and its node gone", LIVENESS, async || {
        let mine = Request::Exists(PathWatch { path: "/a/mine".into(), watch: false });
        anyhow::ensure!(ask(&mut other, mine).await.is_none(), "it is there");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_whole_is_not_taken() {
    let mut zookeeper = ZooKeeper::start(Release::V3_8).await;
    let mut raw = Raw::connect_patiently(&zookeeper.addresses()[0], None, 20_000).await;
    for node in 0..20 {
        assert!(ask(&mut raw, create(&format!("/n{node}"), "x", 0)).await.is_some());
    }
    let folder = zookeeper.data(0);
    let inner = folder.join("version-2");
    let files = |prefix: &str| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
    };
    // The others may have been enough for the last ones.
    eventually("the first server has written down the last node", LIVENESS, async || {
        let logs = files("log.").into_iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(logs.concat().windows(4).any(|bytes| bytes == b"/n19"));
        Ok(())
    })
    .await;
    for at in 0..3 {
        zookeeper.process(at).kill9();
    }
    let cluster = Cluster::start(1).await;
    let refused = async |args: &[&str], hint: &str| {
        let ran = cluster.operate(&[&["import", "zookeeper"], args].concat()).await;
        assert!(ran.code != Some(0) && ran.err.contains(hint), "{args:?}: {ran:?}");
    };
    let from = folder.display().to_string();
    let away = folder.join("away");
    std::fs::create_dir(&away).unwrap();
    refused(&["--from", &from, "--logs", &away.display().to_string()], "--without-logs").await;
    refused(&["--from", &away.display().to_string()], "dataDir").await;
    refused(&["--connect", "nowhere"], "HOST:PORT").await;
    let http = cluster.http(1);
    refused(&["--connect", &http], "no server of ZooKeeper").await;
    // A newer one that is packed must not be overlooked.
    let packed = inner.join("snapshot.fffffffff.gz");
    std::fs::write(&packed, "").unwrap();
    refused(&["--from", &from], "unpack").await;
    std::fs::remove_file(&packed).unwrap();
    // One that was being written when its server died is passed over.
    std::fs::write(inner.join("snapshot.fffffffff"), "ZKSN").unwrap();
    // The last log ends within a record.
    let log = files("log.").pop().unwrap();
    let bytes = std::fs::read(&log).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    std::fs::write(&log, &bytes[..end]).unwrap();
    let taken = cluster.operate(&["--output", "json", "import", "zookeeper", "--from", &from]).await;
    succeeded(&taken);
    assert!(taken.err.contains("passed over") && taken.err.contains("within a record"), "{}", taken.err);
    let told: serde_json::Value = serde_json::from_str(&taken.out).unwrap();
    // The nodes that every server has, and all but the last.
    assert_eq!(told["nodes"], 4 + 19, "{told}");
}
