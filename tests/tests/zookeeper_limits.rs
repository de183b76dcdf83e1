//! Clients of ZooKeeper's protocol that ask for too much, take too little, or leave in
//! the middle: they are told or let go, and nobody else notices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use rota_protocol::zk::{Auth, ErrorCode, MultiOp, PathWatch, ReadOp, Reconfig, Request};
use rota_tests::zk::{Raw, create, get, set};
use rota_tests::{Cluster, Process, Settings, eventually, free_port, python};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longer than everything takes that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);
/// A session timeout that no test waits for.
const TIMEOUT_MS: i32 = 40_000;

async fn connect(cluster: &Cluster, id: u64) -> Raw {
    Raw::connect_patiently(&cluster.zookeeper(id), None, TIMEOUT_MS).await
}

/// What a request is answered with.
async fn error(client: &mut Raw, request: Request) -> ErrorCode {
    let xid = client.send(&request).await.unwrap();
    let (header, _) = client.answer(xid).await.unwrap().expect("the connection lives");
    ErrorCode::from_number(header.error).unwrap()
}

fn watch(path: String) -> Request {
    Request::Exists(PathWatch { path, watch: true })
}

/// A number that `mntr` tells.
async fn told(address: &str, name: &str) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"mntr").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.ok_or_else(|| anyhow::anyhow!("no {name} in {text}"))?.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_pings_keeps_its_session() {
    let settings = Settings { tls: true, ..Settings::default() };
    let cluster = Cluster::start_with(3, settings).await;
    connect(&cluster, 2).await;
    let files = cluster.certificates().unwrap();
    let with = [&files.authority, &files.client, &files.client_key].map(PathBuf::clone);
    let secure = cluster.zookeeper_tls_all().split(',').nth(1).unwrap().to_owned();
    for (name, address, with) in [("plain", cluster.zookeeper(2), &with[..0]), ("tls", secure, &with[..])] {
        let mut command = python();
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/slow_reader.py"));
        command.arg(&address).args(with);
        let mut client = Process::spawn(command, &cluster.dir().join(format!("slow_reader_{name}.log")));
        let status = client.ended(PATIENCE).await;
        let said = client.said();
        assert!(status.success() && said.matches("ok ").count() == 2, "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_leave_with_reads_behind_a_write_watch_nothing() {
    let cluster = Cluster::start(3).await;
    let mut keeper = connect(&cluster, 2).await;
    assert_eq!(error(&mut keeper, create("/n", "", 0)).await, ErrorCode::Ok);
    assert_eq!(error(&mut keeper, watch("/n".to_owned())).await, ErrorCode::Ok);
    for round in 0..40 {
        let mut client = connect(&cluster, 2).await;
        client.send(&set("/n", "x")).await.unwrap();
        for node in 0..20 {
            client.send(&watch(format!("/none-{round}-{node}"))).await.unwrap();
        }
        // It leaves without having taken any answer.
    }
    // One whose write is applied after it left would watch from then on: a later write
    // of somebody's is applied after all of those.
    assert_eq!(error(&mut keeper, create("/last", "", 0)).await, ErrorCode::Ok);
    eventually("only the one that stayed watches", PATIENCE, async || {
        let connections = told(&cluster.zookeeper(2), "zk_num_alive_connections").await?;
        ensure!(connections == 2, "{connections} connections, the asking one among them");
        let watches = told(&cluster.zookeeper(2), "zk_watch_count").await?;
        // That of `/n` has been heard of the first of the writes.
        ensure!(watches == 0, "{watches} watches");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_limit_is_per_connection() {
    let cluster = Cluster::start(1).await;
    let mut client = connect(&cluster, 1).await;
    let long = |n: usize| watch(format!("/{n}{}", "x".repeat(500_000)));
    let mut refused = None;
    for n in 0..100 {
        match error(&mut client, long(n)).await {
            ErrorCode::NoNode => {}
            other => {
                refused = Some((n, other));
                break;
            }
        }
    }
    let fit = rota_core::watches::BYTES_PER_WATCHER_MAX / 1_000_000;
    assert_eq!(refused, Some((fit, ErrorCode::ThrottledOp)));
    assert_eq!(error(&mut client, get("/none", false)).await, ErrorCode::NoNode, "it is served without");
    assert_eq!(error(&mut connect(&cluster, 1).await, long(0)).await, ErrorCode::NoNode);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_told_as_such() {
    let cluster = Cluster::start(3).await;
    let mut client = connect(&cluster, 1).await;
    assert_eq!(error(&mut client, create("/n", &"x".repeat(1_000_000), 0)).await, ErrorCode::Ok);
    let read = || ReadOp::GetData(PathWatch { path: "/n".to_owned(), watch: false });
    let many = |count: usize| Request::MultiRead((0..count).map(|_| read()).collect());
    assert_eq!(error(&mut client, many(67)).await, ErrorCode::Ok);
    assert_eq!(error(&mut client, many(68)).await, ErrorCode::MarshallingError, "more than 64 MiB");
    // A million parts of a node that is there once.
    assert_eq!(error(&mut client, many(50_000)).await, ErrorCode::MarshallingError);
    assert_eq!(error(&mut client, get("/n", false)).await, ErrorCode::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_children_are_as_long_as_they_are() {
    const NODES: usize = 17_000;
    let cluster = Cluster::start(1).await;
    let mut client = connect(&cluster, 1).await;
    let node = |n: usize| {
        let Request::Create(create) = create(&format!("/n{n:0>1000}"), "", 0) else { unreachable!() };
        MultiOp::Create(create)
    };
    for first in (0..NODES).step_by(500) {
        let ops = (first..first + 500).map(node).collect();
        assert_eq!(error(&mut client, Request::Multi(ops)).await, ErrorCode::Ok);
    }
    let list = Request::GetChildren(PathWatch { path: "/".to_owned(), watch: false });
    let xid = client.send(&list).await.unwrap();
    // What follows a long answer is answered, too, and events are told beside it.
    let (watched, changed) = (watch("/n".to_owned()), create("/n", "", 0));
    let after = [client.send(&watched).await.unwrap(), client.send(&changed).await.unwrap()];
    let (header, body) = client.answer(xid).await.unwrap().expect("the connection lives");
    assert_eq!(header.error, 0);
    assert!(body.len() > 16 * 1024 * 1024, "{} bytes", body.len());
    for xid in after {
        client.answer(xid).await.unwrap().expect("the connection lives");
    }
    assert_eq!(client.events.len(), 1);
    // A bound can be set.
    let flags = ["--zookeeper-answer-bytes-max", "1048576"];
    let mut cluster = cluster;
    cluster.kill9(1);
    cluster.restart_with(1, &flags);
    assert_eq!(error(&mut connect(&cluster, 1).await, list).await, ErrorCode::MarshallingError);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_is_too_long_ends_the_connection_in_order() {
    let cluster = Cluster::start(1).await;
    let mut client = connect(&cluster, 1).await;
    let before = client.send(&get("/", false)).await.unwrap();
    let mut wire = client.into_stream();
    let packet = vec![0; 4 * 1024 * 1024];
    wire.write_all(&u32::try_from(packet.len()).unwrap().to_be_bytes()).await.unwrap();
    // All of it is taken, and the answer to what was asked before is there to be read.
    wire.write_all(&packet).await.unwrap();
    let mut rest = Vec::new();
    wire.read_to_end(&mut rest).await.expect("closed, not reset");
    assert_eq!(rest[4..8], before.to_be_bytes());
    assert_eq!(told(&cluster.zookeeper(1), "zk_large_requests_rejected").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_reads_behind_a_write_end_the_connection_and_not_the_server() {
    let mut cluster = Cluster::start(3).await;
    let mut client = connect(&cluster, 1).await;
    assert_eq!(error(&mut client, create("/n", &"x".repeat(1_000_000), 0)).await, ErrorCode::Ok);
    let read = || ReadOp::GetData(PathWatch { path: "/n".to_owned(), watch: false });
    let many = || Request::MultiRead((0..16).map(|_| read()).collect());
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut client = connect(&cluster, 1).await;
        client.send(&set("/n", &"x".repeat(1_000_000))).await.unwrap();
        for _ in 0..32 {
            client.send(&many()).await.unwrap();
        }
        greedy.push(client);
    }
    for client in &mut greedy {
        // Some answers may come before the end.
        while client.receive().await.unwrap().is_some() {}
    }
    assert_eq!(error(&mut connect(&cluster, 1).await, get("/n", false)).await, ErrorCode::Ok);
    let peak = resident_peak(cluster.process(1).id());
    // Four times 512 MB was asked for.
    assert!(peak < 700_000_000, "{peak} bytes");
}

/// The most memory that a process has had, in bytes.
fn resident_peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_leader_has_a_bound_in_bytes() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let here = 1 + leader % 3;
    let mut client = connect(&cluster, here).await;
    let path = format!("/{}", "x".repeat(1_000_000));
    cluster.pause(leader);
    // As much as it takes, which is not all: the rest stays with the client.
    let sent = async {
        for _ in 0..1_000 {
            client.send(&Request::Sync(path.clone())).await.unwrap();
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(1), sent).await);
    let peak = resident_peak(cluster.process(here).id());
    cluster.resume(leader);
    assert!(peak < 200_000_000, "{peak} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_only_so_many_names() {
    let cluster = Cluster::start(1).await;
    let mut client = connect(&cluster, 1).await;
    let mut shown = 0;
    while let Some(answer) = {
        let auth = format!("u{shown}:p");
        let auth = Auth { auth_type: 0, scheme: "digest".into(), auth: Some(auth.into()) };
        let xid = client.send(&Request::Auth(auth)).await.unwrap();
        client.answer(xid).await.unwrap()
    } {
        shown += 1;
        if answer.0.error != 0 {
            assert_eq!(answer.0.error, ErrorCode::AuthFailed.number());
        }
        assert!(shown < 1_000, "names without a bound");
    }
    assert!(shown > 50, "only {shown}");
    // Somebody with as long a name is nobody.
    let mut client = connect(&cluster, 1).await;
    let auth = format!("{}:p", "u".repeat(900_000));
    let auth = Auth { auth_type: 0, scheme: "digest".into(), auth: Some(auth.into()) };
    assert_eq!(error(&mut client, Request::Auth(auth)).await, ErrorCode::AuthFailed);
    assert_eq!(error(&mut connect(&cluster, 1).await, create("/after", "", 0)).await, ErrorCode::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_who_it_is_gets_no_memory() {
    let cluster = Cluster::start(3).await;
    let mut wire = TcpStream::connect(cluster.zookeeper(1)).await.unwrap();
    // The length alone shows that this is no handshake.
    wire.write_all(&100_000u32.to_be_bytes()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), wire.read_u8()).await;
    ended.expect("closed at once, not when the time for a handshake is over").unwrap_err();
    assert_eq!(error(&mut connect(&cluster, 1).await, get("/", false)).await, ErrorCode::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_have_a_bound() {
    let flags = ["--zookeeper-connections-max", "2"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(3, Settings { flags, tls: true, ..Settings::default() }).await;
    let (first, _second) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    Raw::connect(&cluster.zookeeper(1), None, TIMEOUT_MS, 0).await.unwrap_err();
    drop(first);
    connect(&cluster, 1).await;
    // Those count, too, that have not said anything of TLS yet.
    let secure = cluster.zookeeper_tls_all().split(',').next().unwrap().to_owned();
    let mut silent = JoinSet::new();
    for _ in 0..3 {
        let mut wire = TcpStream::connect(&secure).await.unwrap();
        silent.spawn(async move { wire.read_u8().await });
    }
    // There is room for one of them at most.
    for _ in 0..2 {
        let ended = tokio::time::timeout(Duration::from_secs(5), silent.join_next()).await;
        let ended = ended.expect("closed at once, not when the time for a handshake is over");
        ended.unwrap().unwrap().unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_all_addresses_together_have_a_bound() {
    let flags = ["--zookeeper-connections-total-max", "2"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(1, Settings { flags, ..Settings::default() }).await;
    let (first, _second) = (connect(&cluster, 1).await, connect(&cluster, 1).await);
    Raw::connect(&cluster.zookeeper(1), None, TIMEOUT_MS, 0).await.unwrap_err();
    drop(first);
    connect(&cluster, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_of_clients_do_not_bind_the_coordinator() {
    let cluster = Cluster::start(3).await;
    let mut client = connect(&cluster, 1).await;
    let made = cluster.operate(&["pool", "create", "first", "--buckets", "4"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let quota = "/zookeeper/quota/rota";
    for (path, data) in [
        (quota.to_owned(), ""),
        (format!("{quota}/zookeeper_limits"), "count=-1,bytes=-1=;byteHardLimit=1;countHardLimit=1"),
        (format!("{quota}/zookeeper_stats"), "count=0,bytes=0"),
    ] {
        assert_eq!(error(&mut client, create(&path, data, 0)).await, ErrorCode::Ok, "{path}");
    }
    // It binds its own kind.
    const EPHEMERAL: i32 = 1;
    let member = create("/rota/pools/first/members/w", r#"{"address": "", "weight": 1}"#, EPHEMERAL);
    assert_eq!(error(&mut client, member).await, ErrorCode::QuotaExceeded);
    let made = cluster.operate(&["pool", "create", "second", "--buckets", "4"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_reads_at_a_server_that_is_cut_off_is_sent_away_before_its_session_ends() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let mut cluster = Cluster::start(3).await;
    let mut client = connect_for(&cluster, 1, TIMEOUT).await;
    cluster.pause(2);
    cluster.pause(3);
    eventually("the client is sent away", TIMEOUT, async || {
        let answer = match client.send(&get("/", false)).await {
            Ok(xid) => client.answer(xid).await.unwrap_or_default(),
            Err(_) => None,
        };
        ensure!(answer.is_none(), "it is still served");
        Ok(())
    })
    .await;
    cluster.resume(2);
    cluster.resume(3);
}

async fn connect_for(cluster: &Cluster, id: u64, timeout: Duration) -> Raw {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap();
    Raw::connect_patiently(&cluster.zookeeper(id), None, timeout_ms).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_at_a_server_that_is_cut_off_and_falls_silent_is_let_go() {
    let flags = vec!["--zookeeper-read-only".to_owned()];
    let mut cluster = Cluster::start_with(3, Settings { flags, ..Settings::default() }).await;
    cluster.pause(2);
    cluster.pause(3);
    let mut client = eventually("reads are served", PATIENCE, async || {
        Raw::connect_to_read(&cluster.zookeeper(1), None, 6_000, 0).await
    })
    .await;
    assert_eq!(error(&mut client, get("/", false)).await, ErrorCode::Ok);
    assert_eq!(error(&mut client, create("/n", "", 0)).await, ErrorCode::NotReadOnly);
    let ended = tokio::time::timeout(PATIENCE, client.receive()).await;
    assert!(ended.expect("let go").unwrap().is_none());
    cluster.resume(2);
    cluster.resume(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_run_are_not_left_in_the_cluster() {
    let flags = ["--super-digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU="].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(3, Settings { flags, ..Settings::default() }).await;
    let mut client = connect(&cluster, 1).await;
    let auth = Auth { auth_type: 0, scheme: "digest".into(), auth: Some("super:test".into()) };
    assert_eq!(error(&mut client, Request::Auth(auth)).await, ErrorCode::Ok);
    let port = free_port();
    let reconfig = |election: u16| {
        let joining = Some(format!("server.9=127.0.0.1:{port}:{election}:participant;127.0.0.1:{port}"));
        Request::Reconfig(Reconfig { joining, leaving: None, new_members: None, current: -1 })
    };
    // ZooKeeper's two ports of a server must differ.
    assert_eq!(error(&mut client, reconfig(port)).await, ErrorCode::BadArguments);
    assert_eq!(error(&mut client, reconfig(port - 1)).await, ErrorCode::NewConfigNoQuorum);
    eventually("there are three servers", PATIENCE, async || {
        let view = cluster.view(1).await?;
        ensure!(view.servers.len() == 3, "{view:?}");
        Ok(())
    })
    .await;
}
