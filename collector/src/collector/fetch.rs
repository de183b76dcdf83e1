//! Asks agents for bytes: see [`crate::wire`] for what is said.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_MATCH, RANGE};
use hyper::http::response::Parts;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rota_protocol::http::ErrorBody;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::checkpoint::Checkpoint;
use crate::naming::url_segment;
use crate::wire::{
    CHUNK_BYTES, Gap, GapReason, Gaps, HEADER_COLLECTED, HEADER_GAP, HEADER_GAP_REASON, HEADER_GAPS,
    HEADER_NEXT, HEADER_OLDEST, HEADER_RESUME,
};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take beyond the time that was asked to be waited, and
/// a body after that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Most bodies that are received at the same time. Bounds memory: a collector
/// may own thousands of sources that all have a chunk ready.
const BODIES_MAX: usize = 64;

/// Asks any agent. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Agents {
    http: Client<HttpConnector, Empty<Bytes>>,
    bodies: Arc<Semaphore>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The agent's host and port.
    pub address: &'a str,
    /// The source's item.
    pub item: &'a str,
    /// The incarnation; `None`: the oldest.
    pub incarnation: Option<u64>,
    /// From where on.
    pub offset: u64,
    /// How long the agent may wait for data.
    pub wait: Duration,
    /// The last checkpoint that was written: it tells the agent when to look.
    pub collected: Option<Checkpoint>,
}

/// Bytes that are missing from an offset on; to which, if that is known; and why.
pub type Missing = (u64, Option<u64>, GapReason);

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Bytes from the offset on.
    Data {
        /// Of this incarnation.
        incarnation: u64,
        /// They.
        bytes: Bytes,
        /// How long the incarnation is now.
        size: u64,
    },
    /// Nothing came.
    Nothing,
    /// The incarnation is over.
    Ended {
        /// Which.
        incarnation: u64,
        /// The one to go on with.
        next: u64,
        /// What cannot be had of it.
        gap: Option<Missing>,
    },
    /// The rest of the incarnation is lost, and there is no next one yet.
    Skipped {
        /// Which.
        incarnation: u64,
        /// The offset to go on from.
        resume: u64,
        /// What cannot be had of it.
        gap: Missing,
    },
    /// The agent has never seen so many bytes of the incarnation.
    BeyondEnd {
        /// It has seen so many.
        size: u64,
    },
    /// The agent does not know the incarnation.
    Unknown {
        /// The one to go on with.
        oldest: u64,
    },
}

