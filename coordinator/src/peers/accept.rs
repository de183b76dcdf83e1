//! Connections that other servers dial: how many there may be, and the handshake.
//! Anybody can reach the port, so a connection has little time and room before its
//! hello is accepted, and one server few connections of a kind after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use rota_protocol::peer::{
    self, ClusterId, DiskId, HandshakeContext, Hello, PROTOCOL_VERSION, PeerStatus, RefusalReason, Refused,
    ServerInfo, StreamKind, Welcome, check_hello,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Frames, Peers, decode, framed, send};
use crate::env::BoxByteStream;

/// How long a connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections whose hello is not accepted yet. One more is closed at once.
const HANDSHAKES_MAX: usize = 64;
/// Connections of one kind from one server. It has one or two; another may come while the
/// end of the first is not noticed yet. Beyond that, the oldest gives way: a server that was
/// stopped finds many that were given up.
const CONNECTIONS_OF_A_KIND_MAX: usize = 4;
/// Most non-member servers with connections: their numbers are unverified, so one host could claim
/// any.
const UNKNOWN_SERVERS_MAX: usize = 16;

/// What this server knows when another dials it.
#[derive(Debug, Clone)]
pub(crate) struct PeerView {
    /// What it knows of the other.
    pub(crate) status: PeerStatus,
    /// The index of its last log entry, and its term.
    pub(crate) log_end: (Option<u64>, u64),
    /// The leader that it follows, or itself.
    pub(crate) leader: Option<u64>,
    /// The cluster whose membership it has, if any.
    pub(crate) cluster_id: Option<ClusterId>,
}

/// Bounds the connections that are served.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    handshakes: Arc<Semaphore>,
    accepted: Arc<Mutex<Accepted>>,
}

#[derive(Debug, Default)]
struct Accepted {
    /// The connections of a server and kind, the oldest first: their numbers, and what ends them.
    connections: BTreeMap<(u64, StreamKind), VecDeque<(u64, CancellationToken)>>,
    next_number: u64,
    /// Of the servers with connections, those that were unknown when they connected last.
    unknown: BTreeSet<u64>,
}

/// A place for one connection, which is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Admission,
    key: (u64, StreamKind),
    number: u64,
    gives_way: CancellationToken,
}

impl Place {
    /// Returns when the connection is to give way to a newer one.
    pub(crate) async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self { handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)), accepted: Arc::default() }
    }

    /// A place for a handshake, if there is one.
    pub(crate) fn handshake(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.handshakes).try_acquire_owned().ok()
    }

    /// A place for a connection of `server`. Members always get one.
    fn place(&self, server: u64, status: PeerStatus, kind: StreamKind) -> Option<Place> {
        let key = (server, kind);
        let mut accepted = self.lock();
        if status == PeerStatus::Unknown {
            if !accepted.unknown.contains(&server) && accepted.unknown.len() >= UNKNOWN_SERVERS_MAX {
                return None;
            }
            accepted.unknown.insert(server);
        } else {
            accepted.unknown.remove(&server);
        }
        let number = accepted.next_number;
        accepted.next_number += 1;
        let gives_way = CancellationToken::new();
        let of_kind = accepted.connections.entry(key).or_default();
        if of_kind.len() >= CONNECTIONS_OF_A_KIND_MAX
            && let Some((_, oldest)) = of_kind.pop_front()
        {
            oldest.cancel();
        }
        of_kind.push_back((number, gives_way.clone()));
        Some(Place { admission: self.clone(), key, number, gives_way })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Accepted> {
        self.accepted.lock().expect("no code panics while it holds this")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut accepted = self.admission.lock();
        if let Some(of_kind) = accepted.connections.get_mut(&self.key) {
            of_kind.retain(|(number, _)| *number != self.number);
            if of_kind.is_empty() {
                accepted.connections.remove(&self.key);
            }
            let server = self.key.0;
            if !accepted.connections.keys().any(|(of, _)| *of == server) {
                accepted.unknown.remove(&server);
            }
        }
    }
}

