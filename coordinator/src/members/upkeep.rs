//! Keeps the membership true while the server runs: where this server is reached, the data
//! directories of servers that were added unseen, and whether this server is wanted at all.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rota_protocol::peer::{
    Answer, Call, MembershipChange, PeerStatus, Refused, ServerEndpoint, ServerInfo, check_log_end,
    disk_replaced, removed,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::peers::{LogLimit, Peers, RpcClient};
use crate::raft::{Leadership, RaftNode};
use crate::replica::Replica;
use crate::service_state::ServiceStates;
use crate::store::Identity;

/// How often it is looked.
const PERIOD: Duration = Duration::from_millis(500);
/// Longest backoff between two updates of this server's peer address.
const ADDRESS_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long no leader may be heard before the other servers are asked why.
const SUSPICIOUS_SILENCE: Duration = Duration::from_secs(3);

pub(crate) struct Upkeep {
    pub(crate) identity: Arc<Identity>,
    pub(crate) group: RaftNode,
    pub(crate) peers: Peers,
    pub(crate) caller: RpcClient,
    pub(crate) replica: Arc<Replica>,
    pub(crate) states: ServiceStates,
    /// Where this server is reached, if the cluster knows another address.
    pub(crate) own_address: Option<String>,
}

/// Backoff state of the peer address update.
struct AddressUpdate {
    retry_at: Instant,
    backoff: Duration,
    log: LogLimit,
}

impl Upkeep {
    /// Runs until the server stops.
    pub(crate) async fn run(mut self) {
        let mut period = interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut led_at = Instant::now();
        let mut update = AddressUpdate { retry_at: led_at, backoff: PERIOD, log: LogLimit::default() };
        loop {
            period.tick().await;
            if self.states.is_out_of_service() {
                return;
            }
            let now = Instant::now();
            if self.is_removed() {
                self.states.take_out_of_service(&removed(self.identity.server));
                return;
            }
            if self.group.recent_leader().await.is_some() {
                led_at = now;
            }
            if let Leadership::Own { .. } = self.group.current_leadership() {
                self.note_disks().await;
            }
            if let Some(address) = self.own_address.clone().filter(|_| now >= update.retry_at) {
                self.propose_address(address, &mut update).await;
            }
            if now - led_at > SUSPICIOUS_SILENCE
                && self.identity.cluster_id().is_some()
                && let Some(why) = self.ask_why().await
            {
                self.states.take_out_of_service(&why);
                return;
            }
        }
    }

    /// Whether the cluster has removed this server.
    fn is_removed(&self) -> bool {
        let server = self.identity.server;
        let applied = self.replica.read();
        let membership = applied.membership();
        applied.is_removed_disk(self.identity.disk)
            && !membership.servers.is_empty()
            && !membership.servers.contains_key(&server)
    }

    /// Notes the data directories of servers that were added before anybody reached them.
    async fn note_disks(&self) {
        for (server, endpoint) in self.peers.endpoints() {
            let Some(disk) = self.peers.disk_of(server).filter(|_| endpoint.disk.is_none()) else { continue };
            let endpoint = ServerEndpoint { disk: Some(disk), ..endpoint };
            let change = MembershipChange::UpdateEndpoint { server, endpoint };
            match self.group.change_membership(change, None, &self.replica).await {
                Ok(()) => tracing::info!(server, %disk, "noted the data directory of a server"),
                Err(error) => tracing::debug!(server, %error, "cannot note the data directory of a server"),
            }
        }
    }

    /// Has the leader note that this server is reached elsewhere than the cluster knows.
    async fn propose_address(&mut self, peer_address: String, update: &mut AddressUpdate) {
        let server = self.identity.server;
        let endpoints = self.peers.endpoints();
        let Some(known) = endpoints.get(&server) else { return };
        if known.peer_address == peer_address {
            tracing::info!(address = peer_address, "the cluster knows this server's new address");
            self.own_address = None;
            return;
        }
        let endpoint = ServerEndpoint { peer_address, disk: Some(self.identity.disk) };
        let change = MembershipChange::UpdateEndpoint { server, endpoint };
        let refused = match self.group.current_leadership() {
            Leadership::Own { .. } => {
                self.group.change_membership(change, None, &self.replica).await.err().map(|e| e.to_string())
            }
            Leadership::Other { leader } => self.have_noted(leader, change).await,
            // The leader cannot reach this server where it was: the others know who leads.
            Leadership::Unknown => {
                let asked = self.ask_others().await;
                match asked.into_iter().find_map(|(_, info)| info.leader) {
                    Some(leader) => self.have_noted(leader, change).await,
                    None => None,
                }
            }
        };
        let Some(why) = refused else { return };
        update.retry_at = Instant::now() + update.backoff;
        if let Some(attempts) = update.log.due(server, &why) {
            tracing::warn!(
                error = why,
                attempts,
                retry_in = ?update.backoff,
                "peer address update refused; will retry"
            );
        }
        update.backoff = (update.backoff * 2).min(ADDRESS_BACKOFF_MAX);
    }

    async fn have_noted(&self, leader: u64, change: MembershipChange) -> Option<String> {
        match self.caller.call(leader, Call::ChangeMembership { change, expected: None }).await {
            Ok(Answer::Error(error)) => Some(error.to_string()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    async fn ask_others(&self) -> Vec<(u64, ServerInfo)> {
        let server = self.identity.server;
        let others = self.peers.endpoints().into_iter().filter(|(id, _)| *id != server);
        let asked = others.map(|(id, endpoint)| async move {
            let info = self.peers.probe(&endpoint.peer_address).await.ok()?;
            (info.server == id).then_some((id, info))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Why no leader is heard, if it is for this server's own sake.
    async fn ask_why(&self) -> Option<Refused> {
        let asked = self.ask_others().await;
        let own_cluster = self.identity.cluster_id();
        asked.iter().filter(|(_, info)| info.cluster_id == own_cluster).find_map(|(_, info)| {
            wanted(self.identity.server, self.identity.disk, self.group.log_end(), info).err()
        })
    }
}

/// Whether another member still counts on this server.
fn wanted(
    server: u64,
    disk: rota_protocol::peer::DiskId,
    log_end: (Option<u64>, u64),
    info: &ServerInfo,
) -> Result<(), Refused> {
    match info.you {
        PeerStatus::Removed => return Err(removed(server)),
        PeerStatus::Member { disk: Some(known) } if known != disk => return Err(disk_replaced(server)),
        _ => {}
    }
    info.you_acknowledged.map_or(Ok(()), |acknowledged| check_log_end(server, log_end, acknowledged))
}
