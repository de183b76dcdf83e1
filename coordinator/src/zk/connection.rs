//! One client's connection: what it asked and was not answered yet, in order, and
//! the bytes that wait to leave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use rota_core::Zxid;
use rota_core::state::{Actor, Event, EventKind, Identity, Privilege, SessionId, State, perms};
use rota_core::watches::Watcher;
use rota_protocol::zk::{Body, ErrorCode, EventType, OpCode, Request, XID_PING};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pending::{Handshake, Pending, PendingRequest};
use super::reads::{self, Reader};
use super::registry::ConnectionRegistry;
use super::stats::{self, Counts};

mod inner;
mod outcome;

use inner::Inner;
use outcome::write_connect_response;

/// Requests that may wait for their answers; then no more are read.
const PENDING_MAX: usize = 1_000;
/// Bytes of requests that may wait.
const PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Reads among them.
const READS_BEHIND_MAX: usize = 32;
/// Bytes that may wait to leave; a client that takes so little is cut off.
const OUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Why a client with more than that is disconnected.
const SLOW_CONSUMER: &str = "slow consumer: output buffer limit exceeded";
/// Names that one client may go by, and their bytes.
const IDENTITIES_MAX: usize = 64;
const IDENTITY_BYTES_MAX: usize = 16 * 1024;
/// What is kept of an output that was written.
const OUT_BYTES_KEPT: usize = 16 * 1024;

/// A connection, as those see it who answer.
pub(crate) struct Connection {
    watcher: Watcher,
    address: SocketAddr,
    opened_at: Instant,
    registry: Arc<ConnectionRegistry>,
    /// Longest answer, in bytes.
    answer_bytes_max: usize,
    inner: Mutex<Inner>,
    granted: OnceLock<Granted>,
    closing: AtomicBool,
    wake: Notify,
}

/// What the handshake gave it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) session: SessionId,
    pub(super) number: u32,
    pub(super) timeout: Duration,
    /// Whether it is there for reading alone, while there is no leader.
    pub(super) read_only: bool,
}

impl Connection {
    pub(super) fn new(
        watcher: Watcher,
        address: SocketAddr,
        registry: Arc<ConnectionRegistry>,
        identities: Vec<Identity>,
        answer_bytes_max: usize,
    ) -> Self {
        let inner = Inner {
            identities,
            pending: VecDeque::new(),
            pending_bytes: 0,
            unready: 0,
            reads_behind: 0,
            out: BytesMut::new(),
            out_longest: 0,
            counts: Counts::default(),
            heard_at: Instant::now(),
        };
        Self {
            watcher,
            address,
            opened_at: Instant::now(),
            registry,
            answer_bytes_max,
            inner: Mutex::new(inner),
            granted: OnceLock::new(),
            closing: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }

    pub(super) fn watcher(&self) -> Watcher {
        self.watcher
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// When it was opened.
    pub(crate) fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// Its session, once it has one.
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.granted.get().map(|granted| granted.session)
    }

    /// Which of its session's connections it is.
    pub(super) fn number(&self) -> Option<u32> {
        self.granted.get().map(|granted| granted.number)
    }

    /// Its session's timeout; 0 before it has one.
    pub(crate) fn timeout(&self) -> Duration {
        self.granted.get().map_or(Duration::ZERO, |granted| granted.timeout)
    }

    /// What it has done so far, and how many requests wait.
    pub(crate) fn counts(&self) -> (Counts, usize) {
        let inner = self.lock();
        (inner.counts, inner.pending.len())
    }

    /// Begins to count anew.
    pub(crate) fn reset_counts(&self) {
        self.lock().counts = Counts::default();
    }

    /// Ends it, once what waits to leave has left.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Returns when there may be something to write, or it is to end.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Returns when it is to end.
    pub(super) async fn ended(&self) {
        while !self.is_closing() {
            self.wake.notified().await;
        }
    }

    /// Takes what waits to leave.
    pub(super) fn take_out(&self) -> BytesMut {
        let mut inner = self.lock();
        inner.out_longest = 0;
        std::mem::take(&mut inner.out)
    }

    /// Gives back a buffer that was written, for the next output.
    pub(super) fn return_buffer(&self, mut buffer: BytesMut) {
        let mut inner = self.lock();
        if inner.out.is_empty() && inner.out.capacity() == 0 && buffer.capacity() <= OUT_BYTES_KEPT {
            buffer.clear();
            inner.out = buffer;
        }
    }

    /// Lets go of what an idle connection does not need.
    pub(super) fn shrink(&self) {
        let mut inner = self.lock();
        if inner.out.is_empty() {
            inner.out = BytesMut::new();
        }
        if inner.pending.is_empty() {
            inner.pending = VecDeque::new();
        }
    }

    /// Whether it takes another request.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.lock();
        // Reads behind a write are answered all at once.
        let reads = inner.reads_behind < READS_BEHIND_MAX;
        let waiting = inner.pending.len() < PENDING_MAX && inner.pending_bytes < PENDING_BYTES_MAX;
        waiting && inner.out.len() < OUT_BYTES_MAX && reads
    }

