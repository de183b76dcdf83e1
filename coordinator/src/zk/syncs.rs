//! `sync`: a connection's reads that follow one see every write that was
//! acknowledged before it, on whichever server. One question to the leader serves
//! all that wait.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::Zk;
use super::connection::Connection;

/// How long after a failure the leader is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections that wait, once for each sync.
#[derive(Default)]
pub(crate) struct Syncs {
    waiting: Mutex<Vec<Arc<Connection>>>,
    more: Notify,
}

impl Syncs {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.waiting.lock().expect("no code panics while it holds this")
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// A connection waits for its next sync.
    pub(super) fn add(&self, connection: &Arc<Connection>) {
        self.lock().push(Arc::clone(connection));
        self.more.notify_one();
    }
}

/// Answers syncs until the server stops.
pub(crate) async fn run(zk: Arc<Zk>) {
    loop {
        let waiting = std::mem::take(&mut *zk.syncs.lock());
        if waiting.is_empty() {
            zk.syncs.more.notified().await;
            continue;
        }
        // Those that wait for a leader end with their connections, which end when none is
        // there for long (`standing`).
        while zk.service.desk.catch_up().await.is_err()
            && !waiting.iter().all(|connection| connection.is_closing())
        {
            tokio::time::sleep(PAUSE).await;
        }
        let applied = zk.service.replica.read();
        for connection in waiting {
            connection.synced(&applied.state);
        }
    }
}
