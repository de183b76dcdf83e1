//! The handle on replication: propose, ask who leads, change who belongs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::WriteResponderOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::BasicNode;
use openraft::metrics::WaitError;
use openraft::raft::{ReadPolicy, TransferLeaderRequest, VoteRequest};
use openraft::{ChangeMembers, Config, Instant as _, Raft, ServerState, SnapshotPolicy};
use rota_core::batch::{Header, Origin, UNSEQUENCED, encode_batch, encode_unit};
use rota_core::state::{Command, Submitted};
use rota_protocol::peer::{self, MembershipChange};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::machine::Machine;
use super::network::NetworkFactory;
use super::types::{Batch, CallOnce, TypeConfig, log_id_in, log_id_out, vote_in, vote_out};
use crate::config::Timing;
use crate::store::LogStore;

/// Entries in one request to a follower; the bytes are bounded by the log store.
const PAYLOAD_ENTRIES_MAX: u64 = 4096;
/// Entries that are kept behind a snapshot, so that a server which was away for
/// a moment catches up by log.
const LOG_KEPT_BEHIND_SNAPSHOT: u64 = 2000;

/// How often it is looked whether a snapshot that is waited for has been begun.
const SNAPSHOT_LOOK_PERIOD: Duration = Duration::from_millis(200);

/// Entries that a learner may be behind when it is given a vote.
const PROMOTE_LAG_MAX: u64 = 1000;
/// How long a learner has to come so far.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const PROMOTE_LOOK_PERIOD: Duration = Duration::from_millis(50);
/// Shortest silence of a leader after which it is taken to be gone; elections are
/// faster, but heartbeats may be late on a busy machine.
const SILENCE_MIN: Duration = Duration::from_secs(1);

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
pub struct GroupError(String);

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

type RaftOf = Raft<TypeConfig, Machine>;

/// A server's part in the replicated group.
#[derive(Clone)]
pub(crate) struct Group {
    server: u64,
    raft: RaftOf,
    leadership: watch::Receiver<Leadership>,
    /// When another server's entries or heartbeats last arrived here.
    heard: Arc<Mutex<Option<Instant>>>,
    /// How long a leader that was heard of is taken to be there.
    silence_max: Duration,
}

