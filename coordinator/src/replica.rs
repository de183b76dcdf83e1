//! What this server has applied: the state, what is derived from it, and who
//! waits for it to move. Readers look at it under a lock that is held for as
//! long as a look takes; only the state machine changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};

use bytes::Bytes;
use rota_core::Zxid;
use rota_core::batch::{self, Batch, UnitOutcome};
use rota_core::events::EventLog;
use rota_core::pool::{AffectedMembers, ChangeSet, DecodedWrites, Pools, layout};
use rota_core::state::{Event, Reply, SessionId, State};
use rota_protocol::peer::{DiskId, LogId, Membership, SnapshotHead, Vote};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::cluster_clock::ClusterClock;
use crate::env::Clock;
use crate::http_watches::HttpWatches;
use crate::session_leases::{LiveSession, SessionLeases};
use crate::timings::Timings;
use crate::write_queue::WriteQueue;
use crate::zk::ConnectionRegistry;

/// Events that are remembered for watchers: some seconds at full load, hours
/// at an ordinary one. 6 MB.
const EVENTS_MAX: usize = 100_000;
/// Bytes of their paths and lists, which most of them share with the nodes.
const EVENTS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Points of the past whose digest is remembered, to compare with the leader's.
const DIGESTS_MAX: usize = 1024;

/// Members that nobody follows any more and that are forgotten when another is followed.
const FORGOTTEN_AT_ONCE: usize = 4;

/// How far a server has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Progress {
    /// The last command.
    pub zxid: Zxid,
    /// The next entry of the log to be applied.
    pub next_index: u64,
}

/// The applied part of the log, and those who wait for more.
pub(crate) struct Replica {
    inner: RwLock<Applied>,
    clock: ClusterClock,
    http_watches: Arc<HttpWatches>,
    timings: Arc<Timings>,
    write_queue: Arc<WriteQueue>,
    session_leases: Arc<SessionLeases>,
    registry: Arc<ConnectionRegistry>,
    progress: watch::Sender<Progress>,
    followed: Mutex<BTreeMap<String, Subscription>>,
    /// Pools that changed since the assignment controller looked.
    dirty: Mutex<BTreeSet<String>>,
    dirtied: Notify,
    /// Bytes of batches applied since the last snapshot.
    log_bytes: Mutex<u64>,
}

/// Who follows a pool. The values count changes.
#[derive(Default)]
struct Subscription {
    /// All of it.
    pool: watch::Sender<u64>,
    /// What concerns one member.
    members: BTreeMap<String, watch::Sender<u64>>,
}

impl Subscription {
    fn is_followed(&self) -> bool {
        self.pool.receiver_count() > 0 || self.members.values().any(|sender| sender.receiver_count() > 0)
    }
}

/// What readers see.
pub(crate) struct Applied {
    pub state: State,
    pub pools: Pools,
    pub events: EventLog,
    last: Option<LogId>,
    membership_at: Option<LogId>,
    membership: Membership,
    digests: VecDeque<(Zxid, u64)>,
}

impl Replica {
    pub(crate) fn new(
        write_queue: Arc<WriteQueue>,
        session_leases: Arc<SessionLeases>,
        registry: Arc<ConnectionRegistry>,
        clock: Arc<dyn Clock>,
        timings: Arc<Timings>,
    ) -> Self {
        let state = State::new();
        let inner = Applied {
            pools: Pools::load(&state),
            events: EventLog::new(state.zxid(), EVENTS_MAX, EVENTS_BYTES_MAX),
            state,
            last: None,
            membership_at: None,
            membership: Membership::default(),
            digests: VecDeque::new(),
        };
        Self {
            inner: RwLock::new(inner),
            clock: ClusterClock::new(clock),
            http_watches: Arc::default(),
            timings,
            write_queue,
            session_leases,
            registry,
            progress: watch::Sender::new(Progress::default()),
            followed: Mutex::default(),
            dirty: Mutex::default(),
            dirtied: Notify::new(),
            log_bytes: Mutex::new(0),
        }
    }

    /// The cluster clock.
    pub(crate) fn cluster_clock(&self) -> &ClusterClock {
        &self.clock
    }

    /// Durations of this server's operations.
    pub(crate) fn timings(&self) -> &Timings {
        &self.timings
    }

    /// HTTP watches of nodes.
    pub(crate) fn http_watches(&self) -> &Arc<HttpWatches> {
        &self.http_watches
    }

