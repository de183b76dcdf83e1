//! What the parts of an agent share: the table of sources, the hints, and by
//! which way files are opened.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::confirm::Unconfirmed;
use super::hints::Hints;
use super::open_files::OpenFiles;
use super::rooted_fs::RootedFs;
use super::table::Table;

/// Shared by the follower, the server, the registrar and whoever confirms
/// checkpoints.
#[derive(Debug)]
pub struct Shared {
    table: Mutex<Table>,
    /// Where to look before the next scan.
    pub hints: Hints,
    /// Whose checkpoints to read.
    pub unconfirmed: Unconfirmed,
    /// Opens files that nobody has vouched for.
    pub beneath: RootedFs,
}

impl Shared {
    /// No sources yet; at most `open_files_max` files that can be reached by a
    /// path will be kept open.
    #[must_use]
    pub fn new(beneath: RootedFs, open_files_max: usize) -> Self {
        let mut table = Table::default();
        table.open = OpenFiles::new(open_files_max);
        Self {
            table: Mutex::new(table),
            hints: Hints::default(),
            unconfirmed: Unconfirmed::default(),
            beneath,
        }
    }

    /// The table. To be held for a few lines, without blocking or awaiting.
    pub fn table(&self) -> MutexGuard<'_, Table> {
        // A panic under the lock is a bug elsewhere; the table has no state in
        // between that would make it worse.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
