//! TCP proxies that delay traffic between servers in both directions. Connection setup itself is
//! not delayed. They can record the traffic, and freeze: open connections then stay open and carry
//! nothing any more, as when a host loses power.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Largest chunk, in bytes.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Most chunks under way in one direction.
const CHUNKS_MAX: usize = 4096;

/// Bytes of one connection.
#[derive(Debug, Default)]
pub struct ConnectionTrace {
    /// To the server.
    pub to_server: Mutex<Vec<u8>>,
    /// From the server.
    pub to_client: Mutex<Vec<u8>>,
}

/// Traces of all connections through one proxy, in the order of their setup.
pub type Traces = Arc<Mutex<Vec<Arc<ConnectionTrace>>>>;

/// Delay proxies; they end when this is dropped.
#[derive(Debug)]
pub struct DelayProxies {
    one_way: Duration,
    /// Counts calls of [`DelayProxies::freeze`].
    frozen: watch::Sender<u64>,
    proxies: JoinSet<()>,
}

impl DelayProxies {
    /// Proxies with a one-way delay of `one_way`.
    #[must_use]
    pub fn new(one_way: Duration) -> Self {
        Self { one_way, frozen: watch::Sender::new(0), proxies: JoinSet::new() }
    }

    /// Freezes all open connections; new ones work.
    pub fn freeze(&self) {
        self.frozen.send_modify(|times| *times += 1);
    }

    /// Starts a recording proxy of the loopback port `port`, and returns its port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn recording_proxy(&mut self, port: u16) -> anyhow::Result<(u16, Traces)> {
        let traces = Traces::default();
        Ok((self.start(port, Some(Arc::clone(&traces)))?, traces))
    }

    /// Starts a proxy of the loopback port `port`, and returns its port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn proxy(&mut self, port: u16) -> anyhow::Result<u16> {
        self.start(port, None)
    }

    fn start(&mut self, port: u16, traces: Option<Traces>) -> anyhow::Result<u16> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let proxy = listener.local_addr()?.port();
        let (one_way, frozen) = (self.one_way, self.frozen.subscribe());
        self.proxies.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let trace = traces.as_ref().map(|traces| {
                    let trace = Arc::<ConnectionTrace>::default();
                    traces.lock().expect("the lock is not poisoned").push(Arc::clone(&trace));
                    trace
                });
                let mut frozen = frozen.clone();
                frozen.mark_unchanged();
                connections.spawn(relay(near, port, one_way, trace, frozen));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(proxy)
    }
}

async fn relay(
    mut near: TcpStream,
    port: u16,
    one_way: Duration,
    trace: Option<Arc<ConnectionTrace>>,
    mut frozen: watch::Receiver<u64>,
) {
    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
        return;
    }
    // Borrowed halves: a frozen connection keeps both sockets open.
    let ((near_out, near_in), (far_out, far_in)) = (near.split(), far.split());
    let is_frozen = async {
        // An error means that the proxy ends.
        let _ = frozen.changed().await;
    };
    // Closing either side closes the other.
    let ended = tokio::select! {
        () = relay_delayed(near_out, far_in, one_way, trace.as_deref().map(|trace| &trace.to_server)) => true,
        () = relay_delayed(far_out, near_in, one_way, trace.as_deref().map(|trace| &trace.to_client)) => true,
        () = is_frozen => false,
    };
    if !ended {
        std::future::pending::<()>().await;
    }
}

/// Relays bytes after `delay`, and records them.
async fn relay_delayed(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
    record: Option<&Mutex<Vec<u8>>>,
) {
    let (parts, mut arrived) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let take = async move {
        loop {
            let mut part = vec![0; CHUNK_BYTES_MAX];
            match from.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(len) => part.truncate(len),
            }
            if let Some(record) = record {
                record.lock().expect("the lock is not poisoned").extend_from_slice(&part);
            }
            if parts.send((Instant::now() + delay, part)).await.is_err() {
                return;
            }
        }
    };
    let give = async {
        while let Some((at, part)) = arrived.recv().await {
            sleep_until(at).await;
            if to.write_all(&part).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn proxy_delays_bytes_and_keeps_their_order() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = echo.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = echo.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let one_way = Duration::from_millis(30);
        let mut proxies = DelayProxies::new(one_way);
        let proxy = proxies.proxy(port).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy)).await.unwrap();
        let began = Instant::now();
        stream.write_all(b"first").await.unwrap();
        stream.write_all(b"second").await.unwrap();
        let mut said = [0; 11];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"firstsecond");
        assert!(began.elapsed() >= 2 * one_way);
    }
}
