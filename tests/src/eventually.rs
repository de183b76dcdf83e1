//! Waiting for something to become true.

use std::time::Duration;

use tokio::time::Instant;

/// Pause between two looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The pause between two looks.
pub(crate) async fn pause() {
    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
}

/// Looks until `look` finds what it looks for, and returns that.
///
/// # Panics
/// When it has not after `within`; the message has what the last look saw.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        let seen = match tokio::time::timeout_at(deadline + within, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => format!("{seen:#}"),
            Err(_) => "the look itself did not end".to_owned(),
        };
        assert!(Instant::now() < deadline, "{what}: not within {within:?}; last seen: {seen}");
        pause().await;
    }
}
