//! What the connections of this server have in common: who there is, who watches
//! what, and which session is on which connection.
//!
//! Locks are taken in this order: the replica's, a connection's, then one of the registry's,
//! the write queue's, the pulse's or the syncs', none of which is held while another is taken.
//! Those of the counters ([`Totals`]) and of the timings are taken within any of them, and take none.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use rota_core::state::{Event, SessionId};
use rota_core::watches::{Summary, WatchKind, Watcher, Watches};

use super::connection::Connection;
use super::stats::{ConnectionCounters, Totals};
use crate::timings::Timings;

/// All connections.
#[derive(Default)]
pub(crate) struct ConnectionRegistry {
    inner: Mutex<Inner>,
    totals: Totals,
    counters: ConnectionCounters,
    timings: Arc<Timings>,
}

#[derive(Default)]
struct Inner {
    connections: HashMap<Watcher, Arc<Connection>>,
    by_address: HashMap<IpAddr, usize>,
    sessions: HashMap<SessionId, Arc<Connection>>,
    watches: Watches,
}

impl ConnectionRegistry {
    pub(crate) fn new(timings: Arc<Timings>) -> Self {
        Self { timings, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }

    /// What all connections have done.
    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Counters of all connections.
    pub(super) fn counters(&self) -> &ConnectionCounters {
        &self.counters
    }

    /// Durations of operations.
    pub(super) fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Takes in a connection, unless its address has `per_address_max` already (0:
    /// without a bound).
    pub(crate) fn enter(&self, connection: &Arc<Connection>, per_address_max: usize) -> bool {
        let mut inner = self.lock();
        let here = inner.by_address.entry(connection.address().ip()).or_default();
        if per_address_max > 0 && *here >= per_address_max {
            return false;
        }
        *here += 1;
        inner.connections.insert(connection.watcher(), Arc::clone(connection));
        true
    }

    /// Lets go of a connection, and of what it watches.
    pub(crate) fn leave(&self, connection: &Arc<Connection>) {
        let mut inner = self.lock();
        if inner.connections.remove(&connection.watcher()).is_none() {
            return;
        }
        let address = connection.address().ip();
        if let Some(here) = inner.by_address.get_mut(&address) {
            *here -= 1;
            if *here == 0 {
                inner.by_address.remove(&address);
            }
        }
        inner.watches.forget(connection.watcher());
        if let Some(session) = connection.session()
            && inner.sessions.get(&session).is_some_and(|other| Arc::ptr_eq(other, connection))
        {
            inner.sessions.remove(&session);
        }
    }

    /// From now on, `session` is on `connection`.
    pub(super) fn bind(&self, session: SessionId, connection: Arc<Connection>) {
        let before = {
            let mut inner = self.lock();
            // It may have ended before it heard that it has the session.
            if !inner.connections.contains_key(&connection.watcher()) {
                return;
            }
            inner.sessions.insert(session, connection)
        };
        if let Some(before) = before {
            before.close();
        }
    }

    /// Changes or asks about the watches of one who is here. One who has left has none
    /// and gets none: nobody would take them away.
    pub(super) fn watches_of<T: Default>(&self, watcher: Watcher, look: impl FnOnce(&mut Watches) -> T) -> T {
        let mut inner = self.lock();
        match inner.connections.contains_key(&watcher) {
            true => look(&mut inner.watches),
            false => T::default(),
        }
    }

    /// Looks at all watches.
    pub(super) fn watches<T>(&self, look: impl FnOnce(&mut Watches) -> T) -> T {
        look(&mut self.lock().watches)
    }

    /// Tells what happened to those who watch it and may know.
    pub(crate) fn dispatch_events(&self, events: &[Event]) {
        for event in events {
            let member_reports: Vec<Arc<Connection>> = {
                let mut inner = self.lock();
                if inner.connections.is_empty() {
                    return;
                }
                let watchers = inner.watches.notify(event.kind, event.path.as_str());
                watchers.iter().filter_map(|watcher| inner.connections.get(watcher).cloned()).collect()
            };
            for connection in member_reports {
                connection.deliver_event(event);
            }
        }
    }

    /// A session goes on with its connection number `number`: those before it end.
    pub(crate) fn resumed(&self, session: SessionId, number: u32) {
        let connection = self.lock().sessions.get(&session).cloned();
        if let Some(connection) = connection
            && connection.number() != Some(number)
        {
            connection.close();
        }
    }

    /// A session is over.
    pub(crate) fn closed(&self, session: SessionId) {
        let connection = self.lock().sessions.remove(&session);
        if let Some(connection) = connection {
            connection.close();
        }
    }

    /// Ends every connection: clients come back and say what they watch and have
    /// seen.
    pub(crate) fn close_all(&self) {
        for connection in self.connections() {
            connection.close();
        }
    }

    /// All connections, in no order.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.lock().connections.values().cloned().collect()
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// How many watches there are, of both sides.
    pub(crate) fn watch_counts(&self) -> [Summary; 2] {
        self.watches(|watches| [watches.summary(WatchKind::Data), watches.summary(WatchKind::Children)])
    }
}
