//! A server's configuration: every field with its default and bounds.

use std::collections::{BTreeMap, BTreeSet};

use rota_core::state::ServerEndpoints;
use serde::{Deserialize, Serialize};

use crate::zk::{ALL_WORDS, Tls};

/// Configuration of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The server's number in the cluster, from 1. A member keeps its data directory; the number
    /// of one that was removed may be given to a new directory.
    pub server: u64,
    /// The cluster's name. Servers of different clusters refuse each other.
    pub cluster: String,
    /// The peer addresses of the servers that make a new cluster, by number, this one
    /// included. Empty for a server that waits to be added to one. Ignored, but for being
    /// compared, once the server belongs to a cluster.
    pub initial_members: BTreeMap<u64, String>,
    /// Where other servers reach this one, if that is known: HOST:PORT.
    pub peer_address: Option<String>,
    /// Where clients reach this server's HTTP face, as told to others.
    pub http_address: String,
    /// Where clients reach it by ZooKeeper's protocol, if it speaks that.
    pub zookeeper_address: Option<String>,
    /// The same over TLS.
    pub zookeeper_tls_address: Option<String>,
    /// With what, if so.
    pub zookeeper_tls: Option<Tls>,
    /// Raft's timing.
    pub timing: Timing,
    /// Limits of what clients may ask.
    pub limits: Limits,
    /// What only clients of ZooKeeper's protocol meet.
    pub zookeeper: Zookeeper,
    /// `USER:DIGEST` of the super user, whom no access control list stops. See
    /// [`digest`](crate::digest).
    pub super_digest: Option<String>,
    /// The name in the super user's certificate.
    pub super_x509: Option<String>,
}

/// What clients of ZooKeeper's protocol meet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zookeeper {
    /// Longest packet of a client, in bytes; ZooKeeper's `jute.maxbuffer`. Default
    /// 1,048,575.
    pub packet_bytes_max: usize,
    /// Longest answer, in bytes: instead of a longer one, the client is told that it
    /// cannot be encoded. Default 1 GiB: ZooKeeper has no bound for lists of children.
    pub answer_bytes_max: usize,
    /// Connections from all addresses together; 0 for as many as there are descriptors for.
    /// Default 0.
    pub connections_total_max: usize,
    /// Connections from one address; 0 for any number. Default 4,096.
    pub connections_per_address_max: usize,
    /// The four-letter words that are answered. Default `isro mntr ruok srvr`.
    pub words: BTreeSet<String>,
    /// Whether a server without a leader goes on for clients that only read.
    pub read_only: bool,
    /// Whether nodes with a time to live can be made. Default true (ZooKeeper: false).
    pub ttl_nodes: bool,
    /// How often containers and nodes with a time to live are looked at, in
    /// milliseconds. Default 60,000.
    pub reap_period_ms: u64,
    /// How many of them are removed in a minute at most. Default 10,000.
    pub reaped_per_minute_max: u32,
}

/// Raft's timing, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between heartbeats. Default 100; at most half of `election_min_ms`.
    pub heartbeat_ms: u64,
    /// Shortest silence of a leader after which a follower asks to be elected. Also the lease:
    /// for so long after a leader was heard no other is elected. Default 1,000. Raised
    /// to ten round trips where the network is slower.
    pub election_min_ms: u64,
    /// Longest such silence; chance decides. Default 2,000. A leader whose process has ended is
    /// replaced at once.
    pub election_max_ms: u64,
}

/// Limits of what clients may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Shortest session timeout, in milliseconds. Default 1,000.
    pub session_min_ms: u32,
    /// Longest session timeout, in milliseconds. Default 60,000.
    pub session_max_ms: u32,
    /// Longest body of a request, in bytes. Default 1 MiB.
    pub body_bytes_max: usize,
    /// Longest wait of a request for any one thing, in milliseconds: for a write to
    /// be applied, for this server to catch up. Default 10,000.
    pub request_ms_max: u64,
    /// HTTP connections from one address; 0 for any number. Default 16,384. In all there are fewer
    /// than the process has descriptors.
    pub http_connections_per_address_max: usize,
    /// Bytes of batches in the log between two snapshots; as many as the nodes' data, up to
    /// twice this, where those are more. Default 64 MiB.
    pub snapshot_log_bytes: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 100, election_min_ms: 1_000, election_max_ms: 2_000 }
    }
}

impl Zookeeper {
    /// Every four-letter word that there is.
    #[must_use]
    pub fn all_words() -> BTreeSet<String> {
        ALL_WORDS.map(str::to_owned).into()
    }
}