impl Peers {
    /// Answers the hello of a connection that was accepted. `None` if nothing follows: the
    /// other side was refused and told why, or only wanted to know who is here.
    pub(crate) async fn accept_handshake(
        &self,
        wire: BoxByteStream,
        from: &str,
        admission: &Admission,
        view: impl FnOnce(u64, DiskId) -> PeerView,
    ) -> io::Result<Option<(Hello, Frames, Place)>> {
        let attempt = async {
            let mut frames = framed(wire);
            let Some(frame) = frames.next().await else { return Ok(None) };
            let frame = frame?;
            if let Some(refused) = other_version(&frame, self.inner.identity.server) {
                self.log_refusal(0, from, &refused);
                send(&mut frames, &Welcome::Refused(refused)).await?;
                return Ok(None);
            }
            let hello: Hello = decode(&frame)?;
            let view = view(hello.from, hello.from_disk);
            let refused = match self.judge(&hello, &view) {
                Err(refused) => refused,
                Ok(()) if hello.kind == StreamKind::Probe => {
                    send(&mut frames, &Welcome::Accepted(Box::new(self.info(&view, hello.from)))).await?;
                    return Ok(None);
                }
                Ok(()) => match admission.place(hello.from, view.status, hello.kind) {
                    Some(place) => {
                        self.join(&hello)?;
                        send(&mut frames, &Welcome::Accepted(Box::new(self.info(&view, hello.from)))).await?;
                        frames.codec_mut().set_bytes_max(hello.kind.request_bytes_max());
                        return Ok(Some((hello, frames, place)));
                    }
                    None => too_many_unknown_servers(hello.from),
                },
            };
            self.log_refusal(hello.from, from, &refused);
            send(&mut frames, &Welcome::Refused(refused)).await?;
            Ok(None)
        };
        tokio::time::timeout(HELLO_TIMEOUT, attempt).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }

    fn log_refusal(&self, server: u64, address: &str, refused: &Refused) {
        let why = &refused.message;
        let Some(attempts) = self.inner.accept_log.due(server, why) else { return };
        match refused.reason {
            // An operator has removed it, and it is only about to find out.
            RefusalReason::Removed => tracing::warn!(address, attempts, why, "refused a removed server"),
            _ => tracing::error!(address, attempts, why, "refused another server"),
        }
    }

    /// Logs and counts a frame of another server that is not valid.
    pub(crate) fn log_invalid(&self, server: u64, address: &str, what: &str, error: &io::Error) {
        metrics::counter!(crate::metrics::PEER_INVALID).increment(1);
        if let Some(attempts) = self.inner.accept_log.due(server, &format!("{what}: {error}")) {
            tracing::warn!(peer = server, address, attempts, kind = what, %error, "invalid data from a peer");
        }
    }

    /// Logs and counts a connection rejected at [`HANDSHAKES_MAX`].
    pub(crate) fn log_handshake_limit(&self, address: &str) {
        metrics::counter!(crate::metrics::CONNECTIONS_REFUSED, "protocol" => "peer").increment(1);
        if let Some(attempts) = self.inner.accept_log.due(0, "too many handshakes") {
            tracing::warn!(
                address,
                attempts,
                limit = HANDSHAKES_MAX,
                "connection rejected: too many pending handshakes"
            );
        }
    }

    fn judge(&self, hello: &Hello, view: &PeerView) -> Result<(), Refused> {
        let identity = &self.inner.identity;
        let context = HandshakeContext {
            cluster: &identity.cluster,
            cluster_id: identity.cluster_id(),
            server: identity.server,
            disk: identity.disk,
            from: view.status,
            log_end: view.log_end,
        };
        let judged = check_hello(hello, &context);
        if let Err(refused) = &judged
            && refused.reason == RefusalReason::DialledDiskReplaced
            && identity.cluster_id().is_none()
        {
            self.inner.states.claimed(&refused.message);
        }
        match self.inner.states.is_out_of_service() {
            true if judged.is_ok() && hello.kind != StreamKind::Probe => {
                let message = self.inner.states.unavailable().unwrap_or_default();
                Err(Refused { reason: RefusalReason::OutOfService, message })
            }
            _ => judged,
        }
    }

