//! The composition root: builds a server from its parts, runs it, and stops it
//! in order: no more clients, leadership handed over, tasks, then Raft.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use rota_protocol::peer::{DiskId, Membership};
use tokio_util::sync::CancellationToken;

use crate::auth::Authority;
use crate::config::Config;
use crate::connections::ConnectionBudget;
use crate::controllers::{self, Control, Reaping};
use crate::desk::Desk;
use crate::env::{Env, Listener};
use crate::http;
use crate::members::{Bootstrap, Flags, Upkeep, initial_members_digest, own_address};
use crate::peers::{self, Admission, BatchForwarder, Peers, RpcClient};
use crate::raft::{
    Elections, Leadership, NetworkFactory, PeerService, Proposer, RaftNode, RaftNodeError, StateMachine,
    serve_peer,
};
use crate::replica::Replica;
use crate::service::Service;
use crate::service_state::ServiceStates;
use crate::session_leases::SessionLeases;
use crate::store::{Identity, LogPosition, LogStore, NewDisk, SnapshotStore, StoreError};
use crate::tasks::Tasks;
use crate::timings::Timings;
use crate::write_queue::WriteQueue;
use crate::zk::{self, ConnectionRegistry, Tls, TlsError, Zk};

/// How many times as long as the least the log becomes between two snapshots of much data.
const SNAPSHOT_LOG_FACTOR_MAX: u64 = 2;
/// How often it is looked whether the log has grown enough for a snapshot.
const SNAPSHOT_CHECK_PERIOD: Duration = Duration::from_secs(1);
/// How long a leader that stops waits for another to take over.
const HANDOVER_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long tasks may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long open requests may take to end.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a server does not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error("the configuration is wrong: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The data directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Replication cannot go on.
    #[error(transparent)]
    Raft(#[from] RaftNodeError),
    /// What it was started with does not fit the cluster that it belongs to.
    #[error("{0}")]
    Members(String),
    /// Something vital failed.
    #[error("a vital part of the server failed: {0}")]
    Vital(String),
}

/// A running server.
pub struct Server {
    service: Arc<Service>,
    tasks: Tasks,
    /// Ends what serves clients, before the rest.
    clients: CancellationToken,
    /// The last client has been answered or cut off.
    clients_gone: CancellationToken,
}

impl Server {
    /// Builds a server and lets it run.
    ///
    /// # Errors
    /// When the configuration is wrong or the data directory cannot be used.
    pub fn start(config: Config, parts: Env) -> BoxFuture<'static, Result<Self, ServerError>> {
        // Boxed, so that it is compiled here and not once more by whoever runs it.
        Box::pin(Self::build(config, parts))
    }

    async fn build(config: Config, parts: Env) -> Result<Self, ServerError> {
        let faults = config.faults();
        if !faults.is_empty() {
            return Err(ServerError::Config(faults));
        }
        let tls = config.zookeeper_tls.as_ref().map(Tls::acceptor).transpose()?;
        http::install_recorder();
        let mut random = [0; 8];
        parts.entropy.fill(&mut random).map_err(|e| ServerError::Vital(format!("no random numbers: {e}")))?;
        let new_disk = NewDisk { id: DiskId(u64::from_le_bytes(random)), now_ms: parts.clock.now_ms() };
        let identity = Identity::claim(&parts.directory, &config.cluster, config.server, new_disk)?;
        let identity = Arc::new(identity);
        let positions = LogPosition::open(&parts.directory)?;
        let timings = Arc::new(Timings::default());
        let log = LogStore::open(&parts.directory.join("log"), positions, Arc::clone(&timings)).await?;
        let snapshots = SnapshotStore::open(&parts.directory.join("snapshots"))?;
        let write_queue = Arc::new(WriteQueue::new(config.server, identity.boot));
        let (session_leases, registry) =
            (Arc::new(SessionLeases::default()), Arc::new(ConnectionRegistry::new(Arc::clone(&timings))));
        let clock = Arc::clone(&parts.clock);
        let replica = Replica::new(
            Arc::clone(&write_queue),
            Arc::clone(&session_leases),
            Arc::clone(&registry),
            clock,
            Arc::clone(&timings),
        );
        let replica = Arc::new(replica);
        let machine = StateMachine::open(Arc::clone(&replica), snapshots.clone())?;

        let tasks = Tasks::new(CancellationToken::new());
        let (clients, clients_gone) = (CancellationToken::new(), CancellationToken::new());
        let states = ServiceStates::new(Arc::clone(&identity));
        let initial_members = match config.initial_members.is_empty() {
            true => 0,
            false => initial_members_digest(&config.initial_members),
        };
        let peers =
            Peers::new(Arc::clone(&parts.dialer), Arc::clone(&identity), states.clone(), initial_members);
        let votes = RpcClient::new(peers.clone(), tasks.clone());
        let network = NetworkFactory::new(peers.clone(), votes.clone());
        let (server, cluster) = (config.server, config.cluster.as_str());
        let (group, leadership) =
            RaftNode::build(server, cluster, &config.timing, log.clone(), machine, network, peers.clone())
                .await?;
        tasks.spawn_vital("raft", group.clone().run(leadership, timings));
        let checked = match group.recovered_membership().await {
            Ok(membership) => check_members(&config, &parts.directory, &identity, &membership, &replica)
                .map(|own_address| (membership, own_address)),
            Err(error) => Err(error.into()),
        };
        let (membership, own_address) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                // Raft runs already, and holds the data directory.
                tasks.stop().cancel();
                tasks.ended().await;
                group.shutdown().await;
                return Err(error);
            }
        };

        let caller = RpcClient::new(peers.clone(), tasks.clone());
        let (elections, ended) =
            Elections::new(group.clone(), peers.clone(), &config.timing, Arc::clone(&parts.entropy));
        let (shared, lives) = (Arc::clone(&replica), Arc::clone(&session_leases));
        let desk = Desk::new(group.clone(), shared, lives, caller.clone(), votes.clone());
        let desk = Arc::new(desk);
        let (proposer, queue) = Proposer::new(group.clone(), Arc::clone(&replica));
        let sender = BatchForwarder {
            write_queue: Arc::clone(&write_queue),
            peers: peers.clone(),
            leadership: group.leadership(),
            proposer: queue.clone(),
        };
        let peer_service = PeerService {
            peers: peers.clone(),
            group: group.clone(),
            proposer: queue,
            snapshots,
            desk: Arc::clone(&desk),
            replica: Arc::clone(&replica),
            admission: Admission::new(),
            ended,
            tasks: tasks.clone(),
        };
        let control = Control {
            group: group.clone(),
            replica: Arc::clone(&replica),
            session_leases: Arc::clone(&session_leases),
            lease_grace: Duration::from_millis(config.timing.election_min_ms),
            reaping: Reaping {
                period: Duration::from_millis(config.zookeeper.reap_period_ms),
                per_minute_max: config.zookeeper.reaped_per_minute_max,
            },
        };
        let upkeep = Upkeep {
            identity: Arc::clone(&identity),
            group: group.clone(),
            peers: peers.clone(),
            caller,
            replica: Arc::clone(&replica),
            states: states.clone(),
            own_address,
        };
        let authority = Authority::new(config.super_digest.clone(), config.super_x509.clone());
        let service = Arc::new(Service {
            config,
            replica,
            group: group.clone(),
            desk,
            write_queue,
            entropy: Arc::clone(&parts.entropy),
            authority,
            session_leases,
            states: states.clone(),
            connections: ConnectionBudget::of_this_process(),
            directory: parts.directory.clone(),
            started_at: Instant::now(),
            registry: Arc::clone(&registry),
            tables: Arc::default(),
            summary_cache: Arc::default(),
            heavy: Arc::new(tokio::sync::Semaphore::new(2)),
            table_permit: Arc::new(tokio::sync::Semaphore::new(1)),
        });
        let zk = Arc::new(Zk::new(Arc::clone(&service), registry, tasks.clone()));

        tasks.spawn_lasting("peers", accept_peers(parts.peer_listener, peer_service));
        tasks.spawn_lasting("elections", elections.run());
        tasks.spawn_lasting("round trips", peers::measure(peers.clone(), votes, server));
        tasks.spawn_finite("upkeep", upkeep.run().map(Ok::<(), std::convert::Infallible>));
        let initial_members = service.config.initial_members.clone();
        let has_no_members = membership.servers.is_empty();
        if has_no_members && !initial_members.is_empty() {
            let entropy = Arc::clone(&parts.entropy);
            let bootstrap = Bootstrap { identity, peers, group, states, entropy, initial_members };
            tasks.spawn_finite("bootstrap", bootstrap.run());
        } else if has_no_members {
            states.waits_for(format!("waiting to be added: `rota cluster add {server} HOST:PORT`"));
        }
        tasks.spawn_vital("proposer", proposer.run());
        tasks.spawn_lasting("units", sender.run());
        tasks.spawn_lasting("controllers", controllers::run(control));
        tasks.spawn_lasting("snapshots", snapshot_when_due(Arc::clone(&service), log));
        tasks.spawn_lasting("metrics", http::sort_observations());
        tasks.spawn("advertise", http::advertise(Arc::clone(&service)));
        tasks.spawn_lasting("ping batcher", zk::run_pulse(Arc::clone(&zk)));
        tasks.spawn_lasting("serving mode", zk::run_standing(Arc::clone(&zk)));
        tasks.spawn_lasting("syncs", zk::run_syncs(Arc::clone(&zk)));
        let router = http::router(Arc::clone(&service));
        let budget = service.connections.clone();
        let serve = http::serve(
            parts.http_listener,
            router,
            budget,
            service.config.limits.http_connections_per_address_max,
            clients.clone(),
            DRAIN_TIMEOUT,
        );
        let gone = Arc::new(clients_gone.clone().drop_guard());
        let endpoints = [(parts.zookeeper_listener, None), (parts.zookeeper_tls_listener, tls)];
        for (listener, tls) in endpoints {
            let Some(listener) = listener else { continue };
            let serve = zk::accept(Arc::clone(&zk), listener, tls, clients.clone());
            let gone = Arc::clone(&gone);
            tasks.spawn_finite(
                "zookeeper",
                ends_with(clients.clone(), async move {
                    let _gone = gone;
                    serve.await;
                    Ok(())
                }),
            );
        }
        tasks.spawn_finite(
            "http",
            ends_with(clients.clone(), async move {
                let _gone = gone;
                serve.await;
                Ok(())
            }),
        );
        Ok(Self { service, tasks, clients, clients_gone })
    }

    /// Whether it belongs to a cluster, as far as it has heard.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.service.replica.read().membership().servers.contains_key(&self.service.config.server)
    }

    /// Returns when the server has failed by itself.
    ///
    /// # Errors
    /// Always: a server does not end of its own will.
    pub async fn failed(&self) -> ServerError {
        self.tasks.stop().cancelled().await;
        ServerError::Vital(self.tasks.failure().unwrap_or_default())
    }

    /// Stops in order. A leader hands over first.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        Box::pin(self.stop_in_order())
    }

    async fn stop_in_order(self) {
        self.clients.cancel();
        self.hand_over().await;
        self.clients_gone.cancelled().await;
        self.tasks.stop().cancel();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.ended()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        // Last, since nobody may be left who still talks to it.
        self.service.group.shutdown().await;
    }

    async fn hand_over(&self) {
        let group = &self.service.group;
        let own = self.service.config.server;
        let Leadership::Own { .. } = group.current_leadership() else { return };
        // One that does not answer would only be waited for.
        let up = group.peers_up().into_iter().filter(|(_, is_up)| *is_up).map(|(id, _)| id);
        let voters = group.voters();
        for heir in up.filter(|id| *id != own && voters.contains(id)) {
            let moved = tokio::time::timeout(HANDOVER_TIMEOUT, self.service.desk.transfer_to(heir)).await;
            if matches!(moved, Ok(Ok(()))) {
                tracing::info!(heir, "handed over the leadership");
                return;
            }
        }
    }
}

