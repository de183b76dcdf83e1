//! Takes in connections, reads their requests, writes their answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rota_core::state::Identity;
use rota_core::watches::Watcher;
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{Auth, Body, ConnectRequest, ErrorCode, OpCode, Request, RequestHeader, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::pending::Pending;
use super::stats;
use super::writes::{self, ReplyFormat, WriteRequest};
use super::{Zk, four_letter_words, handshake, reconfig, tls};
use crate::connections::{Protocol, ip_of};
use crate::env::{BoxByteStream, Listener};
use crate::tasks::Tasks;
use crate::write_queue::Completion;

/// How long a client may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long that may be, in bytes: many times what any client sends.
const HANDSHAKE_BYTES_MAX: usize = 1024;
/// How long a client may take to take what it is told last.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are read at once: at first, and from a client that sends much.
const READ_BYTES_MIN: usize = 512;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are read although nothing can be taken.
const READ_AHEAD_BYTES: usize = 16 * 1024;

/// Takes in connections until it is told to stop; returns when the last one has
/// ended.
pub(crate) async fn accept(
    zk: Arc<Zk>,
    mut listener: Box<dyn Listener>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    let tasks = Tasks::new(stop.child_token());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((wire, address)) => {
                let counters = zk.registry.counters();
                // The bound for each address is the registry's.
                let place = zk.service.connections.take(Protocol::ZooKeeper, ip_of(&address), 0);
                let total_max = zk.service.config.zookeeper.connections_total_max;
                let is_full = total_max > 0 && zk.registry.len() >= total_max;
                let Some(place) = place.ok().filter(|_| !is_full) else {
                    stats::count(&counters.rejected, 1);
                    metrics::counter!(crate::metrics::CONNECTIONS_REFUSED, "protocol" => Protocol::ZooKeeper.name())
                        .increment(1);
                    tracing::debug!(address, "too many connections: refused one");
                    continue;
                };
                let address = address.parse().unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
                // A socket of version 6 wraps addresses of version 4.
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let serving = admit(Arc::clone(&zk), wire, address, tls.clone());
                tasks.spawn("zookeeper client", async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, say: going on at once would spin.
                tracing::warn!(%error, "could not take in a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.ended().await;
}

async fn admit(zk: Arc<Zk>, wire: BoxByteStream, address: SocketAddr, tls: Option<TlsAcceptor>) {
    let identities = vec![Identity::new("ip", &address.ip().to_string())];
    let settings = &zk.service.config.zookeeper;
    let (watcher, registry) = (Watcher(zk.next_ticket()), Arc::clone(&zk.registry));
    let connection =
        Arc::new(Connection::new(watcher, address, registry, identities, settings.answer_bytes_max));
    if !zk.registry.enter(&connection, settings.connections_per_address_max) {
        stats::count(&zk.registry.counters().rejected, 1);
        tracing::warn!(%address, max = settings.connections_per_address_max, "too many connections from one address");
        return;
    }
    let _left = LeaveOnDrop { zk: &zk, connection: &connection };
    let Some(tls) = tls else { return serve(&zk, &connection, wire).await };
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(wire)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%address, %error, "no TLS with a client of ZooKeeper"),
        Err(_) => return,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    if let Some(own) = certificate.and_then(tls::identity)
        && !connection.add_identities(zk.service.authority.of_certificate(own))
    {
        return tracing::warn!(%address, "the name in a client's certificate is too long");
    }
    // Boxed: most connections are without, and need not be as large.
    Box::pin(serve(&zk, &connection, Box::new(stream))).await;
}

async fn serve(zk: &Arc<Zk>, connection: &Arc<Connection>, wire: BoxByteStream) {
    let (reader, writer) = tokio::io::split(wire);
    let mut talk = ConnectionTask {
        zk,
        connection,
        reader,
        writer,
        buffer: BytesMut::new(),
        read_bytes: READ_BYTES_MIN,
        held: None,
    };
    if let Err(error) = talk.run().await {
        tracing::debug!(address = %connection.address(), %error, "a client's connection ended");
        if error.kind() == io::ErrorKind::InvalidData {
            talk.close_in_order().await;
        }
    }
}

/// Lets go of a connection, however it ends.
struct LeaveOnDrop<'a> {
    zk: &'a Zk,
    connection: &'a Arc<Connection>,
}

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        self.connection.close();
        self.zk.registry.leave(self.connection);
    }
}

