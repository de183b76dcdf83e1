//! Requests that find a server that answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use rota_protocol::http::{Code, ErrorBody, HEADER_MIN_ZXID, HEADER_ZXID};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::ClientError;
use crate::transport::{Answer, Failure, Transport};

/// How long a request looks for a server that answers, unless it says otherwise.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(15);
/// How long the first server has to answer a request that may be repeated before
/// the next is asked; each further round of all servers waits twice as long.
const PATIENCE_DEFAULT: Duration = Duration::from_secs(2);
/// How long a server has to answer one that must not be: longer than the servers
/// themselves take for any, so that what came of it is known.
const PATIENCE_ONCE: Duration = Duration::from_secs(12);
/// A server that has answered so recently is asked to do something that must not
/// be repeated; any other is first asked whether it is there.
const FRESH: Duration = Duration::from_secs(1);
/// How long a server has to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after every server was asked in vain.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// A client of one cluster. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    deadline: Duration,
    patience: Duration,
}

#[derive(Debug)]
struct Inner {
    transport: Transport,
    servers: Vec<String>,
    /// The server that answered last; requests that wait for an earlier one give
    /// it up, if they may be repeated.
    current: watch::Sender<usize>,
    /// When it answered.
    heard: Mutex<Option<Instant>>,
    /// The newest write that any answer was based on. Servers that have not
    /// applied it wait before they answer, so time never runs backwards.
    seen: AtomicU64,
}

/// Whether a request may be carried out twice without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or doing it again changes nothing: it is sent again to another
    /// server when the connection breaks.
    Safe,
    /// It is sent again only when it certainly was not carried out.
    Unsafe,
}

