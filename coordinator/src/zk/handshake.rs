//! How a connection gets its session: a new one, or its own again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rota_core::state::{Command, Password, SessionId};
use rota_protocol::zk::ConnectRequest;

use super::connection::Connection;
use super::pending::{Handshake, Pending};
use super::{Zk, configuration, zxid_seen};
use crate::raft::Leadership;
use crate::service::{Credentials, ServiceError};
use crate::write_queue::Completion;

/// How long a client may be ahead of this server, and a server without a leader.
/// After that the client is sent away: it tries the next server.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Why a client is sent away.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    #[error("it has seen write {seen}, and this server has only {here}")]
    Ahead { seen: u64, here: u64 },
    #[error("there is no leader, and this server does not go on without one for such a client")]
    NoLeader,
    #[error("without a leader only a session that this server knows is served, with its password")]
    UnknownSession,
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Takes in a client for reading alone, if it agrees.
fn begin_reading(zk: &Zk, connection: &Arc<Connection>, request: &ConnectRequest) -> Result<(), Rejected> {
    if !zk.is_read_only() || request.read_only != Some(true) {
        return Err(Rejected::NoLeader);
    }
    let applied = zk.service.replica.read();
    let (seen, here) = (zxid_seen(request.last_zxid_seen), applied.state.zxid());
    if seen > here {
        return Err(Rejected::Ahead { seen, here });
    }
    let who = match own_credentials(request) {
        Some(who) => {
            // It may be a session that this server has not heard of: only a leader can say that it
            // has expired.
            let session = applied.state.session(who.session);
            session.filter(|session| session.password == who.password).ok_or(Rejected::UnknownSession)?;
            who
        }
        // A new session is known to this server alone, and ends with the connection.
        None => zk.service.new_credentials()?,
    };
    let asked_ms = u32::try_from(request.timeout_ms).unwrap_or(0);
    connection.grant_reading(
        here,
        &Handshake {
            session: who.session,
            password: who.password.0,
            timeout_ms: zk.service.session_timeout(asked_ms),
            tells_read_only: true,
        },
    );
    Ok(())
}

/// The session that a client says is its own.
fn own_credentials(request: &ConnectRequest) -> Option<Credentials> {
    // A password of another length is none that was given out.
    let shown = request.password.as_deref().and_then(|bytes| bytes.try_into().ok());
    let password = Password(shown.unwrap_or_default());
    (request.session != 0).then_some(Credentials { session: SessionId(request.session), password })
}

/// Waits until `/zookeeper/config` lists all servers of a new cluster: clients such as Curator's
/// EnsembleTracker read it at once.
async fn await_configuration(zk: &Zk) {
    if zk.is_configured.load(Ordering::Acquire) {
        return;
    }
    let mut progress = zk.service.replica.progress();
    let complete = async {
        while !configuration::is_complete(&zk.service.replica.read()) {
            if progress.changed().await.is_err() {
                return;
            }
        }
    };
    // Later clients do not wait for a server that is away.
    if tokio::time::timeout(HANDSHAKE_TIMEOUT, complete).await.is_err() {
        tracing::warn!(
            "some servers have not announced their client addresses: /zookeeper/config does not list them"
        );
    }
    zk.is_configured.store(true, Ordering::Release);
}

/// Asks for the session; the answer comes when that is applied here.
pub(super) async fn begin(
    zk: &Zk,
    connection: &Arc<Connection>,
    request: ConnectRequest,
) -> Result<(), Rejected> {
    let service = &zk.service;
    let seen = zxid_seen(request.last_zxid_seen);
    if service.states.unavailable().is_some() {
        return Err(Rejected::NoLeader);
    }
    if zk.serving_mode.is_cut_off() {
        return begin_reading(zk, connection, &request);
    }
    let reached = tokio::time::timeout(HANDSHAKE_TIMEOUT, service.replica.reached(seen)).await;
    if reached.is_err() {
        let here = service.replica.read().state.zxid();
        return Err(Rejected::Ahead { seen, here });
    }
    let mut leadership = service.group.leadership();
    let led =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, leadership.wait_for(|leads| *leads != Leadership::Unknown))
            .await;
    if !matches!(led, Ok(Ok(_))) {
        return Err(Rejected::NoLeader);
    }
    drop(led);
    await_configuration(zk).await;
    let timeout_ms = service.session_timeout(u32::try_from(request.timeout_ms).unwrap_or(0));
    let (command, session, password) = match own_credentials(&request) {
        None => {
            let Credentials { session, password } = service.new_credentials()?;
            (Command::OpenSession { session, password, timeout_ms }, session, password)
        }
        Some(Credentials { session, password }) => {
            (Command::ResumeSession { session, password, timeout_ms }, session, password)
        }
    };
    let handshake =
        Handshake { session, password: password.0, timeout_ms, tells_read_only: request.read_only.is_some() };
    connection.expect(0, Pending::Handshake(handshake), || {
        service.submit(&command, Completion::Each(Arc::clone(connection) as _));
    });
    Ok(())
}
