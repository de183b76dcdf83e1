//! How two servers make sure of each other before anything else is said: the
//! dialling one shows who it is and whom it expects, the other checks that
//! against what it knows and accepts or refuses, with a reason that says what to
//! do. The check is a pure function ([`check_hello`]).
//!
//! A cluster has a random [`ClusterId`], made once at bootstrap, and each server
//! a random [`DiskId`], made with its data directory. So neither two clusters of
//! one name nor an emptied directory can pass for what they are not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::raft::LogId;

/// Version of the peer protocol. Servers of different versions do not talk.
pub const PROTOCOL_VERSION: u32 = 7;
/// Largest frame of a handshake, in bytes. Nothing larger is read from a
/// connection whose hello is not accepted yet.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1024;

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u64::from_str_radix(text, 16).map(Self)
            }
        }
    };
}

random_id!(
    /// A cluster's random id, shown as 16 hexadecimal digits. Made once, when the
    /// cluster is bootstrapped.
    ClusterId
);
random_id!(
    /// A data directory's random id, shown as 16 hexadecimal digits. Made once,
    /// when a server first uses the directory.
    DiskId
);

/// What a connection is for. Separate connections keep a heartbeat from waiting
/// behind a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StreamKind {
    /// [`AppendRequest`](super::AppendRequest)s one way,
    /// [`AppendReply`](super::AppendReply)s the other, pipelined.
    Append,
    /// `(id, Call)` one way, `(id, Answer)` the other, in any order.
    Call,
    /// [`SnapshotHead`](super::SnapshotHead), then the blocks, then an empty frame; one
    /// [`Vote`](super::Vote) back.
    Snapshot,
    /// Units of commands for the leader, in order; nothing comes back. The
    /// leader closes the connection when it does not lead any more.
    Units,
    /// Nothing: the dialling server wanted the [`Welcome`] alone. Accepted from
    /// anybody, since it shows no more than who is at this address.
    Probe,
}

/// The first frame of a connection, from the server that dials. `version` is its first field in
/// every protocol version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id; `None` while the server belongs to no cluster.
    pub cluster_id: Option<ClusterId>,
    /// The dialling server.
    pub from: u64,
    /// Its data directory.
    pub from_disk: DiskId,
    /// The server that it means to reach.
    pub to: u64,
    /// That server's data directory, if the dialling server knows it.
    pub to_disk: Option<DiskId>,
    /// What the connection is for.
    pub kind: StreamKind,
    /// From a leader: the last entry that the other server has acknowledged to
    /// it in its present term. A server whose log ends before it has lost data.
    pub acknowledged: Option<Acknowledged>,
}

/// What a server has acknowledged to the leader of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The leader's term.
    pub term: u64,
    /// The entry.
    pub last: LogId,
}

/// The answer to a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// The connection is accepted. Boxed, since it is much larger than the rest.
    Accepted(Box<ServerInfo>),
    /// The two servers must not talk.
    Refused(Refused),
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its number.
    pub server: u64,
    /// Its data directory.
    pub disk: DiskId,
    /// Counts its starts, from 1: a server that was restarted has another.
    pub boot: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster that it belongs to, if any.
    pub cluster_id: Option<ClusterId>,
    /// Digest of the `--peers` that it was started with; 0 without.
    pub initial_members: u64,
    /// The leader that it follows now, or itself.
    pub leader: Option<u64>,
    /// Raft's term, as it knows it.
    pub term: u64,
    /// What it knows of the dialling server.
    pub you: PeerStatus,
    /// As [`Hello::acknowledged`], of the dialling server.
    pub you_acknowledged: Option<Acknowledged>,
}

/// What a server knows of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerStatus {
    /// Nothing; or it belongs to no cluster itself.
    Unknown,
    /// It is a member of the cluster.
    Member {
        /// With this data directory, once it is known.
        disk: Option<DiskId>,
    },
    /// It was a member, and was removed for good.
    Removed,
}

/// Why two servers must not talk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: what is wrong, and what to do.
    pub message: String,
}

/// Why two servers must not talk, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalReason {
    /// They speak different versions of the protocol.
    Version,
    /// They belong to different clusters.
    OtherCluster,
    /// The dialling server was looking for another.
    OtherServer,
    /// The server that was dialled has another data directory than the cluster
    /// knows: it was emptied or replaced.
    DialledDiskReplaced,
    /// The same of the dialling server.
    DiallingDiskReplaced,
    /// The dialling server was removed from the cluster.
    Removed,
    /// The dialling server belongs to no cluster.
    NoMember,
    /// The log of the server that was dialled ends before what it has acknowledged.
    LogLost,
    /// The server that was dialled was removed, or has lost data, and takes no part.
    OutOfService,
    /// The dialled server has reached its limit of connected non-member servers.
    TooManyUnknownServers,
}

