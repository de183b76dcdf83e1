//! What only the leader can answer: whether a session lives, how far a read must
//! reach, what members said, who belongs to the cluster. Any server takes the
//! question; the desk answers it if this server leads, and asks the leader if
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rota_core::Zxid;
use rota_core::pool::{Bucket, Pools};
use rota_core::state::{Password, SessionId};
use rota_protocol::http::MemberReport;
use rota_protocol::peer::{Answer, Call, CallError, MembershipChange, PoolReports};
use tokio::time::Instant;

use crate::member_reports;
use crate::peers::{CHANGE_TIMEOUT, CallFailure, RpcClient};
use crate::raft::{Leadership, RaftNode};
use crate::replica::Replica;
use crate::session_leases::SessionLeases;

/// Pause before the leader is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// How long a question looks for a leader that answers it.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server that is to lead may take to answer.
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the leader waits to have applied what the asking server has.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// Answers, or has the leader answer.
pub(crate) struct Desk {
    group: RaftNode,
    replica: Arc<Replica>,
    session_leases: Arc<SessionLeases>,
    caller: RpcClient,
    /// Kept connections for votes and pings.
    votes: RpcClient,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeskError {
    /// No leader was found that answers.
    #[error("no leader answers now")]
    NoLeader,
    /// A change may or may not have been made.
    #[error("the leader did not answer in time: the change may have been made, or yet be")]
    OutcomeUnknown,
    /// The leader says no.
    #[error(transparent)]
    Refused(CallError),
}

impl Desk {
    pub(crate) fn new(
        group: RaftNode,
        replica: Arc<Replica>,
        session_leases: Arc<SessionLeases>,
        caller: RpcClient,
        votes: RpcClient,
    ) -> Self {
        Self { group, replica, session_leases, caller, votes }
    }

    /// A client gave a sign of life: its session's timeout, in milliseconds.
    pub(crate) async fn keep_alive(
        &self,
        session: SessionId,
        password: Password,
        reports: Vec<MemberReport>,
    ) -> Result<u32, DeskError> {
        let seen = self.replica.read().state.zxid();
        match self.ask(Call::KeepAlive { session, password, reports, seen }).await? {
            Answer::KeptAlive { timeout_ms } => Ok(timeout_ms),
            _ => Err(DeskError::NoLeader),
        }
    }

    /// Clients gave signs of life: the sessions for which it is too late.
    pub(crate) async fn touch(&self, sessions: Vec<SessionId>) -> Result<Vec<SessionId>, DeskError> {
        let seen = self.replica.read().state.zxid();
        match self.ask(Call::Touch { sessions, seen }).await? {
            Answer::Touched { gone } => Ok(gone),
            _ => Err(DeskError::NoLeader),
        }
    }

    /// Waits until this server has applied every write that was acknowledged
    /// before now.
    pub(crate) async fn catch_up(&self) -> Result<(), DeskError> {
        let Answer::ReadIndex(index) = self.ask(Call::ReadIndex).await? else {
            return Err(DeskError::NoLeader);
        };
        let mut progress = self.replica.progress();
        // An error means that the server is stopping, which ends the request.
        drop(progress.wait_for(|p| p.next_index > index).await);
        Ok(())
    }

    /// What the members of a pool said of their work.
    pub(crate) async fn reports_of(&self, pool: &str) -> Result<PoolReports, DeskError> {
        match self.ask(Call::GetReports { pool: pool.to_owned() }).await? {
            Answer::Reports(said) => Ok(said),
            _ => Err(DeskError::NoLeader),
        }
    }

    /// Changes the cluster's members; see [`RaftNode::change_membership`].
    pub(crate) async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<BTreeMap<u64, bool>>,
    ) -> Result<(), DeskError> {
        // Asked once: a second try would find what the first has done, and refuse it.
        self.ask_once(Call::ChangeMembership { change, expected }).await
    }

    /// Makes sure that a majority of these servers, the voters of an intended configuration, answers.
    pub(crate) async fn check_voters(&self, voters: BTreeSet<u64>) -> Result<(), DeskError> {
        self.ask(Call::CheckVoters(voters)).await.map(drop)
    }

