//! The work of a collector on one source: glue between a worker's lease and
//! [`pull`].

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use rota_client::{Client, ClientError};
use rota_core::pool::Item;
use rota_protocol::http::{FAILED, ItemBody};
use rota_worker::{Handler, HandlerError, Lease};
use tracing::{debug, error};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::fetch::Agents;
use super::pull::{Job, Progress, PullError, pull};
use super::sink::{LOCK_WAIT, Modes, Place, SinkError};
use crate::naming::error_chain;

/// Pause before a source that only a person can help is tried again.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// Longest text of a failure that is reported whole. The middle of a longer one
/// is left out: the path is at the beginning, the cause at the end.
const FAILURE_CHARS_MAX: usize = 180;

/// Collects the source of each lease.
#[derive(Debug)]
pub(super) struct Collect {
    pub(super) agents: Agents,
    pub(super) client: Client,
    pub(super) out_dir: PathBuf,
    pub(super) modes: Modes,
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
        let place = match Place::of(&self.out_dir, lease.bucket(), &item, self.modes) {
            Ok(place) => place,
            Err(refused) => {
                // The labels are part of the item's name: they do not get better.
                error!(item = lease.bucket(), error = &refused as &dyn Error, "source refused");
                lease.progress(refusal(&refused));
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
                error!(item = lease.bucket(), error = &refused as &dyn Error, "source refused");
                lease.progress(refusal(&refused));
                lease.sleep(REFUSED_RETRY).await;
                Err(format!("refused: {}", failure(&refused)).into())
            }
            // With its causes: whoever reports it shows the text alone.
            Err(error) => Err(failure(&error).into()),
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
                debug!(item = lease.bucket(), error = &error as &dyn Error, "item not looked up");
                lease.item().cloned()
            }
        }
    }
}

/// Whether only a person can help.
fn is_refusal(error: &PullError) -> bool {
    match error {
        PullError::Sink(SinkError::OtherDirectory { .. } | SinkError::NoCheckpoint { .. })
        | PullError::Checkpoint { .. } => true,
        PullError::Sink(
            SinkError::Fenced { .. }
            | SinkError::Meddled { .. }
            | SinkError::Replaced { .. }
            | SinkError::Io { .. },
        )
        | PullError::Agent(_)
        | PullError::BeyondEnd { .. }
        | PullError::Stopped => false,
    }
}

fn text(progress: Progress) -> String {
    match progress {
        Progress { checkpoint: Some(Checkpoint { incarnation, offset, .. }), behind } => {
            format!("incarnation {incarnation} offset {offset} behind {behind}")
        }
        Progress { checkpoint: None, .. } => "nothing to read yet".to_owned(),
    }
}

/// What is reported of a source that stands still until a person helps. It begins
/// as every failure does, so it counts as no progress and `rota status` shows it.
fn refusal(error: &dyn Error) -> String {
    format!("{FAILED}refused: {}", failure(error))
}

/// What went wrong with all its causes, in a bounded text.
fn failure(error: &dyn Error) -> String {
    let text = error_chain(error);
    let count = text.chars().count();
    if count <= FAILURE_CHARS_MAX {
        return text;
    }
    let (head, tail) = (FAILURE_CHARS_MAX / 2, FAILURE_CHARS_MAX / 2 - 3);
    let (head, tail): (String, String) =
        (text.chars().take(head).collect(), text.chars().skip(count - tail).collect());
    format!("{head}...{tail}")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failure_is_told_with_its_cause_however_long_its_path_is() {
        let full = |path: &str| {
            let source = io::Error::from_raw_os_error(28);
            failure(&PullError::from(SinkError::Io { path: path.into(), source }))
        };
        assert_eq!(full("/out/x.log"), "/out/x.log: No space left on device (os error 28)");
        let long = full(&format!("/out/{}", "d/".repeat(500)));
        assert!(long.starts_with("/out/d/d/") && long.ends_with("No space left on device (os error 28)"));
        assert!(long.chars().count() <= FAILURE_CHARS_MAX, "{long}");
    }
}