/// What a server knows when it checks a [`Hello`].
#[derive(Debug, Clone, Copy)]
pub struct HandshakeContext<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// The cluster that this server belongs to, if any.
    pub cluster_id: Option<ClusterId>,
    /// This server.
    pub server: u64,
    /// This server's data directory.
    pub disk: DiskId,
    /// What it knows of the dialling server.
    pub from: PeerStatus,
    /// The index of this server's last log entry, and the term that it is in.
    pub log_end: (Option<u64>, u64),
}

/// What to do about a server whose data are gone. Its number is not used again: a
/// voter that forgot its votes could help to elect two leaders.
const REPLACE: &str = "remove it with `rota cluster remove`, and add a server with a new number and an empty --data: \
                       `rota coordinator --id NEW --join`, `rota cluster add NEW ADDRESS`, `rota cluster promote NEW`";

/// Reads the protocol version of an encoded [`Hello`] of any version; `None` if there is none.
#[must_use]
pub fn hello_version(bytes: &[u8]) -> Option<u32> {
    postcard::take_from_bytes(bytes).ok().map(|(version, _)| version)
}

/// Checks the hello of another server.
///
/// # Errors
/// Why the two must not talk.
pub fn check_hello(hello: &Hello, own: &HandshakeContext<'_>) -> Result<(), Refused> {
    let refuse = |reason, message| Err(Refused { reason, message });
    let (from, server) = (hello.from, own.server);
    if hello.version != PROTOCOL_VERSION {
        let message = format!(
            "server {from} speaks version {} of the peer protocol, server {server} version {PROTOCOL_VERSION}",
            hello.version
        );
        return refuse(RefusalReason::Version, message);
    }
    if hello.cluster != own.cluster {
        let message = format!(
            "server {from} belongs to cluster {:?}, server {server} to {:?}: check --cluster and the addresses",
            hello.cluster, own.cluster
        );
        return refuse(RefusalReason::OtherCluster, message);
    }
    if hello.kind == StreamKind::Probe {
        return Ok(());
    }
    if hello.to != server {
        let message = format!(
            "server {from} was looking for server {} and found {server}: check the addresses in --peers",
            hello.to
        );
        return refuse(RefusalReason::OtherServer, message);
    }
    if from == server {
        return refuse(RefusalReason::OtherServer, format!("two servers have the number {server}"));
    }
    if let (Some(theirs), Some(ours)) = (hello.cluster_id, own.cluster_id)
        && theirs != ours
    {
        let message = format!(
            "cluster id mismatch: server {from} belongs to cluster {theirs}, server {server} to cluster {ours}, \
             both named {:?}. To move a server into a cluster, start it with --join, an \
             empty --data and an --id that the cluster never had",
            own.cluster
        );
        return refuse(RefusalReason::OtherCluster, message);
    }
    if hello.cluster_id.is_none() {
        let message = format!(
            "server {from} belongs to no cluster yet: add it with `rota cluster add {from} HOST:PORT`"
        );
        return refuse(RefusalReason::NoMember, message);
    }
    if hello.to_disk.is_some_and(|expected| expected != own.disk) {
        return refuse(RefusalReason::DialledDiskReplaced, disk_replaced(server).message);
    }
    match own.from {
        PeerStatus::Removed => return Err(removed(from)),
        PeerStatus::Member { disk: Some(known) } if known != hello.from_disk => {
            return Err(disk_replaced(from));
        }
        _ => {}
    }
    hello.acknowledged.map_or(Ok(()), |acknowledged| check_log_end(server, own.log_end, acknowledged))
}

/// Checks that the log of `server` has what it has acknowledged: the index of its last entry, and
/// the term that it is in, are given.
///
/// # Errors
/// When it has lost data.
pub fn check_log_end(
    server: u64,
    (end, term): (Option<u64>, u64),
    acknowledged: Acknowledged,
) -> Result<(), Refused> {
    let last = acknowledged.last.index;
    // A later leader may have truncated what an earlier one was promised.
    if acknowledged.term != term || end.is_some_and(|end| end >= last) {
        return Ok(());
    }
    let has = end.map_or_else(|| "is empty".to_owned(), |end| format!("ends at {end}"));
    let message = format!(
        "server {server} has acknowledged log index {last} and its log {has}: it has lost data (an old copy of \
         its disk?); {REPLACE}"
    );
    Err(Refused { reason: RefusalReason::LogLost, message })
}

/// The refusal of a server whose data directory is not the one that the cluster knows.
#[must_use]
pub fn disk_replaced(server: u64) -> Refused {
    let message = format!(
        "the data directory of server {server} is not the one that the cluster knows: it was emptied or replaced; {REPLACE}"
    );
    Refused { reason: RefusalReason::DiallingDiskReplaced, message }
}

