//! Connections between servers: framing, the hello, and questions with answers.
//! What is said over them is [`rota_protocol::peer`]'s.

mod calls;
mod units;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rota_protocol::peer::{self, Class, FRAME_BYTES_MAX, Hello, PROTOCOL_VERSION, Welcome};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::parts::{BoxWire, Dial};

pub(crate) use calls::{CHANGE_TIMEOUT, CallFailure, Caller};
pub(crate) use units::UnitSender;

/// How long a connection and its hello may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

/// A framed connection to another server.
pub(crate) type Frames = Framed<BoxWire, LengthDelimitedCodec>;

/// Reaches other servers.
#[derive(Clone)]
pub(crate) struct Peers {
    dialer: Arc<dyn Dial>,
    cluster: Arc<str>,
    server: u64,
    addresses: Arc<RwLock<BTreeMap<u64, String>>>,
    /// What was last in the way of talking to each server, so that it is told
    /// once and not at each attempt.
    troubles: Arc<Mutex<BTreeMap<u64, String>>>,
}

impl Peers {
    pub(crate) fn new(dialer: Arc<dyn Dial>, cluster: &str, server: u64) -> Self {
        let cluster = Arc::from(cluster);
        Self { dialer, cluster, server, addresses: Arc::default(), troubles: Arc::default() }
    }

    /// Takes note of where the servers are.
    pub(crate) fn set_addresses(&self, addresses: BTreeMap<u64, String>) {
        *self.addresses.write().expect("no code panics while it holds this") = addresses;
    }

    fn address(&self, server: u64) -> io::Result<String> {
        let addresses = self.addresses.read().expect("no code panics while it holds this");
        addresses.get(&server).cloned().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("the address of server {server} is not known"))
        })
    }

    /// Connects to `server`, wherever it is.
    pub(crate) async fn connect(&self, server: u64, class: Class) -> io::Result<Frames> {
        let address = self.address(server)?;
        self.connect_to(server, &address, class).await
    }

    /// Connects to `server` at `address`, and makes sure that it is that one.
    pub(crate) async fn connect_to(&self, server: u64, address: &str, class: Class) -> io::Result<Frames> {
        let attempt = async {
            let mut frames = framed(self.dialer.dial(address).await?);
            let cluster = self.cluster.to_string();
            let hello = Hello { version: PROTOCOL_VERSION, cluster, from: self.server, to: server, class };
            send(&mut frames, &hello).await?;
            match receive(&mut frames).await? {
                Some(Welcome::Ok) => Ok(frames),
                Some(Welcome::Refused(why)) => {
                    let why = format!("it refuses to talk to this server: {why}");
                    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
                }
                None => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        let outcome = tokio::time::timeout(CONNECT_TIMEOUT, attempt).await;
        let outcome = outcome.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        self.tell(server, address, outcome.as_ref().err());
        let labels =
            [("peer", server.to_string()), ("outcome", if outcome.is_ok() { "ok" } else { "failed" }.into())];
        metrics::counter!(crate::metrics::PEER_CONNECTS, &labels).increment(1);
        outcome
    }

    /// Tells the log when talking to a server becomes impossible, for another
    /// reason than before, or possible again.
    fn tell(&self, server: u64, address: &str, error: Option<&io::Error>) {
        let mut troubles = self.troubles.lock().expect("no code panics while it holds this");
        match error {
            None => {
                if troubles.remove(&server).is_some() {
                    tracing::info!(peer = server, address, "another server is reached again");
                }
            }
            Some(error) => {
                let why = error.to_string();
                if troubles.get(&server) == Some(&why) {
                    return;
                }
                if error.kind() == io::ErrorKind::PermissionDenied {
                    tracing::error!(peer = server, address, why, "another server refuses this one");
                } else {
                    tracing::warn!(
                        peer = server,
                        address,
                        why,
                        "another server cannot be reached: tried until it can"
                    );
                }
                troubles.insert(server, why);
            }
        }
    }

    /// Answers the hello of a connection that was taken in. `None` if the other
    /// side must not talk to this server; it was told why.
    pub(crate) async fn welcome(&self, wire: BoxWire, from: &str) -> io::Result<Option<(Hello, Frames)>> {
        let attempt = async {
            let mut frames = framed(wire);
            let Some(hello) = receive::<Hello>(&mut frames).await? else { return Ok(None) };
            if let Some(why) = hello.refusal(&self.cluster, self.server) {
                tracing::error!(address = from, why, "refused another server");
                send(&mut frames, &Welcome::Refused(why)).await?;
                return Ok(None);
            }
            send(&mut frames, &Welcome::Ok).await?;
            Ok(Some((hello, frames)))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn framed(wire: BoxWire) -> Frames {
    let codec = LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_codec();
    Framed::new(wire, codec)
}

/// Sends one message.
pub(crate) async fn send<T: Serialize>(frames: &mut Frames, message: &T) -> io::Result<()> {
    frames.send(peer::encode(message)).await
}

/// Receives one message; `None` at the end of the connection.
pub(crate) async fn receive<T: DeserializeOwned>(frames: &mut Frames) -> io::Result<Option<T>> {
    match frames.next().await {
        Some(frame) => decode(&frame?).map(Some),
        None => Ok(None),
    }
}

/// Decodes one frame.
pub(crate) fn decode<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    peer::decode(frame).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Sends what was fed.
pub(crate) async fn flush(frames: &mut Frames) -> io::Result<()> {
    SinkExt::<bytes::Bytes>::flush(frames).await
}
