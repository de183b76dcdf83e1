//! A worker's life: join, follow what it owns, leave.
//!
//! One task owns everything. It waits for the next thing to happen (what it owns
//! has changed, its session's lease has, a handler has returned, it is to
//! leave) and then brings the running handlers in step:
//!
//! ```text
//!              granted                    asked to release, or leaving
//!  (nothing) ──────────► running ──────────────────────────────► stopping
//!      ▲                    │                                        │ returned:
//!      │                    │ no longer granted, or lease over       │ release it
//!      └────────────────────┴──── ended at once ◄────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::Method;
use rota_client::{Client, ClientError, LeaseState, Repeat, Session};
use rota_protocol::http::{Assignment, Code, Grant, JoinPool, MemberBody, Release};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::history::{History, HistoryEvent, monotonic_ns};
use crate::lease::Lease;

/// How long one poll for changes waits, in milliseconds.
const WAIT_MS: u64 = 20_000;
/// Pause after a poll that failed.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long handlers have to stop that do not say how long they need.
const STOP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// The last part of a lease in which handlers are told to stop: a tenth. When it
/// is over they are ended.
const STOPPING_PART: u32 = 10;
/// Pauses before a handler that failed is started again: doubled each time, from
/// the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How long a worker that leaves waits for the coordinator to ask for the next
/// bucket before it stops everything by itself.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);

/// What a handler failed with.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Does the work of one bucket at a time.
pub trait Handler: Send + Sync + 'static {
    /// Works on a bucket until the lease is cancelled. A handler that returns
    /// `Ok` before has nothing more to do there; one that fails is started again
    /// after a pause.
    fn run(&self, lease: Lease) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// How long [`Handler::run`] may take to return after the lease was cancelled,
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
        let runner = Runner {
            lease: session.lease(),
            session: session.clone(),
            pool: options.pool.clone(),
            member: options.join.name.clone(),
            handler: Arc::new(handler),
            history: history.map(Arc::new),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            errands: JoinSet::new(),
            latest: nothing(),
            given_up: BTreeMap::new(),
            leaving: false,
        };
        let follow = follow(session.clone(), options.pool, options.join.name, assignments);
        let leaving = leave.clone();
        tokio::spawn(async move {
            // The runner sees when the other ends: nothing is sent any more.
            let (how, ()) = tokio::join!(runner.run(assigned, leaving), follow);
            ended_sender.send_replace(Some(how));
        });
        Ok(Self { leave, ended })
    }

    /// Returns when the worker has ended, and says how.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        // An error means that its task is gone, and with it the session.
        ended.wait_for(Option::is_some).await.ok().and_then(|how| *how).unwrap_or(Ended::SessionEnded)
    }

    /// Hands everything over, and leaves. Returns when that is done.
    pub async fn leave(self) -> Ended {
        self.leave.cancel();
        self.ended().await
    }
}

