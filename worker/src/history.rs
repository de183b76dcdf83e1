//! A record of when each bucket was worked on, by the machine's monotonic
//! clock, which all processes of one machine share. Whoever has the histories of
//! all workers can check that no bucket ever had two owners at one time.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// The pool.
    pub pool: String,
    /// The bucket.
    pub bucket: String,
    /// The member.
    pub member: String,
    /// The fence of its grant.
    pub fence: u64,
    /// Work began, or has ended.
    pub began: bool,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// A file that a history is appended to. Each event is one write, so that one
/// who is killed loses none that happened.
#[derive(Debug)]
pub struct History {
    file: Mutex<File>,
}

impl History {
    /// Opens the file, making it if there is none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Puts down an event. A failure is said: a history with gaps proves nothing.
    pub fn put(&self, event: &HistoryEvent) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        let mut file = self.file.lock().expect("no code panics while it holds this");
        if let Err(error) = file.write_all(&line) {
            tracing::error!(%error, "the history could not be written: it proves nothing from here on");
        }
    }
}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    now.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
