//! Connections between servers: framing, the handshake, and calls with answers.
//! What is said over them is [`rota_protocol::peer`]'s.

mod accept;
mod batch_forwarder;
mod codec;
mod log_limit;
mod rpc_client;
mod rtt;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rota_protocol::peer::{
    self, Acknowledged, HANDSHAKE_BYTES_MAX, Hello, LogId, PROTOCOL_VERSION, RefusalReason, Refused,
    ServerEndpoint, ServerInfo, StreamKind, Welcome,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::Framed;

use crate::env::{BoxByteStream, Connector};
use crate::service_state::ServiceStates;
use crate::store::Identity;

pub(crate) use accept::{Admission, PeerView};
pub(crate) use batch_forwarder::BatchForwarder;
pub(crate) use codec::FrameCodec;
pub(crate) use log_limit::LogLimit;
pub(crate) use rpc_client::{CHANGE_TIMEOUT, CallFailure, RpcClient};
pub(crate) use rtt::{RoundTrips, measure};

/// How long a connection and its handshake may take. Three round trips: servers may be
/// half a world apart.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// A framed connection to another server.
pub(crate) type Frames = Framed<BoxByteStream, FrameCodec>;

/// Reaches other servers. Clones share everything.
#[derive(Clone)]
pub(crate) struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Arc<dyn Connector>,
    identity: Arc<Identity>,
    states: ServiceStates,
    /// Digest of `--peers`, by which servers that are to bootstrap a cluster compare them.
    initial_members: u64,
    endpoints: RwLock<BTreeMap<u64, ServerEndpoint>>,
    /// The data directory that each server showed when it was last reached.
    disks: Mutex<BTreeMap<u64, peer::DiskId>>,
    /// What each server has acknowledged to this one, in the term in which it leads.
    acknowledged: Mutex<BTreeMap<u64, Acknowledged>>,
    /// Why a server refuses this one, or takes no part.
    refusals: Mutex<BTreeMap<u64, Refused>>,
    /// What was logged of servers that cannot be reached, and of those that were refused.
    dial_log: LogLimit,
    accept_log: LogLimit,
    round_trips: RoundTrips,
}