    /// Looks at what is applied. Nothing may be awaited while it is held.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Applied> {
        self.inner.read().expect("apply does not panic without stopping the server")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Applied> {
        self.inner.write().expect("apply does not panic without stopping the server")
    }

    /// A view of the state that costs O(1), and where in the log it stands.
    pub(crate) fn view(&self) -> (State, SnapshotHead) {
        let inner = self.read();
        (inner.state.clone(), inner.head())
    }

    /// The same for a snapshot, and the bytes of batches that are in it and in no earlier one.
    pub(crate) fn snapshot_view(&self) -> (State, SnapshotHead, u64) {
        // While this is held, none is applied.
        let inner = self.read();
        (inner.state.clone(), inner.head(), *self.lock_log_bytes())
    }

    /// Where in the log the state stands.
    pub(crate) fn head(&self) -> SnapshotHead {
        self.read().head()
    }

    /// The last point whose digest is known, for the others to compare.
    pub(crate) fn last_digest(&self) -> (Zxid, u64) {
        self.read().digests.back().copied().unwrap_or_default()
    }

    /// Applies an entry that says nothing.
    pub(crate) fn apply_blank(&self, at: LogId) {
        self.write().last = Some(at);
    }

    /// Applies a change of who belongs to the cluster.
    pub(crate) fn apply_membership(&self, at: LogId, membership: Membership) {
        let mut inner = self.write();
        inner.last = Some(at);
        inner.membership_at = Some(at);
        inner.membership = membership;
    }

    /// Applies a batch of commands and answers those that were submitted here.
    /// Returns how many were refused.
    ///
    /// # Errors
    /// When the batch is damaged or of a newer format, or this server's state has diverged from
    /// its leader's. The server must stop serving.
    pub(crate) fn apply_batch(&self, at: LogId, bytes: Bytes) -> io::Result<u32> {
        let len = bytes.len() as u64;
        let batch = Batch::decode(bytes).map_err(io::Error::other)?;
        let checkpoint = batch.header.checkpoint;
        // Decoded before the write lock is taken, so that readers are not blocked.
        let decoded_writes = DecodedWrites::from_commands(batch.decode_units_containing(layout::POOLS));
        let mut inner = self.write();
        inner.compare_digests(checkpoint)?;
        let zxid_before = inner.state.zxid();
        let mut events: Vec<Event> = Vec::new();
        let (mut refused, mut anew) = (0, false);
        let inner = &mut *inner;
        batch::apply(&mut inner.state, batch, |state, origin, mut fate| {
            match &mut fate {
                UnitOutcome::Applied(_, applied) => {
                    refused += u32::from(applied.reply.is_err());
                    self.registry.dispatch_events(&applied.events);
                    events.append(&mut applied.events);
                }
                UnitOutcome::Undecodable => {
                    refused += 1;
                    metrics::counter!(crate::metrics::UNDECODABLE).increment(1);
                    tracing::error!(
                        index = at.index,
                        server = origin.server,
                        "a command does not decode: it and the rest of its unit are refused"
                    );
                }
                UnitOutcome::Skipped => {}
            }
            let changed = session_change(&fate);
            let is_anew = matches!(&fate, UnitOutcome::Applied(_, applied) if applied.reply == Ok(Reply::Imported { anew: true }));
            self.write_queue.resolve(state, origin, fate);
            if is_anew {
                anew = true;
                self.reset_subscribers(state);
            }
            // Whoever asked for it has been answered.
            if let Some(changed) = changed {
                self.note_session(changed);
            }
        });
        self.http_watches.dispatch_events(&events);
        inner.last = Some(at);
        self.clock.observe_applied(inner.state.last_timestamp().cluster_ms);
        let touched = if anew {
            // Nobody can be told what changed: whoever watches looks anew.
            inner.events = EventLog::new(inner.state.zxid(), EVENTS_MAX, EVENTS_BYTES_MAX);
            inner.reload_pools()
        } else {
            let touched = inner.pools.apply_events(&inner.state, &events, &decoded_writes);
            inner.events.push(inner.state.zxid(), events);
            touched
        };
        if inner.state.zxid() > zxid_before {
            inner.remember_digest();
        }
        self.mark_changed(touched);
        *self.lock_log_bytes() += len;
        Ok(refused)
    }

    /// The state is another one: clients come back and say what they have seen, and the
    /// sessions that there are get their full timeouts.
    fn reset_subscribers(&self, state: &State) {
        self.registry.close_all();
        self.http_watches.notify_all();
        self.session_leases.restart(live_sessions(state), Instant::now());
    }

