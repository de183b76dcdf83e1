//! Repeated messages: the same one is logged once, and then every half minute with how
//! often it occurred.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Pause between two lines of the same message.
const PERIOD: Duration = Duration::from_secs(30);
/// Messages that are told apart. A stranger can make up as many as it likes: beyond the
/// bound the oldest are forgotten.
const MESSAGES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    seen: Mutex<BTreeMap<(u64, String), (Instant, u64)>>,
}

impl LogLimit {
    /// How often a message about `peer` has occurred since it was last logged, if it is to be
    /// logged now.
    pub(crate) fn due(&self, peer: u64, message: &str) -> Option<u64> {
        let now = Instant::now();
        let mut seen = self.seen.lock().expect("no code panics while it holds this");
        let key = (peer, message.to_owned());
        if let Some((logged_at, count)) = seen.get_mut(&key) {
            *count += 1;
            if now - *logged_at < PERIOD {
                return None;
            }
            *logged_at = now;
            return Some(std::mem::take(count));
        }
        if seen.len() >= MESSAGES_MAX
            && let Some(oldest) = seen.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone())
        {
            seen.remove(&oldest);
        }
        seen.insert(key, (now, 0));
        Some(1)
    }

    /// Forgets what was logged about `peer`. Returns whether anything was.
    pub(crate) fn forget(&self, peer: u64) -> bool {
        let mut seen = self.seen.lock().expect("no code panics while it holds this");
        let before = seen.len();
        seen.retain(|(of, _), _| *of != peer);
        seen.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_message_is_logged_once_and_then_counted() {
        let limit = LogLimit::default();
        assert_eq!(limit.due(2, "refused"), Some(1));
        assert_eq!(limit.due(2, "refused"), None);
        assert_eq!(limit.due(3, "refused"), Some(1));
        assert_eq!(limit.due(2, "other"), Some(1));
        tokio::time::advance(PERIOD).await;
        assert_eq!(limit.due(2, "refused"), Some(2));
        assert_eq!(limit.due(2, "refused"), None);
        assert!(limit.forget(2));
        assert!(!limit.forget(2));
        assert_eq!(limit.due(2, "refused"), Some(1));
        for n in 0..2 * MESSAGES_MAX {
            assert_eq!(limit.due(9, &n.to_string()), Some(1));
        }
        assert!(limit.seen.lock().unwrap().len() <= MESSAGES_MAX);
    }
}
