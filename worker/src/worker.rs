//! What a worker is to its program: how it joins, what its handler does, how it ends. Its life
//! is in [`crate::runner`].

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::Method;
use rota_client::{Client, ClientError, Idempotency, Session};
use rota_protocol::http::{Assignment, Code, JoinPool, MemberBody};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::history::History;
use crate::lease::Lease;
use crate::runner::Runner;

/// How long one poll for changes waits, in milliseconds.
const WAIT_MS: u64 = 20_000;
/// Pause after a poll that failed.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long handlers have to stop that do not say how long they need.
const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// What a handler failed with.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Does the work of one bucket at a time.
pub trait Handler: Send + Sync + 'static {
    /// Works on a bucket, as its primary, until the lease is cancelled. A handler that
    /// returns `Ok` before has nothing more to do there; one that fails is started again
    /// after a pause.
    fn run(&self, lease: Lease) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// In a pool whose handoff is warm: copies what the bucket takes, from its primary or
    /// wherever it is ([`Lease::primary`]), and returns when this worker could lead. One that
    /// fails is started again after a pause. If everybody else who owned the bucket is gone,
    /// the lease is cancelled before, and [`Handler::run`] begins with what there is.
    fn prepare(&self, lease: Lease) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = lease;
        std::future::ready(Ok(()))
    }

    /// Keeps up with a bucket that another leads, until the lease is cancelled: because this
    /// worker is to lead, or is let go. Both are to be quick.
    fn follow(&self, lease: Lease) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async move {
            lease.cancelled().await;
            Ok(())
        }
    }

    /// How long each of them may take to return after the lease was cancelled,
    /// while the worker still owns the bucket; then it is dropped. At the end of the
    /// session's lease it is dropped whatever this says. 10 seconds unless said
    /// otherwise.
    fn stop_timeout(&self) -> Duration {
        STOP_TIMEOUT_DEFAULT
    }
}

/// How a worker joins.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// What the pool is told.
    pub join: JoinPool,
    /// The pool.
    pub pool: String,
    /// How long the worker's death goes unnoticed.
    pub session_timeout: Duration,
    /// Where to record when each bucket was worked on.
    pub history: Option<PathBuf>,
}

impl JoinOptions {
    /// Joins `pool` as `member`, all else as by default.
    #[must_use]
    pub fn new(pool: &str, member: &str) -> Self {
        Self {
            join: JoinPool { name: member.to_owned(), ..JoinPool::default() },
            pool: pool.to_owned(),
            session_timeout: Duration::from_secs(10),
            history: None,
        }
    }
}

/// A worker that has joined.
#[derive(Debug)]
pub struct Worker {
    leave: CancellationToken,
    ended: watch::Receiver<Option<Ended>>,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to leave, and has handed everything over.
    Left,
    /// Its session has ended: its buckets are with others now.
    SessionEnded,
    /// It is no member any more, although its session lives: the pool was
    /// deleted, or somebody took the member out.
    NoMember,
    /// A part of it failed that it cannot do without, which is a bug and was logged, or the runtime
    /// that it ran on is gone. Its handlers were ended; its buckets are others' when its session
    /// has ended.
    Failed,
}

impl Worker {
    /// Opens a session, joins the pool, and runs the handler for every bucket
    /// that the worker gets, until it leaves or its session ends.
    ///
    /// A member of that name that is still there, the worker's own earlier life
    /// perhaps, is waited for as long as two timeouts.
    ///
    /// # Errors
    /// When there is no such pool, the name is taken, or no coordinator answers.
    pub async fn join<H: Handler>(
        client: Client,
        options: JoinOptions,
        handler: H,
    ) -> Result<Self, ClientError> {
        let history = match &options.history {
            Some(path) => Some(History::open(path).map_err(|e| ClientError::Store {
                path: path.display().to_string(),
                cause: e.to_string(),
            })?),
            None => None,
        };
        let session = client.open_session(options.session_timeout).await?;
        if let Err(error) = enter(&session, &options).await {
            drop(session.close().await);
            return Err(error);
        }
        let leave = CancellationToken::new();
        let (ended_sender, ended) = watch::channel(None);
        let (assignments, assigned) = mpsc::channel(1);
        let who = (options.pool.clone(), options.join.name.clone());
        let runner = Runner::new(session.clone(), who, Arc::new(handler), history.map(Arc::new));
        let follow = follow(session.clone(), options.pool, options.join.name, assignments);
        let leaving = leave.clone();
        tokio::spawn(async move {
            // The runner sees when the other ends: nothing is sent any more.
            let life = async { tokio::join!(runner.run(assigned, leaving), follow).0 };
            let how = end_of(life).await;
            ended_sender.send_replace(Some(how));
        });
        Ok(Self { leave, ended })
    }

