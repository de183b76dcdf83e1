//! What a handler is given: the right to work on one bucket, until it is
//! cancelled.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use rota_client::{BootInstant, Client, ClientError, Idempotency, Session};
use rota_core::pool::{Item, Role};
use rota_protocol::http::{
    CheckpointBody, CheckpointPut, Code, Data, Encoding, FAILED, Grant, MemberReport, Peer,
};
use tokio::sync::{Mutex, SetOnce, watch};
use tokio_util::sync::CancellationToken;

use crate::deadline::WorkDeadline;
use crate::guard::{LeaseGuard, LeaseOver};

/// How often one write may find that another than it knew of is there. Those can
/// only be earlier tries of this grant's own, each of which is found once.
const REPLACEMENTS_MAX: u32 = 16;

/// The right to work on a bucket. Clones share it.
#[derive(Debug, Clone)]
pub struct Lease {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    session: Session,
    pool: String,
    member: String,
    bucket: String,
    fence: u64,
    role: Role,
    peers: watch::Receiver<Vec<Peer>>,
    item: Option<Item>,
    cancelled: CancellationToken,
    /// Until when the session's work may go on.
    work: Arc<WorkDeadline>,
    /// When the grant ended, or the handler did, after which the bucket is given back.
    ended_at: SetOnce<BootInstant>,
    /// The zxid of the bucket's checkpoint (0: there is none), once it is known.
    /// Held while one is written, so that they are in order.
    checkpoint: Mutex<Option<u64>>,
    /// Whether what was reported last is a failure.
    has_reported_failure: AtomicBool,
}

impl Lease {
    pub(crate) fn new(
        session: Session,
        (pool, member): (&str, &str),
        grant: &Grant,
        cancelled: CancellationToken,
        peers: watch::Receiver<Vec<Peer>>,
        work: Arc<WorkDeadline>,
    ) -> Self {
        let inner = Inner {
            session,
            pool: pool.to_owned(),
            member: member.to_owned(),
            bucket: grant.bucket.clone(),
            fence: grant.fence,
            role: grant.role,
            peers,
            item: grant.item.clone(),
            cancelled,
            work,
            ended_at: SetOnce::new(),
            checkpoint: Mutex::new(None),
            has_reported_failure: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.inner.pool
    }

    /// The member that works.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.inner.member
    }

