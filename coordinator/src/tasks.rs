//! Every task of a server has a name, an owner that waits for its end, and a
//! policy for errors: an operational one stops the server.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The tasks of one server.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    stopping: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop, stopping: CancellationToken::new() }
    }

    /// The server is being stopped in order: tasks that end on account of it have
    /// not failed.
    pub(crate) fn expect_ends(&self) {
        self.stopping.cancel();
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

    /// Runs `work`, whose failure stops the server.
    pub(crate) fn spawn_vital<E: std::fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let (stop, stopping) = (self.stop.clone(), self.stopping.clone());
        self.spawn(name, async move {
            let Err(error) = work.await else { return };
            if stopping.is_cancelled() {
                tracing::debug!(task = name, %error, "ended with the server");
            } else {
                tracing::error!(task = name, %error, "a vital task failed: the server stops");
                stop.cancel();
            }
        });
    }

    /// Waits until every task has ended.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
