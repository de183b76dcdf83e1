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

use crate::budget::{Budget, Spent};
use crate::error::ClientError;
use crate::path::{check_address, check_path};
use crate::transport::{Answer, Failure, Transport};

/// How long a request looks for a server that answers, unless it says otherwise.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(15);
/// How long the first server has to answer a request that may be repeated before
/// the next is asked; each further round of all servers waits twice as long.
const ATTEMPT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// How long a server has to answer one that must not be: longer than the servers
/// themselves take for any, so that what came of it is known.
const ATTEMPT_TIMEOUT_ONCE: Duration = Duration::from_secs(12);
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
    /// How long an answer may take by itself.
    answer_time: Duration,
    refused_deadline: Duration,
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
pub enum Idempotency {
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
        Ok(Self {
            inner: Arc::new(inner),
            deadline: DEADLINE_DEFAULT,
            patience: ATTEMPT_TIMEOUT_DEFAULT,
            answer_time: Duration::ZERO,
            refused_deadline: Duration::MAX,
        })
    }

    /// The same client, giving up after `deadline` when no server answers. What an answer may take
    /// by itself ([`Client::with_answer_time`]) is not part of it.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, giving up after `deadline` already when every server has refused the
    /// connection for so long: no server runs, and the caller waits for the answer. By default
    /// the two deadlines are the same: servers that are starting refuse connections, too.
    #[must_use]
    pub fn with_refused_deadline(&self, deadline: Duration) -> Self {
        Self { refused_deadline: deadline, ..self.clone() }
    }

    /// The same client, for requests whose answer takes up to `time` by itself, because the server
    /// waits or works for it. They are only sent to a server that has just shown to be there, and
    /// looking for one takes no longer than it would for other requests.
    #[must_use]
    pub fn with_answer_time(&self, time: Duration) -> Self {
        Self { answer_time: time, ..self.clone() }
    }

    /// The same client, asking another server when one has not answered within
    /// `patience`. For requests that take long, or must not.
    #[must_use]
    pub fn with_attempt_timeout(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// Reads what a server is asked to hold back for up to `wait` while there is
    /// no news.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn long_poll<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<T, ClientError> {
        self.with_answer_time(wait).get(path).await
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
        self.request(Method::GET, path, None::<&()>, &[], Idempotency::Safe).await
    }

    /// Makes any request. Headers are names and values; an empty answer is read
    /// as JSON `null`.
    ///
    /// # Errors
    /// When the answer is no, or no server answers; when the path or a header cannot be sent.
    pub async fn request<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        headers: &[(&'static str, String)],
        repeat: Idempotency,
    ) -> Result<T, ClientError> {
        check_path(path)?;
        let headers = header_map(headers, body.is_some())?;
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
        headers: HeaderMap,
        repeat: Idempotency,
    ) -> BoxFuture<'a, Result<Bytes, ClientError>> {
        Box::pin(self.find_answer(method, path, payload, headers, repeat))
    }

    async fn find_answer(
        &self,
        method: Method,
        path: &str,
        payload: Option<Bytes>,
        headers: HeaderMap,
        repeat: Idempotency,
    ) -> Result<Bytes, ClientError> {
        let request = Outgoing { method, path, headers, payload: payload.unwrap_or_default(), repeat };
        let mut budget = Budget::new(self.deadline, self.answer_time, self.refused_deadline);
        let mut patience = self.patience;
        let mut last = Last::default();
        loop {
            for _ in 0..self.inner.servers.len() {
                if budget.search().is_none() {
                    return Err(last.into_error(self, budget.is_refused()));
                }
                let at = *self.inner.current.borrow();
                let began = Instant::now();
                let sent = self.attempt(&request, at, &budget, patience).await;
                let verdict = self.classify(sent, repeat);
                budget.spend(began.elapsed(), verdict.spent_on());
                match verdict {
                    Disposition::Answer(answer) => return Ok(answer.body),
                    Disposition::Error(error) => return Err(error),
                    Disposition::TryNext(next) => last = next,
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
            // It was no answer that took the time.
            let pause_for = if last.is_refused_connection() { Spent::Refused } else { Spent::Searching };
            budget.spend(ROUND_PAUSE, pause_for);
        }
    }

    /// Asks one server, once.
    async fn attempt(
        &self,
        request: &Outgoing<'_>,
        at: usize,
        budget: &Budget,
        patience: Duration,
    ) -> Result<Answer, Failure> {
        let server = &self.inner.servers[at];
        let mut headers = request.headers.clone();
        let seen = self.inner.seen.load(Ordering::Relaxed);
        // A caller may know of a newer one.
        if seen > 0 {
            headers.entry(HEADER_MIN_ZXID).or_insert_with(|| HeaderValue::from(seen));
        }
        let send = |timeout: Duration| {
            let Outgoing { method, path, payload, .. } = request;
            self.inner.transport.send(server, method, path, &headers, payload.clone(), timeout)
        };
        let search = budget.search().unwrap_or_default();
        // What is to be done once, or takes long, is asked of a server that is there.
        if request.repeat == Idempotency::Unsafe || !self.answer_time.is_zero() {
            self.probe(server, search).await?;
        }
        match request.repeat {
            Idempotency::Safe => tokio::select! {
                sent = send(budget.answer(patience)) => sent,
                () = self.left_for_another(at) => Err(Failure::Broken("it answers no others".into())),
            },
            Idempotency::Unsafe => send(budget.answer(self.patience.max(ATTEMPT_TIMEOUT_ONCE))).await,
        }
    }

    /// Returns when another server than this is asked first, because this one left
    /// somebody without an answer.
    async fn left_for_another(&self, server: usize) {
        let mut current = self.inner.current.subscribe();
        // The sender lives as long as this client.
        drop(current.wait_for(|current| *current != server).await);
    }

    /// Makes sure that a server is there, unless it has answered just now. Whatever goes wrong,
    /// the request itself was not sent.
    async fn probe(&self, server: &str, left: Duration) -> Result<(), Failure> {
        if self.recent_server().is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let (timeout, nothing) = (left.min(PROBE_TIMEOUT), HeaderMap::new());
        let ask =
            self.inner.transport.send(server, &Method::GET, "/healthz", &nothing, Bytes::new(), timeout);
        ask.await.map(drop).map_err(Failure::before_request)
    }

    fn recent_server(&self) -> Option<Instant> {
        *self.inner.heard.lock().expect("no code panics while it holds this")
    }

    fn classify(&self, sent: Result<Answer, Failure>, repeat: Idempotency) -> Disposition {
        let heard = sent.is_ok().then(Instant::now);
        *self.inner.heard.lock().expect("no code panics while it holds this") = heard;
        let answer = match sent {
            Ok(answer) => answer,
            Err(Failure::Broken(_)) if repeat == Idempotency::Unsafe => {
                return Disposition::Error(ClientError::OutcomeUnknown);
            }
            Err(failure) => return Disposition::TryNext(Last::Failure(failure)),
        };
        if let Some(zxid) = answer.headers.get(HEADER_ZXID).and_then(|v| v.to_str().ok()?.parse().ok()) {
            self.inner.seen.fetch_max(zxid, Ordering::Relaxed);
        }
        if answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED {
            return Disposition::Answer(answer);
        }
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(error) => match error.code {
                // Certainly not carried out.
                Code::NoLeader | Code::NotServing | Code::Overloaded | Code::Timeout => {
                    Disposition::TryNext(Last::Refusal(error))
                }
                Code::OutcomeUnknown if repeat == Idempotency::Safe => {
                    Disposition::TryNext(Last::Refusal(error))
                }
                _ => Disposition::Error(ClientError::Refused(error)),
            },
            Err(_) => Disposition::Error(ClientError::BadAnswer(format!("status {}", answer.status))),
        }
    }
}

