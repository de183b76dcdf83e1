//! Carries the clients' signs of life to the leader, for many sessions at a time.
//!
//! A ping is answered only when a leader that is sure to lead has taken note of it.
//! So a client that hears from its server knows that its session lives, and one
//! whose server is cut off finds out in time and looks for another.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rota_core::state::SessionId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Zk;
use super::connection::Connection;

/// Between two rounds: what arrives meanwhile goes together.
const PAUSE: Duration = Duration::from_millis(100);
/// Sessions in one message.
const SESSIONS_MAX: usize = 16_384;

/// The signs of life that no leader has taken note of yet.
#[derive(Default)]
pub(crate) struct PingBatcher {
    waiting: Mutex<HashMap<SessionId, PendingPings>>,
    more: Notify,
}

struct PendingPings {
    connection: Arc<Connection>,
    since: Instant,
    /// How many of them were pings.
    pings: u32,
}

impl PendingPings {
    /// Ends the connection of a client that no leader has heard of for half its timeout:
    /// it looks elsewhere before its session ends.
    fn close_if_late(&self) {
        if self.since.elapsed() > self.connection.timeout() / 2 {
            self.connection.close();
        }
    }
}

impl PingBatcher {
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, PendingPings>> {
        self.waiting.lock().expect("no code panics while it holds this")
    }

    /// A session gave a sign of life.
    pub(super) fn note(&self, session: SessionId, connection: &Arc<Connection>, is_ping: bool) {
        // What comes late of a connection before the session's last one is no sign of it.
        if connection.is_closing() {
            return;
        }
        let pings = u32::from(is_ping);
        let mut waiting = self.lock();
        match waiting.get_mut(&session) {
            Some(sign) if Arc::ptr_eq(&sign.connection, connection) => sign.pings += pings,
            _ => {
                let sign = PendingPings { connection: Arc::clone(connection), since: Instant::now(), pings };
                waiting.insert(session, sign);
                self.more.notify_one();
            }
        }
    }

    fn take(&self) -> HashMap<SessionId, PendingPings> {
        let mut waiting = self.lock();
        if waiting.len() <= SESSIONS_MAX {
            return std::mem::take(&mut waiting);
        }
        let some: Vec<SessionId> = waiting.keys().copied().take(SESSIONS_MAX).collect();
        some.into_iter().filter_map(|session| waiting.remove_entry(&session)).collect()
    }

    /// Puts back what did not reach a leader.
    fn put_back(&self, signs: HashMap<SessionId, PendingPings>) {
        let mut waiting = self.lock();
        for (session, sign) in signs {
            sign.close_if_late();
            if !sign.connection.is_closing() {
                let entry = waiting.entry(session).or_insert(PendingPings {
                    connection: Arc::clone(&sign.connection),
                    since: sign.since,
                    pings: 0,
                });
                if Arc::ptr_eq(&entry.connection, &sign.connection) {
                    entry.since = entry.since.min(sign.since);
                    entry.pings += sign.pings;
                }
            }
        }
    }
}

/// Carries signs of life to the leader until the server stops.
pub(crate) async fn run(zk: Arc<Zk>) {
    loop {
        let signs = zk.ping_batcher.take();
        if signs.is_empty() {
            zk.ping_batcher.more.notified().await;
            continue;
        }
        let sessions: Vec<SessionId> = signs.keys().copied().collect();
        let touched = zk.service.desk.touch(sessions);
        tokio::pin!(touched);
        let touched = loop {
            tokio::select! {
                touched = &mut touched => break touched,
                () = tokio::time::sleep(PAUSE) => {
                    signs.values().for_each(PendingPings::close_if_late);
                    zk.ping_batcher.lock().values().for_each(PendingPings::close_if_late);
                }
            }
        };
        match touched {
            Ok(gone) => {
                let gone: BTreeSet<SessionId> = gone.into_iter().collect();
                let zxid = zk.service.replica.read().state.zxid();
                for (session, sign) in signs {
                    // One that is gone hears of it when that is applied here.
                    if !gone.contains(&session) {
                        sign.connection.answer_pings(sign.pings, zxid);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, sessions = signs.len(), "no leader took note of signs of life");
                zk.ping_batcher.put_back(signs);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
