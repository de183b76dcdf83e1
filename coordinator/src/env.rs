//! The outside world of a server, as the parts that it is given: where it
//! listens, how it dials, what time it is, where chance comes from. A server
//! built from other parts (a simulated network, a seeded generator) runs the
//! same code.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A byte stream between two processes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for T {}

/// Any [`ByteStream`].
pub type BoxByteStream = Box<dyn ByteStream>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes in connections.
pub trait Listener: Send + 'static {
    /// The next connection and where it comes from.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxByteStream, String)>>;
}

/// Makes connections.
pub trait Connector: Send + Sync + 'static {
    /// Connects to `address`.
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxByteStream>>;
}

/// The wall clock. Durations are measured by tokio's clock.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// Draws chance: session ids and passwords.
pub trait RandomSource: Send + Sync + 'static {
    /// Fills `bytes` so that nobody can guess them.
    ///
    /// # Errors
    /// When the system has no chance to give.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// All that a server is built from.
pub struct Env {
    /// Takes in other servers.
    pub peer_listener: Box<dyn Listener>,
    /// Takes in HTTP clients.
    pub http_listener: Box<dyn Listener>,
    /// Takes in clients of ZooKeeper's protocol, if any.
    pub zookeeper_listener: Option<Box<dyn Listener>>,
    /// The same over TLS.
    pub zookeeper_tls_listener: Option<Box<dyn Listener>>,
    /// Reaches other servers.
    pub dialer: Arc<dyn Connector>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Draws chance.
    pub entropy: Arc<dyn RandomSource>,
    /// Where the server keeps what it must not forget.
    pub directory: PathBuf,
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxByteStream, String)>> {
        Box::pin(async {
            let (stream, address) = TcpListener::accept(self).await?;
            prepare(&stream)?;
            Ok((Box::new(stream) as BoxByteStream, address.to_string()))
        })
    }
}

/// Silence on a connection after which the system asks the other machine whether it is there,
/// how often it asks again, and how long apart.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long what was sent may stay unacknowledged before the connection ends.
const USER_TIMEOUT: Duration = Duration::from_secs(11);

/// Has a connection end within [`USER_TIMEOUT`] of its other machine's death, which is silent
/// when the machine loses power.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Dials by TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn dial<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<BoxByteStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            prepare(&stream)?;
            Ok(Box::new(stream) as BoxByteStream)
        })
    }
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_1970.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The system's chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomSource;

impl RandomSource for SystemRandomSource {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}
