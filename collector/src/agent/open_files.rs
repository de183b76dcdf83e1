//! The files that the agent keeps open. An open file can be read after it was
//! renamed and deleted, so all are kept open that the process may have.
//!
//! Two kinds. *Reachable* files can be opened again by their path. When there are
//! too many files, the reachable one that has been quiet for the longest is closed:
//! a look at a file is no use of it, or a scan of all files would close just those
//! that it comes to next. *Held* files are nowhere any more: closing one loses what
//! was not read of it, and only their own bounds make that happen.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Most held files; and no more than half of all.
pub const HELD_MAX: usize = 4_096;
/// Most bytes in held files. At either bound the one held longest is given up,
/// which is a gap: otherwise a machine whose logs nobody collects would fill its
/// disk with files that nobody sees.
pub const HELD_BYTES_MAX: u64 = 1 << 30;
/// Files kept open, unless configured otherwise: half of the usual limit of 1,024
/// descriptors, so that as many are left for connections.
pub const OPEN_FILES_DEFAULT: usize = 512;

/// An incarnation: its source's path and its number.
pub type Key = (PathBuf, u64);

/// Open files, by incarnation.
#[derive(Debug)]
pub struct OpenFiles {
    open: HashMap<Key, Open>,
    /// The reachable ones, the one that has been quiet for the longest first.
    reachable: BTreeMap<u64, Key>,
    /// The held ones, the one held longest first.
    held: BTreeMap<u64, Key>,
    held_bytes: u64,
    /// Counts what happens, to tell which was earlier.
    clock: u64,
    max: usize,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    /// Where it stands in `reachable` or `held`.
    at: u64,
    /// Its size when it became held; `None`: it is reachable.
    held_bytes: Option<u64>,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self::new(OPEN_FILES_DEFAULT)
    }
}

