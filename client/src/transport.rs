//! One request to one server over HTTP/1.1 with kept connections. Knows nothing
//! of what is asked.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections are closed after this, before the server's side or a
/// middlebox forgets them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer that is read: a table of a hundred thousand rows is 20 MB.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Makes requests.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    http: Http<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// Nothing listens at the server's address: the request did not reach it.
    ConnectionRefused,
    /// The request did not reach the server.
    NotSent(String),
    /// It may have.
    Broken(String),
}

impl Failure {
    pub(crate) fn cause(&self) -> &str {
        match self {
            Self::ConnectionRefused => "connection refused",
            Self::NotSent(cause) | Self::Broken(cause) => cause,
        }
    }

    /// The same, of something that was asked before the request.
    pub(crate) fn before_request(self) -> Self {
        match self {
            Self::Broken(cause) => Self::NotSent(cause),
            other => other,
        }
    }
}

impl Transport {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let http = Http::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Self { http }
    }

    pub(crate) async fn send(
        &self,
        server: &str,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        let mut request = Request::builder().method(method).uri(format!("http://{server}{path}"));
        if let Some(all) = request.headers_mut() {
            *all = headers.clone();
        }
        let request = request.body(Full::new(body)).map_err(|e| Failure::NotSent(e.to_string()))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| {
                if is_refused(&error) {
                    return Failure::ConnectionRefused;
                }
                let cause = with_sources(&error);
                if error.is_connect() { Failure::NotSent(cause) } else { Failure::Broken(cause) }
            })?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|e| Failure::Broken(e.to_string()))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        let timed_out = || Failure::Broken(format!("no answer within {} ms", timeout.as_millis()));
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let io = causes.find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// An error with its causes: the outermost alone says little ("client error").
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
