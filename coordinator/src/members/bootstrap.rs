//! A new cluster. The servers of `--peers` look for each other; when all of them are there,
//! none belongs to a cluster, and all were given the same `--peers`, the one with the lowest
//! number makes the cluster, with a random id. None is made while one of them does not
//! answer: it could belong to a cluster that would then exist twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use rota_protocol::peer::{
    ClusterId, DiskId, PeerStatus, ServerEndpoint, ServerInfo, disk_replaced, removed,
};
use tokio::time::Instant;

use crate::env::RandomSource;
use crate::peers::Peers;
use crate::raft::RaftNode;
use crate::service_state::ServiceStates;
use crate::store::Identity;

/// Pause before the others are asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What is waited for is logged when it changes, and this often.
const LOG_PERIOD: Duration = Duration::from_secs(30);
/// How long a server that is to make a cluster alone waits for others that know it. They dial a
/// member that does not answer every 150 ms.
const SOLE_WAIT: Duration = Duration::from_millis(400);
/// How long it makes none after one of them said so.
const CLAIM_AGE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether Raft has taken in the first membership.
const TAKEN_LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Makes a cluster, or waits until another server has.
pub(crate) struct Bootstrap {
    pub(crate) identity: Arc<Identity>,
    pub(crate) peers: Peers,
    pub(crate) group: RaftNode,
    pub(crate) states: ServiceStates,
    pub(crate) entropy: Arc<dyn RandomSource>,
    /// The servers, this one included.
    pub(crate) initial_members: BTreeMap<u64, String>,
}

/// What to do, given what the others said.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait(String),
    /// All are there, with these data directories.
    Make(BTreeMap<u64, DiskId>),
    /// This server must not be started so.
    Stop(String),
}