/// Why there is no answer, or none that can be used. Trying again may help.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is none.
    #[error("agent address {0:?} is not host:port")]
    Address(String),
    /// No connection, or it broke.
    #[error("agent {0} not reached")]
    Unreachable(String, #[source] hyper_util::client::legacy::Error),
    /// Nothing came in time.
    #[error("agent {0} did not answer in time")]
    Timeout(String),
    /// The answer broke off, or is too long.
    #[error("agent {0} broke off its answer")]
    Body(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The agent refuses.
    #[error("agent {address} answered {status}: {message}")]
    Refused {
        /// The agent.
        address: String,
        /// The status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// The answer makes no sense.
    #[error("agent {0} answered without a usable {1}")]
    Malformed(String, &'static str),
}

impl Default for Agents {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { http, bodies: Arc::new(Semaphore::new(BODIES_MAX)) }
    }
}

impl Agents {
    /// Asks, and waits for the answer. Cancel safe: nothing happens at the agent
    /// on account of an answer.
    ///
    /// # Errors
    /// When there is no answer that can be used.
    pub async fn fetch(&self, ask: &Ask<'_>) -> Result<Fetched, FetchError> {
        Ok(self.fetch_with_last_gap(ask).await?.0)
    }

    /// The same, with the number of the last gap in the agent's list; 0 if there
    /// is none.
    ///
    /// # Errors
    /// When there is no answer that can be used.
    pub async fn fetch_with_last_gap(&self, ask: &Ask<'_>) -> Result<(Fetched, u64), FetchError> {
        let address = || ask.address.to_owned();
        let uri = format!(
            "http://{}/v1/sources/{}/data?wait_ms={}",
            ask.address,
            url_segment(ask.item),
            ask.wait.as_millis()
        );
        let mut request = Request::get(uri).header(RANGE, format!("bytes={}-", ask.offset));
        if let Some(incarnation) = ask.incarnation {
            request = request.header(IF_MATCH, format!("\"{incarnation}\""));
        }
        if let Some(Checkpoint { incarnation, offset, gaps, .. }) = ask.collected {
            request = request.header(HEADER_COLLECTED, format!("{incarnation}:{offset}:{gaps}"));
        }
        let request = request.body(Empty::new()).map_err(|_| FetchError::Address(address()))?;
        let (parts, body) = self.exchange(ask.address, request, ask.wait).await?;
        let last_gap = text(&parts.headers, HEADER_GAPS).and_then(|number| number.parse().ok()).unwrap_or(0);
        let understood = match parts.status {
            StatusCode::PARTIAL_CONTENT => data(ask, &parts.headers, body),
            StatusCode::NO_CONTENT => Ok(Fetched::Nothing),
            StatusCode::RANGE_NOT_SATISFIABLE => ended(ask, &parts.headers),
            StatusCode::PRECONDITION_FAILED => {
                number(&parts.headers, HEADER_OLDEST).map(|oldest| Fetched::Unknown { oldest })
            }
            status => return Err(refused(ask.address, status, &body)),
        };
        Ok((understood.map_err(|what| FetchError::Malformed(address(), what))?, last_gap))
    }

    /// The gaps in an agent's list of a source, after number `after`.
    ///
    /// # Errors
    /// When there is no answer that can be used.
    pub async fn gaps(&self, agent: &str, item: &str, after: u64) -> Result<Vec<Gap>, FetchError> {
        let uri = format!("http://{agent}/v1/sources/{}/gaps?after={after}", url_segment(item));
        let request = Request::get(uri).body(Empty::new());
        let request = request.map_err(|_| FetchError::Address(agent.to_owned()))?;
        let (parts, body) = self.exchange(agent, request, Duration::ZERO).await?;
        if parts.status != StatusCode::OK {
            return Err(refused(agent, parts.status, &body));
        }
        let gaps: Result<Gaps, _> = serde_json::from_slice(&body);
        Ok(gaps.map_err(|_| FetchError::Malformed(agent.to_owned(), "list of gaps"))?.gaps)
    }

    /// Sends a request and receives the whole answer.
    async fn exchange(
        &self,
        agent: &str,
        request: Request<Empty<Bytes>>,
        wait: Duration,
    ) -> Result<(Parts, Bytes), FetchError> {
        let late = |_| FetchError::Timeout(agent.to_owned());
        let response = timeout(wait + ANSWER_TIMEOUT, self.http.request(request)).await.map_err(late)?;
        let response = response.map_err(|error| FetchError::Unreachable(agent.to_owned(), error))?;
        let receive = async {
            let _permit = self.bodies.acquire().await;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, CHUNK_BYTES).collect().await;
            Ok((parts, body.map_err(|error| FetchError::Body(agent.to_owned(), error))?.to_bytes()))
        };
        timeout(ANSWER_TIMEOUT, receive).await.map_err(late)?
    }
}

fn refused(agent: &str, status: StatusCode, body: &[u8]) -> FetchError {
    let message = serde_json::from_slice(body).map_or_else(|_| String::new(), |e: ErrorBody| e.message);
    FetchError::Refused { address: agent.to_owned(), status, message }
}

fn data(ask: &Ask<'_>, headers: &HeaderMap, bytes: Bytes) -> Result<Fetched, &'static str> {
    let incarnation = tag(ask, headers)?;
    let range = text(headers, CONTENT_RANGE.as_str()).and_then(|range| range.strip_prefix("bytes "));
    let (from, size) = range
        .and_then(|range| {
            let (range, size) = range.split_once('/')?;
            let (from, last) = range.split_once('-')?;
            let (from, last): (u64, u64) = (from.parse().ok()?, last.parse().ok()?);
            (last.checked_sub(from)? + 1 == bytes.len() as u64).then_some((from, size.parse().ok()?))
        })
        .ok_or("content-range")?;
    if from != ask.offset {
        return Err("content-range");
    }
    Ok(Fetched::Data { incarnation, bytes, size })
}

fn ended(ask: &Ask<'_>, headers: &HeaderMap) -> Result<Fetched, &'static str> {
    let gap = match text(headers, HEADER_GAP) {
        None => None,
        Some(range) => {
            let (from, to) = range.split_once('-').ok_or(HEADER_GAP)?;
            let from = from.parse().map_err(|_| HEADER_GAP)?;
            let to = if to.is_empty() { None } else { Some(to.parse().map_err(|_| HEADER_GAP)?) };
            Some((from, to, GapReason::parse(text(headers, HEADER_GAP_REASON).unwrap_or_default())))
        }
    };
    let incarnation = tag(ask, headers)?;
    if let (Some(gap), Ok(resume)) = (gap, number(headers, HEADER_RESUME)) {
        return Ok(Fetched::Skipped { incarnation, resume, gap });
    }
    let unsatisfied = text(headers, CONTENT_RANGE.as_str()).and_then(|range| range.strip_prefix("bytes */"));
    if let Some(size) = unsatisfied {
        return Ok(Fetched::BeyondEnd { size: size.parse().map_err(|_| "content-range")? });
    }
    Ok(Fetched::Ended { incarnation, next: number(headers, HEADER_NEXT)?, gap })
}

/// The incarnation that is answered; it must be the one that was asked for.
fn tag(ask: &Ask<'_>, headers: &HeaderMap) -> Result<u64, &'static str> {
    let tag =
        text(headers, ETAG.as_str()).and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    tag.filter(|tag| ask.incarnation.is_none_or(|asked| asked == *tag)).ok_or("etag")
}

fn number(headers: &HeaderMap, name: &'static str) -> Result<u64, &'static str> {
    text(headers, name).and_then(|text| text.parse().ok()).ok_or(name)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn ask(incarnation: Option<u64>, offset: u64) -> Ask<'static> {
        Ask { address: "h:1", item: "i", incarnation, offset, wait: Duration::ZERO, collected: None }
    }

    #[test]
    fn data_must_be_what_was_asked_for() {
        let cases = [
            (Some(7), 3, "\"7\"", "bytes 3-5/9", Ok(9)),
            (None, 0, "\"7\"", "bytes 0-2/3", Ok(3)),
            (Some(8), 3, "\"7\"", "bytes 3-5/9", Err("etag")),
            (Some(7), 3, "7", "bytes 3-5/9", Err("etag")),
            (Some(7), 4, "\"7\"", "bytes 3-5/9", Err("content-range")),
            (Some(7), 3, "\"7\"", "bytes 3-6/9", Err("content-range")),
            (Some(7), 3, "\"7\"", "bytes 5-3/9", Err("content-range")),
        ];
        for (incarnation, offset, etag, range, wanted) in cases {
            let headers = headers(&[("etag", etag), ("content-range", range)]);
            let bytes = Bytes::from("abc");
            let fetched = data(&ask(incarnation, offset), &headers, bytes.clone());
            let wanted = wanted.map(|size| Fetched::Data { incarnation: 7, bytes, size });
            assert_eq!(fetched, wanted, "{incarnation:?} {offset} {etag} {range}");
        }
    }

    #[test]
    fn the_end_of_an_incarnation() {
        let plain = headers(&[("etag", "\"7\""), (HEADER_NEXT, "8")]);
        assert_eq!(
            ended(&ask(Some(7), 9), &plain),
            Ok(Fetched::Ended { incarnation: 7, next: 8, gap: None })
        );
        let gap = headers(&[
            ("etag", "\"7\""),
            (HEADER_NEXT, "8"),
            (HEADER_GAP, "9-12"),
            (HEADER_GAP_REASON, "gone"),
        ]);
        let with_gap = Fetched::Ended { incarnation: 7, next: 8, gap: Some((9, Some(12), GapReason::Gone)) };
        assert_eq!(ended(&ask(Some(7), 9), &gap), Ok(with_gap));
        let open = [("etag", "\"7\""), (HEADER_GAP, "9-"), (HEADER_GAP_REASON, "gone")];
        let resumed = headers(&[&open[..], &[(HEADER_RESUME, "13")]].concat());
        let skipped = Fetched::Skipped { incarnation: 7, resume: 13, gap: (9, None, GapReason::Gone) };
        assert_eq!(ended(&ask(Some(7), 9), &resumed), Ok(skipped));
        let beyond = headers(&[("etag", "\"7\""), ("content-range", "bytes */5")]);
        assert_eq!(ended(&ask(Some(7), 9), &beyond), Ok(Fetched::BeyondEnd { size: 5 }));
        assert_eq!(ended(&ask(Some(7), 9), &headers(&[("etag", "\"7\"")])), Err(HEADER_NEXT));
    }
}