impl Client {
    /// A client of the cluster that has these servers (`HOST:PORT` of their HTTP
    /// faces). Any of them will do; more of them survive more failures.
    ///
    /// # Errors
    /// When there is no server, or an address is not one.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Result<Self, ClientError> {
        let servers: Vec<String> = servers.into_iter().map(Into::into).collect();
        for server in &servers {
            check_address(server)?;
        }
        if servers.is_empty() {
            return Err(ClientError::BadAddress(String::new()));
        }
        let inner = Inner {
            transport: Transport::new(),
            servers,
            current: watch::Sender::new(0),
            heard: Mutex::new(None),
            seen: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner), deadline: DEADLINE_DEFAULT, patience: PATIENCE_DEFAULT })
    }

    /// The same client, giving up after `deadline` when no server answers.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, asking another server when one has not answered within
    /// `patience`. For requests that take long, or must not.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Reads what a server is asked to hold back for up to `wait` while there is
    /// no news.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn long_poll<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<T, ClientError> {
        self.waiting_for(wait).get(path).await
    }

    /// The same client, for answers that are held back for up to `wait`.
    pub(crate) fn waiting_for(&self, wait: Duration) -> Self {
        self.with_deadline(wait + self.deadline).with_patience(wait + self.patience)
    }

    /// The servers it knows.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.inner.servers
    }

    /// Reads.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, None::<&()>, &[], Repeat::Safe).await
    }

    /// Makes any request. Headers are names and values; an empty answer is read
    /// as JSON `null`.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn request<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        headers: &[(&'static str, String)],
        repeat: Repeat,
    ) -> Result<T, ClientError> {
        let payload = match body {
            Some(body) => Some(serde_json::to_vec(body).map_err(|e| ClientError::BadAnswer(e.to_string()))?),
            None => None,
        };
        parse(&self.exchange(method, path, payload.map(Bytes::from), headers, repeat).await?)
    }

    /// [`Client::request`] in bytes. Boxed, so that it is compiled here, once, and
    /// not wherever a request is made for each type of body and answer.
    fn exchange<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        payload: Option<Bytes>,
        headers: &'a [(&'static str, String)],
        repeat: Repeat,
    ) -> BoxFuture<'a, Result<Bytes, ClientError>> {
        Box::pin(self.find_answer(method, path, payload, headers, repeat))
    }

    async fn find_answer(
        &self,
        method: Method,
        path: &str,
        payload: Option<Bytes>,
        headers: &[(&'static str, String)],
        repeat: Repeat,
    ) -> Result<Bytes, ClientError> {
        let has_body = payload.is_some();
        let payload = payload.unwrap_or_default();
        let deadline = Instant::now() + self.deadline;
        let mut patience = self.patience;
        let mut last = Last::default();
        loop {
            for _ in 0..self.inner.servers.len() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last.into_error(self));
                }
                let at = *self.inner.current.borrow();
                let server = &self.inner.servers[at];
                let headers = self.headers(headers, has_body);
                let send = |timeout: Duration| {
                    self.inner.transport.send(server, &method, path, &headers, payload.clone(), timeout)
                };
                let sent = match repeat {
                    Repeat::Safe => tokio::select! {
                        sent = send(left.min(patience)) => sent,
                        () = self.left_for_another(at) => Err(Failure::Broken("it answers no others".into())),
                    },
                    Repeat::Unsafe => match self.probe(server, left).await {
                        Ok(()) => send(left.min(self.patience.max(PATIENCE_ONCE))).await,
                        Err(failure) => Err(Failure::NotSent(failure.cause().to_owned())),
                    },
                };
                match self.judge(sent, repeat) {
                    Verdict::Answer(answer) => return Ok(answer.body),
                    Verdict::Error(error) => return Err(error),
                    Verdict::TryNext(next) => last = next,
                }
                // Others may have moved on from this server meanwhile.
                self.inner.current.send_if_modified(|current| {
                    let unmoved = *current == at;
                    if unmoved {
                        *current = (at + 1) % self.inner.servers.len();
                    }
                    unmoved
                });
            }
            patience = patience.saturating_mul(2).min(self.deadline);
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// Returns when another server than this is asked first, because this one left
    /// somebody without an answer.
    async fn left_for_another(&self, server: usize) {
        let mut current = self.inner.current.subscribe();
        // The sender lives as long as this client.
        drop(current.wait_for(|current| *current != server).await);
    }

    /// Makes sure that a server is there, unless it has answered just now.
    async fn probe(&self, server: &str, left: Duration) -> Result<(), Failure> {
        if self.heard().is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let (timeout, nothing) = (left.min(PROBE_TIMEOUT), HeaderMap::new());
        let ask =
            self.inner.transport.send(server, &Method::GET, "/healthz", &nothing, Bytes::new(), timeout);
        ask.await.map(drop)
    }

    fn heard(&self) -> Option<Instant> {
        *self.inner.heard.lock().expect("no code panics while it holds this")
    }

    fn headers(&self, given: &[(&'static str, String)], has_body: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if has_body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let seen = self.inner.seen.load(Ordering::Relaxed);
        if seen > 0 {
            headers.insert(HeaderName::from_static(HEADER_MIN_ZXID), HeaderValue::from(seen));
        }
        for (name, value) in given {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }

    fn judge(&self, sent: Result<Answer, Failure>, repeat: Repeat) -> Verdict {
        let heard = sent.is_ok().then(Instant::now);
        *self.inner.heard.lock().expect("no code panics while it holds this") = heard;
        let answer = match sent {
            Ok(answer) => answer,
            Err(Failure::Broken(_)) if repeat == Repeat::Unsafe => {
                return Verdict::Error(ClientError::OutcomeUnknown);
            }
            Err(failure) => return Verdict::TryNext(Last::Failure(failure)),
        };
        if let Some(zxid) = answer.headers.get(HEADER_ZXID).and_then(|v| v.to_str().ok()?.parse().ok()) {
            self.inner.seen.fetch_max(zxid, Ordering::Relaxed);
        }
        if answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED {
            return Verdict::Answer(answer);
        }
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(error) => match error.code {
                // Certainly not carried out.
                Code::NoLeader | Code::NotServing | Code::Overloaded | Code::Timeout => {
                    Verdict::TryNext(Last::Refusal(error))
                }
                Code::OutcomeUnknown if repeat == Repeat::Safe => Verdict::TryNext(Last::Refusal(error)),
                _ => Verdict::Error(ClientError::Refused(error)),
            },
            Err(_) => Verdict::Error(ClientError::BadAnswer(format!("status {}", answer.status))),
        }
    }
}

enum Verdict {
    Answer(Answer),
    Error(ClientError),
    TryNext(Last),
}

/// What the last server that was asked had to say.
#[derive(Debug, Default)]
enum Last {
    #[default]
    Nothing,
    Failure(Failure),
    Refusal(ErrorBody),
}

impl Last {
    fn into_error(self, client: &Client) -> ClientError {
        let cause = match self {
            Self::Refusal(error) => return ClientError::Refused(error),
            Self::Failure(failure) => failure.cause().to_owned(),
            Self::Nothing => "no time was left to ask".to_owned(),
        };
        ClientError::Unreachable { servers: client.inner.servers.join(", "), cause }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

fn check_address(address: &str) -> Result<(), ClientError> {
    let sound = address.rsplit_once(':').is_some_and(|(host, port)| {
        let host_is_sound = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        host_is_sound && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if sound { Ok(()) } else { Err(ClientError::BadAddress(address.to_owned())) }
}

/// One name in a path, with every byte that means something there encoded.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Client {
    /// The path of an endpoint, its names encoded: `Client::path(["v1", "pools",
    /// name])`.
    #[must_use]
    pub fn path<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
        names.into_iter().map(|name| format!("/{}", segment(name))).collect()
    }

    /// The same with parameters, their values encoded. Those without a value are
    /// left out.
    #[must_use]
    pub fn query<'a>(path: &str, params: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
        let given = params.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", segment(&value))).collect();
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["localhost:7710", "10.0.0.1:1", "[::1]:7710"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in ["localhost", ":1", "a:0", "a:65536", "a b:1", "http://a:1/"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_in_paths_are_encoded() {
        assert_eq!(Client::path(["v1", "a/b", "é?"]), "/v1/a%2Fb/%C3%A9%3F");
        let params = [("key", Some("a&b+ c".to_owned())), ("since", None), ("wait_ms", Some("5".to_owned()))];
        assert_eq!(Client::query("/v1/x", params), "/v1/x?key=a%26b%2B%20c&wait_ms=5");
        assert_eq!(Client::query("/v1/x", [("since", None)]), "/v1/x");
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_servers_names() {
        let client = Client::new(["127.0.0.1:1"]).unwrap().with_deadline(Duration::from_millis(50));
        let error = client.get::<()>("/v1/cluster").await.unwrap_err();
        assert!(error.is_unreachable() && error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
