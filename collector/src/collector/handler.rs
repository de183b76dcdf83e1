//! The work of a collector on one source: glue between a worker's lease and
//! [`pull`].

use std::path::PathBuf;
use std::time::Duration;

use rota_client::{Client, ClientError};
use rota_core::pool::Item;
use rota_protocol::http::ItemBody;
use rota_worker::{Handler, HandlerError, Lease};
use tracing::{debug, error};

use super::checkpoint::Checkpoints;
use super::fetch::Agents;
use super::pull::{Job, Progress, PullError, pull};
use super::sink::{LOCK_WAIT, Place, SinkError};

/// Pause before an output that does not fit its checkpoint is looked at again:
/// somebody has to do something about it.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// Collects the source of each lease.
#[derive(Debug)]
pub(super) struct Collect {
    pub(super) agents: Agents,
    pub(super) client: Client,
    pub(super) out_dir: PathBuf,
}

impl Checkpoints for Lease {
    type Error = ClientError;

    async fn read(&self) -> Result<Option<String>, ClientError> {
        self.read_checkpoint().await
    }

    async fn write(&self, data: String) -> Result<(), ClientError> {
        self.write_checkpoint(data).await
    }
}

impl Handler for Collect {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        let Some(item) = self.item(&lease).await else { return Err("the item is not known".into()) };
        let place = match Place::of(&self.out_dir, lease.bucket(), &item) {
            Ok(place) => place,
            Err(refused) => {
                // The labels are part of the item's name: they do not get better.
                error!(item = lease.bucket(), error = &refused as &dyn std::error::Error, "source refused");
                lease.progress(format!("refused: {refused}"));
                return Ok(());
            }
        };
        let job = Job {
            place,
            address: item.address,
            fence: lease.fence(),
            checkpoints: lease.clone(),
            agents: self.agents.clone(),
            lock_wait: LOCK_WAIT,
        };
        match pull(&job, &lease.token(), |progress| lease.progress(text(progress))).await {
            Ok(()) | Err(PullError::Stopped) => Ok(()),
            Err(refused) if is_refusal(&refused) => {
                error!(item = lease.bucket(), error = &refused as &dyn std::error::Error, "source refused");
                lease.progress(format!("refused: {refused}"));
                lease.sleep(REFUSED_RETRY).await;
                Err(refused.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Collect {
    /// What the item says now. The lease knows what it said when the bucket was
    /// granted; since then the agent may have moved to another address.
    async fn item(&self, lease: &Lease) -> Option<Item> {
        let path = Client::path(["v1", "pools", lease.pool(), "items", lease.bucket()]);
        match self.client.get::<ItemBody>(&path).await {
            Ok(body) => Some(body.item),
            Err(error) => {
                debug!(item = lease.bucket(), %error, "item not looked up");
                lease.item().cloned()
            }
        }
    }
}

/// Whether only a person can help.
fn is_refusal(error: &PullError) -> bool {
    match error {
        PullError::Sink(SinkError::Short { .. } | SinkError::NoCheckpoint { .. })
        | PullError::Checkpoint { .. } => true,
        PullError::Sink(SinkError::Fenced { .. } | SinkError::Meddled { .. } | SinkError::Io { .. })
        | PullError::Agent(_)
        | PullError::Stopped => false,
    }
}

fn text(progress: Progress) -> String {
    let Progress { checkpoint, behind } = progress;
    format!("incarnation {} offset {} behind {behind}", checkpoint.incarnation, checkpoint.offset)
}
