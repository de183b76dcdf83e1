//! A listener whose connections are bounded, so that strangers who open many of
//! them cannot take the descriptors that log files are held open with. One
//! more than the bound waits until another has ended, and one on which nothing was
//! answered for a while ends: it is idle, asks too slowly, or takes nothing.

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

/// How long a connection may be without a byte of an answer. Longer than any request waits.
const SILENCE_MAX: Duration = Duration::from_secs(75);
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
            warn!(
                connections = self.connections_max,
                "all connections are taken: others wait until one ends"
            );
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
        (Connection { stream, silence: Box::pin(sleep(SILENCE_MAX)), _slot: slot }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its slot back when it ends.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Ends when nothing was answered for too long.
    silence: Pin<Box<Sleep>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn note_written(&mut self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.silence.as_mut().reset(Instant::now() + SILENCE_MAX);
        }
    }

    /// What is pending is too late when the silence has lasted too long.
    fn or_too_late<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled.is_pending() && self.silence.as_mut().poll(cx).is_ready() {
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
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.or_too_late(cx, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(&polled);
        self.or_too_late(cx, polled)
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
        self.note_written(&polled);
        self.or_too_late(cx, polled)
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
    async fn a_connection_that_is_answered_nothing_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut bounded = BoundedListener::new(listener, 1);
        let mut client = TcpStream::connect(bounded.local_addr().unwrap()).await.unwrap();
        let (mut connection, _) = bounded.accept().await;
        let began = Instant::now();
        let mut byte = [0];
        assert!(timeout(SILENCE_MAX / 2, connection.read(&mut byte)).await.is_err());
        connection.write_all(b"x").await.unwrap();
        // What it asks for is no answer.
        client.write_all(b"y").await.unwrap();
        assert_eq!(connection.read(&mut byte).await.unwrap(), 1);
        let ended = connection.read(&mut byte).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= SILENCE_MAX / 2 + SILENCE_MAX);
    }
}
