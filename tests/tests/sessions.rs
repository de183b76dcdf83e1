//! Sessions: opened, kept alive, resumed on any server, closed, and ended by the
//! leader when their clients are silent.

use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::{
    Code, KeepAlive, KeptAlive, Mode, NodeBody, NodeCreate, OpenSession, SessionBody, SessionOpened,
};
use rota_tests::{Answer, Call, Cluster, LIVENESS, Settings, eventually};
use tokio::time::Instant;

async fn open(cluster: &Cluster, through: u64, timeout_ms: Option<u32>) -> SessionOpened {
    let opened = cluster.ask(through, Call::post("/v1/sessions", &OpenSession { timeout_ms })).await;
    assert_eq!(opened.status, 201);
    opened.ok().unwrap()
}

fn header(session: &SessionOpened) -> String {
    format!("{}:{}", session.session, session.password)
}

fn in_name_of(session: &SessionOpened, call: Call) -> Call {
    call.header("rota-session", &header(session))
}

async fn keep_alive(cluster: &Cluster, through: u64, session: &SessionOpened) -> Answer {
    let path = format!("/v1/sessions/{}/keep-alive", session.session);
    cluster.ask(through, in_name_of(session, Call::post(&path, &KeepAlive::default()))).await
}

async fn make_ephemeral(cluster: &Cluster, through: u64, session: &SessionOpened, path: &str) {
    let body = NodeCreate { mode: Mode::Ephemeral, ..NodeCreate::default() };
    let call = in_name_of(session, Call::post(&format!("/v1/nodes{path}"), &body));
    let _: NodeBody = cluster.ask(through, call).await.ok().unwrap();
}

async fn exists(cluster: &Cluster, through: u64, path: &str) -> anyhow::Result<bool> {
    let answer = cluster.send(through, Call::get(&format!("/v1/nodes{path}"))).await?;
    ensure!(answer.status == 200 || answer.code() == Some(Code::NoNode), "{}", answer.text());
    Ok(answer.status == 200)
}

