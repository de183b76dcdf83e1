//! HTTP watches of nodes, indexed by path: an event notifies the watches of its path, and the
//! recursive ones of its ancestors, and no others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rota_core::Zxid;
use rota_core::state::Event;
use tokio::sync::Notify;

/// All HTTP watches of this server: at most one per connection.
#[derive(Debug, Default)]
pub(crate) struct HttpWatches {
    inner: Mutex<Inner>,
    /// Checked before the lock is taken: mostly there are none.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    next_id: u64,
    /// By path, those of one node.
    node: HashMap<String, HashMap<u64, Arc<Signal>>>,
    /// By path, the recursive ones.
    subtree: HashMap<String, HashMap<u64, Arc<Signal>>>,
}

#[derive(Debug, Default)]
struct Signal {
    /// The first change since the last call of [`HttpWatch::take`].
    first: Mutex<Option<Zxid>>,
    changed: Notify,
}

impl Signal {
    fn mark_changed(&self, zxid: Zxid) {
        let mut first = self.lock();
        // Already notified; the pending change stays the first one.
        if first.is_none() || zxid == 0 {
            *first = Some(zxid);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Zxid>> {
        self.first.lock().expect("no code panics while it holds this")
    }
}

/// A registered watch; dropping it removes it.
#[derive(Debug)]
pub(crate) struct HttpWatch {
    watches: Arc<HttpWatches>,
    path: String,
    recursive: bool,
    id: u64,
    signal: Arc<Signal>,
}

impl HttpWatches {
    /// Watches a node, and its descendants if `recursive`.
    pub(crate) fn register(self: &Arc<Self>, path: &str, recursive: bool) -> HttpWatch {
        let signal = Arc::new(Signal::default());
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        let of_path = inner.index_mut(recursive).entry(path.to_owned()).or_default();
        of_path.insert(id, Arc::clone(&signal));
        self.count.fetch_add(1, Ordering::Release);
        HttpWatch { watches: Arc::clone(self), path: path.to_owned(), recursive, id, signal }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Notifies the watches that match. Called during apply, so that a reader of the new state
    /// finds its watch notified.
    pub(crate) fn dispatch_events(&self, events: &[Event]) {
        if events.is_empty() || self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let inner = self.lock();
        // Each path is looked up once, with its first event, whatever a batch did to it.
        let (mut nodes, mut subtrees) = (HashMap::new(), HashMap::new());
        for event in events {
            let path = event.path.as_str();
            if inner.node.contains_key(path) {
                nodes.entry(path).or_insert(event.zxid);
            }
            if !inner.subtree.is_empty() {
                for at in ancestors_and_self(path).filter(|at| inner.subtree.contains_key(*at)) {
                    subtrees.entry(at).or_insert(event.zxid);
                }
            }
        }
        for (index, found) in [(&inner.node, nodes), (&inner.subtree, subtrees)] {
            for (path, zxid) in found {
                index
                    .get(path)
                    .into_iter()
                    .flat_map(HashMap::values)
                    .for_each(|signal| signal.mark_changed(zxid));
            }
        }
    }

    /// Notifies all watches: the state was replaced.
    pub(crate) fn notify_all(&self) {
        let inner = self.lock();
        let signals = inner.node.values().chain(inner.subtree.values()).flat_map(HashMap::values);
        signals.for_each(|signal| signal.mark_changed(0));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }
}

impl Inner {
    fn index_mut(&mut self, recursive: bool) -> &mut HashMap<String, HashMap<u64, Arc<Signal>>> {
        if recursive { &mut self.subtree } else { &mut self.node }
    }
}

/// A path and its ancestors, up to the root.
fn ancestors_and_self(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/') {
        _ if *path == "/" => None,
        Some(0) => Some("/"),
        Some(at) => Some(&path[..at]),
        None => None,
    })
}

impl HttpWatch {
    /// Waits for a change and returns its zxid: the first since the last call.
    pub(crate) async fn changed(&self) -> Zxid {
        loop {
            if let Some(zxid) = self.take() {
                return zxid;
            }
            self.signal.changed.notified().await;
        }
    }

    /// The zxid of the first change since the last call, if there was one.
    pub(crate) fn take(&self) -> Option<Zxid> {
        self.signal.lock().take()
    }
}

impl Drop for HttpWatch {
    fn drop(&mut self) {
        let mut inner = self.watches.lock();
        let side = inner.index_mut(self.recursive);
        if let Some(of_path) = side.get_mut(&self.path) {
            of_path.remove(&self.id);
            if of_path.is_empty() {
                side.remove(&self.path);
            }
        }
        self.watches.count.fetch_sub(1, Ordering::Release);
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
    fn an_event_notifies_only_matching_watches() {
        let watches = Arc::new(HttpWatches::default());
        let [root, a, a_all, b] = [("/", true), ("/a", false), ("/a", true), ("/b", false)]
            .map(|(path, recursive)| watches.register(path, recursive));
        let woken = || [&root, &a, &a_all, &b].map(HttpWatch::take);
        watches.dispatch_events(&[event(4, "/a/x"), event(5, "/a/x/y")]);
        assert_eq!(woken(), [Some(4), None, Some(4), None]);
        watches.dispatch_events(&[event(6, "/a")]);
        assert_eq!(woken(), [Some(6), Some(6), Some(6), None]);
        watches.dispatch_events(&[event(7, "/ab"), event(8, "/b")]);
        assert_eq!(woken(), [Some(7), None, None, Some(8)]);
        watches.dispatch_events(&[event(9, "/")]);
        assert_eq!(woken(), [Some(9), None, None, None]);
        watches.notify_all();
        assert_eq!(woken(), [Some(0); 4]);
        drop((root, a, a_all, b));
        let inner = watches.lock();
        assert!(inner.node.is_empty() && inner.subtree.is_empty());
        assert_eq!(watches.count.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn an_event_before_the_wait_is_not_missed() {
        let watches = Arc::new(HttpWatches::default());
        let watch = watches.register("/a", false);
        watches.dispatch_events(&[event(4, "/a"), event(5, "/a")]);
        assert_eq!(watch.changed().await, 4);
        watches.dispatch_events(&[event(6, "/a")]);
        assert_eq!(watch.changed().await, 6);
    }
}