    /// Has the leader do what must not be done twice.
    async fn ask_once(&self, call: Call) -> Result<(), DeskError> {
        let mut leadership = self.group.leadership();
        let known = leadership.wait_for(|leads| *leads != Leadership::Unknown);
        let leads = tokio::time::timeout(ASK_TIMEOUT, known).await;
        let leads = *leads.map_err(|_| DeskError::NoLeader)?.map_err(|_| DeskError::NoLeader)?;
        let answer = match leads {
            Leadership::Other { leader } => {
                self.caller.call(leader, call).await.map_err(|failure| match failure {
                    CallFailure::Overloaded => DeskError::NoLeader,
                    CallFailure::Unreachable | CallFailure::Timeout => DeskError::OutcomeUnknown,
                })?
            }
            _ => tokio::time::timeout(CHANGE_TIMEOUT, self.answer(call))
                .await
                .map_err(|_| DeskError::OutcomeUnknown)?,
        };
        match answer {
            Answer::Error(CallError::NotLeader) => Err(DeskError::NoLeader),
            Answer::Error(refused) => Err(DeskError::Refused(refused)),
            _ => Ok(()),
        }
    }

    /// Moves the leadership, and waits until this server sees it there.
    pub(crate) async fn transfer_to(&self, server: u64) -> Result<(), DeskError> {
        if self.is_leader(server) {
            return Ok(());
        }
        // Asked once: a second leader would be asked to move what the first has moved.
        self.ask_once(Call::TransferTo(server)).await?;
        let mut leadership = self.group.leadership();
        let moved = async {
            while !self.is_leader(server) {
                // An error means that the server is stopping.
                if leadership.changed().await.is_err() {
                    break;
                }
            }
        };
        let refused = || {
            let why = format!("server {server} did not take over in time; is it running and up to date?");
            DeskError::Refused(CallError::Refused(why))
        };
        tokio::time::timeout(ASK_TIMEOUT, moved).await.map_err(|_| refused())
    }

    fn is_leader(&self, server: u64) -> bool {
        match self.group.current_leadership() {
            Leadership::Own { .. } => server == self.group.server(),
            Leadership::Other { leader } => server == leader,
            Leadership::Unknown => false,
        }
    }

    /// Asks whoever leads, until one answers. The questions are such that being
    /// asked twice does no harm.
    async fn ask(&self, call: Call) -> Result<Answer, DeskError> {
        let deadline = Instant::now() + ASK_TIMEOUT;
        loop {
            let mut leadership = self.group.leadership();
            let leads = *leadership.borrow_and_update();
            let answer = match leads {
                Leadership::Own { .. } => Some(self.answer(call.clone()).await),
                // A leader that hangs does not answer, but is replaced.
                Leadership::Other { leader } => tokio::select! {
                    answer = self.caller.call(leader, call.clone()) => answer.ok(),
                    _ = leadership.changed() => continue,
                },
                Leadership::Unknown => None,
            };
            match answer {
                None | Some(Answer::Error(CallError::NotLeader)) => {}
                Some(Answer::Error(refused)) => return Err(DeskError::Refused(refused)),
                Some(answer) => return Ok(answer),
            }
            if Instant::now() + RETRY_AFTER >= deadline {
                return Err(DeskError::NoLeader);
            }
            drop(tokio::time::timeout(RETRY_AFTER, leadership.changed()).await);
        }
    }

    /// Answers as the leader, or says that this server is none.
    pub(crate) async fn answer(&self, call: Call) -> Answer {
        let result = match call {
            Call::KeepAlive { session, password, reports, seen } => {
                self.answer_keep_alive(session, password, reports, seen).await
            }
            Call::Touch { sessions, seen } => self.answer_touch(&sessions, seen).await,
            Call::ReadIndex => {
                self.group.read_index().await.map(Answer::ReadIndex).map_err(|_| CallError::NotLeader)
            }
            Call::GetReports { pool } => match self.session_leases.term() {
                Some(_) => Ok(Answer::Reports(self.reports(&pool))),
                None => Err(CallError::NotLeader),
            },
            Call::ChangeMembership { change, expected } => {
                let done = self.group.change_membership(change, expected.as_ref(), &self.replica).await;
                done.map(|()| Answer::Done)
            }
            Call::CheckVoters(voters) => self.group.check_voters(&voters).await.map(|()| Answer::Done),
            Call::TransferTo(server) => self.answer_transfer(server).await,
            Call::Vote(_) | Call::PreVote(_) | Call::Transfer(_) | Call::Ping => {
                Err(CallError::Refused("this is for Raft".to_owned()))
            }
        };
        result.unwrap_or_else(Answer::Error)
    }

