//! Keeps the pool's items what the table says, as ephemerals of one session.
//!
//! It compares and repairs: whatever was missed, refused or taken away is seen
//! again at the next round. When the session has ended, all begins anew with
//! another one; the files are served all the time, whether or not a coordinator
//! is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use rota_client::{Client, ClientError, Session};
use rota_protocol::http::{Code, ItemBody, ItemCreate};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::follow::Owner;
use super::shared::Shared;
use crate::naming::labels;
use crate::pool;

/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked up whether the items are still there. Somebody may
/// have deleted them, or the pool.
const VERIFY_EVERY: Duration = Duration::from_secs(10);
/// Most items that are put or removed at the same time: an agent may have tens
/// of thousands, and the coordinator has other clients.
const AT_ONCE: usize = 16;
/// How long closing the session may take when the agent stops. Otherwise it
/// ends with its timeout.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Where and as what an agent registers its sources.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The coordinator's client.
    pub client: Client,
    /// The pool.
    pub pool: String,
    /// This agent's host and port, as collectors reach it.
    pub advertise: String,
    /// How long the agent's death goes unnoticed.
    pub session_timeout: Duration,
}

/// Registers the sources until `shutdown` is cancelled.
pub async fn register(registration: Registration, owner: Owner, shared: Arc<Shared>, shutdown: CancellationToken) {
    let registrar = Registrar { registration, owner, shared };
    while !shutdown.is_cancelled() {
        tokio::select! {
            lost = registrar.live(&shutdown) => match lost {
                Ok(()) => {}
                Err(error) => warn!(error = &error as &dyn std::error::Error, "not registered: tried again"),
            },
            () = shutdown.cancelled() => {}
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

struct Registrar {
    registration: Registration,
    owner: Owner,
    shared: Arc<Shared>,
}

/// Items by name, with their label `file`.
type Items = BTreeMap<String, String>;

impl Registrar {
    /// One session's life.
    async fn live(&self, shutdown: &CancellationToken) -> Result<(), ClientError> {
        let Registration { client, pool, session_timeout, .. } = &self.registration;
        pool::ensure(client, pool).await?;
        let session = client.open_session(*session_timeout).await?;
        info!(session = session.id(), %pool, "session opened");
        let (stop, ended) = (shutdown.child_token(), session.clone());
        tokio::select! {
            () = self.keep(&session, &stop) => {}
            () = ended.ended() => warn!(session = session.id(), "the session has ended: all is registered anew"),
        }
        if shutdown.is_cancelled()
            && let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, session.close()).await
        {
            warn!(error = &error as &dyn std::error::Error, "session not closed: it ends with its timeout");
        }
        Ok(())
    }

    /// Keeps the items of a session what they should be.
    async fn keep(&self, session: &Session, shutdown: &CancellationToken) {
        let mut changes = self.shared.table().subscribe_items();
        let mut registered = Items::new();
        let mut verify_at = Instant::now() + VERIFY_EVERY;
        loop {
            changes.borrow_and_update();
            let is_done = self.bring_in_step(session, &mut registered).await;
            let again_at = if is_done { verify_at } else { verify_at.min(Instant::now() + RETRY) };
            tokio::select! {
                () = changed(&mut changes) => {}
                () = sleep_until(again_at) => {}
                () = shutdown.cancelled() => return,
            }
            if Instant::now() >= verify_at {
                self.verify(&mut registered).await;
                verify_at = Instant::now() + VERIFY_EVERY;
            }
        }
    }

    /// Puts what is missing and removes what is too much. Returns whether all
    /// went well.
    async fn bring_in_step(&self, session: &Session, registered: &mut Items) -> bool {
        let wanted: Items =
            self.shared.table().items().map(|source| (source.item.clone(), source.file.clone())).collect();
        let missing: Vec<(&String, &String)> = wanted.iter().filter(|(item, _)| !registered.contains_key(*item)).collect();
        let surplus: Vec<String> = registered.keys().filter(|item| !wanted.contains_key(*item)).cloned().collect();
        let all = missing.len() + surplus.len();

        let puts = missing.into_iter().map(|(item, file)| async move {
            (item.clone(), self.put(session, item, file).await.map(|()| Some(file.clone())))
        });
        let removals = surplus.into_iter().map(|item| async move {
            let removed = session.remove_item(&self.registration.pool, &item).await;
            (item, removed.map(|()| None))
        });
        let mut done: Vec<_> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
        done.extend(stream::iter(removals).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await);

        let mut failed = None;
        for (item, outcome) in done {
            match outcome {
                Ok(Some(file)) => drop(registered.insert(item, file)),
                Ok(None) => drop(registered.remove(&item)),
                Err(error) => failed = Some((item, error)),
            }
        }
        if let Some((item, error)) = &failed {
            warn!(%item, error = error as &dyn std::error::Error, "item not registered: tried again");
        } else if all > 0 {
            info!(items = registered.len(), "items registered");
        }
        failed.is_none()
    }

    async fn put(&self, session: &Session, item: &str, file: &str) -> Result<(), ClientError> {
        let create = ItemCreate {
            name: item.to_owned(),
            address: self.registration.advertise.clone(),
            labels: labels(&self.owner.app, &self.owner.host, file),
            persistent: false,
        };
        session.put_item(&self.registration.pool, &create).await
    }

    /// Looks up one item, a different one each time. If it is not there, none is
    /// taken for granted.
    async fn verify(&self, registered: &mut Items) {
        let Registration { client, pool, .. } = &self.registration;
        let index = usize::try_from(crate::clock::unix_ms() % registered.len().max(1) as u64).unwrap_or(0);
        let Some(item) = registered.keys().nth(index) else { return };
        let found = client.get::<ItemBody>(&Client::path(["v1", "pools", pool, "items", item])).await;
        let Err(error) = found else { return };
        if matches!(error.code(), Some(Code::NoItem | Code::NoPool)) {
            warn!(%item, "items are gone: all are registered anew");
            registered.clear();
            if let Err(error) = pool::ensure(client, pool).await {
                warn!(error = &error as &dyn std::error::Error, "pool not made: tried again");
            }
        }
    }
}

/// The sender is in the table, which outlives this.
async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending().await
    }
}