/// Work that goes on until clients are not served any more. An earlier end is a failure.
async fn ends_with(
    clients: CancellationToken,
    work: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    work.await?;
    match clients.is_cancelled() {
        true => Ok(()),
        false => Err(std::io::Error::other("it ended although the server goes on")),
    }
}

/// Compares the data directory, the log and the flags with each other. Returns where the server
/// is reached, if its cluster knows another address.
fn check_members(
    config: &Config,
    directory: &std::path::Path,
    identity: &Identity,
    membership: &Membership,
    replica: &Replica,
) -> Result<Option<String>, ServerError> {
    let Some(cluster_id) = membership.cluster_id else { return Ok(None) };
    // A server that stopped just after it made the cluster notes it now.
    let is_same = identity.join_cluster(cluster_id).map_err(|e| StoreError::io(directory, e))?;
    if !is_same {
        let expected = identity.cluster_id().map(|id| id.to_string()).unwrap_or_default();
        let (path, found) = (directory.to_owned(), cluster_id.to_string());
        return Err(StoreError::MixedUp { path, expected, found }.into());
    }
    let flags = Flags {
        server: config.server,
        initial_members: &config.initial_members,
        peer_address: config.peer_address.as_deref(),
    };
    let was_member = |server| replica.read().state.server_endpoints(server).is_some();
    own_address(&flags, membership, was_member).map_err(ServerError::Members)
}

