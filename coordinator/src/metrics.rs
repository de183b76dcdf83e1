//! The metrics of a server: every name once, described once. The table in
//! `docs/metrics.md` is tested against [`ALL`].

use metrics::{describe_counter, describe_gauge, describe_histogram};

pub(crate) const WRITES: &str = "rota_writes_total";
pub(crate) const REQUESTS: &str = "rota_http_requests_total";
pub(crate) const REQUEST_SECONDS: &str = "rota_http_request_seconds";
pub(crate) const BATCH_BYTES: &str = "rota_raft_batch_bytes";
pub(crate) const APPLIED_ZXID: &str = "rota_applied_zxid";
pub(crate) const TERM: &str = "rota_raft_term";
pub(crate) const PEER_CONNECTS: &str = "rota_peer_connects_total";
pub(crate) const PURGED: &str = "rota_raft_log_purged_index";
pub(crate) const CONNECTIONS: &str = "rota_client_connections";
pub(crate) const CONNECTIONS_REFUSED: &str = "rota_client_connections_refused_total";
pub(crate) const LEADER_CHANGES: &str = "rota_raft_leader_changes_total";
pub(crate) const CAMPAIGNS: &str = "rota_raft_campaigns_total";
pub(crate) const UNDECODABLE: &str = "rota_raft_undecodable_units_total";
pub(crate) const PEER_INVALID: &str = "rota_peer_invalid_total";
pub(crate) const PEER_OUT: &str = "rota_peer_out_of_service";
pub(crate) const IS_LEADER: &str = "rota_raft_is_leader";
pub(crate) const NODES: &str = "rota_nodes";
pub(crate) const SESSIONS: &str = "rota_sessions";
pub(crate) const SESSIONS_EXPIRED: &str = "rota_sessions_expired_total";
pub(crate) const PENDING_WRITES: &str = "rota_pending_writes";
pub(crate) const GRANTS: &str = "rota_assignment_grants_total";
pub(crate) const MOVES_PLANNED: &str = "rota_assignment_moves_planned_total";
pub(crate) const INVALID_PLANS: &str = "rota_assignment_invalid_plans_total";
pub(crate) const CONFLICTS: &str = "rota_assignment_conflicts_total";
pub(crate) const PEER_UP: &str = "rota_peer_up";
pub(crate) const REAPED: &str = "rota_reaped_nodes_total";
pub(crate) const ZK_CONNECTIONS: &str = "rota_zookeeper_connections";
pub(crate) const HTTP_WATCHES: &str = "rota_http_watches";
pub(crate) const ZK_WATCHES: &str = "rota_zookeeper_watches";
pub(crate) const ZK_PACKETS: &str = "rota_zookeeper_packets_total";
pub(crate) const UNASSIGNED: &str = "rota_pool_unassigned_buckets";
pub(crate) const AWAITING_REJOIN: &str = "rota_pool_members_awaiting_rejoin";
pub(crate) const DEGRADED: &str = "rota_pool_degraded_buckets";
pub(crate) const STUCK: &str = "rota_pool_stuck_buckets";

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Every metric: its name, kind, labels and meaning.
pub const ALL: &[(&str, Kind, &str, &str)] = &[
    (WRITES, Kind::Counter, "", "commands submitted through this server"),
    (REQUESTS, Kind::Counter, "route, status", "HTTP requests answered"),
    (REQUEST_SECONDS, Kind::Histogram, "route", "time to answer an HTTP request, long polls included"),
    (BATCH_BYTES, Kind::Histogram, "", "bytes of the Raft entries that this server proposed"),
    (APPLIED_ZXID, Kind::Gauge, "", "last write that this server has applied"),
    (TERM, Kind::Gauge, "", "Raft's term"),
    (PURGED, Kind::Gauge, "", "last entry of the log that was removed after a snapshot"),
    (IS_LEADER, Kind::Gauge, "", "1 if this server leads, else 0"),
    (CONNECTIONS, Kind::Gauge, "protocol", "connections of clients: http or zookeeper"),
    (
        CONNECTIONS_REFUSED,
        Kind::Counter,
        "protocol",
        "connections of clients that were closed because there were too many in all, or from their address",
    ),
    (LEADER_CHANGES, Kind::Counter, "", "changes of the leader that this server follows or is"),
    (CAMPAIGNS, Kind::Counter, "", "times that this server asked the others to elect it"),
    (
        UNDECODABLE,
        Kind::Counter,
        "",
        "units in the log with a command that does not decode: every server refuses it and the rest of the unit",
    ),
    (PEER_INVALID, Kind::Counter, "", "frames and values from other servers that were refused as invalid"),
    (
        PEER_OUT,
        Kind::Gauge,
        "peer",
        "1 if another server takes no part any more, because it was emptied or has lost data, else 0",
    ),
    (PEER_CONNECTS, Kind::Counter, "peer, outcome", "attempts to connect to another server: ok or failed"),
    (NODES, Kind::Gauge, "", "nodes in the tree"),
    (SESSIONS, Kind::Gauge, "", "sessions that live"),
    (
        SESSIONS_EXPIRED,
        Kind::Counter,
        "",
        "sessions that this server, as leader, ended for want of a sign of life",
    ),
    (PENDING_WRITES, Kind::Gauge, "", "commands submitted through this server that are not applied here yet"),
    (GRANTS, Kind::Counter, "", "buckets that this server, as leader, granted"),
    (MOVES_PLANNED, Kind::Counter, "", "moves that this server, as leader, put in a plan"),
    (INVALID_PLANS, Kind::Counter, "", "planner's answers that failed their independent check: a bug"),
    (
        CONFLICTS,
        Kind::Counter,
        "",
        "parts of steps that were refused, because the pool had changed: never for long",
    ),
    (
        PEER_UP,
        Kind::Gauge,
        "peer",
        "on the leader: 1 if the other server answered its last heartbeats, else 0",
    ),
    (
        REAPED,
        Kind::Counter,
        "",
        "containers and nodes with a time to live that this server, as leader, has removed",
    ),
    (ZK_CONNECTIONS, Kind::Gauge, "", "connections of clients of ZooKeeper"),
    (ZK_WATCHES, Kind::Gauge, "", "watches that they have left here"),
    (HTTP_WATCHES, Kind::Gauge, "", "open HTTP watches (long polls and event streams)"),
    (
        ZK_PACKETS,
        Kind::Counter,
        "direction",
        "packets from clients of ZooKeeper (received), and answers and events to them (sent)",
    ),
    (UNASSIGNED, Kind::Gauge, "pool", "buckets that no member leads"),
    (AWAITING_REJOIN, Kind::Gauge, "pool", "members that have gone and whose buckets wait for them"),
    (DEGRADED, Kind::Gauge, "pool", "buckets that have fewer owners than they should, but not none"),
    (
        STUCK,
        Kind::Gauge,
        "pool",
        "on the leader: buckets whose owners have said nothing new for longer than the pool's stuck_ms",
    ),
];

/// Shows counters that may never grow before they do: an alert on one that is missing never
/// fires.
pub(crate) fn begin_at_zero() {
    for name in [LEADER_CHANGES, CAMPAIGNS, UNDECODABLE, PEER_INVALID] {
        metrics::counter!(name).increment(0);
    }
    for protocol in ["http", "zookeeper", "peer"] {
        metrics::counter!(CONNECTIONS_REFUSED, "protocol" => protocol).increment(0);
    }
}

/// Tells the recorder what each metric means.
pub(crate) fn describe() {
    for (name, kind, _, meaning) in ALL {
        match kind {
            Kind::Counter => describe_counter!(*name, *meaning),
            Kind::Gauge => describe_gauge!(*name, *meaning),
            Kind::Histogram => describe_histogram!(*name, *meaning),
        }
    }
}