    /// Returns when the worker has ended, and says how.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        // An error means that its task is gone, with the runtime that it ran on.
        ended.wait_for(Option::is_some).await.ok().and_then(|how| *how).unwrap_or(Ended::Failed)
    }

    /// Hands everything over, and leaves. Returns when that is done.
    pub async fn leave(self) -> Ended {
        self.leave.cancel();
        self.ended().await
    }
}

/// How a worker's life ends that may panic.
async fn end_of(life: impl Future<Output = Ended>) -> Ended {
    AssertUnwindSafe(life).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("the worker's own task panicked: this is a bug");
        Ended::Failed
    })
}

/// Joins the pool, waiting for the name to be free.
async fn enter(session: &Session, options: &JoinOptions) -> Result<(), ClientError> {
    let path = Client::path(["v1", "pools", &options.pool, "members"]);
    let deadline = Instant::now() + session.timeout() * 2;
    loop {
        let joined: Result<MemberBody, _> =
            session.request(Method::POST, &path, Some(&options.join), Idempotency::Safe).await;
        match joined {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(Code::Exists) => {
                if is_own(session, options).await? {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    return Err(error);
                }
                tracing::warn!(member = options.join.name, "waiting for the name to be free");
                tokio::time::sleep(session.timeout() / 10).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the member of that name is this session's: the first try to join was
/// carried out and its answer lost.
async fn is_own(session: &Session, options: &JoinOptions) -> Result<bool, ClientError> {
    let path = Client::path(["v1", "pools", &options.pool, "members", &options.join.name]);
    match session.client().get::<MemberBody>(&path).await {
        Ok(member) => Ok(member.session.as_deref() == Some(session.id())),
        Err(error) if error.code() == Some(Code::NoMember) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Follows what the member owns, until it is no member any more or nobody
/// listens.
async fn follow(session: Session, pool: String, member: String, assignments: mpsc::Sender<Assignment>) {
    tokio::select! {
        () = follow_on(session, pool, member, &assignments) => {}
        () = assignments.closed() => {}
    }
}

async fn follow_on(session: Session, pool: String, member: String, assignments: &mpsc::Sender<Assignment>) {
    let path = Client::path(["v1", "pools", &pool, "members", &member, "assignment"]);
    let wait = Duration::from_millis(WAIT_MS);
    let mut since = None;
    loop {
        let since_part = since.map(|version: u64| format!("&since={version}")).unwrap_or_default();
        let poll = format!("{path}?wait_ms={WAIT_MS}{since_part}");
        match session.long_poll::<Assignment>(&poll, wait).await {
            Ok(assignment) => {
                since = Some(assignment.version);
                if assignments.send(assignment).await.is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.code(), Some(Code::NoMember | Code::NoPool | Code::NotOwner)) => {
                tracing::warn!(pool, member, %error, "no member any more");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "no news of the assignment");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_panics_is_not_taken_for_one_whose_session_has_ended() {
        assert_eq!(end_of(async { Ended::NoMember }).await, Ended::NoMember);
        assert_eq!(end_of(async { panic!("this is what the test is about") }).await, Ended::Failed);
    }

    #[tokio::test]
    async fn a_worker_whose_task_is_gone_has_ended() {
        let (ended_sender, ended) = watch::channel(None);
        let worker = Worker { leave: CancellationToken::new(), ended };
        drop(ended_sender);
        assert_eq!(worker.leave().await, Ended::Failed);
    }
}
