//! The files that the agent keeps open. An open file can be read after it was
//! renamed and deleted, so as many as the bounds allow are kept.
//!
//! Two kinds, with a bound each. *Reachable* files can be opened again by their
//! path; the least used of them is closed first. *Held* files are nowhere any
//! more: closing one loses what was not read of it, and only their own bound
//! makes that happen.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

/// Most reachable files kept open. With [`HELD_MAX`] it stays below the usual
/// limit of 1,024 descriptors, and leaves as many for connections.
pub const REACHABLE_MAX: usize = 256;
/// Most held files. At the bound the one held longest is given up, which is a
/// gap: otherwise a machine whose logs nobody collects would fill its disk with
/// files that nobody sees.
pub const HELD_MAX: usize = 256;

/// An incarnation: its source's path and its number.
pub type Key = (PathBuf, u64);

/// Open files, by incarnation.
#[derive(Debug, Default)]
pub struct OpenFiles {
    open: HashMap<Key, Open>,
    uses: u64,
}

#[derive(Debug)]
struct Open {
    file: Arc<File>,
    /// Larger for a file used later.
    used: u64,
    /// The number of the use at which it became held.
    held: Option<u64>,
}

impl OpenFiles {
    /// The open file of an incarnation.
    pub fn get(&mut self, key: &Key) -> Option<Arc<File>> {
        self.uses += 1;
        let open = self.open.get_mut(key)?;
        open.used = self.uses;
        Some(Arc::clone(&open.file))
    }

    /// Whether the file of an incarnation is open.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.open.contains_key(key)
    }

    /// Keeps a reachable file open, and closes another if there are too many.
    pub fn keep(&mut self, key: Key, file: Arc<File>) {
        self.uses += 1;
        let held = self.open.get(&key).and_then(|open| open.held);
        self.open.insert(key, Open { file, used: self.uses, held });
        let reachable = || self.open.iter().filter(|(_, open)| open.held.is_none());
        if reachable().count() > REACHABLE_MAX {
            let least = reachable().min_by_key(|(_, open)| open.used).map(|(key, _)| key.clone());
            least.and_then(|key| self.open.remove(&key));
        }
    }

    /// The same, unless it is open already.
    pub fn keep_if_absent(&mut self, key: &Key, file: Arc<File>) {
        if !self.contains(key) {
            self.keep(key.clone(), file);
        }
    }

    /// The file of an incarnation is nowhere any more. Returns the incarnation
    /// that has to be given up for it, if there are too many.
    pub fn hold(&mut self, key: &Key) -> Option<Key> {
        self.uses += 1;
        self.open.get_mut(key)?.held.get_or_insert(self.uses);
        let held = || self.open.iter().filter_map(|(key, open)| Some((open.held?, key)));
        if held().count() <= HELD_MAX {
            return None;
        }
        let longest = held().min().map(|(_, key)| key.clone())?;
        self.open.remove(&longest);
        Some(longest)
    }

    /// The file can be reached by a path again.
    pub fn found(&mut self, key: &Key) {
        if let Some(open) = self.open.get_mut(key) {
            open.held = None;
        }
    }

    /// Closes the file of an incarnation.
    pub fn close(&mut self, key: &Key) {
        self.open.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        ("/f".into(), number as u64)
    }

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn the_least_used_reachable_file_is_closed() {
        let mut files = OpenFiles::default();
        let one = file();
        (0..REACHABLE_MAX).for_each(|i| files.keep(key(i), Arc::clone(&one)));
        assert!(files.get(&key(0)).is_some());
        files.keep(key(REACHABLE_MAX), one);
        assert!(files.contains(&key(0)), "used just now");
        assert!(!files.contains(&key(1)), "used least");
    }

    #[test]
    fn held_files_are_closed_only_by_their_own_bound() {
        let mut files = OpenFiles::default();
        let one = file();
        for i in 0..=HELD_MAX {
            files.keep(key(i), Arc::clone(&one));
            let given_up = files.hold(&key(i));
            assert_eq!(given_up, (i == HELD_MAX).then(|| key(0)));
        }
        (1000..1000 + 2 * REACHABLE_MAX).for_each(|i| files.keep(key(i), Arc::clone(&one)));
        assert!((1..=HELD_MAX).all(|i| files.contains(&key(i))));
    }
}
