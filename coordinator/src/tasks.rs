//! Every task of a server has a name, an owner that waits for its end, and a
//! policy for errors: an operational one stops the server.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The tasks of one server.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Why the server stops by itself.
    failure: Arc<OnceLock<String>>,
}

impl Tasks {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), stop, failure: Arc::default() }
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

    /// Why the server stops by itself, if it does.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// Runs `work`, whose failure, panic or early end stops the server: without it, the server
    /// would seem to live and do only a part of its work.
    pub(crate) fn spawn_vital<E: std::fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.spawn_watched(name, work, Some("it ended although the server goes on"));
    }

    /// The same for `work` that can only panic.
    pub(crate) fn spawn_lasting(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_vital(name, work.map(Ok::<(), Infallible>));
    }

    /// The same for `work` that may end when it is done.
    pub(crate) fn spawn_finite<E: std::fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.spawn_watched(name, work, None);
    }

    fn spawn_watched<E: std::fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
        early_end: Option<&'static str>,
    ) {
        let (stop, failure) = (self.stop.clone(), Arc::clone(&self.failure));
        self.spawn(name, async move {
            let failed = match (AssertUnwindSafe(work).catch_unwind().await, early_end) {
                (Ok(Ok(())), None) => return,
                (Ok(Ok(())), Some(early)) => early.to_owned(),
                (Ok(Err(error)), _) => error.to_string(),
                // The panic has told the log where and why.
                (Err(_), _) => "it panicked".to_owned(),
            };
            if stop.is_cancelled() {
                return;
            }
            tracing::error!(task = name, error = failed, "a vital task failed: the server stops");
            // The first failure is the cause of the others.
            drop(failure.set(format!("{name}: {failed}")));
            stop.cancel();
        });
    }

    /// Waits until every task has ended.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vital_task_that_ends_early_stops_the_server_and_says_so() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn_finite("finite", std::future::ready(Ok::<(), Infallible>(())));
        tasks.spawn_lasting("lasting", std::future::ready(()));
        tasks.stop().cancelled().await;
        assert_eq!(tasks.failure().unwrap(), "lasting: it ended although the server goes on");
    }

    #[tokio::test]
    async fn tasks_that_end_because_the_server_stops_are_no_failure() {
        let tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop().clone();
        tasks.spawn_lasting("lasting", async move { stop.cancelled().await });
        tasks.stop().cancel();
        tasks.ended().await;
        assert_eq!(tasks.failure(), None);
    }
}