impl OpenFiles {
    /// None are open yet; at most `max` will be, and two at least.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            open: HashMap::new(),
            reachable: BTreeMap::new(),
            held: BTreeMap::new(),
            held_bytes: 0,
            clock: 0,
            max: max.max(2),
        }
    }

    /// The open file of an incarnation.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<File>> {
        self.open.get(key).map(|open| Arc::clone(&open.file))
    }

    /// Whether the file of an incarnation is open.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.open.contains_key(key)
    }

    /// How many more files can be kept open without closing one.
    #[must_use]
    pub fn room(&self) -> usize {
        self.max - self.open.len()
    }

    /// Keeps a file open, and closes a reachable one if there are too many.
    pub fn keep(&mut self, key: Key, file: Arc<File>) {
        if let Some(open) = self.open.get_mut(&key) {
            open.file = file;
            return self.touch(&key);
        }
        self.clock += 1;
        self.reachable.insert(self.clock, key.clone());
        self.open.insert(key, Open { file, at: self.clock, held_bytes: None });
        // Held files are half of them at most, so there is one.
        if self.open.len() > self.max
            && let Some((_, quiet)) = self.reachable.pop_first()
        {
            self.open.remove(&quiet);
        }
    }

    /// The same, unless it is open already.
    pub fn keep_if_absent(&mut self, key: &Key, file: Arc<File>) {
        if !self.contains(key) {
            self.keep(key.clone(), file);
        }
    }

    /// A file has grown: it is not the one to be closed next.
    pub fn touch(&mut self, key: &Key) {
        let Some(open) = self.open.get_mut(key).filter(|open| open.held_bytes.is_none()) else { return };
        self.clock += 1;
        self.reachable.remove(&open.at);
        open.at = self.clock;
        self.reachable.insert(self.clock, key.clone());
    }

    /// The file of an incarnation, which has `bytes`, is nowhere any more. Returns
    /// the incarnations that have to be given up, if there are too many.
    pub fn hold(&mut self, key: &Key, bytes: u64) -> Vec<Key> {
        let Some(open) = self.open.get_mut(key) else { return Vec::new() };
        self.clock += u64::from(open.held_bytes.is_none());
        match open.held_bytes {
            None => {
                self.reachable.remove(&open.at);
                open.at = self.clock;
                self.held.insert(self.clock, key.clone());
            }
            Some(before) => self.held_bytes -= before,
        }
        open.held_bytes = Some(bytes);
        self.held_bytes += bytes;
        let mut given_up = Vec::new();
        // The newest stays, however large it is.
        let held_max = HELD_MAX.min(self.max / 2);
        while self.held.len() > held_max || (self.held_bytes > HELD_BYTES_MAX && self.held.len() > 1) {
            let Some((_, longest)) = self.held.first_key_value().map(|(at, key)| (*at, key.clone())) else {
                break;
            };
            self.close(&longest);
            given_up.push(longest);
        }
        given_up
    }

    /// The file can be reached by a path again.
    pub fn found(&mut self, key: &Key) {
        if let Some(open) = self.open.get_mut(key)
            && let Some(bytes) = open.held_bytes.take()
        {
            self.held_bytes -= bytes;
            self.held.remove(&open.at);
            self.reachable.insert(open.at, key.clone());
        }
    }

    /// Closes the file of an incarnation.
    pub fn close(&mut self, key: &Key) {
        if let Some(open) = self.open.remove(key) {
            match open.held_bytes {
                Some(bytes) => {
                    self.held_bytes -= bytes;
                    self.held.remove(&open.at);
                }
                None => drop(self.reachable.remove(&open.at)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8;

    fn key(number: usize) -> Key {
        ("/f".into(), number as u64)
    }

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn the_file_that_was_quiet_for_the_longest_is_closed() {
        let mut files = OpenFiles::new(MAX);
        let one = file();
        (0..MAX).for_each(|i| files.keep(key(i), Arc::clone(&one)));
        files.touch(&key(0));
        assert!(files.get(&key(1)).is_some(), "a look is no use");
        files.keep(key(MAX), one);
        assert!(files.contains(&key(0)), "it grew just now");
        assert!(!files.contains(&key(1)), "it was quiet for the longest");
    }

    #[test]
    fn held_files_are_closed_only_by_their_own_bounds() {
        let mut files = OpenFiles::new(2 * HELD_MAX);
        let one = file();
        for i in 0..=HELD_MAX {
            files.keep(key(i), Arc::clone(&one));
            let given_up = files.hold(&key(i), 1);
            assert_eq!(given_up, if i == HELD_MAX { vec![key(0)] } else { vec![] });
        }
        (10_000..10_000 + 2 * HELD_MAX).for_each(|i| files.keep(key(i), Arc::clone(&one)));
        assert!((1..=HELD_MAX).all(|i| files.contains(&key(i))));
        assert_eq!((files.open.len(), files.room()), (2 * HELD_MAX, 0));
    }

    #[test]
    fn a_small_limit_holds_for_both_kinds_together() {
        let mut files = OpenFiles::new(MAX);
        for i in 0..MAX {
            files.keep(key(i), file());
            assert_eq!(files.hold(&key(i), 1).len(), usize::from(i >= MAX / 2), "{i}");
        }
        (100..200).for_each(|i| files.keep(key(i), file()));
        assert_eq!((files.open.len(), files.held.len()), (MAX, MAX / 2));
        assert_eq!(OpenFiles::new(0).room(), 2);
    }

    #[test]
    fn held_bytes_are_bounded() {
        let mut files = OpenFiles::new(MAX);
        (0..3).for_each(|i| files.keep(key(i), file()));
        assert!(files.hold(&key(0), HELD_BYTES_MAX / 2).is_empty());
        assert!(files.hold(&key(1), HELD_BYTES_MAX / 2).is_empty());
        assert!(files.hold(&key(1), HELD_BYTES_MAX / 2).is_empty(), "twice is once");
        assert_eq!(files.hold(&key(2), 1), [key(0)]);
        files.found(&key(2));
        assert_eq!((files.held_bytes, files.held.len()), (HELD_BYTES_MAX / 2, 1));
        files.close(&key(1));
        files.close(&key(2));
        assert_eq!((files.held_bytes, files.reachable.len()), (0, 0));
    }
}
