//! Finds out what is collected for good: from the coordinator, never from a
//! request. Only the owner of a source's row can write its checkpoint, with the
//! fence of its grant; a request can be sent by anybody, and is a hint when to look.

use std::collections::{BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use rota_client::{Client, ClientError};
use rota_protocol::http::{CheckpointBody, Code, Encoding};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::readers::Confirmed;
use super::shared::Shared;
use super::source::Reader;
use crate::clock::Now;
use crate::collector::checkpoint::Checkpoint;

/// How long hints are gathered before they are followed, and how long one source
/// is not looked up again.
const GATHER: Duration = Duration::from_millis(200);
/// Most sources that are looked up after one gathering.
const BATCH_MAX: usize = 512;
/// Most that are looked up at the same time.
const AT_ONCE: usize = 16;
/// Pause when the coordinator does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Where checkpoints are read.
pub trait CheckpointSource: Send + Sync + Debug {
    /// Reads the checkpoint of an item; `None` if there is none.
    fn read<'a>(&'a self, item: &'a str) -> BoxFuture<'a, Result<Option<String>, ReadError>>;
}

/// Why a checkpoint cannot be read.
pub type ReadError = Box<dyn Error + Send + Sync>;

/// The checkpoints of a pool in the coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    /// The coordinator's client.
    pub client: Client,
    /// The pool.
    pub pool: String,
}

impl Coordinator {
    async fn fetch(&self, item: &str) -> Result<Option<String>, ReadError> {
        let path = Client::path(["v1", "pools", &self.pool, "checkpoints", item]);
        match self.client.get::<CheckpointBody>(&path).await {
            Ok(CheckpointBody { data, encoding: Encoding::Utf8, .. }) => Ok(Some(data)),
            Ok(_) => Err(ClientError::BadAnswer("the checkpoint is no text".to_owned()).into()),
            Err(error) if matches!(error.code(), Some(Code::NoCheckpoint | Code::NoPool)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl CheckpointSource for Coordinator {
    fn read<'a>(&'a self, item: &'a str) -> BoxFuture<'a, Result<Option<String>, ReadError>> {
        Box::pin(self.fetch(item))
    }
}

/// The items whose checkpoints are to be read soon. Each is a source that there
/// is, so there are never more than those.
#[derive(Debug, Default)]
pub struct Unconfirmed {
    items: Mutex<Queue>,
    added: Notify,
}

/// Items in the order in which they were added, each once: no number of hints for some
/// sources keeps others waiting.
#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<String>,
    items: BTreeSet<String>,
}

impl Unconfirmed {
    /// Adds an item.
    pub fn add(&self, item: &str) {
        let is_new = {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = !items.items.contains(item) && items.items.insert(item.to_owned());
            if is_new {
                items.order.push_back(item.to_owned());
            }
            is_new
        };
        if is_new {
            self.added.notify_one();
        }
    }

    fn take(&self) -> Vec<String> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        let count = items.order.len().min(BATCH_MAX);
        let batch: Vec<String> = items.order.drain(..count).collect();
        for item in &batch {
            items.items.remove(item);
        }
        if !items.order.is_empty() {
            self.added.notify_one();
        }
        batch
    }
}

/// Reads the checkpoints of items as they are added, until `shutdown` is
/// cancelled.
///
/// Only sources that have something to release are added, and hints of many are
/// gathered: ten thousand files that rotate at midnight cost ten thousand small
/// reads within seconds, and forged hints cost no more than that.
pub async fn confirm(
    checkpoints: Arc<dyn CheckpointSource>,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = confirm_all(&*checkpoints, &shared) => {}
        // What was not confirmed yet is so after the next start.
        () = shutdown.cancelled() => {}
    }
}

async fn confirm_all(checkpoints: &dyn CheckpointSource, shared: &Shared) {
    let mut failing = CheckpointFailures::default();
    loop {
        shared.unconfirmed.added.notified().await;
        sleep(GATHER).await;
        let reads = shared.unconfirmed.take().into_iter().map(|item| async move {
            let read = checkpoints.read(&item).await;
            (read, item)
        });
        let read: Vec<_> = stream::iter(reads).buffer_unordered(AT_ONCE).collect().await;
        let mut has_failed = false;
        failing.has_warned = false;
        for (outcome, item) in read {
            match outcome {
                Ok(Some(data)) => match Checkpoint::decode(&data) {
                    Ok(checkpoint) => {
                        failing.clear(&item);
                        note(shared, &item, checkpoint);
                    }
                    // Not read again until its owner has written another.
                    Err(error) => failing.warn(&item, "checkpoint not understood: files are kept", &error),
                },
                Ok(None) => failing.clear(&item),
                Err(error) => {
                    failing.warn(&item, "checkpoint not read: files are kept; retrying", &*error);
                    shared.unconfirmed.add(&item);
                    has_failed = true;
                }
            }
        }
        if has_failed {
            sleep(RETRY).await;
        }
    }
}

/// The items whose checkpoints could not be read or understood. Each is logged once, when that
/// begins: the first of a batch as a warning, so that an outage is not one line for each source.
#[derive(Debug, Default)]
struct CheckpointFailures {
    items: BTreeSet<String>,
    has_warned: bool,
}

impl CheckpointFailures {
    fn warn(&mut self, item: &str, what: &str, error: &(dyn Error + 'static)) {
        if !self.items.insert(item.to_owned()) {
            return;
        }
        if !std::mem::replace(&mut self.has_warned, true) {
            warn!(%item, error, "{what}");
        } else {
            debug!(%item, error, "{what}");
        }
    }

    fn clear(&mut self, item: &str) {
        self.items.remove(item);
    }
}

/// Notes what a checkpoint says.
fn note(shared: &Shared, item: &str, checkpoint: Checkpoint) {
    let Checkpoint { incarnation, offset, gaps, previous, .. } = checkpoint;
    let previous: Vec<_> = previous.into_iter().flatten().collect();
    let mut table = shared.table();
    let reader = Reader { incarnation, offset, gaps };
    if let Confirmed::BeyondEnd { key } = table.collected(item, reader, &previous, Now::read()) {
        warn!(%item, incarnation, offset, "the file has lost bytes that were collected: it is read again");
        table.observe_min_size(&key, offset);
        drop(table);
        shared.hints.file(key.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_are_added_again_and_again_keep_no_others_waiting() {
        let unconfirmed = Unconfirmed::default();
        let forged = || (0..BATCH_MAX).for_each(|n| unconfirmed.add(&format!("a{n}")));
        forged();
        unconfirmed.add("z");
        forged();
        assert_eq!(unconfirmed.take().len(), BATCH_MAX);
        forged();
        assert_eq!(unconfirmed.take()[0], "z");
    }
}
