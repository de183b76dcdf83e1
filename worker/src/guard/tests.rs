//! Guards under a lease whose coordinator answers for a while: in time, past the deadline, after
//! the grant has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rota_client::{Client, Session};
use rota_core::pool::Role;
use rota_protocol::http::Grant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::deadline::WorkDeadline;

/// How long anything may take that happens at once on an idle machine.
const LIVENESS: Duration = Duration::from_secs(20);

/// A session of this timeout, at a coordinator that answers as one does until it is to be silent.
async fn session(timeout_ms: u32) -> (Session, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new([listener.local_addr().unwrap().to_string()]).unwrap();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while connection.read(&mut request).await.is_ok_and(|read| read > 0) {
                    if silent.load(Ordering::Relaxed) {
                        return;
                    }
                    let body = format!(r#"{{"session":"5f","password":"00","timeout_ms":{timeout_ms}}}"#);
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if connection.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let session = client.open_session(Duration::from_millis(u64::from(timeout_ms))).await.unwrap();
    (session, is_silent)
}

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