    /// Counts a packet that came.
    pub(super) fn count_handshake(&self, bytes: usize) {
        stats::count(&self.registry.counters().session_requests, 1);
        self.count_packet("SESS", bytes);
    }

    pub(super) fn count_received(&self, op: Option<OpCode>, bytes: usize) {
        self.count_packet(op.map_or("NA", OpCode::abbreviation), bytes);
    }

    fn count_packet(&self, op: &'static str, bytes: usize) {
        stats::count(&self.registry.counters().bytes_received, bytes);
        let mut inner = self.lock();
        inner.counts.received += 1;
        inner.counts.last_op = Some(op);
        inner.heard_at = Instant::now();
        drop(inner);
        self.registry.totals().change(|totals| totals.received += 1);
    }

    /// Whether it is there for reading alone, and has said nothing for as long as its
    /// session may.
    pub(super) fn is_idle_without_leader(&self) -> bool {
        self.is_read_only() && self.lock().heard_at.elapsed() > self.timeout()
    }

    /// Whether a write must wait until something that was asked before it is done: what
    /// is asked between the two would see the write already.
    pub(super) fn holds_writes(&self) -> bool {
        self.lock().unready > 0
    }

    /// Who its client is.
    pub(crate) fn identities(&self) -> Vec<Identity> {
        self.lock().identities.clone()
    }

    /// Its client has proved to be these, too. False if it would be too many: they go
    /// with each of its writes.
    pub(super) fn add_identities(&self, identities: Vec<Identity>) -> bool {
        let mut inner = self.lock();
        for identity in identities {
            if !inner.identities.contains(&identity) {
                inner.identities.push(identity);
            }
        }
        let bytes: usize = inner.identities.iter().map(|identity| identity.id.len()).sum();
        inner.identities.len() <= IDENTITIES_MAX && bytes <= IDENTITY_BYTES_MAX
    }

    /// In whose name it writes.
    pub(super) fn actor(&self) -> Actor {
        Actor {
            session: self.session(),
            connection: self.number(),
            privilege: Privilege::Client(self.identities()),
        }
    }

    /// Puts what it asked at the end of the line, and does `submit` before anything
    /// else can be put there.
    pub(super) fn expect(&self, bytes: usize, pending: Pending, submit: impl FnOnce()) {
        let mut inner = self.lock();
        inner.unready += usize::from(matches!(pending, Pending::Sync { .. } | Pending::Deferred { .. }));
        inner.put_pending(bytes, pending);
        submit();
    }

    /// Puts an answer at the end of the line.
    pub(super) fn answer(&self, state: &State, xid: i32, answer: Result<Body, ErrorCode>) {
        self.push(state, 0, Pending::Answer { xid, answer });
    }

    /// Answers a read now, or when what was asked before it is answered.
    pub(super) fn read(&self, state: &State, bytes: usize, xid: i32, request: Request) {
        self.push(state, bytes, Pending::Read { xid, request });
    }

