//! The handle on replication: propose, ask who leads, read up to date. How the cluster's
//! members change is in [`super::membership`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::WriteResponderOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::{ReadPolicy, TransferLeaderRequest, VoteRequest};
use openraft::{Config, Raft, ServerState, SnapshotPolicy};
use rota_core::batch::{Header, Origin, UNSEQUENCED, encode_batch, encode_unit};
use rota_core::state::{Command, Submitted};
use rota_protocol::peer::{self, ClusterId, Membership, ServerEndpoint};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::network::NetworkFactory;
use super::state_machine::StateMachine;
use super::types::{
    Batch, CallOnce, RaftServer, TypeConfig, log_id_in, log_id_out, membership_out, vote_in, vote_out,
};
use crate::config::Timing;
use crate::peers::Peers;
use crate::store::LogStore;
use crate::suspension::Suspension;
use crate::timings::Timings;

/// Entries in one request to a follower; the bytes are bounded by the log store.
const PAYLOAD_ENTRIES_MAX: u64 = 4096;
/// Entries that are kept behind a snapshot, so that a server which was away for
/// a moment catches up by log.
const LOG_KEPT_BEHIND_SNAPSHOT: u64 = 2000;

/// How often it is looked whether a snapshot that is waited for has been begun.
const SNAPSHOT_LOOK_PERIOD: Duration = Duration::from_millis(200);

/// Who leads, as far as this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leadership {
    /// Nobody that is known.
    Unknown,
    /// This server, since this term.
    Own {
        /// Raft's term.
        term: u64,
    },
    /// Another server.
    Other {
        /// Which.
        leader: u64,
    },
}

/// Replication has stopped, for good.
#[derive(Debug, Clone, thiserror::Error)]
#[error("replication has stopped: {0}")]
pub struct RaftNodeError(String);

/// Why something that only a leader does was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposeError {
    /// This server does not lead, or not in that term any more.
    #[error("this server does not lead")]
    NotLeader,
    /// It was proposed, and it is not known whether it will be committed.
    #[error("the outcome is not known")]
    Unknown,
}

pub(super) type RaftOf = Raft<TypeConfig, StateMachine>;

/// A server's part in the replicated group.
#[derive(Clone)]
pub(crate) struct RaftNode {
    server: u64,
    raft: RaftOf,
    peers: Peers,
    leadership: watch::Receiver<Leadership>,
    /// When another server's entries or heartbeats last arrived here.
    leader_contact: Arc<Mutex<Option<Instant>>>,
    /// How long a leader that was heard of is taken to be there.
    leader_timeout: Duration,
    /// A leader that was asked to move the leadership, and is not followed by another yet,
    /// sends none, so that the others elect one.
    heartbeats_suspended: Arc<AtomicBool>,
    suspension: Arc<Suspension>,
    /// Held while a membership change is checked and proposed.
    membership_changes: Arc<tokio::sync::Mutex<()>>,
}

impl RaftNode {
    /// Builds Raft on its parts; it does nothing before [`RaftNode::run`].
    pub(crate) async fn build(
        server: u64,
        cluster: &str,
        timing: &Timing,
        log: LogStore,
        machine: StateMachine,
        network: NetworkFactory,
        peers: Peers,
    ) -> Result<(Self, watch::Sender<Leadership>), RaftNodeError> {
        let config = Config {
            cluster_name: cluster.to_owned(),
            // `election_timeout_max` is the lease: how long a voter that heard from a leader
            // elects no other, and how long a leader that a quorum has answered is sure that
            // there is no other. When to campaign is for `elections` to decide.
            election_timeout_max: timing.election_min_ms,
            // How long a vote may take.
            election_timeout_min: timing.election_min_ms * 9 / 10,
            // How long a heartbeat may take: a far server's is not late because the next one is due.
            heartbeat_interval: timing.election_min_ms * 45 / 100,
            enable_heartbeat: false,
            enable_elect: false,
            enable_pre_vote: Some(true),
            // A leader sends entries to the others while it still writes them to
            // its own disk. One that was killed in between may lack what a quorum
            // has committed; if it led again in the same term, without an
            // election, it would put something else in the same place.
            enable_leader_restore: Some(false),
            max_payload_entries: PAYLOAD_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: LOG_KEPT_BEHIND_SNAPSHOT,
            purge_batch_size: 256,
            ..Config::default()
        };
        let config = config.validate().map_err(|e| RaftNodeError(e.to_string()))?;
        let raft = Raft::build(server, Arc::new(config), network, log, machine)
            .await
            .map_err(|e| RaftNodeError(e.to_string()))?;
        let (sender, leadership) = watch::channel(Leadership::Unknown);
        let group = Self {
            server,
            raft,
            peers,
            leadership,
            leader_contact: Arc::default(),
            leader_timeout: Duration::from_millis(timing.election_max_ms),
            heartbeats_suspended: Arc::default(),
            suspension: Arc::new(Suspension::new()),
            membership_changes: Arc::default(),
        };
        Ok((group, sender))
    }

