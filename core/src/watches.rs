//! Who watches which nodes: ZooKeeper's watches, which stand on the server that a
//! client is connected to.
//!
//! A watch on a node's data hears of its creation, change and removal; one on its
//! children, of their coming and going and of the node's own removal. A one-shot
//! watch is gone once it has heard; persistent ones stay; a recursive one hears
//! what happens to the data of the node and of all below it. Several watches of one
//! watcher on one node hear of one event once. Source: `WatchManager.java` and
//! `DataTree.java` of 3.9.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::EventKind;

/// Limit of the memory of one watcher's watches, in bytes: about 300,000 paths of ordinary
/// length. ZooKeeper has no limit.
pub const BYTES_PER_WATCHER_MAX: usize = 64 * 1024 * 1024;
/// Memory of one watched path besides its text, in bytes.
const PATH_OVERHEAD_BYTES: usize = 128;

/// The watches of the watcher would exceed [`BYTES_PER_WATCHER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("watch limit of this connection exceeded ({BYTES_PER_WATCHER_MAX} bytes)")]
pub struct TooManyWatches;

/// Who watches: a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watcher(pub u64);

/// What a watch hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchKind {
    /// The node and its data.
    Data,
    /// Its children.
    Children,
}

/// How long a watch stays, and how far it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchMode {
    /// Until it has heard of one event.
    OneShot,
    /// Until it is taken away.
    Persistent,
    /// Until it is taken away, and of all below the node too.
    Recursive,
}

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    data: Table,
    children: Table,
}

/// The watches of one side: each watcher has at most one of each reach on a path.
#[derive(Debug, Default)]
struct Table {
    by_path: BTreeMap<String, BTreeMap<Watcher, BTreeSet<WatchMode>>>,
    by_watcher: BTreeMap<Watcher, BTreeSet<String>>,
    /// Memory of each watcher's watches, in bytes.
    bytes: BTreeMap<Watcher, usize>,
    /// How many are recursive: without any, nobody above a node needs to be asked.
    recursive: usize,
}

/// How many watches there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Watchers that have any.
    pub watchers: usize,
    /// Paths that are watched.
    pub paths: usize,
    /// Watches, one for each pair of the two.
    pub watches: usize,
}

impl Watches {
    /// Puts a watch.
    ///
    /// # Errors
    /// If the limit would be exceeded.
    pub fn add(
        &mut self,
        watcher: Watcher,
        path: &str,
        side: WatchKind,
        reach: WatchMode,
    ) -> Result<(), TooManyWatches> {
        let added = self.side(side).added_bytes(watcher, path);
        self.check_capacity(watcher, added)?;
        self.side_mut(side).add(watcher, path, reach);
        Ok(())
    }

    /// Puts the watches that `addWatch` means: a persistent one hears of both sides.
    ///
    /// # Errors
    /// If the limit would be exceeded.
    pub fn add_persistent(
        &mut self,
        watcher: Watcher,
        path: &str,
        reach: WatchMode,
    ) -> Result<(), TooManyWatches> {
        let mut added = self.data.added_bytes(watcher, path);
        if reach != WatchMode::Recursive {
            added += self.children.added_bytes(watcher, path);
        }
        self.check_capacity(watcher, added)?;
        self.data.add(watcher, path, reach);
        if reach != WatchMode::Recursive {
            self.children.add(watcher, path, reach);
        }
        Ok(())
    }

    /// A watch that exists, or on a path that is watched already, always fits.
    fn check_capacity(&self, watcher: Watcher, added_bytes: usize) -> Result<(), TooManyWatches> {
        let of = |table: &Table| table.bytes.get(&watcher).copied().unwrap_or(0);
        match added_bytes == 0 || of(&self.data) + of(&self.children) + added_bytes <= BYTES_PER_WATCHER_MAX {
            true => Ok(()),
            false => Err(TooManyWatches),
        }
    }

    /// Who hears of what happened to the node at `path`.
    pub fn notify(&mut self, kind: EventKind, path: &str) -> BTreeSet<Watcher> {
        let mut watchers = match kind {
            EventKind::ChildrenChanged => return self.children.notify(path),
            EventKind::Created | EventKind::DataChanged | EventKind::Deleted => self.data.notify(path),
        };
        if kind == EventKind::Deleted {
            watchers.extend(self.children.notify(path));
        }
        watchers
    }

    /// Whether a watcher has a watch there; of any side and reach where it is not
    /// said which.
    #[must_use]
    pub fn has(
        &self,
        watcher: Watcher,
        path: &str,
        side: Option<WatchKind>,
        reach: Option<WatchMode>,
    ) -> bool {
        let of = |table: &Table| table.has(watcher, path, reach);
        match side {
            Some(WatchKind::Data) => of(&self.data),
            Some(WatchKind::Children) => of(&self.children),
            None => of(&self.data) || of(&self.children),
        }
    }