impl Group {
    /// Builds Raft on its parts; it does nothing before [`Group::run`].
    pub(crate) async fn build(
        server: u64,
        cluster: &str,
        timing: &Timing,
        log: LogStore,
        machine: Machine,
        network: NetworkFactory,
    ) -> Result<(Self, watch::Sender<Leadership>), GroupError> {
        let config = Config {
            cluster_name: cluster.to_owned(),
            heartbeat_interval: timing.heartbeat_ms,
            election_timeout_min: timing.election_min_ms,
            election_timeout_max: timing.election_max_ms,
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
        let config = config.validate().map_err(|e| GroupError(e.to_string()))?;
        let raft = Raft::build(server, Arc::new(config), network, log, machine)
            .await
            .map_err(|e| GroupError(e.to_string()))?;
        let (sender, leadership) = watch::channel(Leadership::Unknown);
        let silence_max = SILENCE_MIN.max(Duration::from_millis(timing.election_max_ms) * 2);
        Ok((Self { server, raft, leadership, heard: Arc::default(), silence_max }, sender))
    }

    /// Lets Raft run, and follows who leads until the server stops.
    pub(crate) async fn run(
        self,
        sender: watch::Sender<Leadership>,
        peers: crate::peers::Peers,
    ) -> Result<(), GroupError> {
        self.raft.run();
        let mut metrics = self.raft.server_metrics();
        loop {
            let (leadership, addresses) = {
                let now = metrics.borrow_watched();
                let leadership = match (now.state, now.current_leader) {
                    (ServerState::Leader, _) => Leadership::Own { term: now.vote.leader_id.term },
                    (_, Some(leader)) if leader != self.server => Leadership::Other { leader },
                    _ => Leadership::Unknown,
                };
                let nodes = now.membership_config.membership().nodes();
                let addresses: std::collections::BTreeMap<u64, String> =
                    nodes.map(|(id, node)| (*id, node.addr.clone())).collect();
                (leadership, addresses)
            };
            if !addresses.is_empty() {
                peers.set_addresses(addresses);
            }
            sender.send_if_modified(|before| {
                let changed = *before != leadership;
                if changed {
                    self.hear_of_leader();
                    tracing::info!(?leadership, "leadership");
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
    fn stopped(&self) -> GroupError {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        GroupError(state.err().map_or_else(|| "it was told to".to_owned(), |e| e.to_string()))
    }

    /// Founds a cluster of these servers. Every one of them may do so; it has
    /// no effect on one that belongs to a cluster already.
    pub(crate) async fn found(&self, servers: impl Iterator<Item = (u64, String)>) -> Result<(), GroupError> {
        let nodes: std::collections::BTreeMap<u64, BasicNode> =
            servers.map(|(id, address)| (id, BasicNode::new(address))).collect();
        match self.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(GroupError(error.to_string())),
        }
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
    pub(crate) fn leads(&self) -> Leadership {
        *self.leadership.borrow()
    }

    /// Takes note that a leader's entries or heartbeat arrived.
    pub(crate) fn hear_of_leader(&self) {
        *self.heard.lock().expect("no code panics while it holds this") = Some(Instant::now());
    }

    /// Who leads, for people: a leader that a quorum has not confirmed for a while,
    /// or that this server does not hear of any more, is none.
    pub(crate) async fn living_leader(&self) -> Option<u64> {
        match self.leads() {
            Leadership::Own { .. } => self.holds_lease().await.then_some(self.server),
            Leadership::Other { leader } => {
                let heard = *self.heard.lock().expect("no code panics while it holds this");
                heard.is_some_and(|at| at.elapsed() < self.silence_max).then_some(leader)
            }
            Leadership::Unknown => None,
        }
    }

    /// Proposes a batch; `settled` hears of its end.
    pub(crate) async fn propose(
        &self,
        batch: Bytes,
        settled: WriteResponderOf<TypeConfig>,
    ) -> Result<(), GroupError> {
        self.raft.client_write_ff(Batch(batch), Some(settled)).await.map_err(|e| GroupError(e.to_string()))
    }

    /// Proposes what a controller of the leader of `term` decided, and waits
    /// until it is applied here. Returns how many of the commands were refused. It is
    /// never sent again: what a leader decided
    /// from what it knew must not be done in the name of a later one.
    pub(crate) async fn propose_as_leader(
        &self,
        term: u64,
        time_ms: u64,
        digest: (u64, u64),
        commands: &[Command],
    ) -> Result<u32, ProposeError> {
        let origin = Origin { server: self.server, unit: Submitted { boot: 0, seq: UNSEQUENCED } };
        let unit = encode_unit(origin, commands);
        let batch = encode_batch(Header { time_ms, checkpoint: digest }, std::iter::once(&unit));
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
    /// recently that no other can have been elected since. Costs nothing.
    pub(crate) async fn holds_lease(&self) -> bool {
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
    pub(crate) async fn snapshot(&self, timeout: Duration) -> Result<u64, GroupError> {
        let fail = |e: &dyn std::fmt::Display| GroupError(e.to_string());
        let applied = self.raft.metrics().borrow_watched().last_applied;
        let Some(applied) = applied else {
            return Err(GroupError("nothing has been applied yet".to_owned()));
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

    /// Begins a snapshot; what it replaces in the log is purged after it.
    pub(crate) async fn begin_snapshot(&self) -> Result<(), GroupError> {
        self.raft.trigger().snapshot().await.map_err(|e| GroupError(e.to_string()))
    }

    /// Lets `to` lead.
    pub(crate) async fn transfer_to(&self, to: u64) -> Result<(), ProposeError> {
        self.raft.trigger().transfer_leader(to).await.map_err(|_| ProposeError::Unknown)
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
    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.raft.voter_ids().collect()
    }

    /// Changes who belongs to the cluster. Only a leader can.
    pub(crate) async fn change_membership(&self, change: MembershipChange) -> Result<(), peer::CallError> {
        let members: BTreeSet<u64> = {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            now.membership_config.membership().nodes().map(|(id, _)| *id).collect()
        };
        let known = |server: u64| {
            if members.contains(&server) { Ok(()) } else { Err(peer::CallError::NoServer(server)) }
        };
        let result = match change {
            MembershipChange::AddLearner { server, .. } if members.contains(&server) => {
                return Err(peer::CallError::ServerExists(server));
            }
            MembershipChange::AddLearner { server, peer_address } => {
                self.raft.add_learner(server, BasicNode::new(peer_address), false).await
            }
            MembershipChange::Promote(server) => {
                known(server)?;
                if !self.voters().contains(&server) {
                    self.is_ready_to_vote(server).await?;
                }
                self.raft.change_membership(ChangeMembers::AddVoterIds([server].into()), true).await
            }
            MembershipChange::Remove(server) => {
                known(server)?;
                let change = if self.voters().contains(&server) {
                    self.leaves_a_majority(server)?;
                    ChangeMembers::RemoveVoters([server].into())
                } else {
                    ChangeMembers::RemoveNodes([server].into())
                };
                self.raft.change_membership(change, false).await
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(peer::CallError::NotLeader),
            Err(error) => Err(peer::CallError::Refused(error.to_string())),
        }
    }

    /// Waits until a learner has about all of the log and answers: a voter that
    /// does not could cost the cluster its majority, for good.
    async fn is_ready_to_vote(&self, server: u64) -> Result<(), peer::CallError> {
        let deadline = Instant::now() + PROMOTE_TIMEOUT;
        loop {
            let (has, last) = {
                let metrics = self.raft.metrics();
                let now = metrics.borrow_watched();
                let replication = now.replication.as_ref().ok_or(peer::CallError::NotLeader)?;
                let has = replication.get(&server).and_then(|id| *id).map_or(0, |id| id.index);
                (has, now.last_log_index.unwrap_or(0))
            };
            let answers = self.answers(server);
            if answers && has + PROMOTE_LAG_MAX >= last {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = if answers { "is not up to date" } else { "does not answer" };
                return Err(peer::CallError::Refused(format!(
                    "server {server} {why}: it has {has} of {last} entries; a voter like that could cost the \
                     cluster its majority. Is it running, at the address that it was added with?"
                )));
            }
            tokio::time::sleep(PROMOTE_LOOK_PERIOD).await;
        }
    }

    /// Refuses the removal of a voter when too few of the others answer.
    fn leaves_a_majority(&self, server: u64) -> Result<(), peer::CallError> {
        let others: BTreeSet<u64> = self.voters().into_iter().filter(|id| *id != server).collect();
        let silent: Vec<u64> = others.iter().copied().filter(|id| !self.answers(*id)).collect();
        if (others.len() - silent.len()) * 2 > others.len() {
            return Ok(());
        }
        Err(peer::CallError::Refused(format!(
            "without server {server} there is no majority: of the other voters, {silent:?} do not answer"
        )))
    }

    /// The other servers, and whether each answered this leader's last heartbeats.
    /// None, if this server does not lead.
    pub(crate) fn peers_that_answer(&self) -> Vec<(u64, bool)> {
        if !matches!(self.leads(), Leadership::Own { .. }) {
            return Vec::new();
        }
        let others: Vec<u64> = {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            now.membership_config.membership().nodes().map(|(id, _)| *id).collect()
        };
        let others = others.into_iter().filter(|id| *id != self.server);
        others.map(|id| (id, self.answers(id))).collect()
    }

    /// Whether a server answered this leader's last heartbeats.
    fn answers(&self, server: u64) -> bool {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let at = now.heartbeat.as_ref().and_then(|answered| answered.get(&server).copied().flatten());
        server == self.server || at.is_some_and(|at| at.elapsed() < self.silence_max)
    }

    pub(crate) async fn vote(
        &self,
        request: peer::VoteRequest,
        pre: bool,
    ) -> Result<peer::VoteReply, GroupError> {
        let mut rpc = VoteRequest::new(vote_in(request.vote), request.last.map(log_id_in));
        rpc.leadership_transfer = request.transfer;
        let reply = if pre { self.raft.pre_vote(rpc).await } else { self.raft.vote(rpc).await };
        let reply = reply.map_err(|e| GroupError(e.to_string()))?;
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
