//! A client that says exactly what it is told to, and hides nothing.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{
    ConnectRequest, ConnectResponse, ReplyHeader, Request, RequestHeader, WatcherEvent, XID_AUTH, XID_EVENT,
    XID_PING, XID_SET_WATCHES, frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::eventually::eventually;

/// Longer than any answer takes that comes at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Far longer than an election.
const SERVES: Duration = Duration::from_secs(30);
/// Longer than any answer is.
const PACKET_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A session, as a client knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: u64,
    /// Its password.
    pub password: Bytes,
}

/// A packet from the server.
#[derive(Debug, Clone)]
pub enum Received {
    /// An answer: its header and what follows.
    Answer(ReplyHeader, Bytes),
    /// An event.
    Event(ReplyHeader, WatcherEvent),
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    next_xid: i32,
    /// What the server said about the session.
    pub greeting: ConnectResponse,
    /// Events that came while an answer was waited for.
    pub events: VecDeque<(ReplyHeader, WatcherEvent)>,
}

fn request(session: Option<&Session>, timeout_ms: i32) -> ConnectRequest {
    let password = session.map_or(Bytes::from_static(&[0; 16]), |session| session.password.clone());
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms,
        session: session.map_or(0, |session| session.id),
        password: Some(password),
        read_only: Some(false),
    }
}

impl Raw {
    /// Connects and asks for a session, or to go on with one.
    ///
    /// # Errors
    /// When the server closes the connection.
    pub async fn connect(
        address: &str,
        session: Option<&Session>,
        timeout_ms: i32,
        last_zxid_seen: u64,
    ) -> anyhow::Result<Self> {
        let request = ConnectRequest { last_zxid_seen, ..request(session, timeout_ms) };
        Self::greet(address, &request).await
    }

    /// Connects as a read-only client, with an existing session or for a new one.
    ///
    /// # Errors
    /// When the server closes the connection.
    pub async fn connect_to_read(
        address: &str,
        session: Option<&Session>,
        timeout_ms: i32,
        last_zxid_seen: u64,
    ) -> anyhow::Result<Self> {
        let request =
            ConnectRequest { last_zxid_seen, read_only: Some(true), ..request(session, timeout_ms) };
        Self::greet(address, &request).await
    }

    async fn greet(address: &str, request: &ConnectRequest) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let greeting = ConnectResponse {
            protocol_version: 0,
            timeout_ms: 0,
            session: 0,
            password: None,
            read_only: None,
        };
        let mut raw =
            Self { stream, buffer: BytesMut::new(), next_xid: 1, greeting, events: VecDeque::new() };
        let mut out = BytesMut::new();
        frame::put(&mut out, |to| request.write(to));
        raw.stream.write_all(&out).await?;
        let mut packet = raw.packet().await?.context("the server closed the connection at once")?;
        raw.greeting = ConnectResponse::read(&mut packet)?;
        Ok(raw)
    }

    /// As [`Raw::connect`], as often as it takes until a server serves.
    pub async fn connect_patiently(address: &str, session: Option<&Session>, timeout_ms: i32) -> Self {
        eventually("a server serves", SERVES, async || Self::connect(address, session, timeout_ms, 0).await)
            .await
    }

    /// The connection itself, to send packets that no client sends.
    ///
    /// # Panics
    /// When something that was received waits to be taken.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        assert!(self.buffer.is_empty(), "what was received would be lost");
        self.stream
    }

    /// The session that the server gave.
    #[must_use]
    pub fn session(&self) -> Session {
        let password = self.greeting.password.clone().unwrap_or_default();
        Session { id: self.greeting.session, password }
    }

    /// Sends a request, and says its number.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, request: &Request) -> anyhow::Result<i32> {
        let mut body = BytesMut::new();
        request.write(&mut body);
        self.send_raw(request.op().number(), &body).await
    }

    /// Sends a request of any kind with any body.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send_raw(&mut self, op: i32, body: &[u8]) -> anyhow::Result<i32> {
        let xid = match op {
            11 => XID_PING,
            100 => XID_AUTH,
            101 | 105 => XID_SET_WATCHES,
            _ => {
                self.next_xid += 1;
                self.next_xid - 1
            }
        };
        let mut out = BytesMut::new();
        frame::put(&mut out, |to| {
            RequestHeader { xid, op }.write(to);
            to.extend_from_slice(body);
        });
        // One that takes no more has closed the connection, which `receive` finds out.
        if let Err(error) = self.stream.write_all(&out).await
            && !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
        {
            return Err(error.into());
        }
        Ok(xid)
    }

    /// The next packet; `None` when the server has closed the connection.
    ///
    /// # Errors
    /// When there is none in time, or it is not one.
    pub async fn receive(&mut self) -> anyhow::Result<Option<Received>> {
        let Some(mut packet) = self.packet().await? else { return Ok(None) };
        let header = ReplyHeader::read(&mut packet)?;
        Ok(Some(match header.xid {
            XID_EVENT => Received::Event(header, WatcherEvent::read(&mut packet)?),
            _ => Received::Answer(header, packet),
        }))
    }

    /// The answer to the request `xid`, which must be the next one; events before it
    /// are kept. `None` when the server has closed the connection.
    ///
    /// # Errors
    /// When another answer comes, or none in time.
    pub async fn answer(&mut self, xid: i32) -> anyhow::Result<Option<(ReplyHeader, Bytes)>> {
        loop {
            match self.receive().await? {
                None => return Ok(None),
                Some(Received::Event(header, event)) => self.events.push_back((header, event)),
                Some(Received::Answer(header, body)) if header.xid == xid => return Ok(Some((header, body))),
                Some(Received::Answer(header, _)) => bail!("the answer to {} instead of {xid}", header.xid),
            }
        }
    }

    async fn packet(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            if let Some(packet) = frame::take(&mut self.buffer, PACKET_BYTES_MAX)? {
                return Ok(Some(packet));
            }
            let read = tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read_buf(&mut self.buffer)).await;
            match read.context("no answer in time")? {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // One that closes with something unread resets.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
