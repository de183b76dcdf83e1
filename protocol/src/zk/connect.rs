//! The first packet each way: a client asks for a session, new or its own; the
//! server says which it has, or that it has none any more.

use bytes::{Bytes, BytesMut};

use super::jute::{DecodeError, Record, records};

/// A flag at the end of a packet, where clients before 3.4 have none.
impl Record for Option<bool> {
    const LEN_MIN: usize = 0;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        if from.is_empty() { Ok(None) } else { bool::read(from).map(Some) }
    }

    fn write(&self, to: &mut BytesMut) {
        self.iter().for_each(|flag| flag.write(to));
    }
}

records! {
    /// What a client says first.
    ConnectRequest {
        /// 0 so far.
        protocol_version: i32,
        /// The last write that the client has seen: it must not go back.
        last_zxid_seen: u64,
        /// The session's timeout that the client would like, in milliseconds.
        timeout_ms: i32,
        /// Its session, or 0 for a new one.
        session: u64,
        /// Its session's password.
        password: Option<Bytes>,
        /// Whether a server without a quorum will do. `None` from clients before
        /// 3.4, which do not send it and are not sent it.
        read_only: Option<bool>,
    }

    /// What the server says first.
    ConnectResponse {
        /// 0 so far.
        protocol_version: i32,
        /// The session's timeout in milliseconds; 0 when the session is over.
        timeout_ms: i32,
        /// The session; 0 when it is over.
        session: u64,
        /// The session's password.
        password: Option<Bytes>,
        /// Whether this server can only be read now.
        read_only: Option<bool>,
    }
}
