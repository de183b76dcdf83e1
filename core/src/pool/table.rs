//! The table's memory of changes: which rows changed after a given version.
//!
//! The version of a table is the zxid of the last change to any of its rows, a
//! removal included. Of rows that stand, the last change of each is known. Of
//! removed ones a bounded number is remembered, as long as the server runs; whoever is further
//! behind gets the whole table.

use imbl::{OrdMap, OrdSet};

use super::Bucket;
use crate::Zxid;

/// How many removals are remembered. At 100 bytes each, a megabyte a pool.
const REMOVED_MAX: usize = 10_000;

/// What changed after a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// The version asked for is too old: take the whole table.
    Whole,
    /// These rows were changed, and these removed.
    Rows {
        /// Buckets whose row is new or changed.
        changed: Vec<Bucket>,
        /// Buckets whose row is gone.
        removed: Vec<Bucket>,
    },
}

/// When each row changed last.
#[derive(Debug, Clone, Default)]
pub struct TableIndex {
    version: Zxid,
    /// From this version on, every removal is remembered.
    floor: Zxid,
    changed: OrdSet<(Zxid, Bucket)>,
    at: OrdMap<Bucket, Zxid>,
    removed: OrdMap<Bucket, Zxid>,
}

impl TableIndex {
    /// An index of a table of that version, from which no row was removed after `floor`.
    #[must_use]
    pub fn starting_at(version: Zxid, floor: Zxid) -> Self {
        Self { version, floor, ..Self::default() }
    }

    /// The table's version.
    #[must_use]
    pub fn version(&self) -> Zxid {
        self.version
    }

    /// Notes that something happened to the rows' parent at `zxid`.
    pub fn advance(&mut self, zxid: Zxid) {
        self.version = self.version.max(zxid);
    }

    /// Notes that a row stands since `zxid`.
    pub fn row_changed(&mut self, bucket: &Bucket, zxid: Zxid) {
        if let Some(before) = self.at.insert(bucket.clone(), zxid) {
            self.changed.remove(&(before, bucket.clone()));
        }
        self.changed.insert((zxid, bucket.clone()));
        self.removed.remove(bucket);
        self.version = self.version.max(zxid);
    }

    /// Notes that a row was removed at `zxid`.
    pub fn row_removed(&mut self, bucket: &Bucket, zxid: Zxid) {
        if let Some(before) = self.at.remove(bucket) {
            self.changed.remove(&(before, bucket.clone()));
        }
        self.removed.insert(bucket.clone(), zxid);
        self.version = self.version.max(zxid);
        if self.removed.len() > REMOVED_MAX {
            self.forget_older_half();
        }
    }

    fn forget_older_half(&mut self) {
        let mut zxids: Vec<Zxid> = self.removed.values().copied().collect();
        zxids.sort_unstable();
        self.floor = zxids[zxids.len() / 2];
        let kept = self.removed.iter().filter(|(_, zxid)| **zxid > self.floor);
        self.removed = kept.map(|(bucket, zxid)| (bucket.clone(), *zxid)).collect();
    }

    /// The rows that stand and changed after version `since`, with when they did last.
    pub fn changed_after(&self, since: Zxid) -> impl Iterator<Item = (Zxid, &Bucket)> {
        // Bucket 0 is the smallest of all, so this range is over zxids alone.
        let next = since.checked_add(1).map(|next| (next, Bucket::number(0)));
        next.into_iter().flat_map(|next| self.changed.range(next..)).map(|(zxid, bucket)| (*zxid, bucket))
    }

    /// Whether the changes after version `since` are still available (not compacted).
    #[must_use]
    pub fn is_delta_available(&self, since: Zxid) -> bool {
        since >= self.floor
    }

    /// What changed after version `since`.
    #[must_use]
    pub fn since(&self, since: Zxid) -> Delta {
        if !self.is_delta_available(since) {
            return Delta::Whole;
        }
        let changed = self.changed_after(since).map(|(_, b)| b.clone()).collect();
        let removed = self.removed.iter().filter(|(_, z)| **z > since).map(|(b, _)| b.clone()).collect();
        Delta::Rows { changed, removed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(index: &TableIndex, since: Zxid) -> (Vec<String>, Vec<String>) {
        match index.since(since) {
            Delta::Whole => panic!("whole"),
            Delta::Rows { changed, removed } => (
                changed.iter().map(Bucket::to_string).collect(),
                removed.iter().map(Bucket::to_string).collect(),
            ),
        }
    }

    #[test]
    fn a_delta_has_each_row_once_as_it_is_now() {
        let mut index = TableIndex::starting_at(10, 10);
        index.row_changed(&Bucket::new("a"), 11);
        index.row_changed(&Bucket::new("b"), 12);
        index.row_changed(&Bucket::new("a"), 13);
        index.row_removed(&Bucket::new("b"), 14);
        assert_eq!(index.version(), 14);
        assert_eq!(rows(&index, 10), (vec!["a".into()], vec!["b".into()]));
        assert_eq!(rows(&index, 13), (vec![], vec!["b".into()]));
        assert_eq!(rows(&index, 14), (vec![], vec![]));
        assert_eq!(index.since(9), Delta::Whole);
        index.row_changed(&Bucket::new("b"), 15);
        assert_eq!(rows(&index, 14), (vec!["b".into()], vec![]));
    }

    #[test]
    fn removals_are_forgotten_in_bounds_and_then_the_whole_table_is_asked_for() {
        let mut index = TableIndex::starting_at(0, 0);
        for n in 1..=REMOVED_MAX as u64 + 1 {
            index.row_removed(&Bucket::new(&format!("x{n}")), n);
        }
        assert_eq!(index.since(1), Delta::Whole);
        let (_, removed) = rows(&index, REMOVED_MAX as u64);
        assert_eq!(removed.len(), 1);
    }
}
