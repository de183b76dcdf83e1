//! A listener whose connections are bounded, so that strangers who open many of
//! them cannot take the descriptors that log files are held open with. One
//! more than the bound waits until another has ended. A connection without responses for a
//! while is closed: it is idle, or its client is too slow.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};
use tracing::warn;

/// A connection on which no response byte is written for this long is closed; longer than any
/// long poll.
const RESPONSE_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Pause between two lines about connections that wait.
const WARN_PERIOD: Duration = Duration::from_secs(60);

/// Accepts at most so many connections at the same time.
#[derive(Debug)]
pub(super) struct BoundedListener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    connections_max: usize,
    warned_at: Option<Instant>,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener, connections_max: usize) -> Self {
        let slots = connections_max.clamp(1, Semaphore::MAX_PERMITS);
        Self { listener, slots: Arc::new(Semaphore::new(slots)), connections_max: slots, warned_at: None }
    }

    async fn slot(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        if self.warned_at.is_none_or(|at| at.elapsed() >= WARN_PERIOD) {
            self.warned_at = Some(Instant::now());
            warn!(limit = self.connections_max, "connection limit reached; new connections wait");
        }
        // The semaphore is never closed.
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let slot = self.slot().await;
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (
            Connection {
                stream,
                idle_timer: Box::pin(sleep(RESPONSE_IDLE_TIMEOUT)),
                is_answered: true,
                _slot: slot,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its slot back when it ends.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Expires when no response byte was written for too long.
    idle_timer: Pin<Box<Sleep>>,
    /// Whether something was written since the last byte was read: the next byte read begins a
    /// request, which has its own time.
    is_answered: bool,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn reset_idle_timer(&mut self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.is_answered = true;
            self.idle_timer.as_mut().reset(Instant::now() + RESPONSE_IDLE_TIMEOUT);
        }
    }

    /// Ends a pending operation when the idle timer has expired.
    fn check_idle_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match polled.is_pending() && self.idle_timer.as_mut().poll(cx).is_ready() {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => polled,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && std::mem::take(&mut self.is_answered) {
            self.idle_timer.as_mut().reset(Instant::now() + RESPONSE_IDLE_TIMEOUT);
        }
        self.check_idle_timeout(cx, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.reset_idle_timer(&polled);
        self.check_idle_timeout(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.reset_idle_timer(&polled);
        self.check_idle_timeout(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_next_connection_waits_for_a_slot() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut bounded = BoundedListener::new(listener, 2);
        let address = bounded.local_addr().unwrap();
        let clients = [(); 3].map(|()| TcpStream::connect(address));
        let clients = futures::future::join_all(clients).await;
        assert!(clients.iter().all(Result::is_ok), "the system takes them in");
        let first = bounded.accept().await;
        let _second = bounded.accept().await;
        assert!(timeout(Duration::from_millis(50), bounded.accept()).await.is_err(), "there is no slot");
        drop(first);
        timeout(Duration::from_secs(60), bounded.accept()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_responses_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut bounded = BoundedListener::new(listener, 1);
        let mut client = TcpStream::connect(bounded.local_addr().unwrap()).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let began = Instant::now();
        let mut byte = [0];
        assert!(timeout(RESPONSE_IDLE_TIMEOUT / 2, connection.read(&mut byte)).await.is_err());
        connection.write_all(b"x").await.unwrap();
        assert!(timeout(RESPONSE_IDLE_TIMEOUT / 2, connection.read(&mut byte)).await.is_err());
        // A request has its own time, however long the connection was idle before; its bytes have not.
        for _ in 0..2 {
            client.write_all(b"y").await.unwrap();
            assert_eq!(connection.read(&mut byte).await.unwrap(), 1);
            let waits = timeout(RESPONSE_IDLE_TIMEOUT * 2 / 5, connection.read(&mut byte));
            assert!(waits.await.is_err());
        }
        let ended = connection.read(&mut byte).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), (2 * RESPONSE_IDLE_TIMEOUT).as_secs());
    }
}
