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

use super::answer::Answer;
use super::listing;
use super::read::{Outcome, read};
use super::reply::{self, Asked};
use super::shared::Shared;
use crate::clock::unix_ms;
use crate::wire::WAIT_MS_MAX;

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
        .fallback(|| async { reply::error(Code::NoEndpoint, "there is no such endpoint") })
        .method_not_allowed_fallback(|| async { reply::error(Code::BadMethod, "only GET is allowed here") })
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

async fn data(
    Extract(server): Extract<Server>,
    Path(item): Path<String>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let wait_ms = match wait {
        Ok(Query(wait)) => wait.wait_ms.min(WAIT_MS_MAX),
        Err(rejection) => return reply::error(Code::BadRequest, rejection.body_text()),
    };
    let asked = match Asked::parse(&headers) {
        Ok(asked) => asked,
        Err(message) => return reply::error(Code::BadRequest, message),
    };
    let Some((path, changed)) = server.shared.table().subscribe(&item) else { return no_source(&item) };
    if let Some(collected) = asked.collected {
        server.shared.table().collected(&item, collected, unix_ms());
    }
    let deadline = Instant::now() + Duration::from_millis(wait_ms);
    Poll { server, item, path, changed, asked, deadline }.run().await.unwrap_or_else(reply::body)
}

fn no_source(item: &str) -> Response {
    reply::error(Code::NoItem, format!("this agent has no source {item}"))
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
            let until = until.map_or(self.deadline, |until| until.min(self.deadline));
            let is_open = tokio::select! {
                changed = self.changed.changed() => changed.is_ok(),
                () = sleep_until(until) => Instant::now() < self.deadline,
                () = self.server.shutdown.cancelled() => false,
            };
            if !is_open {
                return Ok(reply::nothing(incarnation));
            }
        }
    }

    async fn step(&mut self) -> Result<Step, ErrorBody> {
        let answer = self.server.shared.table().ask(&self.item, self.asked.incarnation, self.asked.offset);
        let Some((answer, job)) = answer else { return Ok(Step::Reply(no_source(&self.item))) };
        let (Answer::Read(number), Some(job)) = (answer, job) else { return Ok(step(answer)) };
        // Whoever asked for the oldest stays with it.
        self.asked.incarnation = Some(number);

        let permit = self.server.reads.acquire().await.map_err(internal)?;
        let outcome = spawn_blocking(move || read(job)).await.map_err(internal)?;
        drop(permit);
        let key = (self.path.clone(), number);
        let offset = self.asked.offset;
        let mut table = self.server.shared.table();
        match outcome {
            Ok(Outcome::Data { bytes, trace, file }) => {
                table.grew(&key, trace, unix_ms());
                table.open.keep_if_absent(&key, file);
                if !bytes.is_empty() {
                    return Ok(Step::Reply(reply::chunk(number, offset, trace.stat.size, bytes)));
                }
                let answer = table.get(&self.path).map(|source| source.at_end(number, unix_ms()));
                return Ok(answer.map_or_else(|| Step::Reply(no_source(&self.item)), step));
            }
            Ok(Outcome::Shorter) => table.had(&key, offset),
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
        Answer::Wait { incarnation, until_ms } => {
            let pause = until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(unix_ms())));
            Step::Wait { incarnation, until: pause.map(|pause| Instant::now() + pause.max(RETRY)) }
        }
        Answer::Ended { incarnation, next, gap } => Step::Reply(reply::ended(incarnation, next, gap)),
        Answer::Unknown { oldest } => Step::Reply(reply::unknown(oldest)),
        Answer::Read(incarnation) => Step::Wait { incarnation, until: None },
    }
}

fn internal(error: impl std::fmt::Display) -> ErrorBody {
    ErrorBody::new(Code::Internal, error.to_string())
}
