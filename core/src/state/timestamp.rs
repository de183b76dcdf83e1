//! The two times that a leader stamps on a command.

/// When a command was proposed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timestamp {
    /// Leader's wall clock, in milliseconds since the Unix epoch; for display only, it can jump.
    pub wall_ms: u64,
    /// Cluster clock: monotonic milliseconds since the cluster was created, not counting time in
    /// which no server ran. Grace periods and TTLs are measured by it.
    pub cluster_ms: u64,
}

impl Timestamp {
    /// A timestamp with both times at `ms`.
    #[must_use]
    pub fn at(ms: u64) -> Self {
        Self { wall_ms: ms, cluster_ms: ms }
    }
}