    fn note_session(&self, changed: SessionChange) {
        let now = Instant::now();
        match changed {
            SessionChange::Opened(session) => self.session_leases.opened(session, now),
            SessionChange::Resumed(session) => {
                self.session_leases.opened(session, now);
                self.registry.resumed(session.session, session.connection);
            }
            SessionChange::Closed(session) => {
                self.session_leases.closed(session);
                self.registry.closed(session);
            }
        }
    }

    /// Takes over a state from a snapshot.
    pub(crate) fn restore(&self, state: State, head: SnapshotHead) {
        let mut inner = self.write();
        inner.events = EventLog::new(state.zxid(), EVENTS_MAX, EVENTS_BYTES_MAX);
        inner.state = state;
        self.clock.observe_applied(inner.state.last_timestamp().cluster_ms);
        let names = inner.reload_pools();
        inner.last = head.last;
        inner.membership_at = head.membership_at;
        inner.membership = head.membership;
        inner.digests.clear();
        let submitted = inner.state.submitted(self.write_queue.server());
        // Nobody here saw the events that led to this state: no client may hear of it
        // before it has come back and said what it has seen.
        self.registry.close_all();
        self.http_watches.notify_all();
        drop(inner);
        self.write_queue.restored(submitted);
        self.mark_changed(names);
        *self.lock_log_bytes() = 0;
    }

    /// Tells those who wait how far this server has come.
    pub(crate) fn publish_progress(&self) {
        let now = {
            let inner = self.read();
            Progress { zxid: inner.state.zxid(), next_index: inner.last.map_or(0, |id| id.index + 1) }
        };
        self.progress.send_replace(now);
    }

    /// Follows how far this server has come.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Follows the changes of one pool.
    pub(crate) fn subscribe_pool(&self, pool: &str) -> watch::Receiver<u64> {
        let mut followed = self.lock_followed();
        followed.retain(|name, who| name == pool || who.is_followed());
        followed.entry(pool.to_owned()).or_default().pool.subscribe()
    }

    /// Follows what concerns one member of a pool, so that a thousand of them are not woken by
    /// each other's rows.
    pub(crate) fn subscribe_member(&self, pool: &str, member: &str) -> watch::Receiver<u64> {
        let mut followed = self.lock_followed();
        if !followed.contains_key(pool) {
            followed.retain(|_, who| who.is_followed());
        }
        let members = &mut followed.entry(pool.to_owned()).or_default().members;
        // There may be thousands: only a few at a time are let go of.
        let idle: Vec<String> = members
            .iter()
            .filter(|(name, sender)| *name != member && sender.receiver_count() == 0)
            .map(|(name, _)| name.clone())
            .take(FORGOTTEN_AT_ONCE)
            .collect();
        idle.iter().for_each(|name| drop(members.remove(name)));
        members.entry(member.to_owned()).or_default().subscribe()
    }

    fn lock_followed(&self) -> MutexGuard<'_, BTreeMap<String, Subscription>> {
        self.followed.lock().expect("no code panics while it holds this")
    }

    fn mark_changed(&self, touched: ChangeSet) {
        if touched.pools.is_empty() {
            return;
        }
        let followed = self.lock_followed();
        for (name, whom) in &touched.pools {
            let Some(followed) = followed.get(name) else { continue };
            let tell = |sender: &watch::Sender<u64>| sender.send_modify(|count| *count += 1);
            tell(&followed.pool);
            match whom {
                AffectedMembers::All => followed.members.values().for_each(tell),
                AffectedMembers::Some(names) => {
                    names.iter().filter_map(|name| followed.members.get(name)).for_each(tell);
                }
            }
        }
        drop(followed);
        // A server that begins to lead looks at all pools.
        if self.clock.is_leader() {
            self.lock_dirty().extend(touched.pools.into_keys());
            self.dirtied.notify_one();
        }
    }

    fn lock_dirty(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.dirty.lock().expect("no code panics while it holds this")
    }

    fn lock_log_bytes(&self) -> MutexGuard<'_, u64> {
        self.log_bytes.lock().expect("no code panics while it holds this")
    }

    /// The pools that changed since this was last asked.
    pub(crate) fn take_changed_pools(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock_dirty())
    }

    /// Those, but they are not taken: whoever asks next is told of them too.
    pub(crate) fn dirty(&self) -> BTreeSet<String> {
        self.lock_dirty().clone()
    }

    /// Returns when a pool may have changed.
    pub(crate) async fn changed(&self) {
        self.dirtied.notified().await;
    }

    /// Waits until the write `zxid` is applied here.
    pub(crate) async fn reached(&self, zxid: Zxid) {
        let mut progress = self.progress();
        // An error means that the server is stopping, which ends the waiter too.
        drop(progress.wait_for(|p| p.zxid >= zxid).await);
    }

    /// Bytes of batches that were applied since the last snapshot.
    pub(crate) fn log_bytes_since_snapshot(&self) -> u64 {
        *self.lock_log_bytes()
    }

    /// Bytes of data in all nodes.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.read().state.tree().bytes()
    }

    /// A snapshot was taken that covers so many bytes of batches. What was applied while it was
    /// written is in the next one.
    pub(crate) fn snapshot_taken(&self, covered: u64) {
        let mut bytes = self.lock_log_bytes();
        *bytes = bytes.saturating_sub(covered);
    }
}

