//! The two times that a leader gives a command.

/// When a command was proposed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// The leader's time of day, in milliseconds since 1970. It is shown, and decides nothing:
    /// it jumps when somebody sets a clock.
    pub wall_ms: u64,
    /// The cluster's clock, in milliseconds: the time for which the cluster has had a leader,
    /// by the leaders' monotonic clocks. It never goes back, and is what every wait is counted by.
    pub clock_ms: u64,
}

impl Timestamp {
    /// Both times are `ms`.
    #[must_use]
    pub fn at(ms: u64) -> Self {
        Self { wall_ms: ms, clock_ms: ms }
    }
}
