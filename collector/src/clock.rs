//! The one place that reads clocks. Whatever decides takes the time as an
//! argument. The wall clock names incarnations and dates records; it can be set at
//! any time, so durations are measured with the monotonic clock, whose readings
//! mean nothing to another process and are never stored.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, by this machine's clock.
    pub unix_ms: u64,
    /// Milliseconds since this process first read a clock. Never goes back.
    pub monotonic_ms: u64,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn read() -> Self {
        Self { unix_ms: unix_ms(), monotonic_ms: monotonic_ms() }
    }
}

/// Milliseconds since 1970, by this machine's clock.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since this process first read a clock. Never goes back.
#[must_use]
pub fn monotonic_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}
