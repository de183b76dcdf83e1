//! Records what a look has changed, and then lets readers see it: step 4 of a
//! look. A reader is told of an incarnation when the index has it, so that a restart
//! does not forget what a checkpoint names. When the index cannot be written,
//! sources are served all the same: an incarnation that is forgotten is read twice
//! and recorded as a gap, but files that nobody reads are lost when they are deleted.

use std::error::Error;

use tracing::{error, info};

use super::follow::Follower;
use super::index::IndexError;
use super::open_files::Key;
use super::scan::Scope;
use super::source::Source;
use crate::clock::Now;

/// How long an index that cannot be written is left alone before it is opened
/// again.
const REOPEN_MS: u64 = 2_000;
/// How often it is said that the index cannot be written.
const SAY_MS: u64 = 60_000;

/// Whether the index can be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum IndexState {
    /// It could be the last time.
    #[default]
    Written,
    /// It could not.
    Failing {
        /// When it was opened again last, by the monotonic clock.
        reopened_ms: u64,
        /// When that was said last.
        said_ms: u64,
    },
}

impl Follower {
    /// Records what changed, and lets readers see new incarnations.
    pub(super) fn settle(&mut self, scope: &Scope, now: Now) {
        if let IndexState::Failing { reopened_ms, .. } = self.index_state
            && now.monotonic_ms.saturating_sub(reopened_ms) < REOPEN_MS
        {
            return self.serve_unrecorded();
        }
        let is_all = *scope == Scope::All;
        // One write that failed has the index refuse all others: it is opened again,
        // and may lack anything that was not flushed.
        let recorded = match self.index_state {
            IndexState::Written => self.record(is_all, now).or_else(|_| self.reopen_and_record(now)),
            IndexState::Failing { .. } => self.reopen_and_record(now),
        };
        match recorded {
            Ok(()) if self.index_state == IndexState::Written => {}
            Ok(()) => {
                info!("index written again");
                self.index_state = IndexState::Written;
                self.shared.table().index_error = None;
            }
            Err(failure) => {
                self.note_failure(&failure, now);
                self.serve_unrecorded();
            }
        }
    }

    fn note_failure(&mut self, failure: &IndexError, now: Now) {
        let said_ms = match self.index_state {
            IndexState::Failing { said_ms, .. } if now.monotonic_ms.saturating_sub(said_ms) < SAY_MS => {
                said_ms
            }
            _ => {
                let error: &dyn Error = failure;
                error!(error, "index not written; sources are served, but a restart would read them again");
                now.monotonic_ms
            }
        };
        self.index_state = IndexState::Failing { reopened_ms: now.monotonic_ms, said_ms };
        self.shared.table().index_error = Some(crate::naming::error_chain(failure));
    }

    fn reopen_and_record(&mut self, now: Now) -> Result<(), IndexError> {
        self.index.reopen()?;
        self.shared.table().mark_all_dirty();
        self.record(true, now)
    }

    fn record(&self, is_all: bool, now: Now) -> Result<(), IndexError> {
        let dirty = {
            let mut table = self.shared.table();
            if is_all {
                table.seal_gaps(now);
            }
            table.take_dirty(is_all)
        };
        let Some(dirty) = dirty else { return Ok(()) };
        let write = || {
            dirty.iter().try_for_each(|source| self.index.put(source))?;
            let fresh: Vec<Key> = dirty.iter().flat_map(unrecorded).collect();
            let has_unpublished_gaps = dirty.iter().any(Source::has_unpublished_gaps);
            if !fresh.is_empty() || has_unpublished_gaps || self.index_state != IndexState::Written {
                self.index.flush()?;
                let mut table = self.shared.table();
                table.recorded(&fresh);
                table.publish_gaps(&dirty);
            }
            if is_all { self.index.put_last_look(now.unix_ms) } else { Ok(()) }
        };
        write().inspect_err(|_| self.shared.table().mark_dirty(&dirty))
    }

    /// Lets readers see what is not recorded.
    fn serve_unrecorded(&self) {
        let mut table = self.shared.table();
        let fresh: Vec<Key> = table.iter().flat_map(unrecorded).collect();
        table.recorded(&fresh);
    }
}

fn unrecorded(source: &Source) -> Vec<Key> {
    let fresh = source.incarnations.iter().filter(|i| !i.recorded);
    fresh.map(|i| (source.path.clone(), i.number)).collect()
}
