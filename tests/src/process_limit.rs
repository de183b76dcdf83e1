//! Whose turn it is. The tests of one file run at the same time; on a small
//! machine that many clusters would starve each other, and a test that measures
//! would measure the others.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Tests with processes that run at once.
const AT_ONCE: u32 = 2;

static TURNS: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// The right to run processes, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: SemaphorePermit<'static>,
}

impl Turn {
    /// Waits for a place among the few that run at once.
    pub async fn shared() -> Self {
        Self::take(1).await
    }

    /// Waits until nobody else runs: for whoever measures time.
    pub async fn alone() -> Self {
        Self::take(AT_ONCE).await
    }

    async fn take(places: u32) -> Self {
        Self { _permit: TURNS.acquire_many(places).await.expect("the semaphore is never closed") }
    }
}
