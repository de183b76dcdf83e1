//! Sessions outlive the servers: a new leader gives everyone a full timeout, and
//! a client that is kept alive notices nothing.

use std::time::Duration;

use anyhow::ensure;
use rota_client::{Client, LeaseState};
use rota_protocol::http::{Code, KeepAlive, KeptAlive, SessionBody, SessionOpened};
use rota_tests::{Call, Cluster, LIVENESS, Settings, eventually};
use tokio::time::Instant;

async fn cluster() -> Cluster {
    Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await
}

async fn open_raw(cluster: &Cluster, timeout: Duration) -> SessionOpened {
    let timeout_ms = u32::try_from(timeout.as_millis()).ok();
    let body = rota_protocol::http::OpenSession { timeout_ms };
    cluster.ask(cluster.leader().await, Call::post("/v1/sessions", &body)).await.ok().unwrap()
}

fn keep_alive(session: &SessionOpened) -> Call {
    Call::post(&format!("/v1/sessions/{}/keep-alive", session.session), &KeepAlive::default())
        .header("rota-session", &format!("{}:{}", session.session, session.password))
}

async fn lives(client: &Client, session: &str) -> anyhow::Result<bool> {
    let path = format!("/v1/sessions/{session}");
    match client.get::<SessionBody>(&path).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(Code::SessionExpired) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_kept_alive_survives_its_leaders() {
    let mut cluster = cluster().await;
    let client = cluster.client();
    let session = client.open_session(Duration::from_secs(2)).await.unwrap();
    let mut lease = session.lease();
    for round in 0..4 {
        let leader = cluster.all_follow_one_leader().await;
        lease.mark_unchanged();
        if round % 2 == 0 {
            cluster.kill9(leader);
        } else {
            cluster.stop_in_order(leader).await;
        }
        cluster.leader_after(leader).await;
        eventually("a keep-alive is answered by the new leader", LIVENESS, async || {
            ensure!(lease.has_changed()?, "no news");
            let state = *lease.borrow_and_update();
            ensure!(matches!(state, LeaseState::Held { .. }), "{state:?}");
            Ok(())
        })
        .await;
        cluster.restart(leader);
    }
    cluster.all_follow_one_leader().await;
    assert!(lives(&client, session.id()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_gives_a_full_timeout() {
    let mut cluster = cluster().await;
    let timeout = Duration::from_secs(2);
    let session = open_raw(&cluster, timeout).await;
    // Silent for most of its time, when the leader dies.
    cluster.outlasts(timeout * 3 / 4).await;
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    let killed = Instant::now();
    cluster.leader_after(leader).await;
    let led = Instant::now();
    let client = cluster.client();
    let at = eventually("it ends", LIVENESS, async || {
        ensure!(!lives(&client, &session.session).await?, "it lives");
        Ok(Instant::now())
    })
    .await;
    println!("a silent session ended {} ms after the leader's death", (at - killed).as_millis());
    assert!(at - killed >= timeout, "the new leader counts from its own beginning: {:?}", at - killed);
    // The lease of its predecessor is added to it (`election_min_ms`).
    assert!(at - led <= timeout + Duration::from_secs(1) + LIVENESS / 10, "{:?}", at - led);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_survives_the_death_of_all_servers() {
    let mut cluster = cluster().await;
    let timeout = Duration::from_millis(1_500);
    let session = open_raw(&cluster, timeout).await;
    let witness = cluster.client().open_session(timeout * 2).await.unwrap();
    for id in [1, 2, 3] {
        cluster.kill9(id);
    }
    // Longer than its timeout, by the clock of somebody with a lease twice as long:
    // nobody else counts meanwhile.
    let mut lease = witness.lease();
    let over = lease.wait_for(|state| !matches!(state, LeaseState::Held { .. }));
    tokio::time::timeout(LIVENESS, over).await.expect("a lease that nobody renews ends").unwrap();
    for id in [1, 2, 3] {
        cluster.restart(id);
    }
    // The first server that answers at all must say that it lives.
    eventually("it is kept alive", LIVENESS, async || {
        for id in [1, 2, 3] {
            let answer = cluster.send(id, keep_alive(&session)).await?;
            assert_ne!(answer.code(), Some(Code::SessionExpired), "{}", answer.text());
            answer.ok::<KeptAlive>()?;
        }
        Ok(())
    })
    .await;
    assert!(lives(&cluster.client(), &session.session).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nobody_is_kept_alive() {
    let mut cluster = cluster().await;
    let session = open_raw(&cluster, Duration::from_secs(5)).await;
    let leader = cluster.leader().await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.kill9(id);
    }
    // It was confirmed by the others until just now; not for long.
    eventually("the leader that is alone does not answer for the session", LIVENESS, async || {
        let answer = cluster.send(leader, keep_alive(&session)).await?;
        ensure!(answer.code() == Some(Code::NoLeader), "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.restart(id);
    }
    cluster.all_follow_one_leader().await;
    let answer = cluster.ask(leader, keep_alive(&session)).await;
    assert!(answer.status == 200 || answer.code() == Some(Code::SessionExpired), "{}", answer.text());
}
