//! The copy of a table on disk, in sled: what a machine can afford to lose and
//! rebuild (docs/decisions/0003-sled.md). Whatever is wrong with it is said, and
//! it is wiped and filled again from the coordinators.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rota_core::pool::Bucket;
use rota_protocol::http::RowBody;
use serde::{Deserialize, Serialize};

use crate::error::ClientError;
use crate::table::{Change, Table};

const FORMAT: u32 = 1;
/// The folder in the directory that the user names: never anything of theirs.
const FOLDER: &str = "rota-tables";
/// The key of a tree's [`Head`]. No bucket can have such a name.
pub(crate) const HEAD: &[u8] = b"\0head";
/// Memory for sled's own cache. The table is in memory already.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// Tables on disk: a tree for each pool, with a head and a record for each row.
#[derive(Debug)]
pub(crate) struct DiskCopy {
    db: sled::Db,
    path: PathBuf,
}

/// What is known of a table besides its rows.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    /// When a coordinator last said that this is the table.
    confirmed_at_ms: u64,
    version: u64,
    hashed: Option<u32>,
    addresses: BTreeMap<String, String>,
    /// How many rows there are: fewer are damage.
    rows: usize,
}

impl DiskCopy {
    /// Opens the copy in `directory`, making it if there is none, and wiping it if
    /// it is damaged. Nothing in the directory is touched but a folder of our own.
    ///
    /// # Errors
    /// When another process has it open, or it cannot be read or written.
    pub(crate) fn open(directory: &Path) -> Result<Self, ClientError> {
        let path = directory.join(FOLDER);
        let fail = |cause: String| ClientError::Store { path: directory.display().to_string(), cause };
        std::fs::create_dir_all(&path).map_err(|e| fail(e.to_string()))?;
        let config = || sled::Config::new().path(&path).cache_capacity(CACHE_BYTES);
        let db = match catch(|| config().open()) {
            Ok(db) => db,
            Err(fault) if fault.is_damage => {
                let cause = fault.cause;
                tracing::warn!(path = %path.display(), cause, "the copy of the table is damaged: it is wiped");
                std::fs::remove_dir_all(&path).map_err(|e| fail(e.to_string()))?;
                catch(|| config().open()).map_err(|fault| fail(fault.cause))?
            }
            Err(fault) => return Err(fail(fault.cause)),
        };
        Ok(Self { db, path })
    }

    /// The table of `pool`, and how long ago it was confirmed.
    pub(crate) fn load(&self, pool: &str) -> Option<(Table, Duration)> {
        match catch(|| self.db.open_tree(pool)).and_then(|tree| read(&tree)) {
            Ok(found) => found,
            Err(Fault { cause, .. }) => {
                tracing::warn!(path = %self.path.display(), pool, cause, "the copy of the table is damaged: it is dropped");
                drop(catch(|| self.db.drop_tree(pool)));
                None
            }
        }
    }

    /// Puts down the table as it was just confirmed; of its rows, those that
    /// `change` names. A failure is said, and costs nothing but the copy.
    pub(crate) fn save(&self, pool: &str, table: &Table, change: &Change) {
        if let Err(Fault { cause, .. }) = self.write(pool, table, change) {
            tracing::warn!(path = %self.path.display(), cause, "the copy of the table cannot be written");
        }
    }

    fn write(&self, pool: &str, table: &Table, change: &Change) -> Result<(), Fault> {
        let head = Head {
            format: FORMAT,
            confirmed_at_ms: now_ms(),
            version: table.version,
            hashed: table.hashed,
            addresses: table.addresses.clone(),
            rows: table.rows.len(),
        };
        let json = |e: serde_json::Error| Fault::damage(&e);
        let mut batch = sled::Batch::default();
        batch.insert(HEAD, serde_json::to_vec(&head).map_err(json)?);
        let changed: Box<dyn Iterator<Item = &Bucket>> = match change {
            Change::Whole => Box::new(table.rows.keys()),
            Change::Rows { changed, removed } => {
                removed.iter().for_each(|bucket| batch.remove(bucket.as_str()));
                Box::new(changed.iter())
            }
        };
        for bucket in changed {
            if let Some(row) = table.rows.get(bucket) {
                batch.insert(bucket.as_str(), serde_json::to_vec(row).map_err(json)?);
            }
        }
        catch(|| {
            let tree = self.db.open_tree(pool)?;
            if *change == Change::Whole {
                tree.clear()?;
            }
            tree.apply_batch(batch)?;
            tree.flush()
        })
        .map(drop)
    }
}

