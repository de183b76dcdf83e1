//! Messages between servers, and the forms in which Raft's own values are
//! stored. Each message is one postcard value in one frame with a checksum.
//!
//! A connection begins with a [`Hello`] and its [`Welcome`]; its [`StreamKind`] says
//! what follows, and how large a frame may be. Enums grow at their ends only;
//! anything else is a new [`PROTOCOL_VERSION`].

mod call;
mod handshake;
mod raft;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use call::{Answer, Call, CallError, LatestReport, MembershipChange, PoolReports};
pub use handshake::{
    Acknowledged, ClusterId, DiskId, HANDSHAKE_BYTES_MAX, HandshakeContext, Hello, PROTOCOL_VERSION,
    PeerStatus, RefusalReason, Refused, ServerInfo, StreamKind, Welcome, check_hello, check_log_end,
    disk_replaced, hello_version, removed,
};
pub use raft::{
    AppendReply, AppendRequest, AppendResult, Entry, LogId, Membership, Payload, ServerEndpoint,
    SnapshotHead, TransferRequest, Vote, VoteReply, VoteRequest,
};

/// Largest command, in bytes: a request's body or packet of at most 8 MiB, encoded.
const COMMAND_BYTES_MAX: usize = 9 * 1024 * 1024;
/// Bytes at which a unit is closed; the command that reaches it is still in it.
pub const UNIT_CLOSED_BYTES: usize = 64 * 1024;
/// Bytes at which a batch is closed; the unit that reaches it is still in it.
pub const BATCH_CLOSED_BYTES: usize = 1024 * 1024;
/// Bytes at which a request to a follower is closed; it has at least one entry.
pub const APPEND_CLOSED_BYTES: usize = 256 * 1024;
/// Bytes of a snapshot in one frame.
pub const SNAPSHOT_FRAME_BYTES: usize = 256 * 1024;

/// Largest unit of commands, in bytes.
pub const UNIT_BYTES_MAX: usize = UNIT_CLOSED_BYTES + COMMAND_BYTES_MAX;
/// Largest batch of units, in bytes.
pub const BATCH_BYTES_MAX: usize = BATCH_CLOSED_BYTES + UNIT_BYTES_MAX;
/// Largest question of one server to another, in bytes: the reports of one client's request.
pub const CALL_BYTES_MAX: usize = COMMAND_BYTES_MAX;
/// Largest answer, in bytes: what the members of one pool have said.
pub const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

impl StreamKind {
    /// Largest frame that the dialling server may send, in bytes.
    #[must_use]
    pub fn request_bytes_max(self) -> usize {
        match self {
            Self::Append => APPEND_CLOSED_BYTES + BATCH_BYTES_MAX,
            Self::Call => CALL_BYTES_MAX,
            Self::Snapshot => SNAPSHOT_FRAME_BYTES,
            Self::Units => UNIT_BYTES_MAX,
            Self::Probe => 0,
        }
    }

    /// Largest frame that the server that was dialled may send, in bytes.
    #[must_use]
    pub fn reply_bytes_max(self) -> usize {
        match self {
            Self::Call => ANSWER_BYTES_MAX,
            Self::Append | Self::Snapshot | Self::Units | Self::Probe => HANDSHAKE_BYTES_MAX,
        }
    }
}

/// Encodes a message.
#[must_use]
pub fn encode<T: Serialize>(message: &T) -> bytes::Bytes {
    bytes::Bytes::from(postcard::to_allocvec(message).expect("messages have no fallible part"))
}

/// Decodes a message.
///
/// # Errors
/// When the bytes are not such a message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use rota_core::state::{Password, SessionId};

    use super::*;
    use crate::http::MemberReport;

    /// Found by fuzzing: fields that JSON leaves out when they are empty must not be left out here.
    #[test]
    fn reports_without_loads_and_lags_round_trip() {
        let report = |member: &str| MemberReport { member: member.into(), ..MemberReport::default() };
        let full = MemberReport { lags: [("0".to_owned(), 2.5)].into(), ..report("c") };
        let reports = vec![report("a"), report("b"), full];
        let (session, password) = (SessionId(7), Password([9; 16]));
        let call = (3u64, Call::KeepAlive { session, password, reports, seen: 57 });
        assert_eq!(decode::<(u64, Call)>(&encode(&call)).unwrap(), call);
    }
}