/// The refusal of a server that was removed.
#[must_use]
pub fn removed(server: u64) -> Refused {
    let message = format!(
        "server {server} was removed from the cluster: stop it; to use the machine again, start it with a new \
         --id, --join and an empty --data"
    );
    Refused { reason: RefusalReason::Removed, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn hello() -> Hello {
        Hello {
            version: PROTOCOL_VERSION,
            cluster: "a".into(),
            cluster_id: Some(CLUSTER),
            from: 2,
            from_disk: DiskId(22),
            to: 1,
            to_disk: Some(DiskId(11)),
            kind: StreamKind::Call,
            acknowledged: None,
        }
    }

    fn own() -> HandshakeContext<'static> {
        HandshakeContext {
            cluster: "a",
            cluster_id: Some(CLUSTER),
            server: 1,
            disk: DiskId(11),
            from: PeerStatus::Member { disk: Some(DiskId(22)) },
            log_end: (Some(9), 3),
        }
    }

    #[track_caller]
    fn refused(hello: &Hello, own: &HandshakeContext<'_>, reason: RefusalReason, words: &str) {
        let refused = check_hello(hello, own).unwrap_err();
        assert_eq!(refused.reason, reason, "{}", refused.message);
        assert!(refused.message.contains(words), "{}", refused.message);
    }

    #[test]
    fn a_member_is_accepted_and_strangers_are_refused_with_a_remedy() {
        use RefusalReason as R;
        check_hello(&hello(), &own()).unwrap();
        refused(&Hello { version: 99, ..hello() }, &own(), R::Version, "version 99");
        refused(&Hello { cluster: "b".into(), ..hello() }, &own(), R::OtherCluster, "--cluster");
        let other = Hello { cluster_id: Some(ClusterId(8)), ..hello() };
        refused(&other, &own(), R::OtherCluster, "cluster id mismatch");
        refused(&Hello { to: 3, ..hello() }, &own(), R::OtherServer, "looking for server 3");
        refused(&Hello { from: 1, ..hello() }, &own(), R::OtherServer, "two servers");
        refused(&Hello { cluster_id: None, ..hello() }, &own(), R::NoMember, "cluster add 2");
        let elsewhere = Hello { to_disk: Some(DiskId(12)), ..hello() };
        refused(&elsewhere, &own(), R::DialledDiskReplaced, "emptied");
        let emptied = Hello { from_disk: DiskId(23), ..hello() };
        refused(&emptied, &own(), R::DiallingDiskReplaced, "rota cluster remove");
        let removed = HandshakeContext { from: PeerStatus::Removed, ..own() };
        refused(&hello(), &removed, R::Removed, "was removed");
    }

    #[test]
    fn a_server_without_a_cluster_accepts_the_one_that_knows_its_disk() {
        let fresh =
            HandshakeContext { cluster_id: None, from: PeerStatus::Unknown, log_end: (None, 0), ..own() };
        check_hello(&hello(), &fresh).unwrap();
        let other = HandshakeContext { disk: DiskId(12), ..fresh };
        refused(&hello(), &other, RefusalReason::DialledDiskReplaced, "emptied");
        check_hello(&Hello { to_disk: None, ..hello() }, &other).unwrap();
        // Anybody may ask who is here.
        let probe = Hello { kind: StreamKind::Probe, to: 9, cluster_id: None, ..hello() };
        check_hello(&probe, &own()).unwrap();
    }

    #[test]
    fn a_log_that_ends_before_what_was_acknowledged_is_noticed_within_a_term() {
        let last = LogId { term: 3, leader: 2, index: 10 };
        let from_leader = |term| Hello { acknowledged: Some(Acknowledged { term, last }), ..hello() };
        refused(&from_leader(3), &own(), RefusalReason::LogLost, "log index 10");
        let has_it = HandshakeContext { log_end: (Some(10), 3), ..own() };
        check_hello(&from_leader(3), &has_it).unwrap();
        // A later leader may have truncated it.
        check_hello(&from_leader(2), &own()).unwrap();
    }

    #[test]
    fn a_handshake_fits_its_frame() {
        let cluster = "c".repeat(128);
        let longest = Refused { reason: RefusalReason::LogLost, message: "m".repeat(1500) };
        let hello = Hello {
            cluster,
            acknowledged: Some(Acknowledged {
                term: u64::MAX,
                last: LogId { term: u64::MAX, leader: u64::MAX, index: u64::MAX },
            }),
            ..hello()
        };
        assert!(crate::peer::encode(&hello).len() < HANDSHAKE_BYTES_MAX / 2);
        assert!(crate::peer::encode(&Welcome::Refused(longest)).len() < HANDSHAKE_BYTES_MAX);
    }
}
