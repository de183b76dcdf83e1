//! The cluster over HTTP.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a server does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It orders the writes.
    Leader,
    /// It has a vote.
    Follower,
    /// It is given the log and has no vote.
    Learner,
}

/// The cluster, as the answering server sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's random id, 16 hexadecimal digits; none while the answering server
    /// belongs to no cluster.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// The answering server.
    pub server: u64,
    /// Why the answering server does not serve, if it does not: it waits to join a cluster, was
    /// removed from it, or has lost data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_serving: Option<String>,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// The last write that the answering server has applied.
    pub zxid: u64,
    /// Digest of its state there; servers at the same zxid have the same.
    pub digest: String,
    /// The servers.
    pub servers: Vec<Server>,
    /// The answering server's version of Rota.
    pub version: String,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Server {
    /// Its number.
    pub id: u64,
    /// What it does.
    pub role: Role,
    /// Where other servers reach it.
    pub peer_address: String,
    /// Where clients reach it by HTTP, once it has said so.
    pub http_address: Option<String>,
    /// Where clients reach it by ZooKeeper's protocol, if it speaks that.
    #[serde(default)]
    pub zookeeper_address: Option<String>,
    /// The random id of its data directory, 16 hexadecimal digits, once it was reached.
    #[serde(default)]
    pub disk_id: Option<String>,
    /// Why it takes no part, if it was emptied or has lost data, as the leader found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// Adds a server, as a learner.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddServer {
    /// Its number. That of a removed server needs a new data directory.
    pub id: u64,
    /// Where other servers reach it: HOST:PORT. It must wait there, started with `--join`.
    pub peer_address: String,
    /// Add it although nobody, or another server, is at that address.
    #[serde(default)]
    pub force: bool,
}

/// Moves the leadership.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferLeader {
    /// The server that is to lead: a voter.
    pub server: u64,
}

/// A snapshot was taken.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotTaken {
    /// The server that took it: the one that was asked.
    pub server: u64,
    /// The Raft log index up to which it holds everything.
    pub index: u64,
}
