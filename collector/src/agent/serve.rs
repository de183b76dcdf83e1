//! The agent's HTTP side: see [`crate::wire`] for what is said.
//!
//! Reading files blocks, so it happens on threads for that. Nothing is sent
//! that was not asked for, and nothing is kept between two requests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as Extract};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use rota_protocol::http::{Code, ErrorBody};
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::http_reply::{self, Asked};
use super::listing;
use super::plan_read::Answer;
use super::read::{Outcome, read};
use super::shared::Shared;
use crate::clock::{Now, monotonic_ms};
use crate::wire::{Gaps, WAIT_MS_MAX};

/// Most files that are read at the same time; more requests wait their turn.
/// A chunk each is in memory, so this bounds memory too.
const READS_MAX: usize = 32;
/// How soon a file is looked at again that was in the middle of a change.
const RETRY: Duration = Duration::from_millis(50);

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
    reads: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Server {
    /// A server of these sources. When `shutdown` is cancelled, whoever waits is
    /// answered at once.
    #[must_use]
    pub fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, reads: Arc::new(Semaphore::new(READS_MAX)), shutdown }
    }
}

/// The agent's endpoints.
pub fn router(server: Server) -> Router {
    Router::new()
        .route("/v1/sources", get(list))
        .route("/v1/sources/{item}/data", get(data))
        .route("/v1/sources/{item}/gaps", get(gaps))
        .fallback(|| async { http_reply::error(Code::NoEndpoint, "there is no such endpoint") })
        .method_not_allowed_fallback(|| async {
            http_reply::error(Code::BadMethod, "only GET is allowed here")
        })
        .with_state(server)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    #[serde(default)]
    wait_ms: u64,
}

