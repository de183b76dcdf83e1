//! Accepts HTTP connections and serves them, with a deadline for each thing that a client may be
//! slow with: a request's head, its body, and the time between requests.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;

use crate::connections::{ConnectionBudget, Protocol, ip_of};
use crate::env::{BoxByteStream, Listener};
use crate::tasks::Tasks;

/// How long a request's head may take, from the beginning of the connection or its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the next part of a request's body may take.
const BODY_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long an answer may take to be taken by a client that reads nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the deadlines are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after a connection could not be accepted: out of descriptors, say, going on at once
/// would spin.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What a connection is doing.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// It waits for a request.
    Idle { since: Instant },
    /// A request's head has begun to arrive.
    Head { since: Instant },
    /// A request is being answered.
    Request,
}

/// What is known of a connection from its bytes and its requests.
#[derive(Debug)]
struct Watch {
    phase: Phase,
    /// Since when bytes wait to be taken by the client.
    blocked_since: Option<Instant>,
}

type SharedWatch = Arc<Mutex<Watch>>;

fn lock(watch: &SharedWatch) -> std::sync::MutexGuard<'_, Watch> {
    watch.lock().expect("no code panics while it holds this")
}

impl Watch {
    /// Why the connection must end, if it must.
    fn overdue(&self, now: Instant) -> Option<&'static str> {
        let is_over = |since: Instant, timeout| now.saturating_duration_since(since) >= timeout;
        match self.phase {
            _ if self.blocked_since.is_some_and(|since| is_over(since, WRITE_TIMEOUT)) => {
                Some("the client reads nothing")
            }
            Phase::Head { since } if is_over(since, HEAD_TIMEOUT) => {
                Some("the head of a request takes too long")
            }
            Phase::Idle { since } if is_over(since, IDLE_TIMEOUT) => Some("idle for too long"),
            _ => None,
        }
    }
}

/// A connection whose bytes are watched.
struct Watched {
    wire: BoxByteStream,
    watch: SharedWatch,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.wire).poll_read(cx, buf);
        if buf.filled().len() > before {
            let mut watch = lock(&self.watch);
            if let Phase::Idle { .. } = watch.phase {
                watch.phase = Phase::Head { since: Instant::now() };
            }
        }
        polled
    }
}

impl Watched {
    fn note_written<T>(&self, polled: &Poll<T>) {
        let mut watch = lock(&self.watch);
        watch.blocked_since = match polled {
            Poll::Pending => watch.blocked_since.or_else(|| Some(Instant::now())),
            Poll::Ready(_) => None,
        };
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.wire).poll_write(cx, buf);
        self.note_written(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.wire).poll_write_vectored(cx, bufs);
        self.note_written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// Accepts connections until it is told to stop; returns when the last one has ended, or has had
/// `drain` for that.
pub(crate) async fn serve(
    mut listener: Box<dyn Listener>,
    router: Router,
    budget: ConnectionBudget,
    per_address_max: usize,
    stop: CancellationToken,
    drain: Duration,
) {
    let abandon = CancellationToken::new();
    let tasks = Tasks::new(abandon.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((wire, from)) => match budget.take(Protocol::Http, ip_of(&from), per_address_max) {
                Ok(place) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    tasks.spawn("http client", async move {
                        serve_connection(wire, router, stop).await;
                        drop(place);
                    });
                }
                Err(why) => {
                    metrics::counter!(crate::metrics::CONNECTIONS_REFUSED, "protocol" => Protocol::Http.name())
                        .increment(1);
                    tracing::debug!(address = from, %why, "refused a connection");
                }
            },
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    // Long polls and streams do not end by themselves.
    if tokio::time::timeout(drain, tasks.ended()).await.is_err() {
        abandon.cancel();
    }
}

async fn serve_connection(wire: BoxByteStream, router: Router, stop: CancellationToken) {
    let phase = Phase::Head { since: Instant::now() };
    let watch: SharedWatch = Arc::new(Mutex::new(Watch { phase, blocked_since: None }));
    let io = TokioIo::new(Watched { wire, watch: Arc::clone(&watch) });
    let of_requests = Arc::clone(&watch);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        lock(&of_requests).phase = Phase::Request;
        let (router, watch) = (router.clone(), Arc::clone(&of_requests));
        async move {
            let answered = Answered(watch);
            let response = router.oneshot(request.map(with_frame_timeout)).await?;
            // It is being answered until the last byte of its body was asked for.
            Ok::<_, std::convert::Infallible>(response.map(|body| Answering { body, _answered: answered }))
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(io, service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a client's connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(LOOK_PERIOD) => {
                if let Some(why) = lock(&watch).overdue(Instant::now()) {
                    tracing::debug!(why, "closed a client's connection");
                    return;
                }
            }
        }
    }
}

/// A request's body, each part of which has [`BODY_FRAME_TIMEOUT`]. As a layer of the router this
/// would cost every request a copy of the whole router, with or without a body.
fn with_frame_timeout(body: Incoming) -> Body {
    match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(TimeoutBody::new(BODY_FRAME_TIMEOUT, body)),
    }
}

/// A request that is being answered, until this is dropped.
struct Answered(SharedWatch);

impl Drop for Answered {
    fn drop(&mut self) {
        lock(&self.0).phase = Phase::Idle { since: Instant::now() };
    }
}

/// The body of an answer.
struct Answering {
    body: Body,
    _answered: Answered,
}

impl hyper::body::Body for Answering {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_thing_that_a_client_is_slow_with_has_its_deadline() {
        let start = Instant::now();
        let after = |phase, blocked_since: Option<Instant>, passed| {
            Watch { phase, blocked_since }.overdue(start + passed).is_some()
        };
        let ms = Duration::from_millis(1);
        let (idle, head) = (Phase::Idle { since: start }, Phase::Head { since: start });
        assert!(!after(head, None, HEAD_TIMEOUT - ms) && after(head, None, HEAD_TIMEOUT));
        assert!(!after(idle, None, IDLE_TIMEOUT - ms) && after(idle, None, IDLE_TIMEOUT));
        assert!(!after(Phase::Request, None, IDLE_TIMEOUT * 100), "long polls have deadlines of their own");
        assert!(after(Phase::Request, Some(start), WRITE_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_is_closed_and_a_whole_one_is_answered() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let router = Router::new().route("/", axum::routing::get(|| std::future::ready("hello")));
        let (mut client, server) = tokio::io::duplex(4096);
        let serving =
            tokio::spawn(serve_connection(Box::new(server), router.clone(), CancellationToken::new()));
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let len = client.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..len]).contains("200 OK"));
        let sent_at = Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-a: ").await.unwrap();
        assert_eq!(client.read(&mut answer).await.unwrap(), 0, "closed");
        assert!(sent_at.elapsed() < HEAD_TIMEOUT + 2 * LOOK_PERIOD, "{:?}", sent_at.elapsed());
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_body_times_out() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let router = Router::new().route("/", axum::routing::post(async |_: axum::body::Bytes| "whole"));
        let (mut client, server) = tokio::io::duplex(4096);
        tokio::spawn(serve_connection(Box::new(server), router, CancellationToken::new()));
        client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        let (sent_at, mut answer) = (Instant::now(), vec![0; 4096]);
        let read = tokio::time::timeout(2 * BODY_FRAME_TIMEOUT, client.read(&mut answer)).await;
        let len = read.expect("there is an answer").unwrap();
        assert!(String::from_utf8_lossy(&answer[..len]).starts_with("HTTP/1.1 400"));
        assert!(sent_at.elapsed() >= BODY_FRAME_TIMEOUT, "{:?}", sent_at.elapsed());
    }
}