/// Joins the pool, waiting for the name to be free.
async fn enter(session: &Session, options: &JoinOptions) -> Result<(), ClientError> {
    let path = Client::path(["v1", "pools", &options.pool, "members"]);
    let deadline = Instant::now() + session.timeout() * 2;
    loop {
        let joined: Result<MemberBody, _> =
            session.request(Method::POST, &path, Some(&options.join), Repeat::Safe).await;
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

fn nothing() -> Assignment {
    Assignment { joined: 0, version: 0, grants: Vec::new(), release: Vec::new(), draining: false }
}

struct Runner<H> {
    session: Session,
    lease: watch::Receiver<LeaseState>,
    pool: String,
    member: String,
    handler: Arc<H>,
    history: Option<Arc<History>>,
    running: BTreeMap<String, Running>,
    /// The handlers.
    tasks: JoinSet<(String, u64)>,
    /// What is being said to the coordinator. Whatever is not said by the end is
    /// dropped: the end of the session says it all.
    errands: JoinSet<()>,
    latest: Assignment,
    /// Grants, by bucket and fence, that were given back, or are being. Work on
    /// them never begins again, whatever an older answer says of them.
    given_up: BTreeMap<String, u64>,
    leaving: bool,
}

/// A bucket's handler at work.
struct Running {
    fence: u64,
    /// Asks it to stop.
    cancel: CancellationToken,
    /// Ends it.
    kill: CancellationToken,
    /// It was asked to stop, because the bucket is to be released.
    releasing: bool,
}

enum Happened {
    Assigned(Assignment),
    Lease(LeaseState),
    LeaseNearlyOver,
    Returned(String, u64),
    Leave,
    Impatient,
    /// Nothing is assigned any more: it is no member.
    NoMember,
    /// The session's keeper, or a handler's task, is gone.
    Over,
}

impl<H: Handler> Runner<H> {
    async fn run(mut self, mut assigned: mpsc::Receiver<Assignment>, leave: CancellationToken) -> Ended {
        let mut patience = Instant::now();
        let mut warned_of = None;
        let how = loop {
            let state = *self.lease.borrow_and_update();
            let warn_at = match state {
                LeaseState::Held { until } if warned_of != Some(until) => {
                    Some(until - self.session.timeout() / STOPPING_PART)
                }
                _ => None,
            };
            let happened = tokio::select! {
                next = assigned.recv() => next.map_or(Happened::NoMember, Happened::Assigned),
                changed = self.lease.changed() => {
                    if changed.is_err() { Happened::Over } else { Happened::Lease(*self.lease.borrow()) }
                }
                () = sleep_until(warn_at) => Happened::LeaseNearlyOver,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok((bucket, fence)) => Happened::Returned(bucket, fence),
                    Err(error) => {
                        tracing::error!(%error, "a handler's task failed");
                        Happened::Over
                    }
                },
                Some(_) = self.errands.join_next(), if !self.errands.is_empty() => continue,
                () = leave.cancelled(), if !self.leaving => Happened::Leave,
                () = tokio::time::sleep_until(patience), if self.leaving => Happened::Impatient,
            };
            match happened {
                Happened::Assigned(assignment) => {
                    self.latest = assignment;
                    self.bring_in_step();
                    patience = Instant::now() + LEAVE_PATIENCE;
                }
                Happened::Lease(LeaseState::Held { .. }) => self.bring_in_step(),
                Happened::Lease(LeaseState::Lapsed) => self.end_all(),
                Happened::LeaseNearlyOver => {
                    if let LeaseState::Held { until } = state {
                        warned_of = Some(until);
                    }
                    self.ask_all();
                }
                Happened::Returned(bucket, fence) => {
                    self.returned(&bucket, fence);
                    patience = Instant::now() + LEAVE_PATIENCE;
                }
                Happened::Leave => {
                    self.leaving = true;
                    patience = Instant::now() + LEAVE_PATIENCE;
                    self.ask_to_be_drained();
                }
                // Nobody asks for the rest: it is stopped, and left with the session.
                Happened::Impatient => {
                    self.ask_all();
                    patience = Instant::now() + self.handler.stop_timeout();
                }
                Happened::NoMember if self.leaving => break Ended::Left,
                Happened::NoMember => {
                    self.end_all();
                    break self.why_no_member().await;
                }
                Happened::Lease(LeaseState::Ended) | Happened::Over => break Ended::SessionEnded,
            }
            if self.leaving && self.running.is_empty() {
                break Ended::Left;
            }
        };
        drop(assigned);
        self.finish().await;
        how
    }

    /// Ends what still runs, and the session.
    async fn finish(mut self) {
        self.end_all();
        while self.tasks.join_next().await.is_some() {}
        if *self.lease.borrow() != LeaseState::Ended
            && let Err(error) = self.session.close().await
        {
            tracing::warn!(%error, "the session could not be closed: it ends with its timeout");
        }
    }

    /// Whether there is enough left of the lease to begin something.
    fn may_start(&self) -> bool {
        let LeaseState::Held { until } = *self.lease.borrow() else { return false };
        Instant::now() < until - self.session.timeout() / STOPPING_PART
    }

    /// Why it is no member: because its session has ended, or although it lives.
    async fn why_no_member(&self) -> Ended {
        let path = Client::path(["v1", "sessions", self.session.id()]);
        let asked = self.session.request::<(), serde_json::Value>(Method::GET, &path, None, Repeat::Safe);
        match asked.await {
            Err(error) if error.code() == Some(Code::SessionExpired) => Ended::SessionEnded,
            _ => Ended::NoMember,
        }
    }

    /// Starts, stops and ends handlers so that they fit the latest assignment.
    fn bring_in_step(&mut self) {
        let granted: BTreeMap<&str, &Grant> =
            self.latest.grants.iter().map(|g| (g.bucket.as_str(), g)).collect();
        for (bucket, running) in &mut self.running {
            if granted.get(bucket.as_str()).is_none_or(|grant| grant.fence != running.fence) {
                // It may be somebody else's already.
                running.cancel.cancel();
                running.kill.cancel();
            } else if self.latest.release.contains(bucket) && !running.releasing {
                running.releasing = true;
                running.cancel.cancel();
            }
        }
        self.given_up.retain(|bucket, fence| granted.get(bucket.as_str()).is_some_and(|g| g.fence == *fence));
        if self.leaving || !self.may_start() {
            return;
        }
        let idle = |grant: &&Grant| {
            !self.running.contains_key(&grant.bucket)
                && self.given_up.get(&grant.bucket) != Some(&grant.fence)
        };
        let idle: Vec<Grant> = self.latest.grants.iter().filter(idle).cloned().collect();
        for grant in idle {
            if self.latest.release.contains(&grant.bucket) {
                self.release(grant.bucket, grant.fence);
            } else {
                self.start(&grant);
            }
        }
    }

    fn start(&mut self, grant: &Grant) {
        let (cancel, kill) = (CancellationToken::new(), CancellationToken::new());
        let lease = Lease::new(self.session.clone(), (&self.pool, &self.member), grant, cancel.clone());
        let running =
            Running { fence: grant.fence, cancel: cancel.clone(), kill: kill.clone(), releasing: false };
        self.running.insert(grant.bucket.clone(), running);
        let handler = Arc::clone(&self.handler);
        let history = self.history.clone();
        let stop = running_out(cancel, handler.stop_timeout());
        let event = HistoryEvent {
            pool: self.pool.clone(),
            bucket: grant.bucket.clone(),
            member: self.member.clone(),
            fence: grant.fence,
            began: true,
            at_ns: 0,
        };
        let (bucket, fence) = (grant.bucket.clone(), grant.fence);
        self.tasks.spawn(async move {
            record(history.as_deref(), &event, true);
            tokio::select! {
                () = work(&*handler, lease) => {}
                () = kill.cancelled() => {}
                () = stop => {}
            }
            record(history.as_deref(), &event, false);
            (bucket, fence)
        });
    }

    /// A handler has returned or was ended. If the bucket is still ours and is
    /// wanted elsewhere, it is let go.
    fn returned(&mut self, bucket: &str, fence: u64) {
        let Some(running) = self.running.remove(bucket) else { return };
        let still_ours = self.latest.grants.iter().any(|g| g.bucket == bucket && g.fence == fence);
        if running.releasing && still_ours {
            self.release(bucket.to_owned(), fence);
        } else {
            self.bring_in_step();
        }
    }

    /// Tells the coordinator that the bucket can be granted to another, until that
    /// is done or the session has ended, and the grant with it.
    fn release(&mut self, bucket: String, fence: u64) {
        self.given_up.insert(bucket.clone(), fence);
        let (session, pool) = (self.session.clone(), self.pool.clone());
        self.errands.spawn(async move {
            let path = Client::path(["v1", "pools", &pool, "buckets", &bucket, "release"]);
            while *session.lease().borrow() != LeaseState::Ended {
                let released: Result<serde_json::Value, _> =
                    session.request(Method::POST, &path, Some(&Release { fence }), Repeat::Safe).await;
                match released {
                    Ok(_) => return,
                    // An earlier try was carried out, or the grant has ended otherwise.
                    Err(ClientError::Refused(error)) if error.code.status() < 500 => {
                        tracing::debug!(bucket, code = %error.code, "released already");
                        return;
                    }
                    Err(error) => tracing::warn!(bucket, %error, "a bucket could not be released yet"),
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
        });
    }

    fn ask_to_be_drained(&mut self) {
        let (session, pool, member) = (self.session.clone(), self.pool.clone(), self.member.clone());
        self.errands.spawn(async move {
            let path = Client::path(["v1", "pools", &pool, "members", &member, "drain"]);
            let drained: Result<serde_json::Value, _> =
                session.request(Method::POST, &path, None::<&()>, Repeat::Safe).await;
            if let Err(error) = drained {
                tracing::warn!(%error, "could not ask to be drained");
            }
        });
    }

    fn ask_all(&self) {
        for running in self.running.values() {
            running.cancel.cancel();
        }
    }

    fn end_all(&self) {
        for running in self.running.values() {
            running.cancel.cancel();
            running.kill.cancel();
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns when a handler that was asked to stop has had its time for that.
async fn running_out(asked: CancellationToken, time: Duration) {
    asked.cancelled().await;
    tokio::time::sleep(time).await;
}

fn record(history: Option<&History>, event: &HistoryEvent, began: bool) {
    if let Some(history) = history {
        history.put(&HistoryEvent { began, at_ns: monotonic_ns(), ..event.clone() });
    }
}

/// Runs the handler, again after a pause when it fails.
async fn work<H: Handler>(handler: &H, lease: Lease) {
    let mut pause = BACKOFF.0;
    loop {
        let began = Instant::now();
        // A panic is that bucket's failure alone.
        let ran = AssertUnwindSafe(handler.run(lease.clone())).catch_unwind().await;
        let Err(error) = ran.unwrap_or_else(|_| Err("the handler panicked".into())) else {
            // Nothing more to do: the bucket stays with us until it is wanted.
            return lease.cancelled().await;
        };
        if lease.is_cancelled() {
            return;
        }
        if began.elapsed() > BACKOFF.1 {
            pause = BACKOFF.0;
        }
        let pause_ms = pause.as_millis();
        tracing::warn!(pool = lease.pool(), bucket = lease.bucket(), %error, pause_ms, "a handler failed");
        lease.sleep(pause).await;
        if lease.is_cancelled() {
            return;
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}
