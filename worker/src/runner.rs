//! A worker's life.
//!
//! One task owns everything. It waits for the next thing to happen (what it owns
//! has changed, its session's lease has, a handler has returned, it is to
//! leave) and then brings the running handlers in step:
//!
//! ```text
//!              granted                    asked to release or step down, another role, leaving
//!  (nothing) ──────────► running ──────────────────────────────► stopping
//!      ▲                    │                                        │ returned:
//!      │                    │ no longer granted, or lease over       │ say so
//!      └────────────────────┴──── ended at once ◄────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rota_client::{BootInstant, Client, ClientError, Idempotency, LeaseState, Session};
use rota_core::pool::{OnLeaseExpiry, OwnerAction, Role};
use rota_protocol::http::{Assignment, Code, Grant, OfGrant, Peer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::deadline::WorkDeadline;
use crate::history::History;
use crate::lease::Lease;
use crate::work::{Returned, supervise};
use crate::worker::{Ended, Handler, RETRY_AFTER};

/// The last part of a lease in which handlers are told to stop: a tenth. When it
/// is over they are ended.
const STOPPING_PART: u32 = 10;
/// How long a worker that leaves waits for the coordinator to ask for the next
/// bucket before it stops everything by itself.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it waits at most while others copy what it has.
const DRAIN_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Handlers that say they need longer are taken to need this: the clock has an end.
const STOP_TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) struct Runner<H> {
    session: Session,
    lease: watch::Receiver<LeaseState>,
    work: Arc<WorkDeadline>,
    pool: String,
    member: String,
    handler: Arc<H>,
    history: Option<Arc<History>>,
    running: BTreeMap<String, Running>,
    /// The handlers.
    tasks: JoinSet<Returned>,
    /// What is being said to the coordinator. Whatever is not said by the end is
    /// dropped: the end of the session says it all. Each ends with the grant that it could not be
    /// said of, though that stands.
    errands: JoinSet<Option<(String, u64)>>,
    latest: Assignment,
    /// Grants, by bucket and fence, that were given back, or are being. Work on
    /// them never begins again, whatever an older answer says of them.
    given_up: BTreeMap<String, u64>,
    leaving: bool,
    /// It leaves, and everything is being stopped.
    stopping: bool,
}

/// A bucket's handler at work.
struct Running {
    fence: u64,
    role: Role,
    /// Asks it to stop.
    cancel: CancellationToken,
    /// Ends it.
    kill: CancellationToken,
    /// What it was asked to stop for.
    asked: Option<OwnerAction>,
    /// The others that own the bucket.
    peers: watch::Sender<Vec<Peer>>,
}

enum Event {
    Assigned(Assignment),
    Lease(LeaseState),
    LeaseNearlyOver,
    Returned(Returned),
    /// The coordinator has been told something.
    Said,
    /// This grant stands, though the worker had stopped for something.
    Refused(String, u64),
    Leave,
    Impatient,
    /// Nothing is assigned any more: it is no member.
    NoMember,
    /// Nobody keeps the session alive any more.
    KeepAliveStopped,
    /// A task panicked that nothing goes on without.
    TaskFailed,
}

