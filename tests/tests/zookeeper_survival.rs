//! Clients of ZooKeeper's protocol while servers are killed, stopped and come back:
//! sessions go on or are told that they are over, no acknowledged write is lost, no
//! event is missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::{
    Code, KeepAlive, KeptAlive, NodeBody, NodeCreate, OpenSession, SessionBody, SessionOpened,
};
use rota_protocol::zk::{ErrorCode, OpCode, PathWatch, Request};
use rota_tests::zk::{Lasting, Raw, Session, create, get, set, text};
use rota_tests::{Call, Cluster, LIVENESS, Rng, Settings, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Longer than everything takes that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT_MS: i32 = 3_000;
const PAIRS: usize = 8;
const ROUNDS: u32 = 5;

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.ids().iter().map(|id| cluster.zookeeper(*id)).collect()
}

/// Writes 1, 2, 3… into its node, and says which number was acknowledged last.
async fn write(mut client: Lasting, path: String, stop: Arc<AtomicBool>) -> anyhow::Result<(u32, Lasting)> {
    let deadline = Instant::now() + PATIENCE * 3;
    let (mut number, mut acknowledged) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        if let Some((header, _)) = client.ask(&set(&path, &number.to_string()), deadline).await? {
            match ErrorCode::from_number(header.error) {
                Some(ErrorCode::Ok) => acknowledged = number,
                // Its end came between two requests: the next one finds out.
                Some(ErrorCode::SessionExpired | ErrorCode::SessionMoved) => {}
                other => anyhow::bail!("{path}: {other:?}"),
            }
        }
    }
    Ok((acknowledged, client))
}

