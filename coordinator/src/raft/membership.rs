//! How the cluster's members change: servers are added, given a vote, reached elsewhere,
//! removed, and the leadership is moved. Only a leader changes anything, and it first makes
//! sure that the server in question is there and is the one that is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _};
use rota_protocol::peer::{CallError, DiskId, MembershipChange, RefusalReason, ServerEndpoint};
use tokio::time::Instant;

use super::node::{Leadership, RaftNode};
use super::types::RaftServer;
use crate::replica::Replica;

/// How long a server that is to be added has to answer, and how often it is asked.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(3);
const IDENTIFY_LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Entries that a server may be behind when it is given a vote, or is to lead.
const LAG_MAX: u64 = 1000;
/// How long a learner has to come so far.
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const PROMOTE_LOOK_PERIOD: Duration = Duration::from_millis(50);
/// How long another server has to take over before the others are left to elect one.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

fn refused<T>(why: String) -> Result<T, CallError> {
    Err(CallError::Refused(why))
}

impl RaftNode {
    /// Changes the cluster's members. Only a leader can. With `expected`, the members that the change
    /// was decided on and whether each votes, it is refused when they are others.
    pub(crate) async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<&BTreeMap<u64, bool>>,
        replica: &Replica,
    ) -> Result<(), CallError> {
        self.check_roles(expected)?;
        let members = self.membership();
        let is_member = |server: &u64| members.servers.contains_key(server);
        let known = |server: u64| if is_member(&server) { Ok(()) } else { Err(CallError::NoServer(server)) };
        let cluster_id = members.cluster_id.ok_or(CallError::NotLeader)?;
        let (change, retain) = match change {
            MembershipChange::AddLearner { server, .. } if is_member(&server) => {
                return Err(CallError::ServerExists(server));
            }
            MembershipChange::AddLearner { server, peer_address, force } => {
                // The number of a server that was removed may be used again, by a new data directory.
                let was_here = replica.read().state.server_endpoints(server).is_some();
                let is_unseen_allowed = force && !was_here;
                let wait = if is_unseen_allowed { Duration::ZERO } else { IDENTIFY_TIMEOUT };
                let disk = match self.identify(server, &peer_address, wait, replica).await {
                    Ok(disk) => Some(disk),
                    Err(why) if !is_unseen_allowed => return Err(why),
                    Err(_) => None,
                };
                let endpoint = ServerEndpoint { peer_address, disk };
                (ChangeMembers::AddNodes([(server, RaftServer { endpoint, cluster_id })].into()), true)
            }
            MembershipChange::Promote(server) => {
                known(server)?;
                if !self.voters().contains(&server) {
                    self.is_ready_to_vote(server).await?;
                }
                (ChangeMembers::AddVoterIds([server].into()), true)
            }
            MembershipChange::Remove(server) => {
                known(server)?;
                let mut voters = self.voters();
                if voters.remove(&server) {
                    self.check_voters(&voters).await?;
                    (ChangeMembers::RemoveVoters([server].into()), false)
                } else {
                    (ChangeMembers::RemoveNodes([server].into()), false)
                }
            }
            MembershipChange::UpdateEndpoint { server, endpoint } => {
                known(server)?;
                if members.servers.get(&server) == Some(&endpoint) {
                    return Ok(());
                }
                self.is_that_server(server, &endpoint, members.servers.get(&server)).await?;
                (ChangeMembers::SetNodes([(server, RaftServer { endpoint, cluster_id })].into()), true)
            }
        };
        let _one_at_a_time = self.membership_changes().await;
        self.check_roles(expected)?;
        match self.raft().change_membership(change, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(CallError::NotLeader),
            Err(error) => refused(error.to_string()),
        }
    }

    fn check_roles(&self, expected: Option<&BTreeMap<u64, bool>>) -> Result<(), CallError> {
        match expected {
            Some(expected) if *expected != self.membership().roles() => Err(CallError::MembershipChanged),
            _ => Ok(()),
        }
    }

    /// Makes sure that a server which is to be added waits at its address: its data directory. It
    /// may have been started just now.
    async fn identify(
        &self,
        server: u64,
        address: &str,
        wait: Duration,
        replica: &Replica,
    ) -> Result<DiskId, CallError> {
        let members = self.membership();
        if let Some((other, _)) = members.servers.iter().find(|(_, at)| at.peer_address == address) {
            return refused(format!(
                "server {other} is at {address} already: give server {server} an address of its own"
            ));
        }
        let own = members.servers.get(&self.server()).map(|at| at.peer_address.clone()).unwrap_or_default();
        if is_loopback(&own) && !is_loopback(address) {
            return refused(format!(
                "server {} is reached at {own}, which is its own machine alone: start it with --peer HOST:PORT at an \
                 address that {address} can reach, then add server {server}",
                self.server()
            ));
        }
        let deadline = Instant::now() + wait;
        let found = loop {
            match self.peers().probe(address).await {
                Err(error) if error.kind() != ErrorKind::PermissionDenied && Instant::now() < deadline => {
                    tokio::time::sleep(IDENTIFY_LOOK_PERIOD).await;
                }
                found => break found,
            }
        };
        let start = format!("start it with `rota coordinator --id {server} --join` and an empty --data");
        let info = found.or_else(|error| match error.kind() {
            ErrorKind::PermissionDenied => refused(format!("server {server} at {address}: {error}; {start}")),
            ErrorKind::InvalidData => {
                refused(format!("no server's peer address is {address} ({error}): give that of --peer"))
            }
            _ => refused(format!(
                "no server {server} answers at {address} ({error}): {start}, or add it with --force"
            )),
        })?;
        if info.server != server {
            return refused(format!(
                "server {} is at {address}, not server {server}: check the address",
                info.server
            ));
        }
        let (is_removed, last_boot) = {
            let applied = replica.read();
            let last = applied.state.submitted(server);
            (applied.is_removed_disk(info.disk), last.map_or(0, |last| last.boot))
        };
        if is_removed {
            return refused(format!(
                "the data directory of server {server} at {address} was removed from this cluster: {start}"
            ));
        }
        // Its writes would be taken for earlier ones of the server that had its number.
        if info.boot <= last_boot {
            return refused(format!(
                "the clock of the machine of server {server} is behind that of the server which had its number \
                 before: set it, and {start}"
            ));
        }
        match info.cluster_id {
            Some(other) if Some(other) != members.cluster_id => refused(format!(
                "server {server} at {address} belongs to cluster {other} already, this is cluster {}: {start}",
                members.cluster_id.unwrap_or_default()
            )),
            _ => Ok(info.disk),
        }
    }

    /// Makes sure that a member is at its new address. Its data directory never changes.
    async fn is_that_server(
        &self,
        server: u64,
        endpoint: &ServerEndpoint,
        before: Option<&ServerEndpoint>,
    ) -> Result<(), CallError> {
        let known_disk = before.and_then(|before| before.disk);
        if known_disk.is_some() && endpoint.disk != known_disk {
            return refused(format!("server {server} has another data directory than the cluster knows"));
        }
        if before.is_some_and(|before| before.peer_address == endpoint.peer_address)
            || server == self.server()
        {
            return Ok(());
        }
        let address = &endpoint.peer_address;
        match self.peers().probe(address).await {
            Ok(info) if info.server == server && Some(info.disk) == endpoint.disk => Ok(()),
            Ok(info) => refused(format!("server {} is at {address}, not server {server}", info.server)),
            Err(error) => refused(format!("server {server} does not answer at {address}: {error}")),
        }
    }

    /// Waits until a learner has about all of the log and answers: a voter that
    /// does not could cost the cluster its majority, for good.
    async fn is_ready_to_vote(&self, server: u64) -> Result<(), CallError> {
        let deadline = Instant::now() + PROMOTE_TIMEOUT;
        loop {
            let (has, last) = self.replicated_to(server).ok_or(CallError::NotLeader)?;
            let answers = self.is_reachable(server);
            if answers && has + LAG_MAX >= last {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let why = if answers { "is not up to date" } else { "does not answer" };
                return refused(format!(
                    "server {server} {why}: it has {has} of {last} entries; a voter like that could cost the \
                     cluster its majority. Is it running, at the address that it was added with?"
                ));
            }
            tokio::time::sleep(PROMOTE_LOOK_PERIOD).await;
        }
    }

    /// The last entry that a server has acknowledged, and the last one that there is; `None` if
    /// this server does not lead.
    fn replicated_to(&self, server: u64) -> Option<(u64, u64)> {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        let replication = now.replication.as_ref()?;
        let has = replication.get(&server).and_then(|id| *id).map_or(0, |id| id.index);
        Some((has, now.last_log_index.unwrap_or(0)))
    }

    /// Whether a server has about all of this leader's log.
    pub(crate) fn has_caught_up(&self, server: u64) -> bool {
        self.replicated_to(server).is_some_and(|(has, last)| has + LAG_MAX >= last)
    }

    /// Makes sure that a majority of `voters`, those of an intended configuration, answers what is
    /// sent to them from now on: one that has just died answered a moment ago.
    pub(crate) async fn check_voters(&self, voters: &BTreeSet<u64>) -> Result<(), CallError> {
        let asked_at = Instant::now();
        loop {
            if !matches!(self.current_leadership(), Leadership::Own { .. }) {
                return Err(CallError::NotLeader);
            }
            let answered = |id: &u64| {
                *id == self.server() || self.last_answer(*id).is_some_and(|age| age < asked_at.elapsed())
            };
            let silent: Vec<u64> = voters.iter().copied().filter(|id| !answered(id)).collect();
            if (voters.len() - silent.len()) * 2 > voters.len() {
                return Ok(());
            }
            if asked_at.elapsed() >= self.leader_timeout() {
                return refused(format!(
                    "no majority of the voters {voters:?} that would remain answers: not {silent:?}"
                ));
            }
            tokio::time::sleep(PROMOTE_LOOK_PERIOD).await;
        }
    }

    /// Moves the leadership to `server`, which must be a voter that `answers` and has about
    /// all of the log. If it does not take over in time, the voters elect a leader.
    pub(crate) async fn transfer_to(
        &self,
        server: u64,
        answers: impl Future<Output = bool>,
    ) -> Result<(), CallError> {
        if !matches!(self.current_leadership(), Leadership::Own { .. }) {
            return Err(CallError::NotLeader);
        }
        if !self.voters().contains(&server) {
            return match self.membership().servers.contains_key(&server) {
                true => refused(format!(
                    "server {server} is a learner, which cannot lead: run `rota cluster promote {server}` first"
                )),
                false => Err(CallError::NoServer(server)),
            };
        }
        if let Some(why) = self.peers().refusal(server) {
            return refused(format!("server {server} cannot lead: {}", why.message));
        }
        if !answers.await {
            return refused(format!("server {server} does not answer: it cannot lead. Is it running?"));
        }
        let (has, last) = self.replicated_to(server).ok_or(CallError::NotLeader)?;
        if has + LAG_MAX < last {
            return refused(format!(
                "server {server} has {has} of {last} entries: it cannot lead before it has caught up; try again then"
            ));
        }
        let moved = self.raft().trigger().transfer_leader(server).await;
        moved.map_err(|error| CallError::Refused(error.to_string()))?;
        let mut leadership = self.leadership();
        let gone = leadership.wait_for(|now| !matches!(now, Leadership::Own { .. }));
        if tokio::time::timeout(TRANSFER_TIMEOUT, gone).await.is_err() {
            // It proposes nothing any more: the library has no way back.
            tracing::warn!(server, "the server did not take over: the voters elect a leader");
            self.suspend_heartbeats();
            return refused(format!("server {server} did not take over in time: the voters elect a leader"));
        }
        Ok(())
    }

    /// Why a server takes no part, if it was emptied or has lost data, as this leader found out.
    pub(crate) fn fault_of(&self, server: u64) -> Option<String> {
        use RefusalReason::{DialledDiskReplaced, LogLost, OtherCluster, OutOfService};
        let refused = self.peers().refusal(server)?;
        let is_fault = matches!(refused.reason, DialledDiskReplaced | LogLost | OtherCluster | OutOfService);
        is_fault.then_some(refused.message)
    }

    /// The other servers, and whether each answered this leader's last heartbeats.
    /// None, if this server does not lead.
    pub(crate) fn peers_up(&self) -> Vec<(u64, bool)> {
        if !matches!(self.current_leadership(), Leadership::Own { .. }) {
            return Vec::new();
        }
        let others = self.membership().servers.into_keys().filter(|id| *id != self.server());
        others.map(|id| (id, self.is_reachable(id))).collect()
    }

    /// Whether a server answered this leader's last heartbeats.
    fn is_reachable(&self, server: u64) -> bool {
        server == self.server() || self.last_answer(server).is_some_and(|age| age < self.leader_timeout())
    }

    /// How long ago this leader sent the last message that a server has answered.
    fn last_answer(&self, server: u64) -> Option<Duration> {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        let at = now.heartbeat.as_ref().and_then(|answered| answered.get(&server).copied().flatten());
        at.map(|at| at.elapsed())
    }
}

/// Whether an address is of the machine itself alone.
pub(crate) fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_other_addresses() {
        for own in ["127.0.0.1:7720", "127.0.0.31:1", "localhost:1", "[::1]:7720"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in ["10.0.0.1:7720", "rota-1:7720", "[2001:db8::1]:7720", "0.0.0.0:1"] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
