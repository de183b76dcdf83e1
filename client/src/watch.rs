//! Streams of events that say when they may have missed something.

use std::time::Duration;

use rota_protocol::http::{EventBody, Missed};

use crate::client::Client;
use crate::error::ClientError;

/// How long one poll waits, in milliseconds.
const WAIT_MS: u64 = 20_000;

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// These events, in order, and none between them is missing.
    Events(Vec<EventBody>),
    /// Some may be missing before the next ones: read the nodes anew.
    Missed,
}

/// The events of a node, or of everything below it.
#[derive(Debug)]
pub struct WatchStream {
    client: Client,
    query: String,
    since: Option<u64>,
}

impl Client {
    /// Watches a node, and with `recursive` everything below it, from the write
    /// `since` on, or from now. Nothing is asked before the first
    /// [`WatchStream::next`].
    #[must_use]
    pub fn watch(&self, path: &str, recursive: bool, since: Option<u64>) -> WatchStream {
        let path: String = path.split('/').map(crate::path::segment).collect::<Vec<_>>().join("/");
        let query = format!("/v1/watch?path={path}&recursive={recursive}");
        WatchStream { client: self.clone(), query, since }
    }
}

impl WatchStream {
    /// What happened next. Waits until something does. A server that goes away
    /// costs nothing: the next one is asked for what happened since.
    ///
    /// # Errors
    /// When the path is not one, or no server answers; the stream can go on
    /// after that.
    pub async fn next(&mut self) -> Result<WatchItem, ClientError> {
        loop {
            let since = self.since.map(|zxid| format!("&since={zxid}")).unwrap_or_default();
            // The first poll only asks where to begin.
            let wait_ms = if self.since.is_some() { WAIT_MS } else { 0 };
            let path = format!("{}&wait_ms={wait_ms}{since}", self.query);
            let missed: Missed = self.client.long_poll(&path, Duration::from_millis(wait_ms)).await?;
            self.since = Some(missed.through);
            if missed.missed {
                return Ok(WatchItem::Missed);
            }
            if !missed.events.is_empty() {
                return Ok(WatchItem::Events(missed.events));
            }
        }
    }
}