impl Peers {
    pub(crate) fn new(
        dialer: Arc<dyn Connector>,
        identity: Arc<Identity>,
        states: ServiceStates,
        initial_members: u64,
    ) -> Self {
        let inner = Inner {
            dialer,
            identity,
            states,
            initial_members,
            endpoints: RwLock::default(),
            disks: Mutex::default(),
            acknowledged: Mutex::default(),
            refusals: Mutex::default(),
            dial_log: LogLimit::default(),
            accept_log: LogLimit::default(),
            round_trips: RoundTrips::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes note of how the servers are reached. What is remembered of others is forgotten.
    pub(crate) fn set_endpoints(&self, endpoints: BTreeMap<u64, ServerEndpoint>) {
        let is_there = |server: &u64| endpoints.contains_key(server);
        lock(&self.inner.disks).retain(|server, _| is_there(server));
        lock(&self.inner.acknowledged).retain(|server, _| is_there(server));
        lock(&self.inner.refusals).retain(|server, _| is_there(server));
        self.inner.round_trips.retain(is_there);
        *self.inner.endpoints.write().expect("no code panics while it holds this") = endpoints;
    }

    /// This server is a member of its cluster.
    pub(crate) fn joined(&self) {
        self.inner.states.joined();
    }

    /// How the servers are reached, this one included.
    pub(crate) fn endpoints(&self) -> BTreeMap<u64, ServerEndpoint> {
        self.inner.endpoints.read().expect("no code panics while it holds this").clone()
    }

    /// Measured round trips.
    pub(crate) fn round_trips(&self) -> &RoundTrips {
        &self.inner.round_trips
    }

    /// A server acknowledged an entry to this one, which leads in `term`.
    pub(crate) fn acknowledged(&self, server: u64, term: u64, last: LogId) {
        let mut all = lock(&self.inner.acknowledged);
        let known = all.entry(server).or_insert(Acknowledged { term, last });
        if (known.term, known.last.index) < (term, last.index) {
            *known = Acknowledged { term, last };
        }
    }

    fn acknowledged_by(&self, server: u64) -> Option<Acknowledged> {
        lock(&self.inner.acknowledged).get(&server).copied()
    }

    /// Why a server refuses this one, or takes no part, as far as it said so.
    pub(crate) fn refusal(&self, server: u64) -> Option<Refused> {
        lock(&self.inner.refusals).get(&server).cloned()
    }

    /// The data directory that a server showed when it was last reached.
    pub(crate) fn disk_of(&self, server: u64) -> Option<peer::DiskId> {
        lock(&self.inner.disks).get(&server).copied()
    }

    /// Connects to `server`, wherever it is.
    pub(crate) async fn connect(&self, server: u64, kind: StreamKind) -> io::Result<Frames> {
        let endpoint = self.endpoints().remove(&server).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("the address of server {server} is not known"))
        })?;
        self.connect_to(server, &endpoint, kind).await
    }

    /// Connects to `server` at `endpoint`, and makes sure that it is that one.
    pub(crate) async fn connect_to(
        &self,
        server: u64,
        endpoint: &ServerEndpoint,
        kind: StreamKind,
    ) -> io::Result<Frames> {
        if let Some(why) = self.inner.states.is_out_of_service().then(|| self.inner.states.unavailable()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why.unwrap_or_default()));
        }
        let outcome = self.dial(server, &endpoint.peer_address, endpoint.disk, kind).await;
        let outcome = outcome.and_then(|(frames, welcome)| match welcome {
            Welcome::Accepted(info) => {
                lock(&self.inner.disks).insert(server, info.disk);
                lock(&self.inner.refusals).remove(&server);
                Ok(frames)
            }
            Welcome::Refused(refused) => Err(self.refused_by(server, refused)),
        });
        self.log_outcome(server, &endpoint.peer_address, outcome.as_ref().err());
        let labels =
            [("peer", server.to_string()), ("outcome", if outcome.is_ok() { "ok" } else { "failed" }.into())];
        metrics::counter!(crate::metrics::PEER_CONNECTS, &labels).increment(1);
        outcome
    }

    /// Asks who is at `address`.
    pub(crate) async fn probe(&self, address: &str) -> io::Result<ServerInfo> {
        match self.dial(0, address, None, StreamKind::Probe).await?.1 {
            Welcome::Accepted(info) => Ok(*info),
            Welcome::Refused(refused) => {
                let why = format!("it refuses to talk to this server: {}", refused.message);
                Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
            }
        }
    }

    async fn dial(
        &self,
        server: u64,
        address: &str,
        disk: Option<peer::DiskId>,
        kind: StreamKind,
    ) -> io::Result<(Frames, Welcome)> {
        let identity = &self.inner.identity;
        let attempt = async {
            let mut frames = framed(self.inner.dialer.dial(address).await?);
            let hello = Hello {
                version: PROTOCOL_VERSION,
                cluster: identity.cluster.clone(),
                cluster_id: identity.cluster_id(),
                from: identity.server,
                from_disk: identity.disk,
                to: server,
                to_disk: disk,
                kind,
                acknowledged: self.acknowledged_by(server),
            };
            send(&mut frames, &hello).await?;
            let welcome = receive(&mut frames).await?.ok_or(io::ErrorKind::ConnectionReset)?;
            frames.codec_mut().set_bytes_max(kind.reply_bytes_max());
            Ok((frames, welcome))
        };
        let outcome = tokio::time::timeout(CONNECT_TIMEOUT, attempt).await;
        outcome.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    /// A member of the cluster refuses this server: it may be this one that has lost its place.
    fn refused_by(&self, server: u64, refused: Refused) -> io::Error {
        match refused.reason {
            RefusalReason::Removed | RefusalReason::DiallingDiskReplaced => {
                self.inner.states.take_out_of_service(&refused);
            }
            _ => {}
        }
        let why = format!("it refuses to talk to this server: {}", refused.message);
        lock(&self.inner.refusals).insert(server, refused);
        io::Error::new(io::ErrorKind::PermissionDenied, why)
    }

    /// Logs that a server cannot be reached, once for each reason and then now and then,
    /// and that it is reached again.
    fn log_outcome(&self, server: u64, address: &str, error: Option<&io::Error>) {
        let Some(error) = error else {
            if self.inner.dial_log.forget(server) {
                tracing::info!(peer = server, address, "connected to server again");
            }
            return;
        };
        if self.inner.states.is_out_of_service() {
            return;
        }
        let why = error.to_string();
        let Some(attempts) = self.inner.dial_log.due(server, &why) else { return };
        if error.kind() == io::ErrorKind::PermissionDenied {
            tracing::error!(peer = server, address, attempts, why, "another server refuses this one");
        } else {
            tracing::warn!(peer = server, address, attempts, why, "cannot reach another server: retrying");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this")
}

/// Frames of a connection whose handshake is not done.
fn framed(wire: BoxByteStream) -> Frames {
    Framed::new(wire, FrameCodec::new(HANDSHAKE_BYTES_MAX))
}

/// Sends one message.
pub(crate) async fn send<T: Serialize>(frames: &mut Frames, message: &T) -> io::Result<()> {
    frames.send(peer::encode(message)).await
}

/// Receives one message; `None` at the end of the connection.
pub(crate) async fn receive<T: DeserializeOwned>(frames: &mut Frames) -> io::Result<Option<T>> {
    match frames.next().await {
        Some(frame) => decode(&frame?).map(Some),
        None => Ok(None),
    }
}

/// Decodes one frame.
pub(crate) fn decode<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    peer::decode(frame).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Sends what was fed.
pub(crate) async fn flush(frames: &mut Frames) -> io::Result<()> {
    SinkExt::<bytes::Bytes>::flush(frames).await
}