    /// Takes such watches away. False if there were none.
    pub fn remove(
        &mut self,
        watcher: Watcher,
        path: &str,
        side: Option<WatchKind>,
        reach: Option<WatchMode>,
    ) -> bool {
        let mut removed = false;
        if side != Some(WatchKind::Data) {
            removed |= self.children.remove(watcher, path, reach);
        }
        if side != Some(WatchKind::Children) {
            removed |= self.data.remove(watcher, path, reach);
        }
        removed
    }

    /// Takes away all watches of a watcher that is gone.
    pub fn forget(&mut self, watcher: Watcher) {
        self.data.forget(watcher);
        self.children.forget(watcher);
    }

    /// How many watches of one side there are.
    #[must_use]
    pub fn summary(&self, side: WatchKind) -> Summary {
        let table = self.side(side);
        Summary {
            watchers: table.by_watcher.len(),
            paths: table.by_path.len(),
            watches: table.by_watcher.values().map(BTreeSet::len).sum(),
        }
    }

    /// The paths that a watcher watches, of either side.
    #[must_use]
    pub fn paths_of(&self, watcher: Watcher) -> Vec<String> {
        let of = |table: &Table| table.by_watcher.get(&watcher).cloned().unwrap_or_default();
        let both: BTreeSet<String> = of(&self.data).union(&of(&self.children)).cloned().collect();
        both.into_iter().collect()
    }

    fn side(&self, side: WatchKind) -> &Table {
        match side {
            WatchKind::Data => &self.data,
            WatchKind::Children => &self.children,
        }
    }

    fn side_mut(&mut self, side: WatchKind) -> &mut Table {
        match side {
            WatchKind::Data => &mut self.data,
            WatchKind::Children => &mut self.children,
        }
    }
}

impl Table {
    /// Memory that a watch on `path` adds.
    fn added_bytes(&self, watcher: Watcher, path: &str) -> usize {
        let is_watched = self.by_watcher.get(&watcher).is_some_and(|paths| paths.contains(path));
        if is_watched { 0 } else { watch_bytes(path) }
    }

    fn add(&mut self, watcher: Watcher, path: &str, reach: WatchMode) {
        let reaches = self.by_path.entry(path.to_owned()).or_default().entry(watcher).or_default();
        if reaches.insert(reach) {
            self.recursive += usize::from(reach == WatchMode::Recursive);
            if self.by_watcher.entry(watcher).or_default().insert(path.to_owned()) {
                *self.bytes.entry(watcher).or_default() += watch_bytes(path);
            }
        }
    }

    fn notify(&mut self, path: &str) -> BTreeSet<Watcher> {
        let mut heard: BTreeSet<Watcher> = BTreeSet::new();
        if let Some(here) = self.by_path.get(path) {
            heard.extend(here.keys());
        }
        for watcher in heard.clone() {
            self.remove(watcher, path, Some(WatchMode::OneShot));
        }
        if self.recursive > 0 {
            for above in ancestors(path) {
                let there = self.by_path.get(above).into_iter().flatten();
                heard.extend(
                    there.filter(|(_, r)| r.contains(&WatchMode::Recursive)).map(|(watcher, _)| watcher),
                );
            }
        }
        heard
    }

    fn has(&self, watcher: Watcher, path: &str, reach: Option<WatchMode>) -> bool {
        let reaches = self.by_path.get(path).and_then(|watchers| watchers.get(&watcher));
        reaches.is_some_and(|reaches| reach.is_none_or(|reach| reaches.contains(&reach)))
    }

    fn remove(&mut self, watcher: Watcher, path: &str, reach: Option<WatchMode>) -> bool {
        let Some(watchers) = self.by_path.get_mut(path) else { return false };
        let Some(reaches) = watchers.get_mut(&watcher) else { return false };
        let before = reaches.len();
        let removed: Vec<WatchMode> =
            reaches.iter().copied().filter(|r| reach.is_none_or(|one| one == *r)).collect();
        for reach in removed {
            reaches.remove(&reach);
            self.recursive -= usize::from(reach == WatchMode::Recursive);
        }
        let changed = reaches.len() != before;
        if reaches.is_empty() {
            watchers.remove(&watcher);
            if watchers.is_empty() {
                self.by_path.remove(path);
            }
            if let Some(paths) = self.by_watcher.get_mut(&watcher) {
                paths.remove(path);
                if let Some(bytes) = self.bytes.get_mut(&watcher) {
                    *bytes -= watch_bytes(path);
                }
                if paths.is_empty() {
                    self.by_watcher.remove(&watcher);
                    self.bytes.remove(&watcher);
                }
            }
        }
        changed
    }

    fn forget(&mut self, watcher: Watcher) {
        for path in self.by_watcher.get(&watcher).cloned().unwrap_or_default() {
            self.remove(watcher, &path, None);
        }
    }
}

/// The path is stored twice: by path and by watcher.
fn watch_bytes(path: &str) -> usize {
    2 * path.len() + PATH_OVERHEAD_BYTES
}

