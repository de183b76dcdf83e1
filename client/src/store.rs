//! The copy of a table on disk, in sled: what a machine can afford to lose and
//! rebuild (docs/decisions/0003-sled.md). Whatever is wrong with it is said, and
//! it is wiped and filled again from the coordinators.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::ClientError;
use crate::table::Table;

const FORMAT: u32 = 1;
/// Memory for sled's own cache. The table is in memory already.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// One pool's table on disk.
#[derive(Debug)]
pub(crate) struct DiskCopy {
    db: sled::Db,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    pool: String,
    /// When a coordinator last said that this is the table.
    confirmed_at_ms: u64,
    table: Table,
}

impl DiskCopy {
    /// Opens the copy in `path`, making it if there is none, and wiping it if it
    /// is damaged.
    ///
    /// # Errors
    /// When another process has it open, or it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, ClientError> {
        let fail = |cause: String| ClientError::Store { path: path.display().to_string(), cause };
        let config = || sled::Config::new().path(path).cache_capacity(CACHE_BYTES);
        let opened = match catch(|| config().open()) {
            Ok(db) => db,
            Err(cause) if cause.contains("lock") => {
                return Err(fail("another process has it open".to_owned()));
            }
            Err(cause) => {
                tracing::warn!(path = %path.display(), cause, "the copy of the table is damaged: it is wiped");
                if path.is_dir() {
                    std::fs::remove_dir_all(path).map_err(|e| fail(e.to_string()))?;
                } else if path.exists() {
                    return Err(fail("it is not a directory".to_owned()));
                }
                catch(|| config().open()).map_err(fail)?
            }
        };
        Ok(Self { db: opened, path: path.to_owned() })
    }

    /// The table of `pool`, and how long ago it was confirmed.
    pub(crate) fn load(&self, pool: &str) -> Option<(Table, Duration)> {
        let bytes = match catch(|| self.db.get(pool)) {
            Ok(found) => found?,
            Err(cause) => {
                tracing::warn!(path = %self.path.display(), cause, "the copy of the table cannot be read");
                return None;
            }
        };
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(stored) if stored.format == FORMAT && stored.pool == pool => {
                let age = now_ms().saturating_sub(stored.confirmed_at_ms);
                Some((stored.table, Duration::from_millis(age)))
            }
            _ => {
                tracing::warn!(path = %self.path.display(), pool, "the copy of the table is damaged: it is dropped");
                drop(self.db.remove(pool));
                None
            }
        }
    }

    /// Puts down the table as it was just confirmed. A failure is said, and
    /// costs nothing but the copy.
    pub(crate) fn save(&self, pool: &str, table: &Table) {
        let stored =
            Stored { format: FORMAT, pool: pool.to_owned(), confirmed_at_ms: now_ms(), table: table.clone() };
        let Ok(bytes) = serde_json::to_vec(&stored) else { return };
        let saved = catch(|| {
            self.db.insert(pool, bytes)?;
            self.db.flush()
        });
        if let Err(cause) = saved {
            tracing::warn!(path = %self.path.display(), cause, "the copy of the table cannot be written");
        }
    }
}

/// sled answers some kinds of damage with a panic: that is an error here.
fn catch<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("it could not be read back".to_owned()),
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_copy_is_wiped_and_filled_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tables");
        let table = Table { version: 7, ..Table::default() };
        let copy = DiskCopy::open(&path).unwrap();
        copy.save("p", &table);
        drop(copy);
        assert_eq!(DiskCopy::open(&path).unwrap().load("p").unwrap().0, table);

        for entry in std::fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, b"garbage").unwrap();
            }
        }
        let copy = DiskCopy::open(&path).unwrap();
        assert!(copy.load("p").is_none());
        copy.save("p", &table);
        assert!(copy.load("p").is_some());
    }

    #[test]
    fn a_copy_in_use_is_not_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let first = DiskCopy::open(dir.path()).unwrap();
        first.save("p", &Table::default());
        let error = DiskCopy::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        assert!(first.load("p").is_some());
    }
}