/// What a command did to a session.
#[derive(Debug, Clone, Copy)]
enum SessionChange {
    Opened(LiveSession),
    Resumed(LiveSession),
    Closed(SessionId),
}

fn session_change(fate: &UnitOutcome) -> Option<SessionChange> {
    let UnitOutcome::Applied(_, applied) = fate else { return None };
    match applied.reply {
        Ok(Reply::SessionOpened { session, timeout_ms }) => {
            Some(SessionChange::Opened(LiveSession { session, timeout_ms, connection: 0 }))
        }
        Ok(Reply::SessionResumed { session, timeout_ms, connection }) => {
            Some(SessionChange::Resumed(LiveSession { session, timeout_ms, connection }))
        }
        Ok(Reply::SessionClosed { session }) => Some(SessionChange::Closed(session)),
        _ => None,
    }
}

/// The sessions of a state, for whoever counts their time.
pub(crate) fn live_sessions(state: &State) -> impl Iterator<Item = LiveSession> + '_ {
    state.sessions().map(|(id, session)| LiveSession {
        session: id,
        timeout_ms: session.timeout_ms,
        connection: session.connection,
    })
}

impl Applied {
    /// Derives the pools from the state, and says which there were and are: those that
    /// follow a pool which is not there any more are told as well.
    fn reload_pools(&mut self) -> ChangeSet {
        let mut names: Vec<String> = self.pools.iter().map(|p| p.name.clone()).collect();
        self.pools = Pools::load(&self.state);
        names.extend(self.pools.iter().map(|p| p.name.clone()));
        ChangeSet { pools: names.into_iter().map(|name| (name, AffectedMembers::All)).collect() }
    }

    fn head(&self) -> SnapshotHead {
        SnapshotHead {
            vote: Vote { term: 0, leader: 0, committed: false },
            last: self.last,
            membership_at: self.membership_at,
            membership: self.membership.clone(),
        }
    }

    /// Compares this server's digest at the leader's checkpoint. The leader had applied only
    /// entries before this batch, so this server has passed the checkpoint too. A checkpoint
    /// without a stored digest is skipped; the next batch brings another.
    fn compare_digests(&self, (zxid, digest): (Zxid, u64)) -> io::Result<()> {
        let here = self.digests.binary_search_by_key(&zxid, |(z, _)| *z).map(|at| self.digests[at].1);
        let difference = match here {
            Ok(here) if here != digest => format!("digest {here:016x}, the leader's {digest:016x}"),
            Err(_) if zxid > self.state.zxid() => {
                format!("this server's state ends at zxid {}", self.state.zxid())
            }
            _ => return Ok(()),
        };
        Err(io::Error::other(format!(
            "this server's state has diverged from the leader's at zxid {zxid} ({difference}): move its data \
             directory away for inspection, remove the server from the cluster and add a new one"
        )))
    }

    /// Stores the digest after a batch that advanced the zxid. Others may have changed the digest at
    /// the same zxid.
    fn remember_digest(&mut self) {
        self.digests.push_back((self.state.zxid(), self.state.digest()));
        if self.digests.len() > DIGESTS_MAX {
            self.digests.pop_front();
        }
    }

    /// Whether a server with this data directory was removed, or is being removed.
    pub(crate) fn is_removed_disk(&self, disk: DiskId) -> bool {
        self.state.tree().get(&layout::removed_disk(disk)).is_some()
    }

    /// Who belongs to the cluster.
    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }
}
