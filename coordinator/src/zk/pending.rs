//! What a client asked and was not answered yet.

use rota_core::Zxid;
use rota_core::state::SessionId;
use rota_protocol::zk::{Body, ErrorCode, Request};
use tokio::time::Instant;

use super::writes::ReplyFormat;

/// Something that was asked, when, and in how many bytes.
pub(super) struct PendingRequest {
    pub(super) at: Instant,
    pub(super) bytes: usize,
    pub(super) pending: Pending,
}

/// Something that was asked and not answered yet.
pub(super) enum Pending {
    /// The session itself.
    Handshake(Handshake),
    /// A write is under way, or done and waits for what was asked before it.
    Write { xid: i32, shape: ReplyFormat, done: Option<Ready> },
    /// A read waits for what was asked before it.
    Read { xid: i32, request: Request },
    /// The answer of a sync waits for this server to catch up.
    Sync { xid: i32, path: String, ready: bool },
    /// Somebody works on an answer.
    Deferred { xid: i32, ticket: u64, answer: Option<Result<Body, ErrorCode>> },
    /// An answer waits for those before it.
    Answer { xid: i32, answer: Result<Body, ErrorCode> },
}

/// What a write brought about.
pub(super) struct Ready {
    pub(super) zxid: Zxid,
    pub(super) answer: Result<Body, ErrorCode>,
    /// Whether nothing can follow.
    pub(super) is_last: bool,
}

/// What is said when the session is open.
pub(super) struct Handshake {
    pub(super) session: SessionId,
    pub(super) password: [u8; 16],
    pub(super) timeout_ms: u32,
    /// Whether the client is told if the server is read-only.
    pub(super) tells_read_only: bool,
}
