//! Sessions against a coordinator that is a few lines of HTTP: when they are held, and that a
//! machine that was suspended finds its lease over.

use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::clock::suspend;

/// How long anything may take that happens at once on an idle machine.
const LIVENESS: Duration = Duration::from_secs(20);

/// Answers whatever it is asked as a coordinator that opens and keeps sessions of this timeout
/// does, until the test silences it.
async fn coordinator(timeout_ms: u32) -> (Client, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new([listener.local_addr().unwrap().to_string()]).unwrap();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                // Each of these requests comes in one piece.
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
    (client, is_silent)
}

async fn becomes(session: &Session, is_wanted: impl FnMut(&LeaseState) -> bool) -> LeaseState {
    let mut lease = session.lease();
    let state = tokio::time::timeout(LIVENESS, lease.wait_for(is_wanted)).await;
    *state.expect("it becomes so").unwrap()
}

#[tokio::test]
async fn a_machine_that_was_suspended_finds_its_lease_over_when_it_wakes() {
    let (client, is_silent) = coordinator(60_000).await;
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    let LeaseState::Held { until } = becomes(&session, |state| *state != LeaseState::Lapsed).await else {
        panic!("it has just been opened");
    };
    assert_eq!(session.deadline(), until);
    assert!(!until.is_past());
    is_silent.store(true, Ordering::Relaxed);
    suspend(Duration::from_secs(3600));
    assert!(session.deadline().is_past(), "the first call after the suspend sees it");
    becomes(&session, |state| *state == LeaseState::Lapsed).await;
    // The coordinator knows the session after all: it is as it was.
    is_silent.store(false, Ordering::Relaxed);
    becomes(&session, |state| matches!(state, LeaseState::Held { .. })).await;
    assert!(!session.deadline().is_past());
}

#[tokio::test]
async fn an_answer_that_comes_after_the_lease_is_over_renews_nothing() {
    let (client, _) = coordinator(60_000).await;
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    let sent_at = BootInstant::now();
    suspend(Duration::from_secs(3600));
    session.shared.renew(sent_at);
    assert_eq!(*session.lease().borrow(), LeaseState::Lapsed);
    session.shared.renew(BootInstant::now());
    assert!(matches!(*session.lease().borrow(), LeaseState::Held { .. }));
}

#[tokio::test]
async fn a_session_that_has_ended_is_never_held_again() {
    let (client, _) = coordinator(60_000).await;
    let session = client.open_session(Duration::from_secs(60)).await.unwrap();
    session.shared.end();
    session.shared.renew(BootInstant::now());
    assert_eq!(*session.lease().borrow(), LeaseState::Ended);
    assert!(session.deadline().is_past(), "it was put off beyond its end");
}

#[test]
fn a_session_ends_with_the_runtime_that_kept_it_alive() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = runtime.block_on(async {
        let (client, _) = coordinator(60_000).await;
        client.open_session(Duration::from_secs(60)).await.unwrap()
    });
    assert!(!session.deadline().is_past());
    drop(runtime);
    assert_eq!(*session.lease().borrow(), LeaseState::Ended);
    assert!(session.deadline().is_past());
}
