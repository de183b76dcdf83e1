//! What a cluster of ZooKeeper held is found again in Rota: nodes with all their
//! Stats, access control lists, sessions, and the number of the last write.

use std::collections::BTreeMap;

use bytes::Bytes;
use rota_core::state::{AclEntry, Stat};
use rota_protocol::zk::{Auth, Body, PathWatch, Request};
use rota_tests::zk::{Raw, Session, Target, ZooKeeper, create, play_alone, random_script};
use rota_tests::{Chance, Cluster, Ran, Settings};

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
    let mut zookeeper = ZooKeeper::start().await;
    let target = Target { name: "zookeeper".into(), addresses: zookeeper.addresses().to_vec() };
    let mut chance = Chance::seeded("zookeeper_import");
    for number in 0..4 {
        play_alone(&target, number, &random_script(&mut chance, 300)).await.unwrap();
    }
    // Sessions of long timeouts, which survive what follows.
    let mut owner = Raw::connect_patiently(&target.addresses[1], None, 60_000).await;
    let session = owner.session();
    assert!(ask(&mut owner, create("/mine", "m", 1)).await.is_some());
    let mut raw = as_super(&target.addresses[0]).await;
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
