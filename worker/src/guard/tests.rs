//! Guards under a lease whose coordinator answers for a while: in time, past the deadline, after
//! the grant has ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rota_client::Session;
use rota_core::pool::Role;
use rota_protocol::http::Grant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::deadline::WorkDeadline;
use crate::fake_coordinator::session;

/// How long anything may take that happens at once on an idle machine.
const LIVENESS: Duration = Duration::from_secs(20);

fn lease(session: &Session) -> Lease {
    let bucket = "7".to_owned();
    let grant = Grant { bucket, fence: 42, role: Role::Primary, peers: Vec::new(), item: None };
    let peers = watch::channel(Vec::new()).1;
    let work = Arc::new(WorkDeadline::new());
    Lease::new(session.clone(), ("mail", "w1"), &grant, CancellationToken::new(), peers, work)
}

#[tokio::test]
async fn an_effect_in_time_is_done_under_the_lease() {
    let (session, _) = session(60_000).await;
    let lease = lease(&session);
    let guard = lease.guard().unwrap();
    assert_eq!(guard.deadline(), session.deadline());
    assert!(guard.remaining() > Duration::from_secs(1));
    guard.check().unwrap();
    guard.finish().unwrap();
    assert_eq!(lease.while_held(std::future::ready(5)).await, Ok(5));
}

#[tokio::test]
async fn an_effect_past_the_deadline_says_so() {
    let (session, is_silent) = session(500).await;
    let lease = lease(&session);
    let guard = loop {
        // A busy machine may take longer than the lease to come here.
        match lease.guard() {
            Ok(guard) => break guard,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    is_silent.store(true, Ordering::Relaxed);
    let held = tokio::time::timeout(LIVENESS, lease.while_held(std::future::pending::<()>())).await;
    assert_eq!(held.expect("it ends with the lease").unwrap_err().bucket, "7");
    assert!(!lease.is_held());
    guard.check().unwrap_err();
    let error = guard.finish().unwrap_err();
    assert_eq!((error.bucket.as_str(), error.fence), ("7", 42));
    assert!(error.to_string().contains("past its lease"), "{error}");
    lease.guard().expect_err("nothing begins under a lease that is over");
}

#[tokio::test]
async fn work_is_dropped_when_its_grant_ends_though_the_session_lives() {
    let (session, _) = session(3_600_000).await;
    let lease = lease(&session);
    let work = lease.while_held(std::future::pending::<()>());
    let end = async {
        tokio::task::yield_now().await;
        lease.end();
    };
    let both = async { tokio::join!(work, end).0 };
    tokio::time::timeout(LIVENESS, both).await.expect("it ends with the grant").unwrap_err();
}

#[tokio::test]
async fn work_is_dropped_when_the_session_is_closed() {
    let (session, _) = session(3_600_000).await;
    let lease = lease(&session);
    let work = lease.while_held(std::future::pending::<()>());
    let close = async {
        tokio::task::yield_now().await;
        // The answer is not that of a coordinator; the session is closed all the same.
        drop(session.close().await);
    };
    let both = async { tokio::join!(work, close).0 };
    tokio::time::timeout(LIVENESS, both).await.expect("it ends with the session").unwrap_err();
}

#[tokio::test]
async fn nothing_is_done_under_a_grant_that_has_ended_though_the_session_lives() {
    let (session, _) = session(60_000).await;
    let lease = lease(&session);
    let guard = lease.guard().unwrap();
    lease.end();
    assert!(!lease.is_held() && !session.deadline().is_past());
    guard.finish().unwrap_err();
    lease.guard().unwrap_err();
    lease.while_held(std::future::ready(())).await.unwrap_err();
}