/// Follows a node by one-shot watches until it shows `last`; says what it saw.
async fn follow(
    mut client: Lasting,
    path: String,
    last: tokio::sync::watch::Receiver<Option<u32>>,
) -> anyhow::Result<(Vec<u32>, Lasting)> {
    let deadline = Instant::now() + PATIENCE * 3;
    let mut seen: Vec<u32> = Vec::new();
    let mut session = None;
    let mut must_read = true;
    loop {
        let is_new = client.ensure(deadline).await?;
        if is_new {
            // Within a session, what was missed is told; a new one must look.
            must_read = client.session() != session;
            session = client.session();
            if !must_read && !client.watch_again(&path, deadline).await? {
                continue;
            }
        }
        if must_read {
            match client.ask(&get(&path, true), deadline).await? {
                Some((header, body)) if header.error == 0 => {
                    seen.push(text(body)?.parse()?);
                }
                // Read again at the next connection, since there is no watch.
                _ => {
                    session = None;
                    continue;
                }
            }
        }
        if let Some(last) = *last.borrow()
            && seen.last().is_some_and(|seen| *seen >= last)
        {
            return Ok((seen, client));
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{path}: last seen {:?}, written {:?}",
            seen.last(),
            *last.borrow()
        );
        must_read = !client.events(Duration::from_millis(200)).await.is_empty();
        // One that has lost its connection must watch again at the next one.
        if !must_read && client.is_connected() {
            // A sign of life.
            client.ask(&Request::Exists(PathWatch { path: "/".into(), watch: false }), deadline).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_writes_and_watches_survive_kills_and_stops() {
    let settings = Settings { flags: vec!["--session-max-ms".into(), "60000".into()], ..Settings::default() };
    let mut cluster = Cluster::start_with(3, settings).await;
    let servers = addresses(&cluster);
    let mut chance = Rng::seeded("zookeeper_survival");
    let stop = Arc::new(AtomicBool::new(false));
    let (finals, final_of): (Vec<_>, Vec<_>) = (0..PAIRS).map(|_| tokio::sync::watch::channel(None)).unzip();
    let mut founder = Lasting::new(servers.clone(), 0, TIMEOUT_MS);
    for pair in 0..PAIRS {
        let (header, _) =
            founder.insist(&create(&format!("/n{pair}"), "0", 0), Instant::now() + PATIENCE).await.unwrap();
        assert_eq!(header.error, 0);
    }
    let mut writers = JoinSet::new();
    let mut followers = JoinSet::new();
    for (pair, last) in final_of.into_iter().enumerate() {
        let path = format!("/n{pair}");
        let writer = Lasting::new(servers.clone(), pair, TIMEOUT_MS);
        let (path_again, stop) = (path.clone(), Arc::clone(&stop));
        writers.spawn(async move { (pair, write(writer, path_again, stop).await) });
        followers.spawn(follow(Lasting::new(servers.clone(), pair + 1, TIMEOUT_MS), path, last));
    }
    // Somebody is connected to each server before the first of them goes.
    for pair in 0..PAIRS {
        eventually("every writer has written", PATIENCE, async || {
            let at = Instant::now() + PATIENCE;
            let (_, body) = founder.insist(&get(&format!("/n{pair}"), false), at).await?;
            ensure!(text(body)? != "0", "/n{pair} is as it was");
            Ok(())
        })
        .await;
    }
    for round in 0..ROUNDS {
        let victim = 1 + chance.below(3);
        if round % 2 == 0 {
            cluster.kill9(victim);
            cluster.restart(victim);
        } else {
            cluster.pause(victim);
            // Longer than a session's timeout, measured by one that nobody keeps.
            cluster.outlasts(Duration::from_millis(TIMEOUT_MS.unsigned_abs().into())).await;
            cluster.resume(victim);
        }
        cluster.all_follow_one_leader().await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut resumed, mut expired, mut written) = (0, 0, 0);
    while let Some(done) = writers.join_next().await {
        let (pair, outcome) = done.unwrap();
        let (acknowledged, client) = outcome.unwrap();
        finals[pair].send_replace(Some(acknowledged));
        written += acknowledged;
        resumed += client.resumed;
        expired += client.expired;
        let (_, body) = founder.insist(&Request::Sync("/".into()), Instant::now() + PATIENCE).await.unwrap();
        drop(body);
        let (_, body) =
            founder.insist(&get(&format!("/n{pair}"), false), Instant::now() + PATIENCE).await.unwrap();
        let kept: u32 = text(body).unwrap().parse().unwrap();
        assert!(kept >= acknowledged, "/n{pair}: {acknowledged} was acknowledged, and {kept} is there");
    }
    while let Some(done) = followers.join_next().await {
        let (seen, client) = done.unwrap().unwrap();
        assert!(seen.is_sorted(), "time went back: {seen:?}");
        resumed += client.resumed;
        expired += client.expired;
    }
    println!("{written} writes acknowledged, sessions went on {resumed} times and were over {expired} times");
    assert!(resumed > 0);
}

const STORM: usize = 3_000;
const STORM_TIMEOUT_MS: i32 = 6_000;

/// Keeps a session alive as clients do, and goes on with it elsewhere when the
/// connection breaks. Says how often it had to.
async fn keep(mut client: Lasting, stop: Arc<AtomicBool>) -> anyhow::Result<Lasting> {
    let mut beat = interval(Duration::from_millis(u64::from(STORM_TIMEOUT_MS.unsigned_abs()) / 3));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        beat.tick().await;
        while client.ask(&Request::Ping, Instant::now() + PATIENCE).await?.is_none() {}
    }
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnections_loses_no_session() {
    let mut cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let leader = cluster.leader().await;
    let mut servers = addresses(&cluster);
    // Everybody is connected to the leader.
    servers.swap(0, usize::try_from(leader - 1).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let mut keepers = JoinSet::new();
    let mut before = BTreeSet::new();
    for _ in 0..STORM {
        let mut client = Lasting::new(servers.clone(), 0, STORM_TIMEOUT_MS);
        client.ensure(Instant::now() + PATIENCE).await.unwrap();
        before.extend(client.session());
        // From now on: to open all of them may take longer than one may be silent.
        keepers.spawn(keep(client, Arc::clone(&stop)));
    }
    assert_eq!(before.len(), STORM);
    cluster.kill9(leader);
    // A session that nobody keeps since then is over before this returns: so would be
    // every one that did not get through.
    cluster.leader_after(leader).await;
    cluster.outlasts(Duration::from_millis(STORM_TIMEOUT_MS.unsigned_abs().into())).await;
    stop.store(true, Ordering::Relaxed);
    let mut after = BTreeSet::new();
    let (mut expired, mut resumed, mut longest) = (0, 0, Duration::ZERO);
    while let Some(kept) = keepers.join_next().await {
        let client = kept.unwrap().unwrap();
        expired += client.expired;
        resumed += client.resumed;
        longest = longest.max(client.longest_gap);
        after.extend(client.session());
    }
    println!("{resumed} sessions went on, the last one {} ms after it broke", longest.as_millis());
    assert_eq!((expired, after == before), (0, true));
    assert!(resumed as usize >= STORM);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_one_on_both_faces() {
    let cluster = Cluster::start(3).await;
    let opened: SessionOpened = cluster
        .ask(1, Call::post("/v1/sessions", &OpenSession { timeout_ms: Some(30_000) }))
        .await
        .ok()
        .unwrap();
    let password = u128::from_str_radix(&opened.password, 16).unwrap().to_be_bytes();
    let session =
        Session { id: u64::from_str_radix(&opened.session, 16).unwrap(), password: password.to_vec().into() };
    // Opened by HTTP at one server, it goes on by ZooKeeper's protocol at another.
    let mut raw = Raw::connect(&cluster.zookeeper(2), Some(&session), 30_000, 0).await.unwrap();
    assert_eq!(raw.greeting.session, session.id);
    let xid = raw.send(&create("/from-zookeeper", "z", 1)).await.unwrap();
    assert_eq!(raw.answer(xid).await.unwrap().unwrap().0.error, 0);
    let shown: SessionBody = cluster
        .ask(3, Call::get(&format!("/v1/sessions/{}?consistent=true", opened.session)))
        .await
        .ok()
        .unwrap();
    assert_eq!(shown.ephemerals, ["/from-zookeeper"]);
    // And the other way round.
    let header = format!("{}:{}", opened.session, opened.password);
    let keep = Call::post(&format!("/v1/sessions/{}/keep-alive", opened.session), &KeepAlive::default());
    let _: KeptAlive = cluster.ask(1, keep.header("rota-session", &header)).await.ok().unwrap();
    let made = Call::post("/v1/nodes/from-http", &NodeCreate { data: "h".into(), ..NodeCreate::default() });
    let made: NodeBody = cluster.ask(1, made).await.ok().unwrap();
    let xid = raw.send(&Request::Sync("/".into())).await.unwrap();
    raw.answer(xid).await.unwrap();
    let xid = raw.send(&get("/from-http", false)).await.unwrap();
    let (answer, body) = raw.answer(xid).await.unwrap().unwrap();
    assert_eq!(answer.error, 0);
    assert_eq!(text(body).unwrap(), "h");
    assert!(answer.zxid >= made.stat.czxid);
    // Closed by one, it is gone for the other.
    let xid = raw.send(&Request::CloseSession).await.unwrap();
    raw.answer(xid).await.unwrap();
    let gone = cluster.ask(1, Call::get(&format!("/v1/sessions/{}?consistent=true", opened.session))).await;
    assert_eq!(gone.code(), Some(Code::SessionExpired));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_connection_ends_when_its_session_goes_on_elsewhere() {
    let cluster = Cluster::start(3).await;
    let mut old = Raw::connect(&cluster.zookeeper(1), None, 30_000, 0).await.unwrap();
    let session = old.session();
    let new = Raw::connect(&cluster.zookeeper(2), Some(&session), 30_000, 0).await.unwrap();
    assert_eq!(new.greeting.session, session.id);
    // What it still says is refused, and it is cut off.
    let xid = old.send(&create("/late", "", 0)).await.unwrap();
    if let Some((header, _)) = old.answer(xid).await.unwrap() {
        assert_eq!(header.error, ErrorCode::SessionMoved.number());
    }
    assert!(old.receive().await.unwrap().is_none());
    let late = cluster.ask(1, Call::get("/v1/nodes/late?consistent=true")).await;
    assert_eq!(late.code(), Some(Code::NoNode));
}

/// Without a majority, no sign of life can be taken: nobody's silence meanwhile counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_alone_for_long_ends_no_session() {
    let mut cluster = Cluster::start(3).await;
    let mut clock = Cluster::beside(1, Settings::default());
    clock.restart(1);
    clock.leader().await;
    let timeout = Duration::from_millis(2_000);
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let address = cluster.zookeeper(leader);
        let raw = Raw::connect_patiently(&address, None, 2_000).await;
        let session = raw.session();
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        others.iter().for_each(|id| cluster.pause(*id));
        clock.outlasts(timeout * 2).await;
        others.iter().for_each(|id| cluster.resume(*id));
        let again = Raw::connect_patiently(&address, Some(&session), 2_000).await;
        assert_eq!(again.greeting.session, session.id, "the session was ended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_is_told_so() {
    let cluster = Cluster::start(3).await;
    let raw = Raw::connect(&cluster.zookeeper(1), None, 1_000, 0).await.unwrap();
    let session = raw.session();
    eventually("the session is told that it is over", LIVENESS, async || {
        let again = Raw::connect(&cluster.zookeeper(2), Some(&session), 1_000, u64::MAX >> 1).await;
        anyhow::ensure!(again.is_err(), "a server that is behind takes a client in");
        let sessions: Vec<SessionBody> =
            cluster.ask(1, Call::get("/v1/sessions?consistent=true")).await.ok()?;
        anyhow::ensure!(sessions.is_empty(), "it lives");
        Ok(())
    })
    .await;
    let again = Raw::connect(&cluster.zookeeper(2), Some(&session), 1_000, 0).await.unwrap();
    assert_eq!((again.greeting.session, again.greeting.timeout_ms), (0, 0));
}

/// ZooKeeper closes the connection after that answer, which nothing demands.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_operations_and_check_alone_are_unimplemented_and_the_connection_stays() {
    let cluster = Cluster::start(1).await;
    let mut raw = Raw::connect(&cluster.zookeeper(1), None, 30_000, 0).await.unwrap();
    let check = [b"\0\0\0\x01/" as &[u8], &(-1_i32).to_be_bytes()].concat();
    for (op, body) in [(OpCode::Check.number(), &check[..]), (OpCode::Check.number(), b"\0"), (501, b"")] {
        let xid = raw.send_raw(op, body).await.unwrap();
        assert_eq!(raw.answer(xid).await.unwrap().unwrap().0.error, ErrorCode::Unimplemented.number());
    }
    let xid = raw.send(&get("/", false)).await.unwrap();
    assert_eq!(raw.answer(xid).await.unwrap().unwrap().0.error, 0);
}
