//! All sources of an agent, the files that they are, and who is told when one
//! changes. In memory only; no file is touched here, so its lock is held for
//! microseconds and never across an await.
//!
//! Two write to it: the follower, what became of files, and the server, where
//! readers are and how far files were read. Neither undoes what the other did:
//! an incarnation's known size only grows, and its state only moves onward.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::identity::{FileId, Fingerprint, Stat};
use super::open_files::{Key, OpenFiles};
use super::plan_read::SETTLE_MS;
use super::rooted_fs::Opened;
use super::source::{Incarnation, Loss, Source, State};
use crate::clock::Now;
use crate::wire::{GapReason, UnreadableBody};

/// How long the file of an incarnation that its reader is done with stays open after it last
/// grew, in milliseconds. Its writers may not have noticed the rotation.
pub const LINGER_MS: u64 = 10_000;

/// The sources of an agent.
#[derive(Debug, Default)]
pub struct Table {
    /// By path. Ordered as bytes, which is much cheaper than as paths.
    pub(super) sources: BTreeMap<OsString, Entry>,
    /// The path of each item.
    pub(super) paths: HashMap<String, PathBuf>,
    files: HashMap<FileKey, Key>,
    pub(super) dirty: BTreeSet<PathBuf>,
    items: watch::Sender<u64>,
    /// Files kept open.
    pub open: OpenFiles,
    /// Round-robin cursor of [`Self::closed`]: a source and one of its incarnations.
    next_closed: (OsString, u64),
    /// What could not be read at the last look.
    pub unreadable: Unreadable,
    /// Why the index could not be written the last time, if it could not.
    pub index_error: Option<String>,
}

/// What an agent cannot read.
#[derive(Debug, Default)]
pub struct Unreadable {
    /// A bounded part of it, in order.
    pub listed: Vec<UnreadableBody>,
    /// How many more there are.
    pub omitted: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) source: Source,
    pub(super) changed: watch::Sender<u64>,
}

/// Where the birth of an inode is known, it is enough together with its number;
/// device numbers may change with a reboot.
type FileKey = (u64, u64, u64);

fn file_key(id: FileId) -> FileKey {
    (id.ino, id.born_ns, if id.born_ns == 0 { id.dev } else { 0 })
}

impl Table {
    /// Takes in a source.
    pub fn insert(&mut self, source: Source) {
        for incarnation in &source.incarnations {
            self.files.insert(file_key(incarnation.trace.stat.id), (source.path.clone(), incarnation.number));
        }
        self.paths.insert(source.item.clone(), source.path.clone());
        self.sources.insert(source.path.clone().into(), Entry { source, changed: watch::Sender::default() });
        self.bump_items();
    }

    /// Forgets a source.
    pub fn remove(&mut self, path: &Path) {
        if let Some(Entry { source, .. }) = self.sources.remove(path.as_os_str()) {
            source
                .incarnations
                .iter()
                .for_each(|i| self.release_file(&(path.to_owned(), i.number), &i.trace));
            self.paths.remove(&source.item);
            self.bump_items();
        }
    }

