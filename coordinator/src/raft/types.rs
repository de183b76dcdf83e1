//! The types that Raft is instantiated with, and their translation to the forms
//! of [`rota_protocol::peer`]. Nothing outside `raft/` and `store/` names a type
//! of the Raft library.

use std::fmt;

use bytes::Bytes;
use openraft::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::impls::leader_id_adv::LeaderId;
use openraft::impls::{EntryPayload, LogId as RaftLogId};
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use rota_protocol::peer::{self, ClusterId, ServerEndpoint};

/// Raft, as Rota uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

/// A server, as Raft's membership names it. The cluster's id stands with every
/// server, since the membership has no other place for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct RaftServer {
    pub(crate) endpoint: ServerEndpoint,
    pub(crate) cluster_id: ClusterId,
}

impl fmt::Display for RaftServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint.peer_address)
    }
}

/// One Raft entry: an encoded batch of commands.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Batch(pub(crate) Bytes);

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl RaftTypeConfig for TypeConfig {
    type D = Batch;
    /// How many of the entry's commands were refused. Answers themselves go to the
    /// server that submitted a command, at its own apply.
    type R = u32;
    type NodeId = u64;
    type Node = RaftServer;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Batch, u64, RaftServer>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = CallOnce<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = Vec<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// Calls a function when a write is through, or, with `None`, when it never will
/// be heard of.
pub(crate) struct CallOnce<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> CallOnce<T> {
    pub(crate) fn new(call: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(call)))
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for CallOnce<T> {
    fn on_complete(mut self, result: T) {
        if let Some(call) = self.0.take() {
            call(Some(result));
        }
    }
}

impl<T> Drop for CallOnce<T> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call(None);
        }
    }
}

pub(crate) fn log_id_out(id: LogIdOf<TypeConfig>) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_in(id: peer::LogId) -> LogIdOf<TypeConfig> {
    RaftLogId { leader_id: LeaderId { term: id.term, node_id: id.leader }, index: id.index }
}

pub(crate) fn vote_out(vote: &VoteOf<TypeConfig>) -> peer::Vote {
    peer::Vote { term: vote.leader_id.term, leader: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_in(vote: peer::Vote) -> VoteOf<TypeConfig> {
    VoteOf::<TypeConfig> {
        leader_id: LeaderId { term: vote.term, node_id: vote.leader },
        committed: vote.committed,
    }
}

pub(crate) fn membership_out(membership: &openraft::Membership<u64, RaftServer>) -> peer::Membership {
    peer::Membership {
        configs: membership.get_joint_config().clone(),
        servers: membership.nodes().map(|(id, server)| (*id, server.endpoint.clone())).collect(),
        cluster_id: membership.nodes().next().map(|(_, server)| server.cluster_id),
    }
}

/// # Errors
/// When the membership names a voter that it gives no address for, or no cluster:
/// damage.
pub(crate) fn membership_in(
    membership: peer::Membership,
) -> Result<openraft::Membership<u64, RaftServer>, std::io::Error> {
    if membership.configs.is_empty() {
        return Ok(openraft::Membership::default());
    }
    let no_cluster =
        || std::io::Error::new(std::io::ErrorKind::InvalidData, "a membership without a cluster id");
    let cluster_id = membership.cluster_id.ok_or_else(no_cluster)?;
    let server = |(id, endpoint)| (id, RaftServer { endpoint, cluster_id });
    let nodes: std::collections::BTreeMap<u64, RaftServer> =
        membership.servers.into_iter().map(server).collect();
    openraft::Membership::new(membership.configs, nodes).map_err(std::io::Error::other)
}

pub(crate) fn payload_out(payload: EntryPayload<Batch, u64, RaftServer>) -> peer::Payload {
    match payload {
        EntryPayload::Blank => peer::Payload::Blank,
        EntryPayload::Normal(batch) => peer::Payload::Batch(batch.0),
        EntryPayload::Membership(m) => peer::Payload::Membership(membership_out(&m)),
    }
}

pub(crate) fn payload_in(
    payload: peer::Payload,
) -> Result<EntryPayload<Batch, u64, RaftServer>, std::io::Error> {
    Ok(match payload {
        peer::Payload::Blank => EntryPayload::Blank,
        peer::Payload::Batch(bytes) => EntryPayload::Normal(Batch(bytes)),
        peer::Payload::Membership(m) => EntryPayload::Membership(membership_in(m)?),
    })
}

pub(crate) type RaftEntry = <TypeConfig as RaftTypeConfig>::Entry;

pub(crate) fn entry_out(entry: RaftEntry) -> peer::Entry {
    peer::Entry { log_id: log_id_out(entry.log_id), payload: payload_out(entry.payload) }
}

pub(crate) fn entry_in(entry: peer::Entry) -> Result<RaftEntry, std::io::Error> {
    Ok(openraft::Entry { log_id: log_id_in(entry.log_id), payload: payload_in(entry.payload)? })
}

/// What a snapshot holds, without the vote of whoever sends it.
pub(crate) fn meta_out(meta: &SnapshotMetaOf<TypeConfig>, vote: peer::Vote) -> peer::SnapshotHead {
    peer::SnapshotHead {
        vote,
        last: meta.last_log_id.map(log_id_out),
        membership_at: meta.last_membership.log_id().map(log_id_out),
        membership: membership_out(meta.last_membership.membership()),
    }
}

pub(crate) fn meta_in(head: peer::SnapshotHead) -> Result<SnapshotMetaOf<TypeConfig>, std::io::Error> {
    let membership = membership_in(head.membership)?;
    Ok(openraft::storage::SnapshotMeta {
        last_log_id: head.last.map(log_id_in),
        last_membership: StoredMembershipOf::<TypeConfig>::new(head.membership_at.map(log_id_in), membership),
    })
}
