//! Heartbeats of a leader and campaigns of a follower: the shell around
//! [`ElectionTimer`]. Raft's library has timers of its own, which are off: they cannot
//! tell a leader that died from one that is silent, nor a silent leader from a follower
//! that did not run.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use rota_protocol::peer::StreamKind;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::election_timer::{Bounds, ElectionTimer};
use super::node::{Leadership, RaftNode};
use crate::config::Timing;
use crate::env::RandomSource;
use crate::peers::Peers;

/// How often a leader whose connection ended is dialled to find out whether its process has.
const CHECKS: u32 = 4;
/// Pause between two.
const CHECK_PAUSE: Duration = Duration::from_millis(15);
/// How long one may take: a process that has ended is found out in a round trip.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause before the only voter of a cluster asks itself again: its disk may be slow.
const SOLE_RETRY: Duration = Duration::from_secs(2);
/// For so long after its death what arrives from a leader was sent before it.
const LATE_MAX: Duration = Duration::from_millis(500);
/// Pause before a leader is asked for its boot again.
const BOOT_RETRY: Duration = Duration::from_secs(5);
/// Connections that ended and are not looked at yet.
const ENDED_MAX: usize = 64;

/// A connection of another server that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// The server, as the connection named it: anybody can.
    pub(crate) server: u64,
    /// The term in which it led when the connection ended.
    pub(crate) term: u64,
}

/// A leader and the start of its process, as it answered when this server dialled it.
#[derive(Debug, Clone, Copy)]
struct LeaderBoot {
    leader: u64,
    term: u64,
    boot: u64,
}

/// Where ended connections are told. Clones share it.
pub(crate) type EndedSender = mpsc::Sender<Ended>;

/// Sends heartbeats while this server leads, and campaigns when no leader is there.
pub(crate) struct Elections {
    group: RaftNode,
    peers: Peers,
    entropy: Arc<dyn RandomSource>,
    heartbeat: Duration,
    bounds: Bounds,
    ended: mpsc::Receiver<Ended>,
}

impl Elections {
    pub(crate) fn new(
        group: RaftNode,
        peers: Peers,
        timing: &Timing,
        entropy: Arc<dyn RandomSource>,
    ) -> (Self, EndedSender) {
        let (sender, ended) = mpsc::channel(ENDED_MAX);
        let bounds = Bounds {
            min: Duration::from_millis(timing.election_min_ms),
            max: Duration::from_millis(timing.election_max_ms),
        };
        let heartbeat = Duration::from_millis(timing.heartbeat_ms);
        (Self { group, peers, entropy, heartbeat, bounds, ended }, sender)
    }