    fn push(&self, state: &State, bytes: usize, pending: Pending) {
        let mut inner = self.lock();
        let at_once = inner.pending.is_empty();
        inner.reads_behind += usize::from(matches!(pending, Pending::Read { .. }));
        inner.put_pending(bytes, pending);
        if at_once {
            self.drain(&mut inner, state);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Answers before whatever waits.
    pub(super) fn answer_now(&self, xid: i32, zxid: Zxid, answer: &Result<Body, ErrorCode>) {
        self.put(&mut self.lock(), xid, zxid, answer, None);
        self.wake.notify_one();
    }

    /// The leader knows of so many pings.
    pub(super) fn answer_pings(&self, pings: u32, zxid: Zxid) {
        if pings == 0 {
            return;
        }
        let mut inner = self.lock();
        for _ in 0..pings {
            self.put(&mut inner, XID_PING, zxid, &Ok(Body::Nothing), None);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// This server has caught up for the first sync that waits.
    pub(super) fn synced(&self, state: &State) {
        let mut inner = self.lock();
        let waiting = inner.pending.iter_mut().find_map(|asked| match &mut asked.pending {
            Pending::Sync { ready, .. } if !*ready => Some(ready),
            _ => None,
        });
        if let Some(ready) = waiting {
            *ready = true;
            inner.unready -= 1;
        }
        self.drain(&mut inner, state);
        drop(inner);
        self.wake.notify_one();
    }

    /// The answer that somebody worked on is there.
    pub(super) fn complete(&self, state: &State, ticket: u64, answer: Result<Body, ErrorCode>) {
        let mut inner = self.lock();
        let waiting = inner.pending.iter_mut().find_map(|asked| match &mut asked.pending {
            Pending::Deferred { ticket: own, answer, .. } if *own == ticket => Some(answer),
            _ => None,
        });
        if let Some(waiting) = waiting {
            *waiting = Some(answer);
            inner.unready -= 1;
        }
        self.drain(&mut inner, state);
        drop(inner);
        self.wake.notify_one();
    }

    /// Takes in its client for reading alone.
    pub(super) fn grant_reading(&self, zxid: Zxid, handshake: &Handshake) {
        let timeout = Duration::from_millis(u64::from(handshake.timeout_ms));
        let granted = Granted { session: handshake.session, number: 0, timeout, read_only: true };
        self.put_greeting(&mut self.lock(), zxid, handshake, Some(granted));
        // It is the only handshake of this connection.
        let _ = self.granted.set(granted);
        self.wake.notify_one();
    }

    /// Whether it is there for reading alone.
    pub(super) fn is_read_only(&self) -> bool {
        self.granted.get().is_some_and(|granted| granted.read_only)
    }

    /// Tells of an event, if the client may read the node.
    pub(super) fn deliver_event(&self, event: &Event) {
        let mut inner = self.lock();
        if self.is_closing() || !event.acl.allows(perms::READ, &inner.identities) {
            return;
        }
        let event_type = match event.kind {
            EventKind::Created => EventType::NodeCreated,
            EventKind::Deleted => EventType::NodeDeleted,
            EventKind::DataChanged => EventType::NodeDataChanged,
            EventKind::ChildrenChanged => EventType::NodeChildrenChanged,
        };
        self.put_event(&mut inner, event_type, event.path.as_str(), event.zxid);
        let is_stuck = inner.is_out_full();
        drop(inner);
        if is_stuck {
            self.disconnect(SLOW_CONSUMER);
        }
        self.wake.notify_one();
    }

    /// Closes the connection because its client exceeded a limit.
    fn disconnect(&self, reason: &str) {
        tracing::warn!(address = %self.address, reason, "client disconnected");
        self.close();
    }

    /// Puts an answer into the output. Returns how long it took, if `asked_at` is given.
    fn put(
        &self,
        inner: &mut Inner,
        xid: i32,
        zxid: Zxid,
        answer: &Result<Body, ErrorCode>,
        asked_at: Option<Instant>,
    ) -> Option<Duration> {
        let start = inner.out.len();
        inner.put_answer(xid, zxid, answer);
        if inner.out.len() - start > self.answer_bytes_max {
            inner.out.truncate(start);
            inner.put_answer(xid, zxid, &Err(ErrorCode::MarshallingError));
        }
        inner.out_longest = inner.out_longest.max(inner.out.len() - start);
        stats::count(&self.registry.counters().bytes_sent, inner.out.len() - start);
        let now = Instant::now();
        let took = asked_at.map(|asked_at| now - asked_at);
        inner.counts.answered(xid, zxid, now, took);
        self.registry.totals().change(|totals| totals.answered(xid, zxid, now, took));
        took
    }

    fn put_event(&self, inner: &mut Inner, event_type: EventType, path: &str, zxid: Zxid) {
        let start = inner.out.len();
        inner.put_event(event_type, path, zxid);
        stats::count(&self.registry.counters().bytes_sent, inner.out.len() - start);
        self.registry.totals().change(|totals| totals.sent += 1);
    }

    /// Puts the response to the handshake into the output.
    fn put_greeting(&self, inner: &mut Inner, zxid: Zxid, handshake: &Handshake, granted: Option<Granted>) {
        let start = inner.out.len();
        write_connect_response(&mut inner.out, handshake, granted);
        stats::count(&self.registry.counters().bytes_sent, inner.out.len() - start);
        inner.counts.sent += 1;
        inner.counts.last_zxid = zxid;
        self.registry.totals().change(|totals| totals.sent += 1);
    }

    /// Answers what can be answered, from the front.
    fn drain(&self, inner: &mut Inner, state: &State) {
        // One that ends hears no more, so that it knows what it has not heard.
        while !self.is_closing()
            && let Some(PendingRequest { at: asked_at, bytes, pending }) = inner.pending.pop_front()
        {
            inner.pending_bytes -= bytes;
            if inner.is_out_full() {
                // Reads behind a write, each of them large.
                return self.disconnect(SLOW_CONSUMER);
            }
            match pending {
                Pending::Answer { xid, answer } => {
                    self.put(inner, xid, state.zxid(), &answer, Some(asked_at));
                }
                Pending::Read { xid, request } => {
                    inner.reads_behind = inner.reads_behind.saturating_sub(1);
                    let mut told = Vec::new();
                    let reader = Reader {
                        state,
                        registry: &self.registry,
                        answer_bytes_max: self.answer_bytes_max,
                        watcher: self.watcher,
                        session: self.session(),
                        identities: &inner.identities,
                    };
                    let is_set_watches = matches!(request, Request::SetWatches(_) | Request::SetWatches2(_));
                    let answer = reads::answer(&reader, request, &mut told);
                    if is_set_watches && answer.is_err() {
                        // The client would rely on watches that do not exist.
                        return self.disconnect("watch limit exceeded in setWatches");
                    }
                    for (event_type, path) in told {
                        // What a watch missed while its client was away.
                        self.put_event(inner, event_type, &path, u64::MAX);
                    }
                    let took = self.put(inner, xid, state.zxid(), &answer, Some(asked_at));
                    took.into_iter().for_each(|took| self.registry.timings().read.record(took));
                }
                Pending::Sync { xid, path, ready: true } => {
                    let took = self.put(inner, xid, state.zxid(), &Ok(Body::Path(path)), Some(asked_at));
                    took.into_iter().for_each(|took| self.registry.timings().read.record(took));
                }
                Pending::Deferred { xid, answer: Some(answer), .. } => {
                    self.put(inner, xid, state.zxid(), &answer, Some(asked_at));
                }
                Pending::Write { xid, done: Some(done), .. } => {
                    let took = self.put(inner, xid, done.zxid, &done.answer, Some(asked_at));
                    took.into_iter().for_each(|took| self.registry.timings().write.record(took));
                    if done.is_last {
                        return self.close();
                    }
                }
                waiting @ (Pending::Sync { .. }
                | Pending::Deferred { .. }
                | Pending::Write { .. }
                | Pending::Handshake(_)) => {
                    inner.pending_bytes += bytes;
                    inner.pending.push_front(PendingRequest { at: asked_at, bytes, pending: waiting });
                    return;
                }
            }
        }
    }
}