impl Bootstrap {
    /// Returns once this server belongs to a cluster.
    ///
    /// # Errors
    /// Why it must not be started so, in words for its operator.
    pub(crate) async fn run(self) -> Result<(), String> {
        let mut logged = (String::new(), Instant::now());
        let is_sole = self.initial_members.len() == 1;
        if is_sole && self.group.membership().servers.is_empty() {
            tokio::time::sleep(SOLE_WAIT).await;
        }
        loop {
            if !self.group.membership().servers.is_empty() {
                return Ok(());
            }
            let step = match self.states.claim_within(CLAIM_AGE_MAX).filter(|_| is_sole) {
                Some(why) => Step::Wait(format!("this server makes no cluster of its own: {why}")),
                None => self.next_step().await,
            };
            match step {
                Step::Make(disks) => return self.make(disks).await,
                Step::Stop(why) => return Err(why),
                Step::Wait(what) => {
                    if logged.0 != what || logged.1.elapsed() >= LOG_PERIOD {
                        tracing::info!("{what}");
                        logged = (what.clone(), Instant::now());
                    }
                    self.states.waits_for(what);
                }
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    async fn next_step(&self) -> Step {
        let own = self.identity.server;
        let others = self.initial_members.iter().filter(|(id, _)| **id != own);
        let answers = others.map(|(id, address)| async {
            (*id, self.peers.probe(address).await.map_err(|error| error.to_string()))
        });
        let answers: BTreeMap<u64, Result<ServerInfo, String>> =
            join_all(answers).await.into_iter().collect();
        step(own, self.identity.disk, initial_members_digest(&self.initial_members), &answers)
    }

    fn new_cluster_id(&self) -> Result<ClusterId, String> {
        let mut random = [0; 8];
        self.entropy.fill(&mut random).map_err(|error| format!("no random cluster id: {error}"))?;
        // Not 0, which is shown where there is none.
        Ok(ClusterId(u64::from_le_bytes(random) | 1))
    }

    async fn make(self, disks: BTreeMap<u64, DiskId>) -> Result<(), String> {
        let cluster_id = match self.identity.cluster_id() {
            // It stopped after it had noted the id, and before the log had it.
            Some(noted) => noted,
            None => self.new_cluster_id()?,
        };
        // Servers that ask meanwhile are told that there is no cluster yet.
        self.identity
            .join_cluster(cluster_id)
            .map_err(|error| format!("cannot note the cluster id: {error}"))?;
        let endpoint = |(id, peer_address): (&u64, &String)| {
            let disk = disks.get(id).copied();
            (*id, ServerEndpoint { peer_address: peer_address.clone(), disk })
        };
        let servers: BTreeMap<u64, ServerEndpoint> = self.initial_members.iter().map(endpoint).collect();
        // The first election follows at once, and dials them.
        self.peers.set_endpoints(servers.clone());
        self.group.bootstrap(cluster_id, servers).await.map_err(|error| error.to_string())?;
        while self.group.membership().servers.is_empty() {
            tokio::time::sleep(TAKEN_LOOK_PERIOD).await;
        }
        tracing::info!(%cluster_id, servers = self.initial_members.len(), "made a new cluster");
        Ok(())
    }
}

/// A number by which servers compare their `--peers`; never 0.
pub(crate) fn initial_members_digest(initial_members: &BTreeMap<u64, String>) -> u64 {
    let text: String = initial_members.iter().map(|(id, address)| format!("{id}={address},")).collect();
    u64::from(crc32fast::hash(text.as_bytes())) | 1 << 32
}

fn step(own: u64, disk: DiskId, digest: u64, answers: &BTreeMap<u64, Result<ServerInfo, String>>) -> Step {
    // What cannot be is said before what is only waited for.
    for (id, info) in answers.iter().filter_map(|(id, answer)| answer.as_ref().ok().map(|info| (*id, info))) {
        if info.server != id {
            return Step::Wait(format!(
                "server {own} was looking for server {id} and found {}: check the addresses in --peers",
                info.server
            ));
        }
        let Some(cluster_id) = info.cluster_id else { continue };
        return match info.you {
            PeerStatus::Member { disk: known } if known.is_none_or(|known| known == disk) => {
                Step::Wait(format!("waiting for the leader of cluster {cluster_id}"))
            }
            // It does not end: the leader finds it, and `rota status` shows why it takes no part.
            PeerStatus::Member { .. } => Step::Wait(disk_replaced(own).message),
            PeerStatus::Removed => Step::Stop(removed(own).message),
            PeerStatus::Unknown => Step::Stop(format!(
                "server {id} belongs to cluster {cluster_id} already, and --peers only makes new clusters: to add this \
                 server, start it with --join instead, then run `rota cluster add {own} HOST:PORT` and `rota cluster \
                 promote {own}`"
            )),
        };
    }
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(id, answer)| answer.as_ref().err().map(|error| format!("server {id}: {error}")))
        .collect();
    if !silent.is_empty() {
        return Step::Wait(format!(
            "a new cluster is made when all servers of --peers are there; waiting for {}",
            silent.join("; ")
        ));
    }
    let all = answers.iter().filter_map(|(id, answer)| answer.as_ref().ok().map(|info| (*id, info)));
    if let Some((id, _)) = all.clone().find(|(_, info)| info.initial_members != digest) {
        return Step::Wait(format!(
            "servers {own} and {id} were started with different --peers (or --join): they must be the same for a new cluster"
        ));
    }
    match answers.keys().next() {
        Some(lowest) if *lowest < own => {
            Step::Wait(format!("waiting for server {lowest} to make the cluster"))
        }
        _ => Step::Make(all.map(|(id, info)| (id, info.disk)).chain([(own, disk)]).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: u64 = 5;

    fn info(server: u64) -> ServerInfo {
        ServerInfo {
            server,
            disk: DiskId(server * 11),
            boot: 1,
            cluster: "rota".into(),
            cluster_id: None,
            initial_members: DIGEST,
            leader: None,
            term: 0,
            you: PeerStatus::Unknown,
            you_acknowledged: None,
        }
    }

    fn step_of(own: u64, answers: Vec<Result<ServerInfo, &str>>) -> Step {
        let others = (1..).filter(|id| *id != own);
        let answers = others.zip(answers).map(|(id, answer)| (id, answer.map_err(str::to_owned))).collect();
        step(own, DiskId(own * 11), DIGEST, &answers)
    }

    #[track_caller]
    fn waits(step: &Step, words: &str) {
        assert!(matches!(step, Step::Wait(what) if what.contains(words)), "{step:?}");
    }

    #[track_caller]
    fn stops(step: &Step, words: &str) {
        assert!(matches!(step, Step::Stop(why) if why.contains(words)), "{step:?}");
    }

    #[test]
    fn the_lowest_server_makes_the_cluster_when_all_are_there() {
        let disks = [(1, DiskId(11)), (2, DiskId(22)), (3, DiskId(33))].into();
        assert_eq!(step_of(1, vec![Ok(info(2)), Ok(info(3))]), Step::Make(disks));
        waits(&step_of(2, vec![Ok(info(1)), Ok(info(3))]), "server 1 to make");
        waits(&step_of(1, vec![Ok(info(2)), Err("refused")]), "server 3: refused");
        assert_eq!(step_of(1, vec![]), Step::Make([(1, DiskId(11))].into()));
    }

    #[test]
    fn no_cluster_is_made_beside_one() {
        let belongs = |you| ServerInfo { cluster_id: Some(ClusterId(7)), you, ..info(2) };
        stops(&step_of(1, vec![Ok(belongs(PeerStatus::Unknown)), Err("refused")]), "--join");
        stops(&step_of(1, vec![Ok(belongs(PeerStatus::Removed))]), "was removed");
        let other_disk = PeerStatus::Member { disk: Some(DiskId(1)) };
        waits(&step_of(1, vec![Ok(belongs(other_disk))]), "emptied or replaced");
        let mine = PeerStatus::Member { disk: Some(DiskId(11)) };
        waits(&step_of(1, vec![Ok(belongs(mine))]), "leader of cluster");
    }

    #[test]
    fn servers_that_were_started_otherwise_are_named() {
        waits(&step_of(1, vec![Ok(info(3))]), "found 3");
        waits(&step_of(1, vec![Ok(ServerInfo { initial_members: 9, ..info(2) })]), "different --peers");
        let one = [(1, "a:1".to_owned())].into();
        let two = [(1, "a:1".to_owned()), (2, "b:1".to_owned())].into();
        assert_ne!(initial_members_digest(&one), initial_members_digest(&two));
    }
}
