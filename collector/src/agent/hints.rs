//! Hints: where something may have changed. They make the agent fast; they are
//! never needed for it to be right, since a scan of everything follows anyway.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::scan::Scope;

/// Most hints that are kept; beyond, everything is looked at.
pub const HINTS_MAX: usize = 1024;

/// Places to look at soon.
#[derive(Debug, Default)]
pub struct Hints {
    places: Mutex<Places>,
    given: Notify,
}

#[derive(Debug, Default)]
struct Places {
    all: bool,
    dirs: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Hints {
    /// Names may have come or gone in this directory.
    pub fn dir(&self, dir: PathBuf) {
        self.give(|places| {
            places.dirs.insert(dir);
        });
    }

    /// This file may have changed.
    pub fn file(&self, file: PathBuf) {
        self.give(|places| {
            places.files.insert(file);
        });
    }

    /// Anything may have changed.
    pub fn all(&self) {
        self.give(|places| places.all = true);
    }

    /// Waits until there is a hint. Cancel safe.
    pub async fn given(&self) {
        self.given.notified().await;
    }

    /// Takes all hints; `None` if there are none.
    pub fn take(&self) -> Option<Scope> {
        let Places { all, dirs, files } = std::mem::take(&mut *self.lock());
        match all {
            true => Some(Scope::All),
            false if dirs.is_empty() && files.is_empty() => None,
            false => Some(Scope::Some { dirs, files }),
        }
    }

    fn give(&self, add: impl FnOnce(&mut Places)) {
        let mut places = self.lock();
        add(&mut places);
        if places.dirs.len() + places.files.len() > HINTS_MAX {
            *places = Places { all: true, ..Places::default() };
        }
        drop(places);
        self.given.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_add_up() {
        let hints = Hints::default();
        assert_eq!(hints.take(), None);
        hints.file("/a/f".into());
        hints.dir("/b".into());
        hints.file("/a/f".into());
        let scope = Scope::Some { dirs: [PathBuf::from("/b")].into(), files: [PathBuf::from("/a/f")].into() };
        assert_eq!(hints.take(), Some(scope));
        assert_eq!(hints.take(), None);
    }

    #[test]
    fn too_many_hints_mean_everything() {
        let hints = Hints::default();
        (0..=HINTS_MAX).for_each(|i| hints.file(format!("/f{i}").into()));
        hints.dir("/b".into());
        assert_eq!(hints.take(), Some(Scope::All));
    }
}
