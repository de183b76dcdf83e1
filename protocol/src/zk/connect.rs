//! The first packet each way: a client asks for a session, new or its own; the
//! server says which it has, or that it has none any more.

use bytes::{Bytes, BytesMut};

use super::jute::{DecodeError, Record};

/// What a client says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 0 so far.
    pub protocol_version: i32,
    /// The last write that the client has seen: it must not go back.
    pub last_zxid_seen: u64,
    /// The session's timeout that the client would like, in milliseconds.
    pub timeout_ms: i32,
    /// Its session, or 0 for a new one.
    pub session: u64,
    /// Its session's password.
    pub password: Option<Bytes>,
    /// Whether a server without a quorum will do. `None` from clients before
    /// 3.4, which do not send it and are not sent it.
    pub read_only: Option<bool>,
}

/// What the server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 0 so far.
    pub protocol_version: i32,
    /// The session's timeout in milliseconds; 0 when the session is over.
    pub timeout_ms: i32,
    /// The session; 0 when it is over.
    pub session: u64,
    /// The session's password.
    pub password: Option<Bytes>,
    /// Whether this server can only be read now.
    pub read_only: Option<bool>,
}

fn read_flag(from: &mut Bytes) -> Result<Option<bool>, DecodeError> {
    if from.is_empty() { Ok(None) } else { bool::read(from).map(Some) }
}

fn write_flag(flag: Option<bool>, to: &mut BytesMut) {
    if let Some(flag) = flag {
        flag.write(to);
    }
}

impl Record for ConnectRequest {
    const LEN_MIN: usize = 28;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol_version: i32::read(from)?,
            last_zxid_seen: u64::read(from)?,
            timeout_ms: i32::read(from)?,
            session: u64::read(from)?,
            password: Option::read(from)?,
            read_only: read_flag(from)?,
        })
    }

    fn write(&self, to: &mut BytesMut) {
        self.protocol_version.write(to);
        self.last_zxid_seen.write(to);
        self.timeout_ms.write(to);
        self.session.write(to);
        self.password.write(to);
        write_flag(self.read_only, to);
    }
}

impl Record for ConnectResponse {
    const LEN_MIN: usize = 20;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            protocol_version: i32::read(from)?,
            timeout_ms: i32::read(from)?,
            session: u64::read(from)?,
            password: Option::read(from)?,
            read_only: read_flag(from)?,
        })
    }

    fn write(&self, to: &mut BytesMut) {
        self.protocol_version.write(to);
        self.timeout_ms.write(to);
        self.session.write(to);
        self.password.write(to);
        write_flag(self.read_only, to);
    }
}
