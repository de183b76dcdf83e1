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
pub async fn register(
    registration: Registration,
    owner: Owner,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let registrar = Registrar { registration, owner, shared };
    loop {
        let opened = tokio::select! {
            opened = registrar.open() => opened,
            () = shutdown.cancelled() => return,
        };
        match opened {
            Ok(session) => registrar.live(session, &shutdown).await,
            Err(error) => warn!(error = &error as &dyn std::error::Error, "no session: tried again"),
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            () = shutdown.cancelled() => return,
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
    async fn open(&self) -> Result<Session, ClientError> {
        let Registration { client, pool, session_timeout, .. } = &self.registration;
        pool::ensure(client, pool).await?;
        let session = client.open_session(*session_timeout).await?;
        info!(session = session.id(), %pool, "session opened");
        Ok(session)
    }

    /// One session's life.
    async fn live(&self, session: Session, shutdown: &CancellationToken) {
        let ended = session.clone();
        tokio::select! {
            () = self.keep(&session) => {}
            () = ended.ended() => warn!(session = session.id(), "the session has ended: all is registered anew"),
            () = shutdown.cancelled() => {
                if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, session.close()).await {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "session not closed: it ends with its timeout");
                }
            }
        }
    }

    /// Keeps the items of a session what they should be.
    async fn keep(&self, session: &Session) {
        let mut changes = self.shared.table().subscribe_items();
        let mut registered = Items::new();
        let mut verify_at = Instant::now() + VERIFY_EVERY;
        let mut is_failing = false;
        loop {
            changes.borrow_and_update();
            let failed = self.reconcile(session, &mut registered).await.err();
            if let Some((item, error)) = failed.as_ref().filter(|_| !is_failing) {
                warn!(%item, error = error as &dyn std::error::Error, "not registered: tried again every second");
            }
            is_failing = failed.is_some();
            let again_at = if is_failing { verify_at.min(Instant::now() + RETRY) } else { verify_at };
            tokio::select! {
                () = changed(&mut changes) => {}
                () = sleep_until(again_at) => {}
            }
            if Instant::now() >= verify_at {
                self.verify(&mut registered).await;
                verify_at = Instant::now() + VERIFY_EVERY;
            }
        }
    }

    /// Puts what is missing and removes what is too much.
    async fn reconcile(
        &self,
        session: &Session,
        registered: &mut Items,
    ) -> Result<(), (String, ClientError)> {
        let wanted: Items =
            self.shared.table().items().map(|source| (source.item.clone(), source.file.clone())).collect();
        let missing = wanted.iter().filter(|(item, _)| !registered.contains_key(*item));
        let puts = missing.map(|(item, file)| Change::Put(self.item(item, file)));
        let surplus = registered.keys().filter(|item| !wanted.contains_key(*item));
        let changes: Vec<Change> = puts.chain(surplus.map(|item| Change::Remove(item.clone()))).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let (session, pool) = (session.clone(), self.registration.pool.clone());
        let made = changes.into_iter().map(move |change| make(session.clone(), pool.clone(), change));
        let made: Vec<_> = stream::iter(made).buffer_unordered(AT_ONCE).collect().await;

        let mut failed = None;
        for (change, outcome) in made {
            match (change, outcome) {
                (Change::Put(item), Ok(())) => {
                    registered.insert(item.name.clone(), wanted[&item.name].clone());
                }
                (Change::Remove(item), Ok(())) => drop(registered.remove(&item)),
                (Change::Put(ItemCreate { name: item, .. }) | Change::Remove(item), Err(error)) => {
                    failed = Some((item, error));
                }
            }
        }
        match failed {
            Some(failed) => Err(failed),
            None => {
                info!(items = registered.len(), "items registered");
                Ok(())
            }
        }
    }

    fn item(&self, item: &str, file: &str) -> ItemCreate {
        ItemCreate {
            name: item.to_owned(),
            address: self.registration.advertise.clone(),
            labels: labels(&self.owner.app, &self.owner.host, file),
            ..ItemCreate::default()
        }
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

/// A difference between what is registered and what should be.
enum Change {
    Put(ItemCreate),
    Remove(String),
}

async fn make(session: Session, pool: String, change: Change) -> (Change, Result<(), ClientError>) {
    let made = match &change {
        Change::Put(item) => session.put_item(&pool, item).await,
        Change::Remove(item) => session.remove_item(&pool, item).await,
    };
    (change, made)
}

/// The sender is in the table, which outlives this.
async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
