//! What operators of ZooKeeper see and set: four-letter words, `/zookeeper/config` and `reconfig`,
//! nodes with a time to live, servers that go on for readers alone.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::join_all;
use rota_protocol::zk::{
    Auth, Body, Create, CreateTtl, ErrorCode, MultiOp, Part, PathWatch, Reconfig, Request, SetData,
    SetWatches,
};
use rota_tests::zk::{Raw, Session, create, get};
use rota_tests::{Cluster, LIVENESS, Settings, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A session timeout that no test waits for.
const TIMEOUT_MS: i32 = 40_000;
/// `super:test`.
const SUPER_DIGEST: &str = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

async fn start(servers: u64, flags: &[&str]) -> Cluster {
    let flags = [&["--super-digest", SUPER_DIGEST], flags].concat();
    let flags = flags.into_iter().map(str::to_owned).collect();
    Cluster::start_with(servers, Settings { flags, ..Settings::default() }).await
}

async fn connect(cluster: &Cluster, id: u64) -> Raw {
    Raw::connect_patiently(&cluster.zookeeper(id), None, TIMEOUT_MS).await
}

async fn superuser(cluster: &Cluster, id: u64) -> Raw {
    let mut client = connect(cluster, id).await;
    let auth = Auth { auth_type: 0, scheme: "digest".into(), auth: Some("super:test".into()) };
    ask(&mut client, Request::Auth(auth)).await.unwrap();
    client
}

/// What a request is answered with.
async fn ask(client: &mut Raw, request: Request) -> Result<Body, ErrorCode> {
    let op = request.op();
    let xid = client.send(&request).await.unwrap();
    let (header, mut body) = client.answer(xid).await.unwrap().expect("the connection lives");
    match header.error {
        0 => Ok(Body::read(op, &mut body).unwrap()),
        error => Err(ErrorCode::from_number(error).unwrap()),
    }
}

async fn word(address: &str, word: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(word.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn mntr(address: &str) -> BTreeMap<String, String> {
    let text = word(address, "mntr").await;
    let pair = |line: &str| {
        let (name, value) = line.split_once('\t').unwrap_or_else(|| panic!("{line:?} in {text}"));
        (name.strip_prefix("zk_").unwrap().to_owned(), value.to_owned())
    };
    text.lines().map(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mntr_tells_what_alarms_are_built_on() {
    let cluster = start(3, &["--zookeeper-4lw-whitelist", "mntr, conf , cons, srst,srvr"]).await;
    let leader = cluster.leader().await;
    let mut client = connect(&cluster, leader).await;
    for n in 0..50 {
        ask(&mut client, create(&format!("/n{n}"), "x", 0)).await.unwrap();
        ask(&mut client, get(&format!("/n{n}"), false)).await.unwrap();
    }
    let address = cluster.zookeeper(leader);
    // Events are packets, too.
    let watched = Request::GetData(PathWatch { path: "/n0".to_owned(), watch: true });
    let before = mntr(&address).await;
    ask(&mut client, watched).await.unwrap();
    let set = SetData { path: "/n0".to_owned(), data: Some(Bytes::from_static(b"y")), version: -1 };
    ask(&mut client, Request::SetData(set)).await.unwrap();
    let told = mntr(&address).await;
    let sent = |told: &BTreeMap<String, String>| told["packets_sent"].parse::<u64>().unwrap();
    assert_eq!(sent(&told) - sent(&before), 3);
    let number = |name: &str| -> f64 {
        let value = told.get(name).unwrap_or_else(|| panic!("no {name} in {told:#?}"));
        value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
    };
    assert_eq!([&told["server_state"], &told["peer_state"]], ["leader", "leading - broadcast"]);
    for (name, expected) in [
        ("quorum_size", 3.0),
        ("learners", 2.0),
        ("synced_followers", 2.0),
        ("synced_observers", 0.0),
        ("pending_syncs", 0.0),
        ("local_sessions", 0.0),
        ("connection_rejected", 0.0),
        ("auth_failed_count", 0.0),
        ("cnt_readlatency", 51.0),
        ("cnt_updatelatency", 51.0),
        // Four-letter words ask for no session.
        ("connection_request_count", 1.0),
    ] {
        assert_eq!(number(name), expected, "{name}");
    }
    for name in [
        "uptime",
        "leader_uptime",
        "max_file_descriptor_count",
        "open_file_descriptor_count",
        "cnt_fsynctime",
        "cnt_election_time",
        "cnt_proposal_latency",
        "commit_count",
        "bytes_received_count",
        "response_bytes",
        "znode_count",
    ] {
        assert!(number(name) > 0.0, "{name}: {}", number(name));
    }
    assert!(number("uptime") >= number("leader_uptime"));
    assert!(number("max_file_descriptor_count") > number("open_file_descriptor_count"));
    for (name, others) in [
        ("fsynctime", 0),
        ("snapshottime", 0),
        ("election_time", 0),
        ("readlatency", 4),
        ("updatelatency", 4),
    ] {
        let [min, avg, max, sum] = ["min", "avg", "max", "sum"].map(|of| number(&format!("{of}_{name}")));
        assert!(min <= avg && avg <= max + 1.0 && max <= sum, "{name}: {min} {avg} {max} {sum}");
        let tails: Vec<f64> = ["p50", "p95", "p99", "p999"][..others]
            .iter()
            .map(|tail| number(&format!("{tail}_{name}")))
            .collect();
        assert!(tails.is_sorted(), "{name}: {tails:?}");
    }
    let follower = mntr(&cluster.zookeeper(1 + leader % 3)).await;
    assert_eq!(follower["peer_state"], "following - broadcast");
    assert_eq!(follower["quorum_size"], "3");
    assert!(!follower.contains_key("synced_followers"), "only a leader knows");
    // A snapshot is counted.
    let taken = cluster.operate(&["cluster", "snapshot"]).await;
    assert_eq!(taken.code, Some(0), "{taken:?}");
    let mut snapshots = 0;
    for id in cluster.ids() {
        snapshots += mntr(&cluster.zookeeper(id)).await["cnt_snapshottime"].parse::<u64>().unwrap();
    }
    assert!(snapshots > 0);
    // As ZooKeeper's, the size counts paths.
    let size = |told: &BTreeMap<String, String>| told["approximate_data_size"].parse::<u64>().unwrap();
    let before = size(&mntr(&address).await);
    ask(&mut client, create("/sized", "12345", 0)).await.unwrap();
    assert_eq!(size(&mntr(&address).await) - before, 11);
    assert_eq!(word(&address, "srst").await, "Server stats reset.\n");
    let told = mntr(&address).await;
    let reset = ["cnt_readlatency", "cnt_updatelatency", "connection_request_count", "packets_sent"];
    assert!(reset.iter().all(|name| told[*name] == "0"), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_answered_as_tools_parse_them() {
    let cluster = start(3, &["--zookeeper-4lw-whitelist", "conf, cons, dirs, dump, srvr"]).await;
    let mut client = connect(&cluster, 1).await;
    ask(&mut client, get("/", false)).await.unwrap();
    let address = cluster.zookeeper(1);
    let conf = word(&address, "conf").await;
    for line in
        ["clientPort=", "dataDir=", "dataDirSize=", "dataLogDir=", "dataLogSize=", "serverId=1", "peerType=0"]
    {
        assert!(conf.lines().any(|told| told.starts_with(line)), "no {line} in {conf}");
    }
    let Ok(Body::DataStat(Some(config), _)) = ask(&mut client, get("/zookeeper/config", false)).await else {
        panic!("no configuration")
    };
    assert!(conf.ends_with(&format!("membership: \n{}", String::from_utf8_lossy(&config))), "{conf}");
    let cons = word(&address, "cons").await;
    let session = format!("sid=0x{:x},lop=GETD,est=", client.greeting.session);
    assert!(cons.contains(&session) && cons.contains(",lresp="), "{cons}");
    ask(&mut client, create("/e", "", 1)).await.unwrap();
    let (id, dump) = (client.greeting.session, word(&address, "dump").await);
    assert!(dump.contains(&format!("Global Sessions(1):\n0x{id:x}\t{TIMEOUT_MS}ms\n")), "{dump}");
    assert!(dump.contains(&format!("Sessions with Ephemerals (1):\n0x{id:x}:\n\t/e\n")), "{dump}");
    assert!(dump.contains(&format!(" sessionId: 0x{id:x}\n")), "{dump}");
    let fresh = connect(&cluster, 1).await;
    let cons = word(&address, "cons").await;
    assert!(cons.contains(&format!("sid=0x{:x},lop=SESS,", fresh.greeting.session)), "{cons}");
    let dirs = word(&address, "dirs").await;
    let sizes: Vec<u64> =
        dirs.lines().map(|line| line.rsplit_once(": ").unwrap().1.parse().unwrap()).collect();
    assert!(dirs.starts_with("datadir_size: ") && sizes.len() == 2 && sizes[1] > 0, "{dirs}");
    // `3.9.5-…, built on YYYY-MM-DD HH:MM UTC`
    let srvr = word(&address, "srvr").await;
    let built = srvr.lines().next().unwrap().split_once(", built on ").unwrap().1;
    let shape: String = built.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00 00:00 UTC");
    assert!(built >= "2026-11-01", "{built}");
    assert!(srvr.starts_with("Zookeeper version: 3.9.5-"), "{srvr}");
}

/// What `/zookeeper/config` says: its lines but the last, and its version.
async fn config(client: &mut Raw) -> (Vec<String>, u64) {
    let Ok(Body::DataStat(Some(text), _)) = ask(client, get("/zookeeper/config", false)).await else {
        panic!("no configuration")
    };
    let text = String::from_utf8(text.to_vec()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let version = lines.pop().unwrap();
    let version = version.strip_prefix("version=").unwrap_or_else(|| panic!("{text}"));
    (lines, u64::from_str_radix(version, 16).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_complete_at_first_and_changes_with_the_cluster_only() {
    // Its clients come while it is made.
    let mut cluster = Cluster::prepare(3, Settings::default()).await;
    (1..=3).for_each(|id| cluster.restart(id));
    let mut firsts = Vec::new();
    for id in 1..=3 {
        firsts.push(config(&mut connect(&cluster, id).await).await);
    }
    for (lines, version) in &firsts {
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(*version > 0);
        for (id, line) in (1..).zip(lines) {
            let (peer, client) = (cluster.peer(id), cluster.zookeeper(id));
            let port = |address: &str| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
            let next = port(&peer) + 1;
            let election = if next == port(&client) { next + 1 } else { next };
            assert_eq!(*line, format!("server.{id}={peer}:{election}:participant;{client}"));
        }
    }
    assert!(firsts.iter().all(|first| *first == firsts[0]), "{firsts:?}");
    // Another leader says the same.
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    cluster.restart(leader);
    cluster.all_follow_one_leader().await;
    let mut client = connect(&cluster, 1).await;
    ask(&mut client, Request::Sync("/".to_owned())).await.unwrap();
    assert_eq!(config(&mut client).await, firsts[0]);
    let removed = cluster.operate(&["cluster", "remove", "3", "--yes", "3"]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let (lines, version) = eventually("it names two servers", LIVENESS, async || {
        let mut client = connect(&cluster, 1).await;
        let now = config(&mut client).await;
        ensure!(now.0.len() == 2, "{now:?}");
        Ok(now)
    })
    .await;
    assert_eq!(lines, firsts[0].0[..2]);
    assert!(version > firsts[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_its_own_server_removed_is_answered() {
    for removes_leader in [false, true] {
        let cluster = start(3, &[]).await;
        let leader = cluster.leader().await;
        let server = if removes_leader { leader } else { 1 + leader % 3 };
        let mut client = superuser(&cluster, server).await;
        let (before, version) = config(&mut client).await;
        let leaving = Some(server.to_string());
        let reconfig = Reconfig { joining: None, leaving, new_members: None, current: version.cast_signed() };
        let answer = ask(&mut client, Request::Reconfig(reconfig)).await;
        let Ok(Body::DataStat(Some(text), stat)) = answer else { panic!("{removes_leader}: {answer:?}") };
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(!text.contains(&format!("server.{server}=")) && stat.version > 0, "{text}");
        // Then it is sent to another server.
        assert!(client.receive().await.unwrap().is_none());
        let other = 1 + server % 3;
        let mut client = connect(&cluster, other).await;
        ask(&mut client, Request::Sync("/".to_owned())).await.unwrap();
        let (after, _) = config(&mut client).await;
        assert_eq!((before.len(), after.len()), (3, 2));
        assert!(text.starts_with(&after.join("\n")), "{text}: {after:?}");
        ask(&mut client, create("/after", "", 0)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_used_again_by_a_new_data_directory_only() {
    let mut cluster = start(3, &[]).await;
    let mut client = superuser(&cluster, 1).await;
    ask(&mut connect(&cluster, 3).await, create("/before", "", 0)).await.unwrap();
    let reconfig = |joining: Option<String>, leaving: Option<String>| {
        Request::Reconfig(Reconfig { joining, leaving, new_members: None, current: -1 })
    };
    let (peer, address) = (cluster.peer(3), cluster.zookeeper(3));
    let election: u16 = peer.rsplit_once(':').unwrap().1.parse().unwrap();
    let spec = format!("{peer}:{}:participant;{address}", election - 1);
    let joining = || reconfig(Some(format!("server.3={spec}")), None);
    // It does not run, so it does not know that it is removed.
    cluster.kill9(3);
    ask(&mut client, reconfig(None, Some("3".to_owned()))).await.unwrap();
    assert_eq!(ask(&mut client, joining()).await, Err(ErrorCode::NewConfigNoQuorum));
    // Its own data directory does not come back.
    cluster.set_role(3, vec!["--join".to_owned()]);
    cluster.restart(3);
    assert_eq!(ask(&mut client, joining()).await, Err(ErrorCode::NewConfigNoQuorum));
    cluster.kill9(3);
    std::fs::remove_dir_all(cluster.data(3)).unwrap();
    cluster.restart(3);
    let answer = ask(&mut client, joining()).await;
    let Ok(Body::DataStat(Some(text), _)) = answer else { panic!("{answer:?}") };
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains(&format!("server.3={spec}\n")), "{text}");
    // It takes writes, also after a restart, and its vote counts.
    for round in 0..2 {
        let mut client = connect(&cluster, 3).await;
        ask(&mut client, create(&format!("/through-{round}"), "", 0)).await.unwrap();
        ask(&mut client, get("/before", false)).await.unwrap();
        cluster.kill9(3);
        cluster.restart(3);
    }
    cluster.all_follow_one_leader().await;
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    let mut client = connect(&cluster, 1 + leader % 3).await;
    ask(&mut client, create("/after", "", 0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_a_time_to_live_can_be_switched_off() {
    let cluster = start(1, &["--zookeeper-no-ttl-nodes"]).await;
    let mut client = connect(&cluster, 1).await;
    let Request::Create(node) = create("/t", "", 0) else { unreachable!() };
    let ttl = |flags| CreateTtl { create: Create { flags, ..node.clone() }, ttl_ms: 60_000 };
    for flags in [5, 6] {
        let refused = ask(&mut client, Request::CreateTtl(ttl(flags))).await;
        assert_eq!(refused, Err(ErrorCode::Unimplemented));
        let ops = vec![
            MultiOp::Create(node.clone()),
            MultiOp::CreateTtl(ttl(flags)),
            MultiOp::Create(node.clone()),
        ];
        let codes = [ErrorCode::Ok, ErrorCode::Unimplemented, ErrorCode::RuntimeInconsistency];
        let parts = codes.map(|code| Part::Error(code.number())).to_vec();
        assert_eq!(ask(&mut client, Request::Multi(ops)).await, Ok(Body::Parts(parts)));
    }
    assert_eq!(ask(&mut client, get("/t", false)).await, Err(ErrorCode::NoNode));
    ask(&mut client, create("/t", "", 0)).await.unwrap();
    // The first operation that fails is the one that is blamed.
    let ops = vec![MultiOp::Create(node.clone()), MultiOp::CreateTtl(ttl(5))];
    let codes = [ErrorCode::NodeExists, ErrorCode::RuntimeInconsistency];
    let parts = codes.map(|code| Part::Error(code.number())).to_vec();
    assert_eq!(ask(&mut client, Request::Multi(ops)).await, Ok(Body::Parts(parts)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_be_read_only_is_served_without_a_quorum() {
    let mut cluster = start(3, &["--zookeeper-read-only"]).await;
    let session = connect(&cluster, 2).await.session();
    cluster.pause(2);
    cluster.pause(3);
    let address = cluster.zookeeper(1);
    let mut reader = eventually("reads are served", LIVENESS, async || {
        Raw::connect_to_read(&address, None, TIMEOUT_MS, 0).await
    })
    .await;
    // Neither opened nor gone on with.
    Raw::connect(&address, None, TIMEOUT_MS, 0).await.unwrap_err();
    Raw::connect(&address, Some(&session), TIMEOUT_MS, 0).await.unwrap_err();
    assert_eq!(reader.greeting.read_only, Some(true));
    assert_eq!(ask(&mut reader, create("/n", "", 0)).await, Err(ErrorCode::NotReadOnly));
    // One that may be read-only goes on with its own.
    let again = Raw::connect_to_read(&address, Some(&session), TIMEOUT_MS, 0).await.unwrap();
    assert_eq!((again.greeting.session, again.greeting.read_only), (session.id, Some(true)));
    // Nobody goes back in time, and a session that may exist elsewhere is not replaced by another.
    Raw::connect_to_read(&address, Some(&session), TIMEOUT_MS, 1_000_000).await.unwrap_err();
    Raw::connect_to_read(&address, None, TIMEOUT_MS, 1_000_000).await.unwrap_err();
    let forged = Session { password: Bytes::from_static(&[7; 16]), ..session.clone() };
    Raw::connect_to_read(&address, Some(&forged), TIMEOUT_MS, 0).await.unwrap_err();
    let unknown = Session { id: session.id ^ 1, ..session.clone() };
    Raw::connect_to_read(&address, Some(&unknown), TIMEOUT_MS, 0).await.unwrap_err();
    assert_eq!(word(&address, "isro").await, "ro");
    cluster.resume(2);
    cluster.resume(3);
    eventually("it is served in full", LIVENESS, async || {
        let mut client = Raw::connect(&address, Some(&session), TIMEOUT_MS, 0).await?;
        ask(&mut client, create("/n", "", 0)).await.ok().context("not made")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_serves_nobody_says_so() {
    let mut cluster = start(3, &["--zookeeper-4lw-whitelist", "*"]).await;
    drop(connect(&cluster, 1).await);
    assert_eq!(word(&cluster.zookeeper(1), "isro").await, "rw");
    // Removed, and without a majority.
    let removed = cluster.operate(&["cluster", "remove", "3", "--yes", "3"]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    cluster.kill9(2);
    for id in [1, 3] {
        let address = cluster.zookeeper(id);
        eventually("it says that it does not serve", LIVENESS, async || {
            ensure!(word(&address, "isro").await == "null");
            Ok(())
        })
        .await;
        for asked in ["srvr", "stat", "mntr", "conf", "cons", "dump", "wchs"] {
            let told = word(&address, asked).await;
            assert_eq!(told, "This ZooKeeper instance is not currently serving requests\n", "{asked}");
        }
        assert_eq!(word(&address, "ruok").await, "imok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconfig_that_cannot_be_done_changes_nothing() {
    let mut cluster = start(3, &[]).await;
    let mut client = superuser(&cluster, 1).await;
    let before = config(&mut client).await;
    let reconfig = |joining: Option<&str>, leaving: Option<&str>| {
        let [joining, leaving] = [joining, leaving].map(|text| text.map(str::to_owned));
        Request::Reconfig(Reconfig { joining, leaving, new_members: None, current: -1 })
    };
    // No voter would remain; another address for clients.
    assert_eq!(ask(&mut client, reconfig(None, Some("1,2,3"))).await, Err(ErrorCode::BadArguments));
    let (peer, address) = (cluster.peer(2), cluster.zookeeper(2));
    let (host, port) = address.rsplit_once(':').unwrap();
    let election = peer.rsplit_once(':').unwrap().1.parse::<u16>().unwrap() - 1;
    let other = port.parse::<u16>().unwrap() - 1;
    let elsewhere = format!("server.2={peer}:{election}:participant;{host}:{other}");
    assert_eq!(ask(&mut client, reconfig(Some(&elsewhere), None)).await, Err(ErrorCode::BadArguments));
    // The one that would remain with this server does not answer.
    cluster.pause(3);
    assert_eq!(ask(&mut client, reconfig(None, Some("1"))).await, Err(ErrorCode::NewConfigNoQuorum));
    assert_eq!(ask(&mut client, reconfig(None, Some("2"))).await, Err(ErrorCode::NewConfigNoQuorum));
    assert_eq!(config(&mut client).await, before);
    cluster.resume(3);
    // A number that is named twice is meant once.
    eventually("the server answers again", LIVENESS, async || {
        ask(&mut client, reconfig(None, Some("2, 2"))).await.ok().context("refused")
    })
    .await;
    assert_eq!(config(&mut client).await.0.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_reconfigs_that_follow_one_configuration_one_is_done() {
    let cluster = start(5, &[]).await;
    let mut clients = Vec::new();
    // On servers that none of them removes.
    for id in [1, 2, 2] {
        clients.push(superuser(&cluster, id).await);
    }
    let (_, version) = config(&mut clients[0]).await;
    // Each removes another server.
    let answers = clients.iter_mut().zip([3u64, 4, 5]).map(async |(client, leaving)| {
        let leaving = Some(leaving.to_string());
        let current = version.cast_signed();
        ask(client, Request::Reconfig(Reconfig { joining: None, leaving, new_members: None, current })).await
    });
    let answers = join_all(answers).await;
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(ErrorCode::ReconfigInProgress | ErrorCode::BadVersion)));
    assert_eq!((done, refused.count()), (1, 2), "{answers:?}");
    let (lines, _) = config(&mut connect(&cluster, 1).await).await;
    assert_eq!(lines.len(), 4, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_zxids_are_before_the_first() {
    let cluster = start(1, &[]).await;
    let address = cluster.zookeeper(1);
    let mut client = Raw::connect(&address, None, TIMEOUT_MS, u64::MAX).await.unwrap();
    ask(&mut client, create("/n", "", 0)).await.unwrap();
    let none = Vec::new;
    let before = SetWatches { seen: u64::MAX, data: vec!["/n".to_owned()], exist: none(), children: none() };
    ask(&mut client, Request::SetWatches(before)).await.unwrap();
    assert_eq!(client.events.len(), 1);
}
