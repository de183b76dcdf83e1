//! What a stranger on the peer port can do, who knows the protocol and all that the HTTP API
//! shows: nothing that lasts.

use std::time::Duration;

use anyhow::ensure;
use bytes::{Bytes, BytesMut};
use rota_protocol::http::{Cluster as View, NodeBody, NodeCreate};
use rota_protocol::peer::{
    self, Answer, Call as PeerCall, Entry, Hello, LogId, PROTOCOL_VERSION, Payload, StreamKind, Vote,
    VoteRequest, Welcome,
};
use rota_tests::{Call, Cluster, LIVENESS, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn view(cluster: &Cluster, id: u64) -> View {
    cluster.ask(id, Call::get("/v1/cluster")).await.ok().unwrap()
}

async fn write(cluster: &Cluster, through: u64, path: &str) {
    let call = Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default());
    let _: NodeBody = cluster.ask(through, call).await.ok().unwrap();
}

/// A frame as servers send it.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(crc32fast::hash(payload).to_be_bytes());
    frame.extend(payload);
    frame
}

async fn read_frame(stream: &mut TcpStream) -> std::io::Result<Bytes> {
    let mut head = [0; 8];
    stream.read_exact(&mut head).await?;
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let mut payload = BytesMut::zeroed(len as usize);
    stream.read_exact(&mut payload).await?;
    Ok(payload.freeze())
}

/// A connection to `to` in the name of `from`, with all that members show of each other.
async fn as_member(cluster: &Cluster, from: u64, to: u64, kind: StreamKind) -> TcpStream {
    let seen = view(cluster, to).await;
    let disk_of = |id| {
        let server = seen.servers.iter().find(|server| server.id == id).expect("a member");
        server.disk_id.as_ref().expect("it was reached").parse().unwrap()
    };
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: seen.cluster.clone(),
        cluster_id: Some(seen.cluster_id.as_ref().unwrap().parse().unwrap()),
        from,
        from_disk: disk_of(from),
        to,
        to_disk: Some(disk_of(to)),
        kind,
        acknowledged: None,
    };
    let mut stream = TcpStream::connect(cluster.peer(to)).await.unwrap();
    stream.write_all(&frame(&peer::encode(&hello))).await.unwrap();
    let welcome: Welcome = peer::decode(&read_frame(&mut stream).await.unwrap()).unwrap();
    assert!(matches!(welcome, Welcome::Accepted(_)), "{welcome:?}");
    stream
}

/// Waits until a server has counted something invalid.
async fn counts_it(cluster: &Cluster, id: u64, at_least: u64) {
    eventually("it is counted", LIVENESS, async || {
        let page = cluster.send(id, Call::get("/metrics")).await?.text();
        let counted =
            page.lines().find_map(|line| line.strip_prefix("rota_peer_invalid_total ")?.parse::<u64>().ok());
        ensure!(counted.is_some_and(|counted| counted >= at_least), "{counted:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_place_of_commands_is_not_proposed() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let before = view(&cluster, leader).await;
    let unit = |command: &[u8]| {
        let header = [&other.to_le_bytes()[..], &9_u64.to_le_bytes(), &1_u64.to_le_bytes()].concat();
        [&header[..], &u32::try_from(command.len()).unwrap().to_le_bytes(), command].concat()
    };
    for (n, garbage) in [vec![0xff; 100], unit(&[0xff; 100]), unit(&[]), vec![]].into_iter().enumerate() {
        let mut stream = as_member(&cluster, other, leader, StreamKind::Units).await;
        stream.write_all(&frame(&garbage)).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "the connection ends");
        counts_it(&cluster, leader, n as u64 + 1).await;
        write(&cluster, other, &format!("/after{n}")).await;
    }
    // A frame whose checksum is wrong, and one that is too large, are the same.
    let mut damaged = frame(b"something");
    damaged[9] ^= 1;
    for bytes in [damaged, u32::MAX.to_be_bytes().repeat(2)] {
        let mut stream = as_member(&cluster, other, leader, StreamKind::Units).await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "the connection ends");
    }
    for id in [1, 2, 3] {
        cluster.kill9(id);
        cluster.restart(id);
        cluster.all_follow_one_leader().await;
    }
    write(&cluster, other, "/last").await;
    assert!(view(&cluster, leader).await.term >= before.term);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_term_that_cannot_be_changes_nothing() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let other = cluster.ids().into_iter().find(|id| *id != leader && *id != follower).unwrap();
    let before = view(&cluster, leader).await.term;
    for term in [u64::MAX, 1 << 62, before + 10_000_000] {
        let vote = Vote { term, leader: other, committed: false };
        let last = Some(LogId { term, leader: other, index: 1 << 61 });
        let ask = VoteRequest { vote, last, transfer: true };
        let mut stream = as_member(&cluster, other, follower, StreamKind::Call).await;
        stream.write_all(&frame(&peer::encode(&(0_u64, PeerCall::Vote(ask))))).await.unwrap();
        let (_, answer): (u64, Answer) = peer::decode(&read_frame(&mut stream).await.unwrap()).unwrap();
        assert!(matches!(answer, Answer::Error(_)), "{answer:?}");

        let vote = Vote { committed: true, ..vote };
        let entry = Entry { log_id: LogId { term, leader: other, index: u64::MAX }, payload: Payload::Blank };
        let append = peer::AppendRequest { vote, prev: None, entries: vec![entry], commit: None };
        let mut stream = as_member(&cluster, other, follower, StreamKind::Append).await;
        stream.write_all(&frame(&peer::encode(&append))).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "the connection ends");
    }
    write(&cluster, follower, "/after").await;
    assert_eq!(view(&cluster, leader).await.term, before);
    cluster.agree(&[1, 2, 3]).await;
}