    fn reports(&self, pool: &str) -> PoolReports {
        let now_ms = self.replica.cluster_clock().now_ms();
        PoolReports {
            now_ms,
            ..member_reports::truncate_to_frame(
                self.session_leases.member_reports.pool_reports(pool, Instant::now()),
            )
        }
    }

    /// Answered only while a quorum confirms that no other leader can have begun
    /// to count: so a deposed leader extends nothing.
    async fn answer_keep_alive(
        &self,
        session: SessionId,
        password: Password,
        reports: Vec<MemberReport>,
        seen: Zxid,
    ) -> Result<Answer, CallError> {
        let received_at = Instant::now();
        let term = self.session_leases.term().ok_or(CallError::NotLeader)?;
        let caught_up = tokio::time::timeout(CATCH_UP_TIMEOUT, self.replica.reached(seen)).await;
        caught_up.map_err(|_| CallError::NotLeader)?;
        let (timeout_ms, reports) = {
            let applied = self.replica.read();
            let known = applied.state.session(session).ok_or(CallError::SessionExpired)?;
            if known.password != password {
                return Err(CallError::BadPassword);
            }
            (known.timeout_ms, drop_reports_of_others(&applied.pools, session, reports))
        };
        let is_sure = self.group.holds_lease().await;
        if self.session_leases.term() != Some(term) {
            return Err(CallError::NotLeader);
        }
        let taken = self.session_leases.keep_alive(session, received_at, reports);
        // What arrived counts all the same, if this is the leader: to judge later is always safe.
        if !is_sure {
            return Err(CallError::NotLeader);
        }
        taken.map_err(|_| CallError::SessionExpired)?;
        Ok(Answer::KeptAlive { timeout_ms })
    }

    async fn answer_touch(&self, sessions: &[SessionId], seen: Zxid) -> Result<Answer, CallError> {
        let received_at = Instant::now();
        let term = self.session_leases.term().ok_or(CallError::NotLeader)?;
        let is_sure = self.group.holds_lease().await;
        if self.session_leases.term() != Some(term) {
            return Err(CallError::NotLeader);
        }
        // As for a single one.
        let unknown = self.session_leases.record_heartbeats(sessions, received_at);
        if !is_sure {
            return Err(CallError::NotLeader);
        }
        if unknown.is_empty() {
            return Ok(Answer::Touched { gone: unknown });
        }
        // Some may have been opened a moment ago.
        let caught_up = tokio::time::timeout(CATCH_UP_TIMEOUT, self.replica.reached(seen)).await;
        caught_up.map_err(|_| CallError::NotLeader)?;
        if !self.group.holds_lease().await || self.session_leases.term() != Some(term) {
            return Err(CallError::NotLeader);
        }
        Ok(Answer::Touched { gone: self.session_leases.record_heartbeats(&unknown, received_at) })
    }

    async fn answer_transfer(&self, server: u64) -> Result<Answer, CallError> {
        let round_trip = self.group.majority_round_trip();
        let answers = async {
            let ping = self.votes.call(server, Call::Ping);
            let answer = tokio::time::timeout(PING_TIMEOUT + round_trip * 3, ping).await;
            matches!(answer, Ok(Ok(Answer::Done)))
        };
        self.group.transfer_to(server, answers).await.map(|()| Answer::Done)
    }
}

/// What a session may say: of members that it keeps, and of buckets that there
/// are. So nobody speaks for others, and what is remembered has a bound.
fn drop_reports_of_others(
    pools: &Pools,
    session: SessionId,
    reports: Vec<MemberReport>,
) -> Vec<MemberReport> {
    let of_own = |mut report: MemberReport| {
        let pool = pools.get(&report.pool)?;
        let member = pool.members.get(&report.member)?;
        let is_there = |bucket: &String| pool.rows.contains_key(&Bucket::new(bucket));
        report.progress.retain(|bucket, _| is_there(bucket));
        report.loads.retain(|bucket, _| is_there(bucket));
        report.lags.retain(|bucket, _| is_there(bucket));
        (member.session == Some(session)).then_some(report)
    };
    reports.into_iter().filter_map(of_own).collect()
}
