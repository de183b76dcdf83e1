//! How many connections of clients this server takes: fewer than it has descriptors, so
//! that its log, its snapshots and the other servers always have theirs, and few enough from
//! one address that no single machine keeps all others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

/// Descriptors that clients never get: the other servers' connections, the log, snapshots.
const RESERVED: usize = 384;
/// Fewer descriptors than this are shared: half for clients.
const DESCRIPTORS_FEW: usize = 2 * RESERVED;
/// Connections of clients, however many descriptors there are.
const CONNECTIONS_MAX: usize = 65_536;

/// The places that there are. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionBudget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    total_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Of each protocol and address.
    by_address: HashMap<(Protocol, IpAddr), usize>,
}

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http,
    ZooKeeper,
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::ZooKeeper => "zookeeper",
        }
    }
}

/// A place for one connection, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    budget: ConnectionBudget,
    key: (Protocol, IpAddr),
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    #[error("too many connections in all")]
    Total,
    #[error("too many connections from one address")]
    Address,
}

impl ConnectionBudget {
    /// Places for as many clients as `descriptors` allow.
    pub(crate) fn new(descriptors: usize) -> Self {
        let total_max = match descriptors < DESCRIPTORS_FEW {
            true => descriptors / 2,
            false => (descriptors - RESERVED).min(CONNECTIONS_MAX),
        };
        Self { inner: Arc::new(Inner { total_max: total_max.max(1), taken: Mutex::default() }) }
    }

    /// As many descriptors as this process may open.
    pub(crate) fn of_this_process() -> Self {
        Self::new(descriptors_max())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.inner.taken.lock().expect("no code panics while it holds this")
    }

    /// Takes a place for a connection from `address`, of which there are `per_address_max` for the
    /// protocol (0: as many as there are in all).
    pub(crate) fn take(
        &self,
        protocol: Protocol,
        address: IpAddr,
        per_address_max: usize,
    ) -> Result<ConnectionPlace, NoPlace> {
        let key = (protocol, address);
        let mut taken = self.lock();
        if taken.total >= self.inner.total_max {
            return Err(NoPlace::Total);
        }
        let here = taken.by_address.get(&key).copied().unwrap_or(0);
        if per_address_max > 0 && here >= per_address_max {
            return Err(NoPlace::Address);
        }
        taken.total += 1;
        taken.by_address.insert(key, here + 1);
        Ok(ConnectionPlace { budget: self.clone(), key })
    }

    /// Connections of a protocol.
    pub(crate) fn count(&self, protocol: Protocol) -> usize {
        self.lock().by_address.iter().filter(|((of, _), _)| *of == protocol).map(|(_, count)| count).sum()
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut taken = self.budget.lock();
        taken.total -= 1;
        if let Some(here) = taken.by_address.get_mut(&self.key) {
            *here -= 1;
            if *here == 0 {
                taken.by_address.remove(&self.key);
            }
        }
    }
}

/// The most descriptors that this process may have open.
pub(crate) fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// The address in what a listener says of a connection. Addresses of version 4 as such, also
/// where they come through a socket of version 6.
pub(crate) fn ip_of(from: &str) -> IpAddr {
    let address = from.parse::<SocketAddr>().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_the_last_descriptors() {
        for (descriptors, clients) in [(64, 32), (1, 1), (767, 383), (1024, 640), (1_000_000, 65_536)] {
            assert_eq!(ConnectionBudget::new(descriptors).inner.total_max, clients, "{descriptors}");
        }
    }

    #[test]
    fn places_are_bounded_in_all_and_for_each_address() {
        let budget = ConnectionBudget::new(10);
        let [one, two] = ["10.0.0.1:1", "[::ffff:10.0.0.2]:1"].map(ip_of);
        assert_eq!(two.to_string(), "10.0.0.2");
        let take = |address| budget.take(Protocol::Http, address, 3);
        let mut places: Vec<_> = (0..3).map(|_| take(one).unwrap()).collect();
        assert_eq!(take(one).unwrap_err(), NoPlace::Address);
        let other = budget.take(Protocol::ZooKeeper, one, 3).unwrap();
        places.push(take(two).unwrap());
        assert_eq!(take(two).unwrap_err(), NoPlace::Total);
        assert_eq!((budget.count(Protocol::Http), budget.count(Protocol::ZooKeeper)), (4, 1));
        drop((places, other));
        assert_eq!(budget.lock().total, 0);
        assert!(budget.lock().by_address.is_empty());
    }
}