/// Reads a table back; `None` if there is none.
fn read(tree: &sled::Tree) -> Result<Option<(Table, Duration)>, Fault> {
    let mut records = tree.iter();
    decode(std::iter::from_fn(|| catch(|| records.next().transpose()).transpose()))
}

/// Decodes a tree's records: a head and the rows.
pub(crate) fn decode<B: AsRef<[u8]>>(
    records: impl Iterator<Item = Result<(B, B), Fault>>,
) -> Result<Option<(Table, Duration)>, Fault> {
    let mut table = Table::default();
    let mut head: Option<Head> = None;
    for record in records {
        let (key, value) = record?;
        let json = |e: serde_json::Error| Fault::damage(&e);
        if key.as_ref() == HEAD {
            head = Some(serde_json::from_slice(value.as_ref()).map_err(json)?);
        } else {
            let row: RowBody = serde_json::from_slice(value.as_ref()).map_err(json)?;
            table.rows.insert(Bucket::new(&row.bucket), row);
        }
    }
    let Some(head) = head else { return Ok(None) };
    if head.format != FORMAT || head.rows != table.rows.len() {
        return Err(Fault::damage(&"it is not whole"));
    }
    table.version = head.version;
    table.hashed = head.hashed;
    table.addresses = head.addresses;
    Ok(Some((table, Duration::from_millis(now_ms().saturating_sub(head.confirmed_at_ms)))))
}

/// What went wrong with the copy.
#[derive(Debug)]
pub(crate) struct Fault {
    cause: String,
    /// It is the copy's own fault: without it all is well.
    is_damage: bool,
}

impl Fault {
    fn damage(cause: &dyn std::fmt::Display) -> Self {
        Self { cause: cause.to_string(), is_damage: true }
    }

    fn of(error: &sled::Error) -> Self {
        let sled::Error::Io(io) = error else { return Self::damage(error) };
        let is_damage = matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
        // sled has no kind for it.
        let is_locked = io.to_string().contains("acquire lock");
        let cause = if is_locked { "another process has it open".to_owned() } else { error.to_string() };
        Self { cause, is_damage }
    }
}

/// sled answers some kinds of damage with a panic: that is an error here.
fn catch<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, Fault> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| Fault::of(&e)),
        Err(_) => Err(Fault::damage(&"it could not be read back")),
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
        let row = |bucket: u32, fence| RowBody {
            bucket: bucket.to_string(),
            fence,
            version: 1,
            ..RowBody::default()
        };
        let rows = (0..3).map(|n| (Bucket::number(n), row(n, 5))).collect();
        let mut table = Table { version: 7, rows, ..Table::default() };
        let copy = DiskCopy::open(&path).unwrap();
        copy.save("p", &table, &Change::Whole);
        table.version = 8;
        table.rows.insert(Bucket::number(1), row(1, 8));
        table.rows.remove(&Bucket::number(2));
        let change = Change::Rows { changed: vec![Bucket::number(1)], removed: vec![Bucket::number(2)] };
        copy.save("p", &table, &change);
        drop(copy);
        assert_eq!(DiskCopy::open(&path).unwrap().load("p").unwrap().0, table);

        for entry in std::fs::read_dir(path.join(FOLDER)).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, b"garbage").unwrap();
            }
        }
        let copy = DiskCopy::open(&path).unwrap();
        assert!(copy.load("p").is_none());
        copy.save("p", &table, &Change::Whole);
        assert!(copy.load("p").is_some());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["conf", "data.txt", "db"] {
            std::fs::write(dir.path().join(name), b"somebody's").unwrap();
        }
        DiskCopy::open(dir.path()).unwrap().save("p", &Table::default(), &Change::Whole);
        for name in ["conf", "data.txt", "db"] {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"somebody's");
        }
        let error = DiskCopy::open(&dir.path().join("conf")).unwrap_err();
        assert!(error.to_string().contains("conf"), "{error}");
        assert_eq!(std::fs::read(dir.path().join("conf")).unwrap(), b"somebody's");
    }

    #[test]
    fn a_copy_in_use_is_not_wiped() {
        let dir = tempfile::tempdir().unwrap();
        let first = DiskCopy::open(dir.path()).unwrap();
        first.save("p", &Table::default(), &Change::Whole);
        let error = DiskCopy::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        assert!(first.load("p").is_some());
    }
}