    /// A number from 0 to 1. Without a source of randomness all servers wait equally long, and
    /// the network's jitter decides.
    fn chance(&self) -> f64 {
        let mut bytes = [0; 4];
        match self.entropy.fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            Err(_) => 0.5,
        }
    }

    /// Runs until the server stops.
    pub(crate) async fn run(mut self) {
        let mut timer = ElectionTimer::new(self.bounds, self.chance());
        let mut looked_at = Instant::now();
        let mut heard_at = self.group.leader_contact();
        let mut heartbeat_at = Instant::now();
        let mut sole_at = None;
        // The leader that died last, and when that was noticed.
        let mut died: Option<(u64, Instant)> = None;
        // Pending check whether the leader whose connection closed is dead. The election timer keeps
        // running.
        let mut death_check: Fuse<BoxFuture<'static, Option<u64>>> = Fuse::terminated();
        let mut boot: Option<LeaderBoot> = None;
        let mut boot_query: Fuse<BoxFuture<'static, Option<LeaderBoot>>> = Fuse::terminated();
        let mut boot_query_at: Option<(u64, Instant)> = None;
        loop {
            let leads = matches!(self.group.current_leadership(), Leadership::Own { .. });
            let pause =
                if leads { self.heartbeat.min(super::election_timer::TICK) } else { timer.next_look() };
            let term = self.group.term();
            let is_due = boot_query_at.is_none_or(|(of, at)| of != term || at.elapsed() >= BOOT_RETRY);
            if let Leadership::Other { leader } = self.group.current_leadership()
                && boot.is_none_or(|known| known.term != term)
                && is_due
                && boot_query.is_terminated()
            {
                boot_query_at = Some((term, Instant::now()));
                boot_query = query_boot(self.peers.clone(), leader, term).boxed().fuse();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                found = &mut boot_query => {
                    boot = found.or(boot);
                    continue;
                }
                Some(ended) = self.ended.recv(), if death_check.is_terminated() => {
                    let is_known = died.is_some_and(|(leader, at)| leader == ended.server && at.elapsed() < LATE_MAX);
                    if !is_known {
                        death_check = find_dead_leader(self.group.clone(), self.peers.clone(), ended, boot).boxed().fuse();
                    }
                    continue;
                }
                dead = &mut death_check => {
                    if let Some(leader) = dead {
                        self.group.release_lease_of(leader).await;
                        timer.leader_died(self.chance());
                        looked_at = Instant::now();
                        died = Some((leader, looked_at));
                    }
                    continue;
                }
            }
            let now = Instant::now();
            let elapsed = now - std::mem::replace(&mut looked_at, now);
            let round_trip = self.peers.round_trips().longest();
            if leads {
                timer.contact(round_trip, self.chance());
                if now >= heartbeat_at {
                    self.group.send_heartbeats().await;
                    heartbeat_at = now + self.heartbeat;
                }
                continue;
            }
            let contact = self.group.leader_contact();
            if contact != heard_at {
                heard_at = contact;
                let is_late = died.is_some_and(|(leader, at)| {
                    now - at < LATE_MAX && self.group.current_leadership() == (Leadership::Other { leader })
                });
                if !is_late {
                    timer.contact(round_trip, self.chance());
                }
            }
            if self.group.is_sole_voter() {
                if sole_at.is_none_or(|at| now - at >= SOLE_RETRY) {
                    sole_at = Some(now);
                    self.group.campaign(false).await;
                }
            } else if timer.tick(elapsed, round_trip, self.chance()) {
                if let Some((leader, _)) = died.filter(|(_, at)| now - *at < LATE_MAX) {
                    // What it sent before its death may have given it its lease back.
                    self.group.release_lease_of(leader).await;
                }
                self.group.campaign(true).await;
            }
        }
    }
}

/// Asks a leader for its boot. What incoming connections say of theirs proves nothing.
async fn query_boot(peers: Peers, leader: u64, term: u64) -> Option<LeaderBoot> {
    let endpoint = peers.endpoints().remove(&leader)?;
    let info = timeout(CHECK_TIMEOUT, peers.probe(&endpoint.peer_address)).await.ok()?.ok()?;
    (info.server == leader).then_some(LeaderBoot { leader, term, boot: info.boot })
}

/// The leader that this server follows, if its process has ended after one of its connections
/// did: nobody listens at its address any more, or it was started anew.
async fn find_dead_leader(
    group: RaftNode,
    peers: Peers,
    ended: Ended,
    boot: Option<LeaderBoot>,
) -> Option<u64> {
    let Ended { server, term } = ended;
    let boot = boot.filter(|known| (known.leader, known.term) == (server, term)).map(|known| known.boot);
    let is_still_leader =
        || group.current_leadership() == (Leadership::Other { leader: server }) && group.term() == term;
    for check in 0..CHECKS {
        if !is_still_leader() {
            return None;
        }
        let endpoint = peers.endpoints().remove(&server)?;
        match timeout(CHECK_TIMEOUT, peers.probe(&endpoint.peer_address)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::info!(leader = server, "leader process ended");
                return is_still_leader().then_some(server);
            }
            Ok(Ok(info)) if info.server == server && boot.is_none_or(|boot| boot == info.boot) => {
                return None;
            }
            Ok(Ok(info)) if info.server == server => {
                tracing::info!(leader = server, "leader process restarted");
                return is_still_leader().then_some(server);
            }
            // The host may be down or unreachable: leave it to the election timeout.
            Err(_) => return None,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return None,
            // It may be ending: its port is closed only after its connections.
            Ok(_) if check + 1 < CHECKS => tokio::time::sleep(CHECK_PAUSE).await,
            Ok(_) => {}
        }
    }
    None
}

/// Whether the end of such a connection may say that the leader has ended.
pub(super) fn is_telling(kind: StreamKind) -> bool {
    matches!(kind, StreamKind::Append | StreamKind::Call)
}
