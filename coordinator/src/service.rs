//! What a server does for its clients, whatever face they come through: write,
//! read up to date, keep a session, watch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rota_core::Zxid;
use rota_core::pool::layout;
use rota_core::state::{Acl, Actor, Command, Op, Password, Refusal, Reply, SessionId, perms};
use rota_protocol::http::MemberReport;
use rota_protocol::peer::{MembershipChange, PoolReports};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::auth::Authority;
use crate::config::Config;
use crate::connections::ConnectionBudget;
use crate::desk::{Desk, DeskError};
use crate::env::RandomSource;
use crate::http::{SummaryCache, TableCache};
use crate::raft::RaftNode;
use crate::replica::Replica;
use crate::service_state::ServiceStates;
use crate::session_leases::SessionLeases;
use crate::write_queue::{Completion, WriteQueue};
use crate::zk::ConnectionRegistry;

/// One server, as its endpoints see it.
pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) replica: Arc<Replica>,
    pub(crate) group: RaftNode,
    pub(crate) desk: Arc<Desk>,
    pub(crate) write_queue: Arc<WriteQueue>,
    pub(crate) entropy: Arc<dyn RandomSource>,
    pub(crate) authority: Authority,
    pub(crate) session_leases: Arc<SessionLeases>,
    /// Whether this server may serve.
    pub(crate) states: ServiceStates,
    /// Places for clients' connections.
    pub(crate) connections: ConnectionBudget,
    /// The data directory.
    pub(crate) directory: PathBuf,
    pub(crate) started_at: Instant,
    pub(crate) registry: Arc<ConnectionRegistry>,
    pub(crate) tables: Arc<TableCache>,
    pub(crate) summary_cache: Arc<SummaryCache>,
    /// Permits of long computations for reads.
    pub(crate) heavy: Arc<Semaphore>,
    /// Serializes the encoding of large tables.
    pub(crate) table_permit: Arc<Semaphore>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many writes wait for the leader")]
    Overloaded,
    /// It is not known whether the write took effect.
    #[error("the write was not applied in time; it may yet be")]
    OutcomeUnknown,
    #[error("the server did not catch up in time")]
    Timeout,
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error("others have this server compute: none of it was done")]
    Busy,
    #[error("what was to be computed failed: {0}")]
    Failed(String),
    #[error("the random source failed")]
    RandomSource(#[source] std::io::Error),
}

/// Kind of the request that a computation serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// A read: it waits for one of two permits.
    Read,
    /// A write that took effect: computed without a permit, so that it is never refused as busy.
    Write,
}

/// Who makes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) session: SessionId,
    pub(crate) password: Password,
}