    /// Lets Raft run, and follows who leads until the server stops.
    pub(crate) async fn run(
        self,
        sender: watch::Sender<Leadership>,
        timings: Arc<Timings>,
    ) -> Result<(), RaftNodeError> {
        self.raft.run();
        let mut lost_at = Some(Instant::now());
        let mut metrics = self.raft.server_metrics();
        loop {
            let (leadership, servers) = {
                let now = metrics.borrow_watched();
                let leadership = match (now.state, now.current_leader) {
                    (ServerState::Leader, _) => Leadership::Own { term: now.vote.leader_id.term },
                    (_, Some(leader)) if leader != self.server => Leadership::Other { leader },
                    _ => Leadership::Unknown,
                };
                (leadership, membership_out(now.membership_config.membership()).servers)
            };
            if !servers.is_empty() {
                let is_member = servers.contains_key(&self.server);
                self.peers.set_endpoints(servers);
                if is_member {
                    self.peers.joined();
                }
            }
            sender.send_if_modified(|before| {
                let changed = *before != leadership;
                if changed {
                    self.heartbeats_suspended.store(false, Ordering::Release);
                    tracing::info!(?leadership, "leadership");
                    metrics::counter!(crate::metrics::LEADER_CHANGES).increment(1);
                    timings.note_leads(matches!(leadership, Leadership::Own { .. }));
                    let is_lost = leadership == Leadership::Unknown;
                    let since = if is_lost { lost_at.replace(Instant::now()) } else { lost_at.take() };
                    if let Some(since) = since.filter(|_| !is_lost) {
                        timings.election.record(since.elapsed());
                    }
                    *before = leadership;
                }
                changed
            });
            if metrics.changed().await.is_err() {
                return Err(self.stopped());
            }
        }
    }

    /// Why Raft has stopped.
    fn stopped(&self) -> RaftNodeError {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        RaftNodeError(state.err().map_or_else(|| "it was told to".to_owned(), |e| e.to_string()))
    }

