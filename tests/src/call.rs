//! Plain HTTP, with nothing of the client's cleverness: one request to one
//! server, and its answer as it is.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rota_protocol::http::{Code, ErrorBody};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::eventually::pause;

/// No test waits longer for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);
/// Addresses are on this machine: whoever listens there answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes requests. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Http(hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The request was certainly not carried out: nobody listens.
    #[error("nobody listens at {0}")]
    NotSent(String),
    /// It may have been.
    #[error("{0} did not answer: {1}")]
    Broken(String, String),
}

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A DELETE.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// A POST with a JSON body.
    #[must_use]
    pub fn post(path: &str, body: &(impl Serialize + ?Sized)) -> Self {
        Self::new(Method::POST, path).json(body)
    }

    /// A PUT with a JSON body.
    #[must_use]
    pub fn put(path: &str, body: &(impl Serialize + ?Sized)) -> Self {
        Self::new(Method::PUT, path).json(body)
    }

    /// With a JSON body.
    #[must_use]
    pub fn json(self, body: &(impl Serialize + ?Sized)) -> Self {
        let body = serde_json::to_vec(body).expect("test bodies are JSON");
        self.header("content-type", "application/json").bytes(body)
    }

    /// With these bytes as the body.
    #[must_use]
    pub fn bytes(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("test headers are sound"));
        self
    }
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector))
    }
}

impl Http {
    /// Opens a stream of events at `address`.
    ///
    /// # Errors
    /// When it is not opened.
    pub async fn stream(&self, address: &str, path: &str) -> anyhow::Result<EventStream> {
        let request = Request::get(format!("http://{address}{path}")).header("accept", "text/event-stream");
        let response = self.0.request(request.body(Full::default())?).await?;
        ensure!(response.status() == StatusCode::OK, "status {}", response.status());
        let kind = response.headers().get("content-type").context("no content-type")?.to_str()?.to_owned();
        ensure!(kind.starts_with("text/event-stream"), "content-type {kind}");
        Ok(EventStream { body: response.into_body().map_err(Into::into).boxed_unsync(), read: String::new() })
    }

    /// Waits until a server answers at all, or `stop` is cancelled: for writers that
    /// have no deadline but that of the test that stops them.
    pub async fn until_there(&self, address: &str, stop: &CancellationToken) {
        let looks = async {
            while self.send(address, Call::get("/healthz")).await.is_err() {
                pause().await;
            }
        };
        tokio::select! {
            () = looks => {}
            () = stop.cancelled() => {}
        }
    }

    /// Sends a request to `address` and waits for the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn send(&self, address: &str, call: Call) -> Result<Answer, NoAnswer> {
        let broken = |cause: String| NoAnswer::Broken(address.to_owned(), cause);
        let exchange = async {
            let mut request =
                Request::builder().method(call.method).uri(format!("http://{address}{}", call.path));
            *request.headers_mut().expect("a test's path is sound") = call.headers;
            let request = request.body(Full::new(call.body)).expect("a test's request is sound");
            let response = self.0.request(request).await.map_err(|error| match error.is_connect() {
                true => NoAnswer::NotSent(address.to_owned()),
                false => broken(format!("{error:?}")),
            })?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| broken(e.to_string()))?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        answer.unwrap_or_else(|_| Err(broken(format!("no answer within {ANSWER_TIMEOUT:?}"))))
    }
}

/// Server-sent events.
#[derive(Debug)]
pub struct EventStream {
    body: UnsyncBoxBody<Bytes, anyhow::Error>,
    read: String,
}

impl EventStream {
    /// The next event that has data: its kind, and its data as JSON.
    ///
    /// # Errors
    /// When the stream ends, or there is none for twenty seconds.
    pub async fn next<T: DeserializeOwned>(&mut self) -> anyhow::Result<(String, T)> {
        let next = async {
            loop {
                if let Some((event, rest)) = self.read.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    self.read = rest;
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                    if let Some(data) = field("data: ") {
                        return Ok((
                            field("event: ").unwrap_or_default().to_owned(),
                            serde_json::from_str(data)?,
                        ));
                    }
                    continue;
                }
                let frame = self.body.frame().await.context("the stream ended")??;
                let bytes =
                    frame.into_data().map_err(|_| anyhow::anyhow!("trailers in a stream of events"))?;
                self.read.push_str(std::str::from_utf8(&bytes)?);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.context("no event")?
    }
}

/// What became of a write.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It was carried out.
    Done(Answer),
    /// It certainly was not.
    NotDone,
    /// Nobody can tell.
    Unknown,
}

impl Http {
    /// Sends a write that a sound cluster carries out.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn write(&self, address: &str, call: Call) -> Outcome {
        match self.send(address, call).await {
            Ok(answer) if answer.status.is_success() => Outcome::Done(answer),
            Ok(answer) => match answer.code() {
                Some(Code::OutcomeUnknown) => Outcome::Unknown,
                Some(Code::NoLeader | Code::Overloaded | Code::Timeout) => Outcome::NotDone,
                _ => panic!("a sound write was refused by {address}: {}: {}", answer.status, answer.text()),
            },
            Err(NoAnswer::NotSent(_)) => Outcome::NotDone,
            Err(NoAnswer::Broken(..)) => Outcome::Unknown,
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body of an answer that says yes. An empty one is JSON `null`.
    ///
    /// # Errors
    /// When it says no, or the body is something else.
    pub fn ok<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        ensure!(self.status.is_success(), "status {}: {}", self.status, self.text());
        let body: &[u8] = if self.body.is_empty() { b"null" } else { &self.body };
        serde_json::from_slice(body).with_context(|| self.text())
    }

    /// The code of an answer that says no, if it says no in Rota's form.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        serde_json::from_slice::<ErrorBody>(&self.body).ok().map(|error| error.code)
    }

    /// The error in an answer that must say no with this code, and with the
    /// status that belongs to it, in words that name every one of `naming`.
    ///
    /// # Panics
    /// When it says anything else.
    #[must_use]
    pub fn refused(&self, code: Code, naming: &[&str]) -> ErrorBody {
        let said = format!("status {}: {}", self.status, self.text());
        let error: ErrorBody = serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not an error's body ({e}): {said}"));
        assert_eq!(error.code, code, "{said}");
        assert_eq!(self.status.as_u16(), code.status(), "{said}");
        assert!(!error.message.is_empty(), "{said}");
        for name in naming {
            assert!(error.message.contains(name), "the message does not name {name:?}: {said}");
        }
        error
    }
}

/// Sends bytes as they are, and returns all that comes back until the server
/// ends the connection (which the request should ask for).
///
/// # Errors
/// When the server cannot be reached, or keeps the connection for ten seconds.
pub async fn raw(address: &str, request: &[u8]) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.context("the connection was not ended")?
}
