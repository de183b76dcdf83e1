//! Requests that find a server that answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use rota_protocol::http::{Code, ErrorBody, HEADER_MIN_ZXID, HEADER_ZXID};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::ClientError;
use crate::transport::{Answer, Failure, Transport};

/// How long a request looks for a server that answers, unless it says otherwise.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(15);
/// Longest wait for one server's answer before another is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(12);
/// Pause after every server was asked in vain.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

/// A client of one cluster. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    deadline: Duration,
}

#[derive(Debug)]
struct Inner {
    transport: Transport,
    servers: Vec<String>,
    /// The server that answered last.
    current: AtomicUsize,
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
            current: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner), deadline: DEADLINE_DEFAULT })
    }

    /// The same client, giving up after `deadline` when no server answers.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { inner: Arc::clone(&self.inner), deadline }
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
        let answer = self.exchange(method, path, body, headers, repeat, ATTEMPT_TIMEOUT).await?;
        parse(&answer.body)
    }

    /// As [`Client::request`], with a wait of its own for each server's answer.
    pub(crate) async fn request_within<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        headers: &[(&'static str, String)],
        repeat: Repeat,
        attempt_timeout: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.exchange(method, path, body, headers, repeat, attempt_timeout).await?;
        parse(&answer.body)
    }

    async fn exchange<B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        headers: &[(&'static str, String)],
        repeat: Repeat,
        attempt_timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let payload = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| ClientError::BadAnswer(e.to_string()))?,
            None => Vec::new(),
        };
        let payload = Bytes::from(payload);
        let deadline = Instant::now() + self.deadline;
        let mut last = Last::default();
        loop {
            for _ in 0..self.inner.servers.len() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last.into_error(self));
                }
                let timeout = left.min(attempt_timeout);
                let at = self.inner.current.load(Ordering::Relaxed) % self.inner.servers.len();
                let server = &self.inner.servers[at];
                let headers = self.headers(headers, !payload.is_empty() || body.is_some());
                let sent = self
                    .inner
                    .transport
                    .send(server, &method, path, &headers, payload.clone(), timeout)
                    .await;
                match self.judge(sent, repeat) {
                    Verdict::Answer(answer) => return Ok(answer),
                    Verdict::Error(error) => return Err(error),
                    Verdict::TryNext(next) => last = next,
                }
                // Others may have moved on from this server meanwhile.
                let next = (at + 1) % self.inner.servers.len();
                let _ = self.inner.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
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
                Code::NoLeader | Code::Overloaded | Code::Timeout => Verdict::TryNext(Last::Refusal(error)),
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
