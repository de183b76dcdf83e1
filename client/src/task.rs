//! Tasks that others rely on: their end, a panic included, is reported. Without that, a tokio task
//! that panics or is dropped with its runtime leaves its waiters waiting for ever.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

/// Pause before a task that panicked is started again.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Runs `task` in the background. `on_end` is called when it has returned, has panicked (which is
/// logged as an error) or was dropped with its runtime.
pub(crate) fn spawn_vital(
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
    on_end: impl FnOnce() + Send + 'static,
) {
    // Made before the task first runs: it may be dropped before that.
    let end = OnEnd { name, on_end: Some(on_end) };
    tokio::spawn(async move {
        let _end = end;
        task.await;
    });
}

struct OnEnd<F: FnOnce()> {
    name: &'static str,
    on_end: Option<F>,
}

impl<F: FnOnce()> Drop for OnEnd<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked: this is a bug");
        }
        if let Some(on_end) = self.on_end.take() {
            on_end();
        }
    }
}

/// Runs to its end what `start` makes. When that panics, the panic is logged as an error and
/// another is started after a pause.
pub(crate) async fn restart_on_panic<T: Future<Output = ()>>(
    name: &'static str,
    mut start: impl FnMut() -> T,
) {
    while AssertUnwindSafe(start()).catch_unwind().await.is_err() {
        tracing::error!(task = name, "a task panicked and is started again: this is a bug");
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    async fn is_told_of_the_end_of(task: impl Future<Output = ()> + Send + 'static) {
        let (ended, notified) = oneshot::channel();
        spawn_vital("test", task, move || ended.send(()).unwrap());
        notified.await.expect("the end is reported");
    }

    #[tokio::test]
    async fn every_kind_of_end_is_told() {
        is_told_of_the_end_of(async {}).await;
        is_told_of_the_end_of(async { panic!("this is what the test is about") }).await;
    }

    #[test]
    fn a_task_that_goes_with_its_runtime_is_told() {
        let (ended, mut notified) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            spawn_vital("test", std::future::pending(), move || ended.send(()).unwrap());
        });
        drop(runtime);
        notified.try_recv().expect("the end is reported");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again() {
        let starts = AtomicU32::new(0);
        let task = || async {
            assert!(starts.fetch_add(1, Ordering::Relaxed) == 2, "this is what the test is about");
        };
        restart_on_panic("test", task).await;
        assert_eq!(starts.into_inner(), 3);
    }
}
