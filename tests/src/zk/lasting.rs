//! A client that lasts: it goes on with its session at whichever server serves, and
//! opens another one when it is told that its session is over.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{
    Body, Create, OpCode, PathWatch, ReplyHeader, Request, SetData, SetWatches, WatcherEvent,
};
use tokio::time::{Instant, timeout};

use super::client::{Raw, Received, Session};
use crate::eventually::pause;

/// What a server may take to greet, or to answer, before the client looks elsewhere:
/// as the clients of ZooKeeper, which wait for two thirds of a session's timeout.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);

/// A client with one session at a time.
#[derive(Debug)]
pub struct Lasting {
    addresses: Vec<String>,
    at: usize,
    timeout_ms: i32,
    session: Option<Session>,
    raw: Option<Raw>,
    last_zxid: u64,
    /// How often it went on with its session, and how often that was over.
    pub resumed: u32,
    /// How often it was told that its session is over.
    pub expired: u32,
    /// How long it was without a connection, at most.
    pub longest_gap: Duration,
}

impl Lasting {
    /// A client that begins with the server `at`.
    #[must_use]
    pub fn new(addresses: Vec<String>, at: usize, timeout_ms: i32) -> Self {
        Self {
            addresses,
            at,
            timeout_ms,
            session: None,
            raw: None,
            last_zxid: 0,
            resumed: 0,
            expired: 0,
            longest_gap: Duration::ZERO,
        }
    }

    /// Its session, if it has one.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        self.session.as_ref().map(|session| session.id)
    }

    /// Whether it has a connection, as far as it knows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.raw.is_some()
    }

    /// The last write that it has seen.
    #[must_use]
    pub fn last_zxid(&self) -> u64 {
        self.last_zxid
    }

    /// Connects, if it is not connected. True if the connection is a new one.
    ///
    /// # Errors
    /// When no server serves until `deadline`.
    pub async fn ensure(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        if self.raw.is_some() {
            return Ok(false);
        }
        let began = Instant::now();
        loop {
            let address = &self.addresses[self.at % self.addresses.len()];
            let connect = Raw::connect(address, self.session.as_ref(), self.timeout_ms, self.last_zxid);
            let seen = match timeout(SILENCE_MAX, connect).await {
                Ok(Ok(raw)) if raw.greeting.session != 0 => {
                    self.resumed += u32::from(self.session.is_some());
                    self.session = Some(raw.session());
                    self.raw = Some(raw);
                    self.longest_gap = self.longest_gap.max(began.elapsed());
                    return Ok(true);
                }
                Ok(Ok(_)) => {
                    self.session = None;
                    self.expired += 1;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            self.at += 1;
            anyhow::ensure!(Instant::now() < deadline, "no server serves; {address}: {seen}");
            pause().await;
        }
    }

    fn lose(&mut self) {
        self.raw = None;
        self.at += 1;
    }

    /// Asks once. `None` when the connection broke: what became of it is not known.
    ///
    /// # Errors
    /// When no server serves until `deadline`.
    pub async fn ask(
        &mut self,
        request: &Request,
        deadline: Instant,
    ) -> anyhow::Result<Option<(ReplyHeader, Bytes)>> {
        self.ensure(deadline).await?;
        let raw = self.raw.as_mut().context("connected")?;
        let exchange = async {
            let xid = raw.send(request).await?;
            raw.answer(xid).await
        };
        match timeout(SILENCE_MAX, exchange).await {
            Ok(Ok(Some((header, body)))) => {
                self.last_zxid = self.last_zxid.max(header.zxid);
                Ok(Some((header, body)))
            }
            _ => {
                self.lose();
                Ok(None)
            }
        }
    }

    /// Asks until there is an answer. For what may be asked twice.
    ///
    /// # Errors
    /// When there is none until `deadline`.
    pub async fn insist(
        &mut self,
        request: &Request,
        deadline: Instant,
    ) -> anyhow::Result<(ReplyHeader, Bytes)> {
        loop {
            if let Some(answer) = self.ask(request, deadline).await? {
                return Ok(answer);
            }
        }
    }

    /// Events that came, and those that come within `within`.
    pub async fn events(&mut self, within: Duration) -> Vec<WatcherEvent> {
        let Some(raw) = self.raw.as_mut() else { return Vec::new() };
        if raw.events.is_empty() {
            match timeout(within, raw.receive()).await {
                Ok(Ok(Some(Received::Event(header, event)))) => raw.events.push_back((header, event)),
                Ok(Ok(Some(Received::Answer(..)))) | Err(_) => {}
                Ok(_) => self.lose(),
            }
        }
        let Some(raw) = self.raw.as_mut() else { return Vec::new() };
        raw.events.drain(..).map(|(_, event)| event).collect()
    }

    /// Watches a node's data again, after a reconnection.
    ///
    /// # Errors
    /// When no server serves until `deadline`.
    pub async fn watch_again(&mut self, path: &str, deadline: Instant) -> anyhow::Result<bool> {
        let again = SetWatches {
            seen: self.last_zxid,
            data: vec![path.to_owned()],
            exist: Vec::new(),
            children: Vec::new(),
        };
        Ok(self.ask(&Request::SetWatches(again), deadline).await?.is_some())
    }
}

/// `create` of a persistent node that is open to all.
#[must_use]
pub fn create(path: &str, data: &str, flags: i32) -> Request {
    let acl = rota_core::state::Acl::open().entries();
    Request::Create(Create { path: path.to_owned(), data: Some(data.to_owned().into()), acl, flags })
}

/// `setData` of any version.
#[must_use]
pub fn set(path: &str, data: &str) -> Request {
    Request::SetData(SetData { path: path.to_owned(), data: Some(data.to_owned().into()), version: -1 })
}

/// `getData`.
#[must_use]
pub fn get(path: &str, watch: bool) -> Request {
    Request::GetData(PathWatch { path: path.to_owned(), watch })
}

/// The text that a `getData` answered.
///
/// # Errors
/// When it is none.
pub fn text(mut body: Bytes) -> anyhow::Result<String> {
    match Body::read(OpCode::GetData, &mut body)? {
        Body::DataStat(Some(data), _) => Ok(String::from_utf8(data.to_vec())?),
        other => anyhow::bail!("{other:?}"),
    }
}

/// A path that was answered.
///
/// # Errors
/// When it is none.
pub fn path(mut body: Bytes) -> anyhow::Result<String> {
    Ok(String::read(&mut body)?)
}