/// The end of a connection that was opened under the leader's id starts no election: any host can
/// open one.
#[tokio::test(flavor = "multi_thread")]
async fn connections_in_the_leaders_name_cost_no_election() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = view(&cluster, leader).await.term;
    for n in 0..40 {
        for follower in cluster.ids().into_iter().filter(|id| *id != leader) {
            drop(as_member(&cluster, leader, follower, StreamKind::Call).await);
        }
        write(&cluster, leader, &format!("/during{n}")).await;
    }
    assert_eq!(view(&cluster, leader).await.term, term);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_not_one_is_not_stored() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let before = view(&cluster, follower).await;
    let vote = Vote { term: before.term, leader, committed: true };
    let log_id = LogId { term: before.term, leader, index: 1_000 };
    for batch in [vec![0xff; 100], vec![6; 100], vec![]] {
        let entry = Entry { log_id, payload: Payload::Batch(batch.into()) };
        let append = peer::AppendRequest { vote, prev: None, entries: vec![entry], commit: None };
        let mut stream = as_member(&cluster, leader, follower, StreamKind::Append).await;
        stream.write_all(&frame(&peer::encode(&append))).await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "the connection ends");
    }
    counts_it(&cluster, follower, 3).await;
    write(&cluster, follower, "/after").await;
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_hello_are_closed_and_bounded() {
    let cluster = Cluster::start(3).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(cluster.peer(1)).await.unwrap());
    }
    // A hello that never ends, and one that is too large.
    silent[0].write_all(&[0, 0, 1, 0, 1, 2, 3, 4, 5]).await.unwrap();
    silent[1].write_all(&[0, 1, 0, 0, 1, 2, 3, 4]).await.unwrap();
    for stream in &mut silent {
        let ended = tokio::time::timeout(LIVENESS, stream.read(&mut [0; 8])).await;
        assert_eq!(ended.expect("it is closed").unwrap_or(0), 0);
    }
    write(&cluster, 1, "/after").await;
    cluster.agree(&[1, 2, 3]).await;
}

/// Servers that are stopped again and again for longer than a leader's lease: a session that nobody
/// keeps ends all the same, and one that is kept does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_session_ends_although_all_servers_stumble() {
    let mut cluster = Cluster::start(3).await;
    let timeout = Duration::from_secs(6);
    let client = cluster.client();
    let kept = client.open_session(timeout).await.unwrap();
    let dead: rota_protocol::http::SessionOpened = cluster
        .ask(1, Call::post("/v1/sessions", &serde_json::json!({"timeout_ms": 6_000})))
        .await
        .ok()
        .unwrap();
    let mut clock = Cluster::beside(1, rota_tests::Settings::default());
    clock.restart(1);
    clock.leader().await;
    // More often than the session's timeout: each of them used to give it another.
    let mut ended = false;
    for _ in 0..8 {
        cluster.ids().iter().for_each(|id| cluster.pause(*id));
        clock.outlasts(Duration::from_millis(1_200)).await;
        cluster.ids().iter().for_each(|id| cluster.resume(*id));
        clock.outlasts(Duration::from_millis(1_200)).await;
        let call = Call::get(&format!("/v1/sessions/{}?consistent=true", dead.session));
        ended = cluster.send(1, call).await.is_ok_and(|answer| answer.status == 410);
        if ended {
            break;
        }
    }
    assert!(ended, "the dead session lives");
    let call = Call::get(&format!("/v1/sessions/{}?consistent=true", kept.id()));
    assert_eq!(cluster.ask(1, call).await.status, 200, "the session that was kept has ended");
}