    /// Makes a new cluster of these servers. It has no effect on a server that belongs to a
    /// cluster already.
    pub(crate) async fn bootstrap(
        &self,
        cluster_id: ClusterId,
        servers: std::collections::BTreeMap<u64, ServerEndpoint>,
    ) -> Result<(), RaftNodeError> {
        let server = |(id, endpoint)| (id, RaftServer { endpoint, cluster_id });
        let nodes: std::collections::BTreeMap<u64, RaftServer> = servers.into_iter().map(server).collect();
        match self.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(RaftNodeError(error.to_string())),
        }
    }

    /// The cluster's servers as the log has them, committed or not; none before this server
    /// belongs to a cluster.
    pub(crate) fn membership(&self) -> Membership {
        membership_out(self.raft.metrics().borrow_watched().membership_config.membership())
    }

    /// The membership that Raft found in the log and the snapshot when it started.
    pub(crate) async fn recovered_membership(&self) -> Result<Membership, RaftNodeError> {
        let read = |state: &openraft::RaftState<TypeConfig>| {
            membership_out(state.membership_state.effective().membership())
        };
        self.raft.with_raft_state(read).await.map_err(|e| RaftNodeError(e.to_string()))
    }

    /// The cluster that this server belongs to, if any.
    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.membership().cluster_id
    }

    /// The index of this server's last log entry, and its term.
    pub(crate) fn log_end(&self) -> (Option<u64>, u64) {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        (now.last_log_index, now.current_term)
    }

    /// This server's number.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    /// Who leads, and who will.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Who leads now.
    pub(crate) fn current_leadership(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Takes note that a leader's entries or heartbeat were accepted.
    pub(crate) fn record_leader_contact(&self) {
        *self.leader_contact.lock().expect("no code panics while it holds this") = Some(Instant::now());
    }

    /// When a leader's entries or heartbeat were last accepted.
    pub(crate) fn leader_contact(&self) -> Option<Instant> {
        *self.leader_contact.lock().expect("no code panics while it holds this")
    }

    /// Sends a heartbeat to every other server, if this one leads.
    pub(crate) async fn send_heartbeats(&self) {
        if !self.heartbeats_suspended.load(Ordering::Acquire) {
            // It fails when Raft has stopped, which others notice.
            drop(self.raft.trigger().heartbeat().await);
        }
    }

    /// Asks the other voters whether they would elect this server, and if a majority would, to
    /// do so. Without `pre_vote` they are asked to do so at once.
    pub(crate) async fn campaign(&self, pre_vote: bool) {
        metrics::counter!(crate::metrics::CAMPAIGNS).increment(1);
        // As for heartbeats.
        drop(self.raft.trigger().elect(pre_vote).await);
    }

    /// Whether this server is the only voter.
    pub(crate) fn is_sole_voter(&self) -> bool {
        let voters = self.voters();
        voters.len() == 1 && voters.contains(&self.server)
    }

    /// The process of the leader has ended: this server may vote for another at once. It
    /// still hears from the leader if that is wrong, and refuses its vote again.
    pub(crate) async fn release_lease_of(&self, leader: u64) {
        let vote = self.raft.metrics().borrow_watched().vote;
        if vote.leader_id.node_id == leader {
            drop(self.raft.handle_transfer_leader(TransferLeaderRequest::new(vote, leader, None)).await);
        }
    }

    /// How far a majority is away, as measured: what an entry takes at least.
    pub(crate) fn majority_round_trip(&self) -> Duration {
        let others = self.voters().into_iter().filter(|id| *id != self.server);
        self.peers.round_trips().to_majority(others)
    }

    /// No heartbeat is sent until another server leads.
    pub(super) fn suspend_heartbeats(&self) {
        self.heartbeats_suspended.store(true, Ordering::Release);
    }

    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// How long a server that answered is taken to be there.
    pub(super) fn leader_timeout(&self) -> Duration {
        self.leader_timeout
    }

    /// Who leads, for people: a leader that a quorum has not confirmed for a while,
    /// or that this server does not hear of any more, is none.
    pub(crate) async fn recent_leader(&self) -> Option<u64> {
        match self.current_leadership() {
            Leadership::Own { .. } => self.holds_lease().await.then_some(self.server),
            Leadership::Other { leader } => {
                self.leader_contact().is_some_and(|at| at.elapsed() < self.leader_timeout).then_some(leader)
            }
            Leadership::Unknown => None,
        }
    }

    /// Proposes a batch; `settled` hears of its end.
    pub(crate) async fn propose(
        &self,
        batch: Bytes,
        settled: WriteResponderOf<TypeConfig>,
    ) -> Result<(), RaftNodeError> {
        self.raft.client_write_ff(Batch(batch), Some(settled)).await.map_err(|e| RaftNodeError(e.to_string()))
    }

    /// Proposes what a controller of the leader of `term` decided, and waits
    /// until it is applied here. Returns how many of the commands were refused. It is
    /// never sent again: what a leader decided
    /// from what it knew must not be done in the name of a later one.
    pub(crate) async fn propose_as_leader(
        &self,
        term: u64,
        header: Header,
        commands: &[Command],
    ) -> Result<u32, ProposeError> {
        let origin = Origin { server: self.server, unit: Submitted { boot: 0, seq: UNSEQUENCED } };
        let unit = encode_unit(origin, commands);
        let batch = encode_batch(header, std::iter::once(&unit));
        let (sender, receiver) = oneshot::channel();
        let settled = CallOnce::new(move |outcome| drop(sender.send(outcome)));
        let leader = openraft::impls::leader_id_adv::LeaderId { term, node_id: self.server };
        let write = self.raft.write(Batch(batch)).responder(settled).with_leader(leader);
        write.await.map_err(|_| ProposeError::Unknown)?;
        match receiver.await {
            Ok(Some(Ok(written))) => Ok(written.data),
            Ok(Some(Err(ClientWriteError::ForwardToLeader(_)))) => Err(ProposeError::NotLeader),
            _ => Err(ProposeError::Unknown),
        }
    }

    /// Whether this server certainly leads now: a quorum has confirmed it so
    /// recently that no other can have been elected since. Costs nothing, but after
    /// the machine was suspended, when a quorum is asked.
    pub(crate) async fn holds_lease(&self) -> bool {
        if let Some(suspended) = self.suspension.noticed() {
            if self.raft.get_read_log_id(ReadPolicy::ReadIndex).await.is_err() {
                return false;
            }
            self.suspension.accept(suspended);
        }
        self.raft.get_read_log_id(ReadPolicy::LeaseRead).await.is_ok()
    }

    /// The log index up to which a server must have applied the log for a read
    /// to see every write that was acknowledged before now. Only a leader knows.
    pub(crate) async fn read_index(&self) -> Result<u64, ProposeError> {
        let (read, _) =
            self.raft.get_read_log_id(ReadPolicy::ReadIndex).await.map_err(|_| ProposeError::NotLeader)?;
        Ok(read.index())
    }

    /// Takes a snapshot of this server's state and waits for it: the index up
    /// to which it holds everything.
    pub(crate) async fn snapshot(&self, timeout: Duration) -> Result<u64, RaftNodeError> {
        let fail = |e: &dyn std::fmt::Display| RaftNodeError(e.to_string());
        let applied = self.raft.metrics().borrow_watched().last_applied;
        let Some(applied) = applied else {
            return Err(RaftNodeError("nothing has been applied yet".to_owned()));
        };
        let deadline = Instant::now() + timeout;
        loop {
            self.raft.trigger().snapshot().await.map_err(|e| fail(&e))?;
            let taken =
                |m: &openraft::RaftMetrics<TypeConfig>| m.snapshot.is_some_and(|s| s.index >= applied.index);
            let wait = self.raft.wait(Some(SNAPSHOT_LOOK_PERIOD));
            match wait.metrics(taken, "a snapshot of what is applied").await {
                Ok(metrics) => return Ok(metrics.snapshot.map_or(0, |s| s.index)),
                // Another one may have been under way, of what was applied before; it is
                // not begun again by itself.
                Err(WaitError::Timeout(..)) if Instant::now() < deadline => {}
                Err(error) => return Err(fail(&error)),
            }
        }
    }

    /// Removes what is in the snapshot from the log, up to `index`.
    pub(crate) async fn purge(&self, index: u64) -> Result<(), RaftNodeError> {
        self.raft.trigger().purge_log(index).await.map_err(|e| RaftNodeError(e.to_string()))
    }

    /// Begins a snapshot; what it replaces in the log is purged after it.
    pub(crate) async fn begin_snapshot(&self) -> Result<(), RaftNodeError> {
        self.raft.trigger().snapshot().await.map_err(|e| RaftNodeError(e.to_string()))
    }

    /// Raft's term, as this server knows it.
    pub(crate) fn term(&self) -> u64 {
        self.raft.metrics().borrow_watched().current_term
    }

    /// The last entry that this server's log has not any more; 0 before the first.
    pub(crate) fn purged(&self) -> u64 {
        self.raft.metrics().borrow_watched().purged.map_or(0, |id| id.index)
    }

    /// The voters.
    /// Waits until no other membership change is being proposed here.
    pub(super) async fn membership_changes(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.membership_changes.lock().await
    }

    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.raft.voter_ids().collect()
    }

    pub(crate) async fn vote(
        &self,
        request: peer::VoteRequest,
        pre: bool,
    ) -> Result<peer::VoteReply, RaftNodeError> {
        let mut rpc = VoteRequest::new(vote_in(request.vote), request.last.map(log_id_in));
        rpc.leadership_transfer = request.transfer;
        let reply = if pre { self.raft.pre_vote(rpc).await } else { self.raft.vote(rpc).await };
        let reply = reply.map_err(|e| RaftNodeError(e.to_string()))?;
        Ok(peer::VoteReply {
            vote: vote_out(&reply.vote),
            granted: reply.vote_granted,
            last: reply.last_log_id.map(log_id_out),
        })
    }

    pub(crate) async fn take_over(&self, request: peer::TransferRequest) -> Result<(), String> {
        let rpc = TransferLeaderRequest::new(vote_in(request.from), request.to, request.last.map(log_id_in));
        match self.raft.handle_transfer_leader(rpc).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refused)) => Err(refused.to_string()),
            Err(fatal) => Err(fatal.to_string()),
        }
    }

    pub(super) fn raft(&self) -> &RaftOf {
        &self.raft
    }

    /// Stops Raft. What was acknowledged is on disk already.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "replication did not stop in order");
        }
    }
}