    /// A server without a cluster belongs to that of the first member that knows it.
    fn join(&self, hello: &Hello) -> io::Result<()> {
        let Some(cluster_id) = hello.cluster_id else { return Ok(()) };
        let was_pristine = self.inner.identity.cluster_id().is_none();
        if self.inner.identity.join_cluster(cluster_id)? {
            if was_pristine {
                tracing::info!(%cluster_id, peer = hello.from, "joined a cluster");
            }
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "this server joined another cluster meanwhile"))
    }

    fn info(&self, view: &PeerView, you: u64) -> ServerInfo {
        let identity = &self.inner.identity;
        ServerInfo {
            server: identity.server,
            disk: identity.disk,
            boot: identity.boot,
            cluster: identity.cluster.clone(),
            cluster_id: view.cluster_id,
            initial_members: self.inner.initial_members,
            leader: view.leader,
            term: view.log_end.1,
            you: view.status,
            you_acknowledged: self.acknowledged_by(you),
        }
    }
}

fn too_many_unknown_servers(server: u64) -> Refused {
    let message = format!(
        "server {server} is not a member, and the limit of {UNKNOWN_SERVERS_MAX} connected non-member servers is \
         reached: stop the other servers, or retry later"
    );
    Refused { reason: RefusalReason::TooManyUnknownServers, message }
}

/// Refuses a hello of another version of the peer protocol, whose other fields this version
/// cannot read.
fn other_version(hello: &[u8], server: u64) -> Option<Refused> {
    let version = peer::hello_version(hello).filter(|version| *version != PROTOCOL_VERSION)?;
    let message = format!(
        "peer protocol version mismatch: the dialling server uses version {version}, server {server} uses version \
         {PROTOCOL_VERSION}: run the same release on all servers"
    );
    Some(Refused { reason: RefusalReason::Version, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_has_few_connections_of_a_kind_and_few_servers_have_any() {
        let admission = Admission::new();
        let unknown = |server, kind| admission.place(server, PeerStatus::Unknown, kind);
        let places: Vec<_> =
            (0..CONNECTIONS_OF_A_KIND_MAX).map(|_| unknown(2, StreamKind::Call).unwrap()).collect();
        let other = unknown(2, StreamKind::Append).unwrap();
        assert!(places.iter().all(|place| !place.gives_way.is_cancelled()));
        let newest = unknown(2, StreamKind::Call).unwrap();
        let giving_way: Vec<bool> = places.iter().map(|place| place.gives_way.is_cancelled()).collect();
        assert_eq!(giving_way, [true, false, false, false], "the oldest");
        assert!(!newest.gives_way.is_cancelled() && !other.gives_way.is_cancelled());
        let others: Vec<_> = (3..200).map_while(|server| unknown(server, StreamKind::Call)).collect();
        assert_eq!(others.len(), UNKNOWN_SERVERS_MAX - 1);
        let member = PeerStatus::Member { disk: None };
        let members: Vec<_> =
            (200..300).map_while(|server| admission.place(server, member, StreamKind::Call)).collect();
        assert_eq!(members.len(), 100, "members are not counted");
        drop((places, other));
        assert!(unknown(400, StreamKind::Call).is_none());
        drop(newest);
        let next = unknown(400, StreamKind::Call);
        assert!(next.is_some(), "its place is free");
        drop((members, others, next));
        let accepted = admission.lock();
        assert!(accepted.connections.is_empty() && accepted.unknown.is_empty());
    }

    #[test]
    fn hello_of_another_version_is_refused() {
        let refused = other_version(&[99, 1, 2, 3], 7).unwrap();
        assert_eq!(refused.reason, RefusalReason::Version);
        assert!(refused.message.contains("version 99"), "{}", refused.message);
        assert_eq!(other_version(&[u8::try_from(PROTOCOL_VERSION).unwrap()], 7), None);
        assert_eq!(other_version(&[], 7), None, "no version at all is invalid, not another version");
    }
}