    /// The bucket: a number in a hashed pool, an item's name in a named one.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.inner.bucket
    }

    /// The fence of the grant: larger than that of every earlier one of the
    /// bucket. Stores that remember the largest one they have seen, and refuse
    /// smaller ones, are safe from owners that do not know that they no longer
    /// are.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.inner.fence
    }

    /// What this worker is to the bucket. Another role is another lease.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner.role
    }

    /// The others that own the bucket or prepare to, the primary first.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.inner.peers.borrow().clone()
    }

    /// Follows those: a primary that sends its backups what it does is told of new ones.
    #[must_use]
    pub fn watch_peers(&self) -> watch::Receiver<Vec<Peer>> {
        self.inner.peers.clone()
    }

    /// Whoever leads the bucket, if it is another.
    #[must_use]
    pub fn primary(&self) -> Option<Peer> {
        self.inner.peers.borrow().iter().find(|peer| peer.role == Role::Primary).cloned()
    }

    /// What the item says, in a named pool.
    #[must_use]
    pub fn item(&self) -> Option<&Item> {
        self.inner.item.as_ref()
    }

    /// Returns when the work must stop: the bucket is to go to another, or
    /// nobody confirms any more that it is this worker's. A handler then puts
    /// down where it is and returns. In the second case it is ended soon after,
    /// whether it has returned or not.
    pub async fn cancelled(&self) {
        self.inner.cancelled.cancelled().await;
    }

    /// Whether the work must stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.is_cancelled()
    }

    /// Until when the bucket is certainly this worker's, as far as is known now: every answered
    /// keep-alive puts it off. No other is granted the bucket before, unless this worker gives it
    /// back. It is past when the coordinators could not be reached for too long, and when the grant
    /// has ended.
    ///
    /// The clock counts while the machine is suspended, and while this process is stopped: ask
    /// again after anything that may have taken long. It is the same in pools whose work goes on
    /// when its lease is over (`--on-lease-expiry keep-running`): there, work past it may be done twice.
    #[must_use]
    pub fn deadline(&self) -> BootInstant {
        let deadline = self.inner.session.deadline();
        self.inner.ended_at.get().map_or(deadline, |ended_at| deadline.min(*ended_at))
    }

    /// Whether the bucket is certainly this worker's: [`Lease::deadline`] is not past.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.deadline().is_past()
    }

    /// Begins a side effect that must not happen beside another owner's: see [`LeaseGuard`].
    ///
    /// # Errors
    /// When the lease is not held any more.
    pub fn guard(&self) -> Result<LeaseGuard, LeaseOver> {
        LeaseGuard::begin(self.clone())
    }

    /// Runs `work` while the lease is held, and drops it when it is not any more. A lease that is
    /// renewed meanwhile is held on. What `work` has begun may still happen after it is dropped, as
    /// a request that was sent does: for that there is the fence.
    ///
    /// # Errors
    /// When the lease was over before `work` was done.
    pub async fn while_held<T>(&self, work: impl Future<Output = T>) -> Result<T, LeaseOver> {
        let guard = self.guard()?;
        let over = async {
            let mut session = self.inner.session.lease();
            while self.is_held() {
                tokio::select! {
                    () = self.deadline().reached() => {}
                    // Either brings the deadline forward.
                    _ = self.inner.ended_at.wait() => {}
                    Ok(()) = session.changed() => {}
                }
            }
        };
        tokio::select! {
            // Looked at first: a process that was stopped finds both ready.
            biased;
            () = over => Err(guard.into_lease_over()),
            done = work => Ok(done),
        }
    }

    /// The grant has ended, or is about to be given back.
    pub(crate) fn end(&self) {
        // The first end counts.
        drop(self.inner.ended_at.set(BootInstant::now()));
    }

    /// Until when the session's work may go on.
    pub(crate) fn work(&self) -> &WorkDeadline {
        &self.inner.work
    }

    /// For passing on to others who must stop as well.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.cancelled.clone()
    }

    /// Sleeps, but not longer than the lease lasts.
    pub async fn sleep(&self, duration: Duration) {
        // Either end is as good.
        drop(tokio::time::timeout(duration, self.cancelled()).await);
    }

    /// Where the bucket's work stands, as its last owner put it down.
    ///
    /// # Errors
    /// When no coordinator answers, or the checkpoint is no text.
    pub async fn read_checkpoint(&self) -> Result<Option<String>, ClientError> {
        let bytes = self.read_checkpoint_bytes().await?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|_| ClientError::BadAnswer("the checkpoint is no text".to_owned()))
    }

    /// As [`Lease::read_checkpoint`], for one that need not be text.
    ///
    /// # Errors
    /// When no coordinator answers.
    pub async fn read_checkpoint_bytes(&self) -> Result<Option<Vec<u8>>, ClientError> {
        let mut known = self.inner.checkpoint.lock().await;
        let (zxid, data) = self.fetch_checkpoint().await?;
        *known = Some(zxid);
        Ok(data)
    }

    async fn fetch_checkpoint(&self) -> Result<(u64, Option<Vec<u8>>), ClientError> {
        let path = self.checkpoint_path();
        let read = self.inner.session.client().get::<CheckpointBody>(&path).await;
        match read {
            Ok(CheckpointBody { zxid, data, encoding, .. }) => {
                let bytes = Data { data, encoding }.into_bytes();
                let bytes = bytes.map_err(|error| ClientError::BadAnswer(error.to_string()))?;
                Ok((zxid, Some(bytes)))
            }
            Err(error) if error.code() == Some(Code::NoCheckpoint) => Ok((0, None)),
            Err(error) => Err(error),
        }
    }

    /// Puts down where the work stands. Once this has returned, whoever owns the
    /// bucket next begins there. Writes of one lease take effect in the order in
    /// which they were begun: one that was delayed on its way is refused by the
    /// coordinator once a later one is there.
    ///
    /// # Errors
    /// When the grant has ended (the lease is then cancelled), or no coordinator
    /// answers.
    pub async fn write_checkpoint(&self, position: String) -> Result<(), ClientError> {
        let mut known = self.inner.checkpoint.lock().await;
        let mut replaces = match *known {
            Some(zxid) => zxid,
            None => self.fetch_checkpoint().await?.0,
        };
        // Unknown until this write is known to have happened.
        *known = None;
        let mut replacements = 0..REPLACEMENTS_MAX;
        loop {
            let body = CheckpointPut {
                fence: self.fence(),
                data: position.clone(),
                replaces: Some(replaces),
                encoding: Encoding::Utf8,
            };
            match self.put_checkpoint(&body).await {
                Ok(written) => {
                    *known = Some(written.zxid);
                    return Ok(());
                }
                // An earlier try of this write came through, or one of a write that was
                // given up; nobody else can write with this fence.
                Err(error) if error.code() == Some(Code::BadVersion) && replacements.next().is_some() => {
                    let (zxid, data) = self.fetch_checkpoint().await?;
                    if data.as_deref() == Some(position.as_bytes()) {
                        *known = Some(zxid);
                        return Ok(());
                    }
                    replaces = zxid;
                }
                Err(error) => {
                    if matches!(error.code(), Some(Code::StaleFence | Code::NoBucket)) {
                        self.inner.cancelled.cancel();
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn put_checkpoint(&self, body: &CheckpointPut) -> Result<CheckpointBody, ClientError> {
        let path = self.checkpoint_path();
        self.inner.session.client().request(Method::PUT, &path, Some(body), &[], Idempotency::Safe).await
    }

    /// Says how the work goes, for whoever looks. It may be lost. In a pool that looks for stuck
    /// owners it is what tells that this one is none.
    pub fn progress(&self, text: impl Into<String>) {
        let text = text.into();
        self.inner.has_reported_failure.store(text.starts_with(FAILED), Ordering::Relaxed);
        self.report(|report| {
            report.progress.insert(self.inner.bucket.clone(), text);
        });
    }

    /// Whether what was reported last is a failure.
    pub(crate) fn has_reported_failure(&self) -> bool {
        self.inner.has_reported_failure.load(Ordering::Relaxed)
    }

    /// Says how busy the bucket keeps this worker: a rate, in any unit that all members of the
    /// pool use. It may be lost. In a pool that is shared by load it is what counts.
    pub fn load(&self, rate: f64) {
        self.report(|report| {
            report.loads.insert(self.inner.bucket.clone(), rate);
        });
    }

    /// Says how far the work is behind, in any unit, for whoever looks. It may be lost.
    pub fn lag(&self, lag: f64) {
        self.report(|report| {
            report.lags.insert(self.inner.bucket.clone(), lag);
        });
    }

    fn report(&self, say: impl FnOnce(&mut MemberReport)) {
        let (pool, member) = (self.inner.pool.clone(), self.inner.member.clone());
        let mut report = MemberReport { pool, member, ..MemberReport::default() };
        say(&mut report);
        match report.fault() {
            None => self.inner.session.report(report),
            // One that is out of bounds would have the whole keep-alive refused.
            Some(fault) => tracing::warn!(%fault, "not reported"),
        }
    }

    fn checkpoint_path(&self) -> String {
        Client::path(["v1", "pools", self.pool(), "checkpoints", self.bucket()])
    }
}
