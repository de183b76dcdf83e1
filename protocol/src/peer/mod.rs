//! Messages between servers, and the forms in which Raft's own values are
//! stored. Each message is one postcard value in one length-delimited frame.
//!
//! A connection begins with a [`Hello`] and its [`Welcome`]; its [`Class`] says
//! what follows. Enums grow at their ends only; anything else is a new
//! [`PROTOCOL_VERSION`].

mod call;
mod raft;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use call::{Answer, Call, CallError, HeardMember, HeardPool, MembershipChange};
pub use raft::{
    AppendReply, AppendRequest, AppendResult, Entry, LogId, Membership, Payload, SnapshotHead,
    TransferRequest, Vote, VoteReply, VoteRequest,
};

/// Version of these messages. Servers of different versions do not talk.
pub const PROTOCOL_VERSION: u32 = 3;
/// Largest frame, in bytes: one batch of 1 MiB and much room. A longer length is
/// damage or somebody else's protocol.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The first frame of a connection, from the server that dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// Who dials.
    pub from: u64,
    /// Whom it means to reach.
    pub to: u64,
    /// What the connection is for.
    pub class: Class,
}

/// What a connection is for. Separate ones keep a heartbeat from waiting behind
/// a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// [`AppendRequest`]s one way, [`AppendReply`]s the other, pipelined.
    Append,
    /// `(id, Call)` one way, `(id, Answer)` the other, in any order.
    Call,
    /// [`SnapshotHead`], then the blocks, then an empty frame; one [`Vote`] back.
    Snapshot,
    /// Units of commands for the leader, in order; nothing comes back. The
    /// leader closes the connection when it does not lead any more.
    Units,
}

/// The answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Ok,
    /// These two servers must not talk, and why.
    Refused(String),
}

impl Hello {
    /// Why a server that is `server` of `cluster` must refuse this hello.
    #[must_use]
    pub fn refusal(&self, cluster: &str, server: u64) -> Option<String> {
        if self.version != PROTOCOL_VERSION {
            return Some(format!(
                "server {} speaks version {} of the peer protocol, server {server} version {PROTOCOL_VERSION}",
                self.from, self.version
            ));
        }
        if self.cluster != cluster {
            return Some(format!(
                "server {} belongs to cluster {:?}, server {server} to {cluster:?}: check --cluster and the addresses",
                self.from, self.cluster
            ));
        }
        if self.to != server {
            return Some(format!(
                "server {} was looking for server {} and found {server}: check the addresses in --peers",
                self.from, self.to
            ));
        }
        (self.from == server).then(|| format!("two servers have the number {server}"))
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
    use super::*;

    #[test]
    fn strangers_are_refused_with_a_reason() {
        let hello = |cluster: &str, to, version| Hello {
            version,
            cluster: cluster.into(),
            from: 2,
            to,
            class: Class::Call,
        };
        assert_eq!(hello("a", 1, PROTOCOL_VERSION).refusal("a", 1), None);
        assert!(hello("b", 1, PROTOCOL_VERSION).refusal("a", 1).unwrap().contains("cluster"));
        assert!(hello("a", 3, PROTOCOL_VERSION).refusal("a", 1).unwrap().contains("looking for"));
        assert!(hello("a", 1, 99).refusal("a", 1).unwrap().contains("version"));
        assert!(hello("a", 2, PROTOCOL_VERSION).refusal("a", 2).unwrap().contains("two servers"));
    }
}