impl Service {
    fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.config.limits.request_ms_max)
    }

    /// Has one command done, and waits until this server has applied it.
    pub(crate) async fn write(&self, command: Command) -> Result<Reply, ServiceError> {
        metrics::counter!(crate::metrics::WRITES).increment(1);
        let (sender, outcome) = oneshot::channel();
        self.write_queue.submit(&command, Completion::Once(sender)).map_err(|_| ServiceError::Overloaded)?;
        match tokio::time::timeout(self.request_timeout(), outcome).await {
            Ok(Ok(outcome)) => Ok(outcome?),
            _ => Err(ServiceError::OutcomeUnknown),
        }
    }

    /// Has one command done for somebody who has waited for room.
    pub(crate) fn submit(&self, command: &Command, waiter: Completion) {
        metrics::counter!(crate::metrics::WRITES).increment(1);
        self.write_queue.submit_unbounded(command, waiter);
    }

    /// Has one operation done.
    pub(crate) async fn op(&self, by: Actor, op: Op) -> Result<Reply, ServiceError> {
        self.write(Command::Write { by, op }).await
    }

    /// Has several operations done, or none.
    pub(crate) async fn multi(&self, by: Actor, ops: Vec<Op>) -> Result<Reply, ServiceError> {
        self.write(Command::Multi { by, ops }).await
    }

    /// Opens a session. The timeout is brought within bounds.
    pub(crate) async fn open_session(&self, timeout_ms: u32) -> Result<(Credentials, u32), ServiceError> {
        let timeout_ms = self.session_timeout(timeout_ms);
        let who = self.new_credentials()?;
        let Credentials { session, password } = who;
        self.write(Command::OpenSession { session, password, timeout_ms }).await?;
        Ok((who, timeout_ms))
    }

    /// A session's timeout that is as near to `timeout_ms` as the bounds allow.
    pub(crate) fn session_timeout(&self, timeout_ms: u32) -> u32 {
        let limits = &self.config.limits;
        timeout_ms.clamp(limits.session_min_ms, limits.session_max_ms)
    }

    /// A session's id and password that nobody has had and nobody can guess.
    pub(crate) fn new_credentials(&self) -> Result<Credentials, ServiceError> {
        let mut chance = [0; 24];
        self.entropy.fill(&mut chance).map_err(ServiceError::RandomSource)?;
        let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = chance;
        let [_, _, _, _, _, _, _, _, password @ ..] = chance;
        // Never 0, which stands for no session, and never with the highest bit, by
        // which ZooKeeper tells the owners of other kinds of nodes.
        let session = SessionId(u64::from_le_bytes(id) >> 1 | 1);
        Ok(Credentials { session, password: Password(password) })
    }

    /// Makes sure that a session lives and is its client's, and counts this as
    /// a sign of life. Returns its timeout in milliseconds.
    pub(crate) async fn keep_alive(
        &self,
        who: Credentials,
        reports: Vec<MemberReport>,
    ) -> Result<u32, ServiceError> {
        Ok(self.desk.keep_alive(who.session, who.password, reports).await?)
    }

    /// Waits until this server has applied every acknowledged write.
    pub(crate) async fn catch_up(&self) -> Result<(), ServiceError> {
        let caught_up = tokio::time::timeout(self.request_timeout(), self.desk.catch_up()).await;
        Ok(caught_up.map_err(|_| ServiceError::Timeout)??)
    }

    /// Waits until this server has applied the write `zxid`.
    pub(crate) async fn reach(&self, zxid: Zxid) -> Result<(), ServiceError> {
        let reached = tokio::time::timeout(self.request_timeout(), self.replica.reached(zxid)).await;
        reached.map_err(|_| ServiceError::Timeout)
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] if none is free within the request timeout.
    pub(crate) async fn acquire_permit(
        &self,
        turns: &Arc<Semaphore>,
    ) -> Result<OwnedSemaphorePermit, ServiceError> {
        let turn = tokio::time::timeout(self.request_timeout(), Arc::clone(turns).acquire_owned()).await;
        // The semaphore is never closed.
        turn.ok().and_then(Result::ok).ok_or(ServiceError::Busy)
    }

    /// Computes an answer that takes long, off the runtime that Raft runs on.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] for a read, if no permit is free within the request timeout.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        answers: RequestKind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let turn = match answers {
            RequestKind::Read => Some(self.acquire_permit(&self.heavy).await?),
            RequestKind::Write => None,
        };
        let computed = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        computed.await.map_err(|error| ServiceError::Failed(error.to_string()))
    }

    /// What the members of a pool said.
    pub(crate) async fn reports_of(&self, pool: &str) -> Result<PoolReports, ServiceError> {
        Ok(self.desk.reports_of(pool).await?)
    }

    /// Changes the cluster's members, if they are the `expected` ones.
    pub(crate) async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<BTreeMap<u64, bool>>,
    ) -> Result<(), ServiceError> {
        if let MembershipChange::Remove(server) = change {
            self.note_removal(server).await?;
        }
        Ok(self.desk.change_membership(change, expected).await?)
    }

    /// Records the data directory of a server as removed, before the server is.
    async fn note_removal(&self, server: u64) -> Result<(), ServiceError> {
        let disk = self.replica.read().membership().servers.get(&server).and_then(|endpoint| endpoint.disk);
        let Some(disk) = disk else { return Ok(()) };
        let acl = || Some(Acl::for_anyone(perms::READ).entries());
        let paths = [layout::ROTA.to_owned(), layout::REMOVED.to_owned(), layout::removed_disk(disk)];
        let ops = paths.map(|path| Op::Ensure { path, acl: acl() }).to_vec();
        self.multi(Actor::rota(None), ops).await?;
        Ok(())
    }
}