/// The paths above `path`, the nearest first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    fn above(path: &str) -> Option<&str> {
        match path.rfind('/')? {
            _ if path == "/" => None,
            0 => Some("/"),
            at => Some(&path[..at]),
        }
    }
    std::iter::successors(above(path), |path| above(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Watcher = Watcher(1);
    const B: Watcher = Watcher(2);

    fn heard(watches: &mut Watches, kind: EventKind, path: &str) -> Vec<u64> {
        watches.notify(kind, path).into_iter().map(|watcher| watcher.0).collect()
    }

    #[test]
    fn a_one_shot_watch_hears_once_and_of_its_side() {
        let mut watches = Watches::default();
        watches.add(A, "/a", WatchKind::Data, WatchMode::OneShot).unwrap();
        watches.add(B, "/a", WatchKind::Children, WatchMode::OneShot).unwrap();
        assert_eq!(heard(&mut watches, EventKind::ChildrenChanged, "/a"), [2]);
        assert_eq!(heard(&mut watches, EventKind::DataChanged, "/a"), [1]);
        assert_eq!(heard(&mut watches, EventKind::Deleted, "/a"), [0u64; 0]);
        assert_eq!(watches.summary(WatchKind::Data), Summary::default());
        assert_eq!(watches.summary(WatchKind::Children), Summary::default());
    }

    #[test]
    fn a_removal_is_heard_of_once_by_who_watches_both_sides() {
        let mut watches = Watches::default();
        watches.add(A, "/a", WatchKind::Data, WatchMode::OneShot).unwrap();
        watches.add(A, "/a", WatchKind::Children, WatchMode::OneShot).unwrap();
        assert_eq!(heard(&mut watches, EventKind::Deleted, "/a"), [1]);
        assert!(!watches.has(A, "/a", None, None));
    }

    #[test]
    fn persistent_watches_stay_beside_one_shot_ones() {
        let mut watches = Watches::default();
        watches.add_persistent(A, "/a", WatchMode::Persistent).unwrap();
        watches.add(A, "/a", WatchKind::Data, WatchMode::OneShot).unwrap();
        for kind in
            [EventKind::DataChanged, EventKind::ChildrenChanged, EventKind::Deleted, EventKind::Created]
        {
            assert_eq!(heard(&mut watches, kind, "/a"), [1], "{kind:?}");
        }
        assert_eq!(heard(&mut watches, EventKind::DataChanged, "/a/b"), [0u64; 0]);
        assert!(!watches.has(A, "/a", Some(WatchKind::Data), Some(WatchMode::OneShot)));
        assert!(watches.remove(A, "/a", None, Some(WatchMode::Persistent)));
        assert!(!watches.remove(A, "/a", None, None));
    }

    #[test]
    fn recursive_watches_hear_of_nodes_below_and_not_of_their_children() {
        let mut watches = Watches::default();
        watches.add_persistent(A, "/a", WatchMode::Recursive).unwrap();
        watches.add_persistent(B, "/", WatchMode::Recursive).unwrap();
        assert_eq!(heard(&mut watches, EventKind::Created, "/a/b/c"), [1, 2]);
        assert_eq!(heard(&mut watches, EventKind::ChildrenChanged, "/a/b"), [0u64; 0]);
        assert_eq!(heard(&mut watches, EventKind::DataChanged, "/ab"), [2]);
        assert_eq!(heard(&mut watches, EventKind::Deleted, "/"), [2]);
        watches.forget(B);
        assert_eq!(heard(&mut watches, EventKind::DataChanged, "/ab"), [0u64; 0]);
        assert!(watches.remove(A, "/a", None, Some(WatchMode::Recursive)));
        assert_eq!(watches.data.recursive, 0);
    }

    #[test]
    fn watch_limit_is_enforced_and_removal_frees_capacity() {
        let mut watches = Watches::default();
        let path = |n: usize| format!("/{n:0>999}");
        let fit = BYTES_PER_WATCHER_MAX / watch_bytes(&path(0));
        for n in 0..fit {
            watches.add(A, &path(n), WatchKind::Data, WatchMode::OneShot).unwrap();
        }
        let one_more = |watches: &mut Watches, watcher| {
            watches.add(watcher, "/more", WatchKind::Children, WatchMode::OneShot).is_ok()
                && watches.add(watcher, &path(fit), WatchKind::Children, WatchMode::OneShot).is_ok()
        };
        assert!(!one_more(&mut watches, A));
        assert!(watches.add(A, &path(7), WatchKind::Data, WatchMode::OneShot).is_ok(), "it is there already");
        assert!(watches.add_persistent(A, &path(fit), WatchMode::Recursive).is_err());
        assert!(one_more(&mut watches, B), "another has room");
        assert!(watches.remove(A, "/more", None, None));
        assert_eq!(heard(&mut watches, EventKind::DataChanged, &path(7)), [1]);
        assert!(one_more(&mut watches, A));
        watches.forget(A);
        watches.forget(B);
        assert!(watches.data.bytes.is_empty() && watches.children.bytes.is_empty());
    }

    #[test]
    fn ancestors_of_paths() {
        let all = |path: &'static str| ancestors(path).collect::<Vec<_>>();
        assert_eq!(all("/a/bc/d"), ["/a/bc", "/a", "/"]);
        assert_eq!(all("/a"), ["/"]);
        assert_eq!(all("/"), [""; 0]);
    }
}
