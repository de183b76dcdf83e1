//! Until when the work of one worker may go on: the deadline of its session's lease, or no
//! deadline in a pool whose work outlives it. The runner sets it; handlers that start something
//! ask for it, and the reaper enforces it for commands while this process is stopped.

use std::sync::atomic::{AtomicU64, Ordering};

use rota_client::BootInstant;
use tokio::sync::watch;

use crate::exec::reaper;

/// The deadline of one worker's work.
#[derive(Debug)]
pub(crate) struct WorkDeadline {
    /// Its name in this process. A session's id would do, but for its length.
    key: u64,
    until: watch::Sender<Option<BootInstant>>,
}

impl WorkDeadline {
    /// One that is past: nothing may begin before it is set.
    pub(crate) fn new() -> Self {
        static LAST_KEY: AtomicU64 = AtomicU64::new(0);
        let key = LAST_KEY.fetch_add(1, Ordering::Relaxed) + 1;
        Self { key, until: watch::Sender::new(Some(BootInstant::BOOT)) }
    }

    /// The work may go on until then; for ever if `None`.
    pub(crate) fn set(&self, until: Option<BootInstant>) {
        if *self.until.borrow() == until {
            return;
        }
        // The reaper first: it must know the deadline before any work begins under it.
        reaper::renew(self.key, until);
        self.until.send_replace(until);
    }

    /// What the reaper knows it by.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Whether work may not go on now.
    pub(crate) fn is_past(&self) -> bool {
        self.until.borrow().is_some_and(BootInstant::is_past)
    }

    /// Returns when work may go on: at once, or when the lease is held again.
    pub(crate) async fn allows_work(&self) {
        let mut until = self.until.subscribe();
        // The sender lives as long as this.
        drop(until.wait_for(|until| until.is_none_or(|until| !until.is_past())).await);
    }
}

impl Drop for WorkDeadline {
    fn drop(&mut self) {
        reaper::close(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_waits_for_a_lease_that_is_held() {
        let deadline = WorkDeadline::new();
        assert!(deadline.allows_work().now_or_never().is_none(), "nothing has been said yet");
        deadline.set(Some(BootInstant::now() - Duration::from_secs(1)));
        let mut waiting = pin!(deadline.allows_work());
        assert!(waiting.as_mut().now_or_never().is_none());
        deadline.set(Some(BootInstant::now() + Duration::from_secs(3600)));
        waiting.await;
        deadline.set(None);
        assert!(deadline.allows_work().now_or_never().is_some());
    }
}