impl<H: Handler> Runner<H> {
    pub(crate) fn new(
        session: Session,
        (pool, member): (String, String),
        handler: Arc<H>,
        history: Option<Arc<History>>,
    ) -> Self {
        Self {
            lease: session.lease(),
            work: Arc::new(WorkDeadline::new()),
            session,
            pool,
            member,
            handler,
            history,
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            errands: JoinSet::new(),
            latest: Assignment::default(),
            given_up: BTreeMap::new(),
            leaving: false,
            stopping: false,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut assigned: mpsc::Receiver<Assignment>,
        leave: CancellationToken,
    ) -> Ended {
        let mut patience = Instant::now();
        let mut left_at = Instant::now();
        let mut warned_of = None;
        let how = loop {
            let state = *self.lease.borrow_and_update();
            self.set_work_deadline(state);
            let warn_at = match state {
                LeaseState::Held { until } if warned_of != Some(until) => {
                    Some(until - self.session.timeout() / STOPPING_PART)
                }
                _ => None,
            };
            let happened = tokio::select! {
                next = assigned.recv() => next.map_or(Event::NoMember, Event::Assigned),
                changed = self.lease.changed() => {
                    if changed.is_err() { Event::KeepAliveStopped } else { Event::Lease(*self.lease.borrow()) }
                }
                () = sleep_until(warn_at) => Event::LeaseNearlyOver,
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(returned) => Event::Returned(returned),
                    Err(error) => {
                        tracing::error!(%error, "a handler's task failed: this is a bug");
                        Event::TaskFailed
                    }
                },
                Some(said) = self.errands.join_next(), if !self.errands.is_empty() => match said {
                    Ok(Some((bucket, fence))) => Event::Refused(bucket, fence),
                    Ok(None) => Event::Said,
                    // The coordinator waits for what was to be said. When the session ends, it does not.
                    Err(error) => {
                        tracing::error!(%error, "a call to the coordinator failed: this is a bug");
                        Event::TaskFailed
                    }
                },
                () = leave.cancelled(), if !self.leaving => Event::Leave,
                () = tokio::time::sleep_until(patience), if self.leaving => Event::Impatient,
            };
            match happened {
                Event::Assigned(assignment) => {
                    self.latest = assignment;
                    // The pool may have changed its mind of what work does when its lease is over.
                    self.set_work_deadline(*self.lease.borrow());
                    self.reconcile();
                    patience = Instant::now() + DRAIN_TIMEOUT;
                }
                Event::Lease(LeaseState::Held { .. }) => self.reconcile(),
                Event::Lease(LeaseState::Lapsed) if self.survives_lease() => {
                    tracing::warn!("no coordinator is heard: going on, as the pool says");
                }
                Event::Lease(LeaseState::Lapsed) => self.end_all(),
                Event::LeaseNearlyOver => {
                    if let LeaseState::Held { until } = state {
                        warned_of = Some(until);
                    }
                    if !self.survives_lease() {
                        self.ask_all();
                    }
                }
                Event::Returned(returned) => {
                    self.returned(&returned);
                    patience = Instant::now() + DRAIN_TIMEOUT;
                }
                Event::Leave => {
                    self.leaving = true;
                    left_at = Instant::now();
                    patience = Instant::now() + DRAIN_TIMEOUT;
                    // Whose rows wait for it leaves them as they are.
                    match self.latest.rejoin_grace_ms {
                        0 => self.ask_to_be_drained(),
                        _ => self.stop_all(),
                    }
                }
                Event::Said => {}
                // What it stopped for is not wanted any more, or cannot be: it works on.
                Event::Refused(bucket, fence) => {
                    if self.given_up.get(&bucket) == Some(&fence) {
                        self.given_up.remove(&bucket);
                    }
                    self.reconcile();
                }
                // Others are copying what it has.
                Event::Impatient if self.latest.leaving > 0 && left_at.elapsed() < DRAIN_LIMIT => {
                    patience = Instant::now() + DRAIN_TIMEOUT;
                }
                // Nobody asks for the rest: it is stopped, and left with the session.
                Event::Impatient => {
                    self.stop_all();
                    patience = Instant::now() + self.handler.stop_timeout().min(STOP_TIMEOUT_MAX);
                }
                Event::NoMember if self.leaving => break Ended::Left,
                Event::NoMember => {
                    self.end_all();
                    break self.why_no_member().await;
                }
                Event::Lease(LeaseState::Ended) | Event::KeepAliveStopped => break Ended::SessionEnded,
                Event::TaskFailed => break Ended::Failed,
            }
            // What is not said yet may not be wanted any more: then the work goes on.
            if self.leaving && self.running.is_empty() && (self.stopping || self.errands.is_empty()) {
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

    /// Whether the work goes on when the session's lease is over and nobody has said that the
    /// session is.
    fn survives_lease(&self) -> bool {
        self.latest.on_lease_expiry == OnLeaseExpiry::KeepRunning
    }

    fn set_work_deadline(&self, state: LeaseState) {
        match state {
            LeaseState::Held { .. } | LeaseState::Lapsed if self.survives_lease() => self.work.set(None),
            LeaseState::Held { until } => self.work.set(Some(until)),
            // It is past.
            LeaseState::Lapsed | LeaseState::Ended => self.work.set(Some(self.session.deadline())),
        }
    }

    /// Whether there is enough left of the lease to begin something.
    fn may_start(&self) -> bool {
        let LeaseState::Held { until } = *self.lease.borrow() else { return false };
        BootInstant::now() < until - self.session.timeout() / STOPPING_PART
    }

    /// Why it is no member: because its session has ended, or although it lives.
    async fn why_no_member(&self) -> Ended {
        let path = Client::path(["v1", "sessions", self.session.id()]);
        let asked =
            self.session.request::<(), serde_json::Value>(Method::GET, &path, None, Idempotency::Safe);
        match asked.await {
            Err(error) if error.code() == Some(Code::SessionExpired) => Ended::SessionEnded,
            _ => Ended::NoMember,
        }
    }

    /// Starts, stops and ends handlers so that they fit the latest assignment.
    fn reconcile(&mut self) {
        let granted: BTreeMap<&str, &Grant> =
            self.latest.grants.iter().map(|g| (g.bucket.as_str(), g)).collect();
        for (bucket, running) in &mut self.running {
            match granted.get(bucket.as_str()) {
                Some(grant) if grant.fence == running.fence => {
                    running.peers.send_if_modified(|peers| {
                        let is_other = *peers != grant.peers;
                        peers.clone_from(&grant.peers);
                        is_other
                    });
                    let asked = self.latest.asked(bucket);
                    if running.asked.is_none() && asked.is_some() {
                        running.asked = asked;
                        running.cancel.cancel();
                    }
                }
                // It is something else to the bucket now: what it has, it keeps.
                Some(_) if running.role != Role::Primary => running.cancel.cancel(),
                _ => {
                    // It may be somebody else's already.
                    running.cancel.cancel();
                    running.kill.cancel();
                }
            }
        }
        self.given_up.retain(|bucket, fence| granted.get(bucket.as_str()).is_some_and(|g| g.fence == *fence));
        if self.stopping || !self.may_start() {
            return;
        }
        let idle = |grant: &&Grant| {
            !self.running.contains_key(&grant.bucket)
                && self.given_up.get(&grant.bucket) != Some(&grant.fence)
        };
        let idle: Vec<Grant> = self.latest.grants.iter().filter(idle).cloned().collect();
        for grant in idle {
            match self.latest.asked(&grant.bucket) {
                Some(action) => self.report_action(action, grant.bucket, grant.fence),
                None => self.start(&grant),
            }
        }
    }

    fn start(&mut self, grant: &Grant) {
        let (cancel, kill) = (CancellationToken::new(), CancellationToken::new());
        let peers = watch::Sender::new(grant.peers.clone());
        let who = (self.pool.as_str(), self.member.as_str());
        let lease = Lease::new(
            self.session.clone(),
            who,
            grant,
            cancel.clone(),
            peers.subscribe(),
            Arc::clone(&self.work),
        );
        let running =
            Running { fence: grant.fence, role: grant.role, cancel, kill: kill.clone(), asked: None, peers };
        self.running.insert(grant.bucket.clone(), running);
        self.tasks.spawn(supervise(Arc::clone(&self.handler), lease, kill, self.history.clone()));
    }

    /// A handler has returned or was ended. If the bucket is still ours, what it was asked for
    /// is done now.
    fn returned(&mut self, returned: &Returned) {
        let Returned { bucket, fence, is_ready } = returned;
        let Some(running) = self.running.remove(bucket) else { return };
        let still_ours = self.latest.grants.iter().any(|g| g.bucket == *bucket && g.fence == *fence);
        // What it stopped for may not be wanted any more: then it works on.
        let asked = running.asked.and(self.latest.asked(bucket));
        let action = asked.or(is_ready.then_some(OwnerAction::Ready));
        match action {
            Some(action) if still_ours => self.report_action(action, bucket.clone(), *fence),
            _ => self.reconcile(),
        }
    }

    /// Tells the coordinator what the worker has done about a bucket, until that is heard or
    /// the session has ended, and the grant with it.
    fn report_action(&mut self, action: OwnerAction, bucket: String, fence: u64) {
        self.given_up.insert(bucket.clone(), fence);
        let (session, pool) = (self.session.clone(), self.pool.clone());
        self.errands.spawn(async move {
            let what = match action {
                OwnerAction::Release => "release",
                OwnerAction::StepDown => "step-down",
                OwnerAction::Ready => "ready",
            };
            let path = Client::path(["v1", "pools", &pool, "buckets", &bucket, what]);
            while *session.lease().borrow() != LeaseState::Ended {
                let said: Result<serde_json::Value, _> =
                    session.request(Method::POST, &path, Some(&OfGrant { fence }), Idempotency::Safe).await;
                match said {
                    Ok(_) => return None,
                    // The grant stands, and this cannot be done with it now.
                    Err(ClientError::Refused(error)) if error.code == Code::Conflict => {
                        tracing::info!(bucket, what, error.message, "not done");
                        return Some((bucket, fence));
                    }
                    // An earlier try was carried out, or the grant has ended otherwise.
                    Err(ClientError::Refused(error)) if error.code.status() < 500 => {
                        tracing::debug!(bucket, what, code = %error.code, "done already");
                        return None;
                    }
                    Err(error) => tracing::warn!(bucket, what, %error, "could not be said yet"),
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
            None
        });
    }

    fn ask_to_be_drained(&mut self) {
        let (session, pool, member) = (self.session.clone(), self.pool.clone(), self.member.clone());
        self.errands.spawn(async move {
            let path = Client::path(["v1", "pools", &pool, "members", &member, "drain"]);
            let drained: Result<serde_json::Value, _> =
                session.request(Method::POST, &path, None::<&()>, Idempotency::Safe).await;
            if let Err(error) = drained {
                tracing::warn!(%error, "could not ask to be drained");
            }
            None
        });
    }

    fn stop_all(&mut self) {
        self.stopping = true;
        self.ask_all();
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

async fn sleep_until(at: Option<BootInstant>) {
    match at {
        Some(at) => at.reached().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HandlerError;
    use crate::fake_coordinator::session;

    struct Idle;

    impl Handler for Idle {
        async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
            lease.cancelled().await;
            Ok(())
        }
    }

    /// How a worker ends one of whose tasks panics.
    async fn end_with(spoil: impl FnOnce(&mut Runner<Idle>)) -> Ended {
        let (session, _) = session(60_000).await;
        let who = ("mail".to_owned(), "w1".to_owned());
        let mut runner = Runner::new(session, who, Arc::new(Idle), None);
        spoil(&mut runner);
        let (_assignments, assigned) = mpsc::channel(1);
        let ended = runner.run(assigned, CancellationToken::new());
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("it goes on as if nothing had been")
    }

    #[tokio::test]
    async fn a_worker_does_not_go_on_without_a_task_that_panicked() {
        let call = end_with(|runner| drop(runner.errands.spawn(async { panic!("what the test is about") })));
        assert_eq!(call.await, Ended::Failed);
        let handler = end_with(|runner| drop(runner.tasks.spawn(async { panic!("what the test is about") })));
        assert_eq!(handler.await, Ended::Failed);
    }
}
