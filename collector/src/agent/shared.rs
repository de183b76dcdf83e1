//! What the parts of an agent share: the table of sources and the hints.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::hints::Hints;
use super::table::Table;

/// Shared by the follower, the server and the registrar.
#[derive(Debug, Default)]
pub struct Shared {
    table: Mutex<Table>,
    /// Where to look before the next scan.
    pub hints: Hints,
}

impl Shared {
    /// The table. To be held for a few lines, without blocking or awaiting.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        // A panic under the lock is a bug elsewhere; the table has no state in
        // between that would make it worse.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
