//! Every task of a server has a name, an owner that waits for its end, and a
//! policy for errors: an operational one stops the server.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The tasks of one server.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop }
    }

    /// Cancelled when the server is to stop.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs `work` until it ends or the server stops.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        };
        self.tracker.spawn(task.instrument(tracing::debug_span!("task", name)));
    }

    /// Runs `work`, whose failure or panic stops the server: without it, the server
    /// would seem to live and do only a part of its work.
    pub(crate) fn spawn_vital<E: std::fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            let failed = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                // The panic has told the log where and why.
                Err(_) => "it panicked".to_owned(),
            };
            tracing::error!(task = name, error = failed, "a vital task failed: the server stops");
            stop.cancel();
        });
    }

    /// The same for `work` that can only panic.
    pub(crate) fn spawn_lasting(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_vital(name, work.map(Ok::<(), Infallible>));
    }

    /// Waits until every task has ended.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