impl Default for Zookeeper {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1024 * 1024 - 1,
            answer_bytes_max: 1024 * 1024 * 1024,
            connections_total_max: 0,
            connections_per_address_max: 4096,
            words: ["isro", "mntr", "ruok", "srvr"].map(str::to_owned).into(),
            read_only: false,
            ttl_nodes: true,
            reap_period_ms: 60_000,
            reaped_per_minute_max: 10_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session_min_ms: 1_000,
            session_max_ms: 60_000,
            body_bytes_max: 1024 * 1024,
            request_ms_max: 10_000,
            http_connections_per_address_max: 16_384,
            snapshot_log_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Config {
    /// How clients reach this server.
    #[must_use]
    pub fn endpoints(&self) -> ServerEndpoints {
        ServerEndpoints { http: self.http_address.clone(), zookeeper: self.zookeeper_address.clone() }
    }

    /// All that is wrong with the configuration, in words; empty if it is sound.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |sound: bool, fault: String| {
            if !sound {
                faults.push(fault);
            }
        };
        check(self.server > 0, "the server's number must be 1 or more".to_owned());
        if let Err(error) = rota_core::pool::check_name(&self.cluster) {
            check(false, format!("the cluster's name {:?}: {error}", self.cluster));
        }
        check(
            self.initial_members.is_empty() || self.initial_members.contains_key(&self.server),
            format!("--peers must contain this server ({}) too", self.server),
        );
        check(!self.initial_members.contains_key(&0), "--peers: servers are numbered from 1".to_owned());
        let t = &self.timing;
        check(
            t.heartbeat_ms > 0 && t.heartbeat_ms * 2 <= t.election_min_ms,
            format!(
                "heartbeat_ms ({}) must be at most half of election_min_ms ({})",
                t.heartbeat_ms, t.election_min_ms
            ),
        );
        check(
            t.election_min_ms >= 50 && t.election_min_ms < t.election_max_ms,
            format!(
                "election_min_ms ({}) must be at least 50 and less than election_max_ms ({})",
                t.election_min_ms, t.election_max_ms
            ),
        );
        let l = &self.limits;
        check(
            l.session_min_ms >= 100 && l.session_min_ms <= l.session_max_ms,
            format!(
                "session_min_ms ({}) must be from 100 to session_max_ms ({})",
                l.session_min_ms, l.session_max_ms
            ),
        );
        check(
            (1024..=8 * 1024 * 1024).contains(&l.body_bytes_max),
            format!("body_bytes_max ({}) must be from 1 KiB to 8 MiB", l.body_bytes_max),
        );
        check(l.request_ms_max >= 100, format!("request_ms_max ({}) must be at least 100", l.request_ms_max));
        check(
            l.snapshot_log_bytes >= 4096,
            format!("snapshot_log_bytes ({}) must be at least 4 KiB", l.snapshot_log_bytes),
        );
        let z = &self.zookeeper;
        check(
            (1024..=8 * 1024 * 1024).contains(&z.packet_bytes_max),
            format!("packet_bytes_max ({}) must be from 1 KiB to 8 MiB", z.packet_bytes_max),
        );
        check(
            z.answer_bytes_max >= z.packet_bytes_max && z.answer_bytes_max <= 1024 * 1024 * 1024,
            format!(
                "answer_bytes_max ({}) must be from packet_bytes_max ({}) to 1 GiB",
                z.answer_bytes_max, z.packet_bytes_max
            ),
        );
        check(z.reap_period_ms >= 10, format!("reap_period_ms ({}) must be at least 10", z.reap_period_ms));
        check(z.reaped_per_minute_max > 0, "reaped_per_minute_max must be at least 1".to_owned());
        for word in &z.words {
            check(
                ALL_WORDS.contains(&word.as_str()),
                format!("{word:?} is none of the four-letter words {}", ALL_WORDS.join(" ")),
            );
        }
        check(
            self.zookeeper_tls_address.is_some() == self.zookeeper_tls.is_some(),
            "TLS for clients of ZooKeeper needs an address, a certificate and a key".to_owned(),
        );
        check(
            self.super_digest.as_ref().is_none_or(|digest| digest.contains(':')),
            "the super user's digest must be USER:DIGEST, as `rota digest USER:PASSWORD` prints it"
                .to_owned(),
        );
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once() {
        let sound = Config {
            server: 1,
            cluster: "rota".into(),
            initial_members: [(1, "a:1".to_owned())].into(),
            peer_address: None,
            http_address: "a:2".into(),
            zookeeper_address: None,
            zookeeper_tls_address: None,
            zookeeper_tls: None,
            timing: Timing::default(),
            limits: Limits::default(),
            zookeeper: Zookeeper::default(),
            super_digest: None,
            super_x509: None,
        };
        assert_eq!(sound.faults(), Vec::<String>::new());
        let unsound = Config {
            server: 0,
            cluster: "a/b".into(),
            timing: Timing { heartbeat_ms: 80, election_min_ms: 100, election_max_ms: 100 },
            ..sound
        };
        assert_eq!(unsound.faults().len(), 5, "{:?}", unsound.faults());
    }
}