/// Waits until the node is gone: when that was seen.
async fn gone(cluster: &Cluster, through: u64, path: &str) -> Instant {
    eventually(&format!("{path} goes"), LIVENESS, async || {
        ensure!(!exists(cluster, through, path).await?, "it is there");
        Ok(Instant::now())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_the_same_on_every_server() {
    let cluster = Cluster::start(3).await;
    let session = open(&cluster, 1, Some(5_000)).await;
    assert_eq!((session.session.len(), session.password.len(), session.timeout_ms), (16, 32, 5_000));
    for id in cluster.ids() {
        let kept: KeptAlive = keep_alive(&cluster, id, &session).await.ok().unwrap();
        assert_eq!(kept.timeout_ms, 5_000);
        make_ephemeral(&cluster, id, &session, &format!("/of-{id}")).await;
    }
    cluster.agree(&[1, 2, 3]).await;
    let shown: SessionBody =
        cluster.ask(2, Call::get(&format!("/v1/sessions/{}", session.session))).await.ok().unwrap();
    assert_eq!(shown.ephemerals, ["/of-1", "/of-2", "/of-3"]);
    assert_eq!(shown.timeout_ms, 5_000);

    for id in cluster.ids() {
        let thief = SessionOpened { password: "0".repeat(32), ..session.clone() };
        let _ = keep_alive(&cluster, id, &thief).await.refused(Code::BadPassword, &["password"]);
        let write = in_name_of(&thief, Call::post("/v1/nodes/stolen", &NodeCreate::default()));
        let _ = cluster.ask(id, write).await.refused(Code::BadPassword, &["password"]);
        let close = in_name_of(&thief, Call::delete(&format!("/v1/sessions/{}", session.session)));
        let _ = cluster.ask(id, close).await.refused(Code::BadPassword, &["password"]);
        let unknown = SessionOpened { session: "00000000000000aa".into(), ..session.clone() };
        let _ = keep_alive(&cluster, id, &unknown).await.refused(Code::SessionExpired, &[]);
        let path = format!("/v1/sessions/{}/keep-alive", unknown.session);
        let other = cluster.ask(id, in_name_of(&session, Call::post(&path, &KeepAlive::default()))).await;
        let _ = other.refused(Code::NotOwner, &["rota-session"]);
        assert!(!exists(&cluster, id, "/stolen").await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_session_takes_its_ephemerals_and_no_others() {
    let cluster = Cluster::start(3).await;
    let session = open(&cluster, 1, None).await;
    assert_eq!(session.timeout_ms, 10_000, "the default");
    let other = open(&cluster, 2, None).await;
    make_ephemeral(&cluster, 2, &session, "/mine").await;
    make_ephemeral(&cluster, 3, &other, "/others").await;
    let close = in_name_of(&session, Call::delete(&format!("/v1/sessions/{}", session.session)));
    let closed = cluster.ask(3, close).await;
    assert_eq!(closed.status, 204);
    let zxid = closed.header("rota-zxid").unwrap();
    for id in cluster.ids() {
        let look = |path: &str| Call::get(&format!("/v1/nodes{path}")).header("rota-min-zxid", zxid);
        let _ = cluster.ask(id, look("/mine")).await.refused(Code::NoNode, &["/mine"]);
        let _: NodeBody = cluster.ask(id, look("/others")).await.ok().unwrap();
        let _ = keep_alive(&cluster, id, &session).await.refused(Code::SessionExpired, &[]);
        let body = NodeCreate { mode: Mode::Ephemeral, ..NodeCreate::default() };
        let late = cluster.ask(id, in_name_of(&session, Call::post("/v1/nodes/late", &body))).await;
        let _ = late.refused(Code::SessionExpired, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeout_is_brought_within_bounds() {
    let cluster = Cluster::start(1).await;
    for (asked, got) in [(1, 1_000), (1_000, 1_000), (60_000, 60_000), (u32::MAX, 60_000)] {
        assert_eq!(open(&cluster, 1, Some(asked)).await.timeout_ms, got, "asked for {asked}");
    }
    drop(cluster);
    let flags = ["--session-min-ms", "300", "--session-max-ms", "5000"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(1, Settings { flags, ..Settings::default() }).await;
    for (asked, got) in [(1, 300), (10_000, 5_000)] {
        assert_eq!(open(&cluster, 1, Some(asked)).await.timeout_ms, got, "asked for {asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_ends_soon_after_its_timeout() {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    for timeout_ms in [1_000, 1_500, 2_500] {
        let timeout = Duration::from_millis(u64::from(timeout_ms));
        let session = open(&cluster, 1, Some(timeout_ms)).await;
        make_ephemeral(&cluster, 2, &session, "/heart").await;
        let sent = Instant::now();
        keep_alive(&cluster, 3, &session).await.ok::<KeptAlive>().unwrap();
        let answered = Instant::now();
        let at = gone(&cluster, 1, "/heart").await;
        println!("a session of {timeout_ms} ms ended {} ms after its last sign", (at - sent).as_millis());
        assert!(at - sent >= timeout, "too early: {:?}", at - sent);
        assert!(at - answered <= timeout + Duration::from_secs(1), "too late: {:?}", at - answered);
        let _ = keep_alive(&cluster, 2, &session).await.refused(Code::SessionExpired, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_request_in_its_name_keeps_a_session_alive() {
    let cluster = Cluster::start(3).await;
    let signs = [
        ("a read", Call::get("/v1/nodes/rota")),
        ("a list", Call::get("/v1/pools")),
        ("a write", Call::post("/v1/nodes/n-", &sequential())),
        ("a refused write", Call::delete("/v1/nodes/none")),
    ];
    let mut kept = Vec::new();
    for (sign, _) in &signs {
        let session = open(&cluster, 1, Some(1_000)).await;
        let path = format!("/{}", sign.replace(' ', "-"));
        make_ephemeral(&cluster, 1, &session, &path).await;
        kept.push((session, path));
    }
    let silent = open(&cluster, 1, Some(1_000)).await;
    make_ephemeral(&cluster, 1, &silent, "/silent").await;
    eventually("the session that says nothing ends", LIVENESS, async || {
        for ((_, call), (session, _)) in signs.iter().zip(&kept) {
            cluster.ask(2, in_name_of(session, call.clone())).await;
        }
        ensure!(!exists(&cluster, 1, "/silent").await?, "it lives");
        Ok(())
    })
    .await;
    let mut lost = Vec::new();
    for ((sign, _), (_, path)) in signs.iter().zip(&kept) {
        if !exists(&cluster, 1, path).await.unwrap() {
            lost.push(*sign);
        }
    }
    assert!(lost.is_empty(), "these were no signs of life: {lost:?}");
}

fn sequential() -> NodeCreate {
    NodeCreate { mode: Mode::PersistentSequential, ..NodeCreate::default() }
}
