//! What became of a connection's proposals: its session, and its writes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rota_core::state::{Refusal, Reply, State};
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{ConnectResponse, frame};

use super::{Connection, Granted};
use crate::write_queue::{CompletionHandler, Outcome};
use crate::zk::pending::{Handshake, Pending, PendingRequest, Ready};
use crate::zk::writes::{self, ReplyFormat};

/// Says which session the client has, or that it has none any more.
pub(super) fn write_connect_response(out: &mut BytesMut, handshake: &Handshake, granted: Option<Granted>) {
    let is_read_only = granted.is_some_and(|granted| granted.read_only);
    let read_only = handshake.tells_read_only.then_some(is_read_only);
    let response = match granted {
        Some(granted) => ConnectResponse {
            protocol_version: 0,
            timeout_ms: i32::try_from(handshake.timeout_ms).unwrap_or(i32::MAX),
            session: granted.session.0,
            password: Some(Bytes::copy_from_slice(&handshake.password)),
            read_only,
        },
        None => ConnectResponse {
            protocol_version: 0,
            timeout_ms: 0,
            session: 0,
            password: Some(Bytes::from_static(&[0; 16])),
            read_only,
        },
    };
    frame::put(out, |to| response.write(to));
}

impl Connection {
    /// The session is open, or it is not there.
    fn on_session_granted(self: Arc<Self>, state: &State, handshake: &Handshake, outcome: &Outcome) {
        let number = match outcome {
            Ok(Reply::SessionOpened { .. }) => Some(0),
            Ok(Reply::SessionResumed { connection, .. }) => Some(*connection),
            _ => None,
        };
        let timeout = Duration::from_millis(u64::from(handshake.timeout_ms));
        let session = handshake.session;
        let granted = number.map(|number| Granted { session, number, timeout, read_only: false });
        let mut inner = self.lock();
        self.put_greeting(&mut inner, state.zxid(), handshake, granted);
        let Some(granted) = granted else {
            drop(inner);
            return self.close();
        };
        // It is the only handshake of this connection.
        let _ = self.granted.set(granted);
        self.drain(&mut inner, state);
        drop(inner);
        self.wake.notify_one();
        self.registry.bind(session, Arc::clone(&self));
    }
}

impl CompletionHandler for Connection {
    fn on_applied(self: Arc<Self>, state: &State, outcome: Outcome) {
        let mut inner = self.lock();
        if let Some(PendingRequest { pending: Pending::Handshake(_), .. }) = inner.pending.front() {
            let front = inner.pending.pop_front();
            drop(inner);
            if let Some(PendingRequest { pending: Pending::Handshake(handshake), .. }) = front {
                self.on_session_granted(state, &handshake, &outcome);
            }
            return;
        }
        // What was asked before it may still wait, a sync for instance.
        let next = inner.pending.iter_mut().find_map(|asked| match &mut asked.pending {
            Pending::Write { shape, done, .. } if done.is_none() => Some((shape, done)),
            _ => None,
        });
        let Some((shape, done)) = next else {
            // Only writes are submitted.
            drop(inner);
            return self.close();
        };
        let refused = outcome.as_ref().err().map(Refusal::cause);
        let is_last = *shape == ReplyFormat::CloseSession
            || matches!(refused, Some(Refusal::SessionMoved { .. } | Refusal::SessionExpired { .. }));
        *done = Some(Ready { zxid: state.zxid(), answer: writes::answer(shape, outcome), is_last });
        self.drain(&mut inner, state);
        drop(inner);
        self.wake.notify_one();
    }

    fn on_lost(self: Arc<Self>) {
        // Nothing can be answered any more: the client finds out by itself what took
        // effect.
        let mut inner = self.lock();
        inner.pending.clear();
        (inner.pending_bytes, inner.unready, inner.reads_behind) = (0, 0, 0);
        drop(inner);
        self.close();
    }
}