/// A request, whichever server it is sent to.
struct Outgoing<'a> {
    method: Method,
    path: &'a str,
    headers: HeaderMap,
    payload: Bytes,
    repeat: Idempotency,
}

fn header_map(given: &[(&'static str, String)], has_body: bool) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    if has_body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    for (name, value) in given {
        // The value may be a secret.
        let bad = |what| ClientError::BadRequest(format!("the {what} of the header {name:?} cannot be sent"));
        let value = HeaderValue::from_str(value).map_err(|_| bad("value"))?;
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("name"))?, value);
    }
    Ok(headers)
}

enum Disposition {
    Answer(Answer),
    Error(ClientError),
    TryNext(Last),
}

impl Disposition {
    /// What the attempt came to.
    fn spent_on(&self) -> Spent {
        match self {
            Self::Answer(_) | Self::Error(_) => Spent::Waiting,
            Self::TryNext(Last::Failure(Failure::ConnectionRefused)) => Spent::Refused,
            Self::TryNext(Last::Failure(Failure::Broken(_))) => Spent::Waiting,
            Self::TryNext(Last::Failure(Failure::NotSent(_)) | Last::Nothing) => Spent::Searching,
            // It was there, but cannot answer: the search goes on.
            Self::TryNext(Last::Refusal(error)) => match error.code {
                Code::NoLeader | Code::NotServing | Code::Overloaded => Spent::Searching,
                _ => Spent::Waiting,
            },
        }
    }
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
    fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Failure(Failure::ConnectionRefused))
    }

    fn into_error(self, client: &Client, all_refused: bool) -> ClientError {
        let cause = match self {
            Self::Refusal(error) => return ClientError::Refused(error),
            Self::Failure(failure) => failure.cause().to_owned(),
            Self::Nothing => "no time was left to ask".to_owned(),
        };
        ClientError::Unreachable { servers: client.inner.servers.join(", "), cause, all_refused }
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|e| ClientError::BadAnswer(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_names_the_servers_that_did_not_answer() {
        let client = Client::new(["127.0.0.1:1"]).unwrap().with_deadline(Duration::from_millis(50));
        let error = client.get::<()>("/v1/cluster").await.unwrap_err();
        assert!(error.is_unreachable() && error.to_string().contains("127.0.0.1:1"), "{error}");
    }

    /// Nothing listens there.
    fn client_without_servers() -> Client {
        Client::new(["127.0.0.1:1", "127.0.0.1:2"]).unwrap()
    }

    #[tokio::test]
    async fn a_call_without_servers_ends_at_its_deadline() {
        let client = client_without_servers().with_deadline(Duration::from_millis(200));
        let began = Instant::now();
        let hour = Duration::from_secs(3600);
        client.long_poll::<()>("/v1/cluster", hour).await.unwrap_err();
        let snapshot = client.with_answer_time(hour).with_attempt_timeout(hour);
        let post = snapshot.request::<(), ()>(Method::POST, "/v1/x", None, &[], Idempotency::Safe);
        assert!(post.await.unwrap_err().is_unreachable());
        assert!(began.elapsed() < hour / 100, "it took {:?}", began.elapsed());
    }

    #[tokio::test]
    async fn where_all_refuse_the_search_may_end_sooner() {
        let client = client_without_servers().with_deadline(Duration::from_secs(3600));
        let client = client.with_refused_deadline(Duration::from_millis(200));
        let error = client.get::<()>("/v1/cluster").await.unwrap_err();
        assert!(error.to_string().ends_with(": connection refused"), "{error}");
        assert!(matches!(error, ClientError::Unreachable { all_refused: true, .. }));
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_refused_and_never_sent_in_part() {
        let client = client_without_servers().with_deadline(Duration::from_secs(3600));
        for (name, value) in [("Upper Case", "x"), ("é", "x"), ("", "x"), ("rota-session", "a\nb: c")] {
            let headers = [(name, value.to_owned())];
            let sent =
                client.request::<(), ()>(Method::GET, "/v1/x", None, &headers, Idempotency::Safe).await;
            assert!(matches!(sent, Err(ClientError::BadRequest(_))), "{name:?}: {sent:?}");
        }
        let sent = client.get::<()>("/a b").await;
        assert!(matches!(sent, Err(ClientError::BadRequest(_))), "{sent:?}");
    }

    #[tokio::test]
    async fn no_duration_is_too_long() {
        let client =
            client_without_servers().with_deadline(Duration::MAX).with_attempt_timeout(Duration::MAX);
        let client = client.with_answer_time(Duration::MAX).with_refused_deadline(Duration::from_millis(60));
        assert!(client.get::<()>("/v1/cluster").await.unwrap_err().is_unreachable());
    }
}
