//! Who waits over HTTP for changes of which nodes. A change looks up the watchers of its path
//! and, for those of a whole subtree, of the paths above; nobody else is woken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rota_core::Zxid;
use rota_core::state::Event;
use tokio::sync::Notify;

/// All watchers of this server. There are no more than connections.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    inner: Mutex<Inner>,
    /// Looked at before the lock is taken: mostly there are none.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    next_number: u64,
    /// By path, those of the node alone.
    node: HashMap<String, HashMap<u64, Arc<Signal>>>,
    /// By path, those of the node and all below it.
    subtree: HashMap<String, HashMap<u64, Arc<Signal>>>,
}

#[derive(Debug, Default)]
struct Signal {
    /// The first change since the watcher looked last.
    first: Mutex<Option<Zxid>>,
    changed: Notify,
}

impl Signal {
    fn note(&self, zxid: Zxid) {
        self.lock().get_or_insert(zxid);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Zxid>> {
        self.first.lock().expect("no code panics while it holds this")
    }
}

/// One watcher, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Arc<Watchers>,
    path: String,
    recursive: bool,
    number: u64,
    signal: Arc<Signal>,
}

impl Watchers {
    /// Watches a node, and all below it if `recursive`.
    pub(crate) fn watch(self: &Arc<Self>, path: &str, recursive: bool) -> Watch {
        let signal = Arc::new(Signal::default());
        let mut inner = self.lock();
        let number = inner.next_number;
        inner.next_number += 1;
        let of_path = inner.side(recursive).entry(path.to_owned()).or_default();
        of_path.insert(number, Arc::clone(&signal));
        self.count.fetch_add(1, Ordering::Release);
        Watch { watchers: Arc::clone(self), path: path.to_owned(), recursive, number, signal }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Wakes those whom events concern. Called while they are applied, so that whoever looks at
    /// the state afterwards has been told.
    pub(crate) fn happened(&self, events: &[Event]) {
        if events.is_empty() || self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let inner = self.lock();
        for event in events {
            let path = event.path.as_str();
            let note = |signals: &HashMap<u64, Arc<Signal>>| {
                signals.values().for_each(|signal| signal.note(event.zxid));
            };
            inner.node.get(path).into_iter().for_each(note);
            if !inner.subtree.is_empty() {
                at_and_above(path).filter_map(|at| inner.subtree.get(at)).for_each(note);
            }
        }
    }

    /// Wakes all: the state is another one, and nobody can be told what changed.
    pub(crate) fn wake_all(&self) {
        let inner = self.lock();
        let signals = inner.node.values().chain(inner.subtree.values()).flat_map(HashMap::values);
        signals.for_each(|signal| signal.note(0));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }
}

impl Inner {
    fn side(&mut self, recursive: bool) -> &mut HashMap<String, HashMap<u64, Arc<Signal>>> {
        if recursive { &mut self.subtree } else { &mut self.node }
    }
}

/// A path, and those above it up to the root.
fn at_and_above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/') {
        _ if *path == "/" => None,
        Some(0) => Some("/"),
        Some(at) => Some(&path[..at]),
        None => None,
    })
}

impl Watch {
    /// Waits for a change. Returns the first since the last was returned: nothing before it
    /// concerns this watcher.
    pub(crate) async fn changed(&self) -> Zxid {
        loop {
            if let Some(zxid) = self.take() {
                return zxid;
            }
            self.signal.changed.notified().await;
        }
    }

    /// The first change since the last was returned, if there was one.
    pub(crate) fn take(&self) -> Option<Zxid> {
        self.signal.lock().take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.watchers.lock();
        let side = inner.side(self.recursive);
        if let Some(of_path) = side.get_mut(&self.path) {
            of_path.remove(&self.number);
            if of_path.is_empty() {
                side.remove(&self.path);
            }
        }
        self.watchers.count.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use rota_core::path::NodePath;
    use rota_core::state::{Acl, EventKind};

    use super::*;

    fn event(zxid: Zxid, path: &str) -> Event {
        let path = NodePath::parse(path).unwrap();
        Event { zxid, kind: EventKind::DataChanged, path, acl: Acl::open() }
    }

    #[test]
    fn a_change_wakes_those_whom_it_concerns_and_nobody_else() {
        let watchers = Arc::new(Watchers::default());
        let [root, a, a_all, b] = [("/", true), ("/a", false), ("/a", true), ("/b", false)]
            .map(|(path, recursive)| watchers.watch(path, recursive));
        let woken = || [&root, &a, &a_all, &b].map(Watch::take);
        watchers.happened(&[event(4, "/a/x"), event(5, "/a/x/y")]);
        assert_eq!(woken(), [Some(4), None, Some(4), None]);
        watchers.happened(&[event(6, "/a")]);
        assert_eq!(woken(), [Some(6), Some(6), Some(6), None]);
        watchers.happened(&[event(7, "/ab"), event(8, "/b")]);
        assert_eq!(woken(), [Some(7), None, None, Some(8)]);
        watchers.happened(&[event(9, "/")]);
        assert_eq!(woken(), [Some(9), None, None, None]);
        watchers.wake_all();
        assert_eq!(woken(), [Some(0); 4]);
        drop((root, a, a_all, b));
        let inner = watchers.lock();
        assert!(inner.node.is_empty() && inner.subtree.is_empty());
        assert_eq!(watchers.count.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_missed() {
        let watchers = Arc::new(Watchers::default());
        let watch = watchers.watch("/a", false);
        watchers.happened(&[event(4, "/a"), event(5, "/a")]);
        assert_eq!(watch.changed().await, 4);
        watchers.happened(&[event(6, "/a")]);
        assert_eq!(watch.changed().await, 6);
    }
}