async fn list(Extract(server): Extract<Server>) -> Response {
    Json(listing::list(&server.shared.table())).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn gaps(
    Extract(server): Extract<Server>,
    Path(item): Path<String>,
    after: Result<Query<After>, QueryRejection>,
) -> Response {
    let Query(After { after }) = match after {
        Ok(after) => after,
        Err(rejection) => return http_reply::error(Code::BadRequest, rejection.body_text()),
    };
    match server.shared.table().gaps(&item, after) {
        Some(gaps) => Json(Gaps { gaps }).into_response(),
        None => no_source(&item),
    }
}

async fn data(
    Extract(server): Extract<Server>,
    Path(item): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let wait_ms = match wait {
        Ok(Query(wait)) => wait.wait_ms.min(WAIT_MS_MAX),
        Err(rejection) => return http_reply::error(Code::BadRequest, rejection.body_text()),
    };
    let asked = match Asked::parse(&headers) {
        Ok(asked) => asked,
        Err(message) => return http_reply::error(Code::BadRequest, message),
    };
    let Some((path, changed)) = server.shared.table().subscribe(&item) else { return no_source(&item) };
    if let Some(claimed) = asked.claimed
        && server.shared.table().needs_checkpoint(&item, claimed)
    {
        server.shared.unconfirmed.add(&item);
    }
    let deadline = Instant::now() + Duration::from_millis(wait_ms);
    let poll = Poll { server: server.clone(), item: item.clone(), path, changed, asked, deadline };
    let response = poll.run().await.unwrap_or_else(http_reply::body);
    http_reply::with_last_gap(response, server.shared.table().last_gap(&item))
}

fn no_source(item: &str) -> Response {
    http_reply::error(Code::NoItem, format!("this agent has no source {item}"))
}

/// One long poll.
struct Poll {
    server: Server,
    item: String,
    path: PathBuf,
    changed: watch::Receiver<u64>,
    asked: Asked,
    deadline: Instant,
}

/// One try.
enum Step {
    Reply(Response),
    /// Nothing yet: look again on a change, or at that time.
    Wait {
        incarnation: u64,
        until: Option<Instant>,
    },
}

impl Poll {
    async fn run(mut self) -> Result<Response, ErrorBody> {
        loop {
            // Before looking, so that no change in between is missed.
            self.changed.borrow_and_update();
            let (incarnation, until) = match self.step().await? {
                Step::Reply(response) => return Ok(response),
                Step::Wait { incarnation, until } => (incarnation, until),
            };
            if self.has_unreported_gap() {
                return Ok(http_reply::nothing(incarnation));
            }
            let until = until.map_or(self.deadline, |until| until.min(self.deadline));
            let is_open = tokio::select! {
                changed = self.changed.changed() => changed.is_ok(),
                () = sleep_until(until) => Instant::now() < self.deadline,
                () = self.server.shutdown.cancelled() => false,
            };
            if !is_open {
                return Ok(http_reply::nothing(incarnation));
            }
        }
    }

    /// Whether there is a gap that the reader does not know of.
    fn has_unreported_gap(&self) -> bool {
        let last_gap = || self.server.shared.table().last_gap(&self.item);
        self.asked.claimed.is_some_and(|claimed| claimed.gaps < last_gap())
    }

    async fn step(&mut self) -> Result<Step, ErrorBody> {
        let answer = self.server.shared.table().ask(
            &self.item,
            self.asked.incarnation,
            self.asked.offset,
            Now::read(),
        );
        let Some((answer, job)) = answer else { return Ok(Step::Reply(no_source(&self.item))) };
        let (Answer::Read(number), Some(job)) = (answer, job) else { return Ok(step(answer)) };
        // Whoever asked for the oldest stays with it.
        self.asked.incarnation = Some(number);

        let permit = self.server.reads.acquire().await.map_err(internal)?;
        let shared = Arc::clone(&self.server.shared);
        let outcome = spawn_blocking(move || read(job, &shared.beneath)).await.map_err(internal)?;
        drop(permit);
        let key = (self.path.clone(), number);
        let offset = self.asked.offset;
        let mut table = self.server.shared.table();
        match outcome {
            Ok(Outcome::Data { bytes, trace, file }) => {
                table.grew(&key, trace, Now::read());
                // The file of a finished incarnation is only read for late bytes, and closed again.
                if table.incarnation(&key).is_some_and(|incarnation| incarnation.passed_ms.is_none()) {
                    table.open.keep_if_absent(&key, file);
                }
                if !bytes.is_empty() {
                    return Ok(Step::Reply(http_reply::chunk(number, offset, trace.stat.size, bytes)));
                }
                let answer = table.get(&self.path).map(|source| source.at_end(number, offset, Now::read()));
                return Ok(answer.map_or_else(|| Step::Reply(no_source(&self.item)), step));
            }
            // Of which the agent knows nothing, whoever asks. If the checkpoint says so,
            // too, bytes of the file were lost: see `confirm`.
            Ok(Outcome::Shorter { size }) => return Ok(Step::Reply(http_reply::beyond_end(number, size))),
            Ok(Outcome::Changed) => {}
            Err(error) => {
                return Err(ErrorBody::new(Code::Internal, format!("the file cannot be read: {error}")));
            }
        }
        drop(table);
        // The follower finds out what happened; it changes the table then.
        self.server.shared.hints.file(self.path.clone());
        Ok(Step::Wait { incarnation: number, until: Some(Instant::now() + RETRY) })
    }
}

fn step(answer: Answer) -> Step {
    match answer {
        Answer::Wait { incarnation, until_ms } => Step::Wait { incarnation, until: until_ms.map(instant_of) },
        Answer::Ended { incarnation, next, gap } => Step::Reply(http_reply::ended(incarnation, next, gap)),
        Answer::Skipped { resume, gap } => Step::Reply(http_reply::skipped(resume, gap)),
        Answer::Unknown { oldest } => Step::Reply(http_reply::unknown(oldest)),
        Answer::Read(incarnation) => Step::Wait { incarnation, until: None },
    }
}

/// A time by the monotonic clock; if it has passed, now plus [`RETRY`].
fn instant_of(at_ms: u64) -> Instant {
    let pause = Duration::from_millis(at_ms.saturating_sub(monotonic_ms()));
    Instant::now() + pause.max(RETRY)
}

fn internal(error: impl std::fmt::Display) -> ErrorBody {
    ErrorBody::new(Code::Internal, error.to_string())
}