async fn accept_peers(mut listener: Box<dyn Listener>, service: PeerService) {
    loop {
        match listener.accept().await {
            Ok((wire, from)) => {
                let serving = serve_peer(service.clone(), wire, from);
                service.tasks.spawn("peer", serving);
            }
            Err(error) => {
                // Out of descriptors, say: going on at once would spin.
                tracing::warn!(%error, "could not take in a server's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Bytes in the log after which a snapshot is taken of so much data: as many as the data
/// are, so that snapshots write no more than the log does, but not so many that a
/// restart takes for ever.
fn snapshot_after(least: u64, data_bytes: u64) -> u64 {
    data_bytes.clamp(least, least.saturating_mul(SNAPSHOT_LOG_FACTOR_MAX))
}

async fn snapshot_when_due(service: Arc<Service>, log: LogStore) {
    let mut period = tokio::time::interval(SNAPSHOT_CHECK_PERIOD);
    loop {
        period.tick().await;
        let least = service.config.limits.snapshot_log_bytes;
        let (since, data) = (service.replica.log_bytes_since_snapshot(), service.replica.data_bytes());
        if since >= snapshot_after(least, data)
            && let Err(error) = service.group.begin_snapshot().await
        {
            tracing::warn!(%error, "cannot begin a snapshot");
        }
        // Raft keeps a number of entries behind a snapshot, whatever their size.
        if let Some(index) = log.purgeable_beyond(least)
            && let Err(error) = service.group.purge(index).await
        {
            tracing::warn!(%error, "cannot purge the log");
        }
    }
}