/// One connection and its socket.
struct ConnectionTask<'a> {
    zk: &'a Arc<Zk>,
    connection: &'a Arc<Connection>,
    reader: ReadHalf<BoxByteStream>,
    writer: WriteHalf<BoxByteStream>,
    buffer: BytesMut,
    read_bytes: usize,
    /// A write that must wait.
    held: Option<Bytes>,
}

impl ConnectionTask<'_> {
    async fn run(&mut self) -> io::Result<()> {
        let Some(first) = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.first_packet()).await?? else {
            return Ok(());
        };
        if let Some(word) = four_letter_words::word(&first) {
            let answer = four_letter_words::answer(self.zk, &word).await;
            let said = async {
                self.writer.write_all(answer.as_bytes()).await?;
                self.writer.shutdown().await
            };
            return tokio::time::timeout(HANDSHAKE_TIMEOUT, said).await?;
        }
        let hello = ConnectRequest::read(&mut first.clone()).map_err(bad)?;
        self.connection.count_handshake(first.len());
        handshake::begin(self.zk, self.connection, hello).await.map_err(io::Error::other)?;
        loop {
            self.read_requests()?;
            if self.flush().await? {
                continue;
            }
            if self.connection.is_closing() {
                return tokio::time::timeout(LINGER_TIMEOUT, self.writer.shutdown()).await?;
            }
            let (write_queue, connection) = (&self.zk.service.write_queue, self.connection);
            let is_held = self.held.is_some();
            // Some is read in any case: whoever says something lives.
            let can_take = connection.session().is_some() && connection.has_room() && !is_held;
            let reads = can_take || self.buffer.len() < READ_AHEAD_BYTES;
            self.buffer.reserve(self.read_bytes);
            tokio::select! {
                read = self.reader.read_buf(&mut self.buffer), if reads => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    record_heartbeat(self.zk, connection);
                    if read >= self.read_bytes {
                        self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
                    }
                }
                () = connection.woken() => {}
                () = write_queue.capacity(), if is_held && !connection.holds_writes() => {}
            }
        }
    }

    async fn first_packet(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if four_letter_words::word(&self.buffer).is_some() {
                return Ok(Some(self.buffer.split().freeze()));
            }
            if let Some(packet) = frame::take(&mut self.buffer, HANDSHAKE_BYTES_MAX).map_err(bad)? {
                return Ok(Some(packet));
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn packet(&mut self) -> io::Result<Option<Bytes>> {
        let len_max = self.zk.service.config.zookeeper.packet_bytes_max;
        frame::take(&mut self.buffer, len_max).map_err(|error| {
            stats::count(&self.zk.registry.counters().too_large, 1);
            tracing::warn!(address = %self.connection.address(), %error, "closing a client's connection");
            bad(error)
        })
    }

    /// Hands over what has come, as far as there is room.
    fn read_requests(&mut self) -> io::Result<()> {
        let connection = self.connection;
        // Nothing can be asked before there is a session.
        while connection.session().is_some() && !connection.is_closing() && connection.has_room() {
            let Some(packet) = self.held.take().map_or_else(|| self.packet(), |packet| Ok(Some(packet)))?
            else {
                break;
            };
            if is_write(&packet) && (connection.holds_writes() || self.zk.service.write_queue.is_full()) {
                self.held = Some(packet);
                break;
            }
            if handle_request(self.zk, connection, packet)? == OpCode::Ping.number() && self.buffer.is_empty()
            {
                self.shrink();
            }
        }
        Ok(())
    }

    /// Writes what waits to leave. False if there was nothing.
    async fn flush(&mut self) -> io::Result<bool> {
        let mut out = self.connection.take_out();
        if out.is_empty() {
            return Ok(false);
        }
        let is_closing = self.connection.is_closing();
        // A client that takes nothing does not keep a connection open that is over.
        let over = async {
            if !is_closing {
                self.connection.ended().await;
            }
            tokio::time::sleep(LINGER_TIMEOUT).await;
        };
        let write = async {
            self.writer.write_all(&out).await?;
            // With TLS, what was written may still wait to be sent.
            self.writer.flush().await
        };
        tokio::pin!(write, over);
        let mut ended = false;
        loop {
            let reads = !ended && self.buffer.len() < READ_AHEAD_BYTES;
            self.buffer.reserve(READ_BYTES_MIN);
            tokio::select! {
                written = &mut write => break written?,
                () = &mut over => return Err(io::ErrorKind::ConnectionAborted.into()),
                // A client that takes its answers slowly lives as long as it says so.
                read = self.reader.read_buf(&mut self.buffer), if reads => match read? {
                    0 => ended = true,
                    _ => record_heartbeat(self.zk, self.connection),
                },
            }
        }
        out.clear();
        self.connection.return_buffer(out);
        Ok(true)
    }

    /// Closes a connection whose client may still be sending. To close it at once would reset it, and
    /// the client would lose the answers that it has not read.
    async fn close_in_order(&mut self) {
        self.buffer.clear();
        let rest = async {
            while self.flush().await? {}
            self.writer.shutdown().await?;
            loop {
                self.buffer.clear();
                if self.reader.read_buf(&mut self.buffer).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // The connection is dropped in any case.
        let _ = tokio::time::timeout(LINGER_TIMEOUT, rest).await;
    }

    /// A client that pings is idle, and costs little then.
    fn shrink(&mut self) {
        if self.buffer.capacity() > READ_BYTES_MIN {
            self.buffer = BytesMut::new();
            self.read_bytes = READ_BYTES_MIN;
        }
        self.connection.shrink();
    }
}

/// Whoever says something lives.
fn record_heartbeat(zk: &Zk, connection: &Arc<Connection>) {
    if let Some(session) = connection.session()
        && !connection.is_read_only()
    {
        zk.ping_batcher.note(session, connection, false);
    }
}

fn bad(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whether a packet asks for something that changes the state.
fn is_write(packet: &Bytes) -> bool {
    let header = RequestHeader::read(&mut packet.clone());
    let op = header.ok().and_then(|header| OpCode::from_number(header.op));
    matches!(
        op,
        Some(
            OpCode::Create
                | OpCode::Create2
                | OpCode::CreateContainer
                | OpCode::CreateTtl
                | OpCode::Delete
                | OpCode::DeleteContainer
                | OpCode::SetData
                | OpCode::SetAcl
                | OpCode::Multi
                | OpCode::Reconfig
                | OpCode::CloseSession
        )
    )
}

/// The encoding of a text that is none: the length -1.
const NO_TEXT: [u8; 4] = [0xff; 4];

/// Takes one request, and says which operation it is.
fn handle_request(zk: &Arc<Zk>, connection: &Arc<Connection>, mut packet: Bytes) -> io::Result<i32> {
    let bytes = packet.len();
    let RequestHeader { xid, op } = RequestHeader::read(&mut packet).map_err(bad)?;
    connection.count_received(OpCode::from_number(op), bytes);
    let is_ping = op == OpCode::Ping.number();
    match connection.session() {
        Some(_) if connection.is_read_only() && is_ping => {
            connection.answer_pings(1, zk.service.replica.read().state.zxid());
        }
        Some(session) if is_ping => zk.ping_batcher.note(session, connection, true),
        _ => {}
    }
    let request = match OpCode::from_number(op) {
        Some(OpCode::Ping) => return Ok(op),
        // A check is for a multi only, since 3.9.3.
        Some(OpCode::Sasl | OpCode::Check) | None => Err(ErrorCode::Unimplemented),
        // ZooKeeper checks the paths of these two before it uses them.
        Some(OpCode::SetData | OpCode::SetAcl) if packet.starts_with(&NO_TEXT) => {
            Err(ErrorCode::BadArguments)
        }
        Some(op) => Request::read(op, &mut packet).map_err(|_| ErrorCode::MarshallingError),
    };
    match request {
        Err(code) => answer(zk, connection, xid, Err(code)),
        Ok(Request::Auth(auth)) => authenticate(zk, connection, xid, &auth),
        // One that only reads has nobody to whom this could be passed.
        Ok(Request::Sync(_) | Request::Reconfig(_)) if connection.is_read_only() => {
            answer(zk, connection, xid, Err(ErrorCode::NotReadOnly));
        }
        Ok(Request::Reconfig(request)) => {
            let ticket = zk.next_ticket();
            let waiting = Pending::Deferred { xid, ticket, answer: None };
            let asked = (Arc::clone(zk), Arc::clone(connection));
            connection.expect(bytes, waiting, || {
                let in_progress = ReconfigInProgress::begin(&zk.reconfigs);
                zk.tasks.spawn("reconfig", async move {
                    let _in_progress = in_progress;
                    let (zk, connection) = asked;
                    let answer = reconfig::reconfig(&zk.service, request, &connection.identities()).await;
                    connection.complete(&zk.service.replica.read().state, ticket, answer);
                });
            });
        }
        Ok(Request::Sync(path)) => {
            let waiting = Pending::Sync { xid, path, ready: false };
            connection.expect(bytes, waiting, || zk.syncs.add(connection));
        }
        Ok(request) => {
            match writes::decode_write(|| connection.actor(), request, zk.service.config.zookeeper.ttl_nodes)
            {
                WriteRequest::Refused(refused) => answer(zk, connection, xid, refused),
                WriteRequest::Write(_, ReplyFormat::CloseSession) if connection.is_read_only() => {
                    answer(zk, connection, xid, Ok(Body::Nothing));
                    connection.close();
                }
                WriteRequest::Write(..) if connection.is_read_only() => {
                    answer(zk, connection, xid, Err(ErrorCode::NotReadOnly));
                }
                WriteRequest::Write(command, shape) => {
                    connection.expect(bytes, Pending::Write { xid, shape, done: None }, || {
                        zk.service.submit(&command, Completion::Each(Arc::clone(connection) as _));
                    });
                }
                WriteRequest::Other(request) => {
                    connection.read(&zk.service.replica.read().state, bytes, xid, request);
                }
            }
        }
    }
    Ok(op)
}

/// Counts a `reconfig` while it runs.
struct ReconfigInProgress(Arc<AtomicUsize>);

impl ReconfigInProgress {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for ReconfigInProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(zk: &Zk, connection: &Connection, xid: i32, answer: Result<Body, ErrorCode>) {
    connection.answer(&zk.service.replica.read().state, xid, answer);
}

/// A client shows who it is. One that cannot prove it is cut off.
fn authenticate(zk: &Zk, connection: &Arc<Connection>, xid: i32, auth: &Auth) {
    let proved = match auth.scheme.as_str() {
        "digest" => auth.auth.as_deref().map(|shown| zk.service.authority.of_password(shown)),
        // Whoever comes from there has it already.
        "ip" => Some(Vec::new()),
        "x509" => connection.identities().iter().any(|identity| identity.scheme == "x509").then(Vec::new),
        _ => None,
    };
    match proved.map(|identities| connection.add_identities(identities)) {
        Some(true) => answer(zk, connection, xid, Ok(Body::Nothing)),
        Some(false) | None => {
            stats::count(&zk.registry.counters().auth_failed, 1);
            let zxid = zk.service.replica.read().state.zxid();
            connection.answer_now(xid, zxid, &Err(ErrorCode::AuthFailed));
            connection.close();
        }
    }
}