    /// The source at a path.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Source> {
        self.sources.get(path.as_os_str()).map(|entry| &entry.source)
    }

    /// How many sources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// All sources, by path.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.sources.values().map(|entry| &entry.source)
    }

    /// Looks at all sources, by path.
    pub fn each(&mut self, look: impl FnMut(&mut Source)) {
        self.sources.values_mut().map(|entry| &mut entry.source).for_each(look);
    }

    /// Looks at the sources in a directory, not at those below it.
    pub fn each_in_dir(&mut self, dir: &Path, look: impl FnMut(&mut Source)) {
        let from = dir.join("").into_os_string();
        let below = self.sources.range_mut(from..).map(|(_, entry)| &mut entry.source);
        below
            .take_while(|source| source.path.starts_with(dir))
            .filter(|source| source.path.parent() == Some(dir))
            .for_each(look);
    }

    /// Looks at the source at a path, if there is one.
    pub fn each_at(&mut self, path: &Path, look: impl FnMut(&mut Source)) {
        self.sources.get_mut(path.as_os_str()).map(|entry| &mut entry.source).into_iter().for_each(look);
    }

    /// Whether another source has the item.
    #[must_use]
    pub fn is_taken(&self, item: &str, path: &Path) -> bool {
        self.paths.get(item).is_some_and(|owner| owner != path)
    }

    /// The source at a path, to be changed: it will be recorded, and who waits
    /// for it is woken.
    pub fn change(&mut self, path: &Path) -> Option<&mut Source> {
        let entry = self.sources.get_mut(path.as_os_str())?;
        self.dirty.insert(path.to_owned());
        entry.changed.send_modify(|count| *count += 1);
        Some(&mut entry.source)
    }

    /// The incarnation that a file is, if it is known.
    #[must_use]
    pub fn owner_of(&self, id: FileId) -> Option<(&Key, &Incarnation)> {
        let key = self.files.get(&file_key(id))?;
        Some((key, self.get(&key.0)?.incarnation(key.1)?))
    }

    /// Begins an incarnation of the source at a path.
    pub fn begin(&mut self, path: &Path, trace: Fingerprint, state: State, opened: Opened, now: Now) {
        if let Some(key) = self.push(path, trace, state, opened.real_path, now) {
            self.open.keep(key, opened.file);
        }
    }

    /// Begins an incarnation whose file this process may not read: it is lost, and its end is open.
    pub fn begin_unreadable(&mut self, path: &Path, stat: Stat, real_path: Option<PathBuf>, now: Now) {
        let lost = State::Lost(Loss { reason: GapReason::Gone, is_end_known: false });
        self.push(path, Fingerprint::without_marks(stat), lost, real_path, now);
    }

    fn push(
        &mut self,
        path: &Path,
        trace: Fingerprint,
        state: State,
        real_path: Option<PathBuf>,
        now: Now,
    ) -> Option<Key> {
        let source = self.change(path)?;
        let was_retired = source.retired;
        let key = (path.to_owned(), source.begin(trace, state, now));
        if let Some(last) = source.incarnations.last_mut() {
            last.real_path = real_path;
        }
        if let Some(oldest) = source.drop_oldest(now) {
            self.release_file(&(path.to_owned(), oldest.number), &oldest.trace);
        }
        self.files.insert(file_key(trace.stat.id), key.clone());
        if was_retired {
            self.bump_items();
        }
        Some(key)
    }

    /// The file of an incarnation has been seen with this trace. The known size
    /// never becomes smaller by that.
    pub fn grew(&mut self, key: &Key, trace: Fingerprint, now: Now) {
        let Some(entry) = self.sources.get_mut(key.0.as_os_str()) else { return };
        let was_retired = entry.source.retired;
        let Some(grown) = entry.source.grow(key.1, trace, now) else { return };
        self.dirty.insert(key.0.clone());
        // A file that was only touched wakes nobody.
        if grown > 0 {
            entry.changed.send_modify(|count| *count += 1);
            self.open.touch(key);
        }
        if was_retired != entry.source.retired {
            self.bump_items();
        }
    }

    /// The path of an away incarnation's file, or that it has none.
    pub fn moved(&mut self, key: &Key, at: Option<PathBuf>, now: Now) {
        let is_open = self.open.contains(key);
        match (&at, is_open) {
            (Some(_), _) => self.open.found(key),
            (None, true) => {
                let bytes = self.incarnation(key).map_or(0, |incarnation| incarnation.trace.stat.size);
                for given_up in self.open.hold(key, bytes) {
                    self.give_up(&given_up, now);
                }
            }
            // It may have grown since it was looked at last.
            (None, false) => {
                return self.mark_lost(key, Loss { reason: GapReason::Gone, is_end_known: false }, now);
            }
        }
        let Some(incarnation) = self.change(&key.0).and_then(|source| source.incarnation_mut(key.1)) else {
            return;
        };
        match &mut incarnation.state {
            State::Away { at: known } => *known = at,
            state @ State::Lost(_) => {
                *state = State::Away { at };
                incarnation.quiet_since_ms = now.monotonic_ms;
            }
            State::Live => {}
        }
    }

    /// The file of an incarnation was truncated, but there is a copy of what it
    /// contained: the incarnation goes on as that file.
    pub fn continue_in_copy(&mut self, key: &Key, at: PathBuf, trace: Fingerprint, opened: Opened, now: Now) {
        let Some(source) = self.change(&key.0) else { return };
        match source.live().is_some_and(|live| live.number == key.1) {
            true => source.leave(Some(at), now),
            false => {
                let Some(incarnation) = source.incarnation_mut(key.1) else { return };
                incarnation.state = State::Away { at: Some(at) };
            }
        }
        // What was written since the last look is late, if its reader is done with it.
        source.grow(key.1, trace, now);
        let Some(incarnation) = source.incarnation_mut(key.1) else { return };
        incarnation.trace = trace;
        incarnation.real_path = opened.real_path;
        self.files.insert(file_key(trace.stat.id), key.clone());
        self.open.close(key);
        self.open.keep(key.clone(), opened.file);
    }

    /// Incarnations whose files are not open and can be found, as many as there is room for:
    /// each with its path, if that is not its source's, and which file it is. The next look
    /// goes on after the last of them, so that all have their turn.
    #[must_use]
    pub fn closed(&mut self) -> Vec<(Key, Option<PathBuf>, FileId)> {
        let room = self.open.room();
        if room == 0 {
            return Vec::new();
        }
        let mut found = Vec::new();
        // There may be many sources, and nearly all of their files are open: one key is enough.
        let mut key: Key = Default::default();
        let (from, number) = std::mem::take(&mut self.next_closed);
        let (before, after) = (self.sources.range(..from.clone()), self.sources.range(from.clone()..));
        let entries = after.chain(before).filter(|(_, entry)| !entry.source.retired);
        'all: for (path, Entry { source, .. }) in entries {
            // Those before the cursor were returned before.
            let first = if *path == from { number } else { 0 };
            let open = source.incarnations.iter().filter(|i| i.passed_ms.is_none() && i.number >= first);
            for incarnation in open {
                let at = match &incarnation.state {
                    State::Live => None,
                    State::Away { at: Some(at) } => Some(at),
                    State::Away { at: None } | State::Lost(_) => continue,
                };
                key.0.clear();
                key.0.push(&source.path);
                key.1 = incarnation.number;
                if self.open.contains(&key) {
                    continue;
                }
                if found.len() == room {
                    self.next_closed = (path.clone(), incarnation.number);
                    break 'all;
                }
                found.push((key.clone(), at.cloned(), incarnation.trace.stat.id));
            }
        }
        found
    }

    /// A held file is closed, read or not.
    fn give_up(&mut self, key: &Key, now: Now) {
        let quiet_since_ms = self.incarnation(key).map_or(0, |incarnation| incarnation.quiet_since_ms);
        // Held files are looked at in every scan: one that is quiet has its known size.
        let is_end_known = now.monotonic_ms.saturating_sub(quiet_since_ms) >= SETTLE_MS;
        self.mark_lost(key, Loss { reason: GapReason::Gone, is_end_known }, now);
    }

    pub(super) fn incarnation(&self, key: &Key) -> Option<&Incarnation> {
        self.get(&key.0)?.incarnation(key.1)
    }

    /// The path leads to the source's last incarnation again.
    pub fn come_back(&mut self, path: &Path, now: Now) {
        let Some(source) = self.change(path) else { return };
        let was_retired = source.retired;
        let number = source.come_back(now);
        if let Some(number) = number {
            self.open.found(&(path.to_owned(), number));
        }
        if was_retired {
            self.bump_items();
        }
    }

    /// The bytes of an incarnation are gone.
    pub fn mark_lost(&mut self, key: &Key, loss: Loss, now: Now) {
        if let Some(source) = self.change(&key.0) {
            source.mark_lost(key.1, loss, now);
        }
        self.open.close(key);
    }

    /// Closes the file of an incarnation that its reader is done with, when nothing more is to
    /// be expected; forgets the incarnation if its file is nowhere.
    pub fn release(&mut self, key: &Key, now: Now) {
        if !self.open.contains(key) {
            return;
        }
        let Some(source) = self.get(&key.0) else { return };
        let Some(incarnation) = source.incarnation(key.1) else { return };
        let is_quiet = now.monotonic_ms.saturating_sub(incarnation.quiet_since_ms) >= LINGER_MS;
        if incarnation.passed_ms.is_none() || !is_quiet || source.has_unread_gap(key.1) {
            return;
        }
        match incarnation.state {
            State::Away { at: None } => self.drop_source(key),
            _ => self.open.close(key),
        }
    }

    /// Forgets an incarnation that its reader is done with.
    pub fn drop_source(&mut self, key: &Key) {
        let Some(source) = self.change(&key.0) else { return };
        if source.incarnations.len() > 1
            && let Some(index) = source.incarnations.iter().position(|i| i.number == key.1)
        {
            let trace = source.incarnations.remove(index).trace;
            self.release_file(key, &trace);
        }
    }

    /// Takes a source out of service. Its numbers are remembered.
    pub fn retire(&mut self, path: &Path) {
        let Some(source) = self.change(path) else { return };
        source.retired = true;
        let numbers: Vec<u64> = source.incarnations.iter().map(|i| i.number).collect();
        numbers.into_iter().for_each(|number| self.open.close(&(path.to_owned(), number)));
        self.bump_items();
    }

    /// A channel that tells when the set of items changes.
    #[must_use]
    pub fn subscribe_items(&self) -> watch::Receiver<u64> {
        self.items.subscribe()
    }

    /// The sources that are items.
    pub fn items(&self) -> impl Iterator<Item = &Source> {
        self.iter().filter(|source| !source.retired && source.incarnations.iter().any(|i| i.recorded))
    }

    /// The sources that changed since the last call, to be recorded. `None` if
    /// that can wait: none of them has a new incarnation, and `all` is not asked
    /// for.
    pub fn take_dirty(&mut self, all: bool) -> Option<Vec<Source>> {
        let is_new = |source: &Source| source.incarnations.iter().any(|i| !i.recorded);
        if !all && !self.dirty.iter().filter_map(|path| self.get(path)).any(is_new) {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        Some(dirty.iter().filter_map(|path| self.get(path)).cloned().collect())
    }

    /// Seals gaps that are old enough, and has sources with unpublished gaps recorded.
    pub fn seal_gaps(&mut self, now: Now) {
        for entry in self.sources.values_mut() {
            if !entry.source.gaps.is_empty() && entry.source.seal_gaps(now) {
                self.dirty.insert(entry.source.path.clone());
            }
        }
    }

    /// Publishes the gaps of sources that the index has.
    pub fn publish_gaps(&mut self, recorded: &[Source]) {
        for source in recorded {
            let Some(entry) = self.sources.get_mut(source.path.as_os_str()) else { continue };
            if entry.source.publish_gaps(source) {
                entry.changed.send_modify(|count| *count += 1);
            }
        }
    }

    /// All sources have to be recorded: the index may have lost any of them.
    pub fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.sources.keys().map(PathBuf::from));
    }

    /// These sources could not be recorded.
    pub fn mark_dirty(&mut self, sources: &[Source]) {
        self.dirty.extend(sources.iter().map(|source| source.path.clone()));
    }

    /// These incarnations are recorded: readers may be told of them.
    pub fn recorded(&mut self, keys: &[Key]) {
        for (path, number) in keys {
            let Some(entry) = self.sources.get_mut(path.as_os_str()) else { continue };
            if let Some(incarnation) = entry.source.incarnation_mut(*number) {
                incarnation.recorded = true;
            }
            entry.changed.send_modify(|count| *count += 1);
        }
        if !keys.is_empty() {
            self.bump_items();
        }
    }

    fn release_file(&mut self, key: &Key, trace: &Fingerprint) {
        self.open.close(key);
        let file = file_key(trace.stat.id);
        if self.files.get(&file) == Some(key) {
            self.files.remove(&file);
        }
    }

    fn bump_items(&mut self) {
        self.items.send_modify(|count| *count += 1);
    }
}
