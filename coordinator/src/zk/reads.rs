//! Answers that need nothing but what is applied here, and the watches that they
//! leave. Source: ZooKeeper's `FinalRequestProcessor.java` and `DataTree.java`.

use std::net::Ipv6Addr;

use rota_core::state::{Acl, Identity, Node, SessionId, State, Tree, perms};
use rota_core::watches::{TooManyWatches, WatchKind, WatchMode, Watcher, Watches};
use rota_protocol::zk::{
    AddWatchMode, Body, ClientInfo, ErrorCode, EventType, Part, PathNumber, PathWatch, ReadOp, Request,
    SetWatches, WatcherType,
};

use super::registry::ConnectionRegistry;
use super::zxid_seen;

/// Bytes of what a `multiRead` answers: a request of a megabyte could ask for a thousand times as
/// much.
const MULTI_READ_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Who reads, and what.
pub(super) struct Reader<'a> {
    pub(super) state: &'a State,
    pub(super) registry: &'a ConnectionRegistry,
    /// Longest answer, in bytes.
    pub(super) answer_bytes_max: usize,
    pub(super) watcher: Watcher,
    pub(super) session: Option<SessionId>,
    pub(super) identities: &'a [Identity],
}

/// Answers a read. What its watches missed already is put into `told`.
pub(super) fn answer(
    reader: &Reader<'_>,
    request: Request,
    told: &mut Vec<(EventType, String)>,
) -> Result<Body, ErrorCode> {
    match request {
        Request::Exists(asked) => reader.exists(&asked),
        Request::GetData(asked) => {
            let node = reader.readable(&asked.path)?;
            reader.watch(&asked, WatchKind::Data)?;
            Ok(Body::DataStat(node.data.clone(), node.stat()))
        }
        Request::GetChildren(asked) => {
            let (names, _) = reader.children(&asked.path)?;
            reader.watch(&asked, WatchKind::Children)?;
            Ok(Body::Names(names))
        }
        Request::GetChildren2(asked) => {
            let (names, node) = reader.children(&asked.path)?;
            reader.watch(&asked, WatchKind::Children)?;
            Ok(Body::NamesStat(names, node.stat()))
        }
        Request::GetAcl(path) => reader.acl(&path),
        Request::GetEphemerals(prefix) => Ok(Body::Names(reader.ephemerals(&prefix)?)),
        Request::GetAllChildrenNumber(path) => {
            reader.readable(&path)?;
            let (at_and_below, _) = reader.tree().size(&path);
            Ok(Body::Number(i32::try_from(at_and_below - 1).unwrap_or(i32::MAX)))
        }
        Request::MultiRead(ops) => reader.parts(ops),
        Request::WhoAmI => Ok(Body::Clients(reader.identities.iter().map(info).collect())),
        Request::AddWatch(asked) => reader.add_watch(&asked),
        Request::CheckWatches(asked) => reader.find_watch(&asked, false),
        Request::RemoveWatches(asked) => reader.find_watch(&asked, true),
        Request::SetWatches(before) => {
            reader.watch_again(before, told)?;
            Ok(Body::Nothing)
        }
        Request::SetWatches2(before) => {
            reader.watch_again(before.one_shot, told)?;
            for path in &before.persistent {
                reader.watch_persistent(path, WatchMode::Persistent)?;
            }
            for path in &before.recursive {
                reader.watch_persistent(path, WatchMode::Recursive)?;
            }
            Ok(Body::Nothing)
        }
        // Everything else is no read, and not passed here.
        _ => Err(ErrorCode::Unimplemented),
    }
}

impl Reader<'_> {
    fn tree(&self) -> &Tree {
        self.state.tree()
    }

    fn node(&self, path: &str) -> Result<&Node, ErrorCode> {
        // ZooKeeper's root has two names.
        let path = if path.is_empty() { "/" } else { path };
        self.tree().get(path).ok_or(ErrorCode::NoNode)
    }

    fn may(&self, acl: &Acl, wanted: i32) -> bool {
        acl.allows(wanted, self.identities)
    }

    fn readable(&self, path: &str) -> Result<&Node, ErrorCode> {
        let node = self.node(path)?;
        if self.may(&node.acl, perms::READ) { Ok(node) } else { Err(ErrorCode::NoAuth) }
    }

    fn watch(&self, asked: &PathWatch, side: WatchKind) -> Result<(), ErrorCode> {
        if !asked.watch {
            return Ok(());
        }
        let add = |watches: &mut Watches| watches.add(self.watcher, &asked.path, side, WatchMode::OneShot);
        throttle_error(self.watcher, self.registry.watches_of(self.watcher, |watches| Some(add(watches))))
    }

    fn watch_persistent(&self, path: &str, reach: WatchMode) -> Result<(), ErrorCode> {
        let add = |watches: &mut Watches| watches.add_persistent(self.watcher, path, reach);
        throttle_error(self.watcher, self.registry.watches_of(self.watcher, |watches| Some(add(watches))))
    }

    fn parts(&self, ops: Vec<ReadOp>) -> Result<Body, ErrorCode> {
        let mut parts = Vec::with_capacity(ops.len());
        let mut bytes = 0;
        for op in ops {
            let part = match op {
                // As in ZooKeeper, they set no watches.
                ReadOp::GetData(asked) => self.readable(&asked.path).map(|node| {
                    bytes += node.bytes().len();
                    Part::GetData(node.data.clone(), node.stat())
                }),
                ReadOp::GetChildren(asked) => self.children(&asked.path).map(|(names, _)| {
                    bytes += names.iter().map(|name| name.len() + size_of::<String>()).sum::<usize>();
                    Part::GetChildren(names)
                }),
            };
            // The same node can be asked for many times: it is not copied as often.
            if bytes > self.answer_bytes_max.min(MULTI_READ_BYTES_MAX) {
                return Err(ErrorCode::MarshallingError);
            }
            parts.push(part.unwrap_or_else(|code| Part::Error(code.number())));
        }
        Ok(Body::Parts(parts))
    }

    fn exists(&self, asked: &PathWatch) -> Result<Body, ErrorCode> {
        if asked.path.contains('\0') {
            return Err(ErrorCode::BadArguments);
        }
        let found = self.readable(&asked.path).map(Node::stat);
        // A node that is not there yet can be watched, too.
        if matches!(found, Ok(_) | Err(ErrorCode::NoNode)) {
            self.watch(asked, WatchKind::Data)?;
        }
        found.map(Body::Stat)
    }

    fn children(&self, path: &str) -> Result<(Vec<String>, &Node), ErrorCode> {
        let node = self.readable(path)?;
        let path = if path.is_empty() { "/" } else { path };
        let names = self.list(self.tree().paths_below(path).map(|child| child.name().to_owned()))?;
        Ok((names, node))
    }

    fn acl(&self, path: &str) -> Result<Body, ErrorCode> {
        let node = self.node(path)?;
        if !self.may(&node.acl, perms::READ | perms::ADMIN) {
            return Err(ErrorCode::NoAuth);
        }
        let is_admin = self.may(&node.acl, perms::ADMIN);
        let acl = if is_admin { node.acl.entries() } else { node.acl.masked() };
        Ok(Body::AclStat(acl, node.stat()))
    }

    /// Collects names, up to the longest answer.
    fn list(&self, names: impl Iterator<Item = String>) -> Result<Vec<String>, ErrorCode> {
        let mut bytes = 0;
        let fits = |name: String| {
            bytes += size_of::<i32>() + name.len();
            (bytes <= self.answer_bytes_max).then_some(name).ok_or(ErrorCode::MarshallingError)
        };
        names.map(fits).collect()
    }

    fn ephemerals(&self, prefix: &str) -> Result<Vec<String>, ErrorCode> {
        let prefix = if prefix.trim().is_empty() { "/" } else { prefix };
        let session = self.session.and_then(|session| self.state.session(session));
        let own = session.into_iter().flat_map(|session| session.ephemerals.iter());
        self.list(own.map(ToString::to_string).filter(|path| path.starts_with(prefix)))
    }

    fn add_watch(&self, asked: &PathNumber) -> Result<Body, ErrorCode> {
        let reach = match AddWatchMode::from_number(asked.number) {
            Some(AddWatchMode::Persistent) => WatchMode::Persistent,
            Some(AddWatchMode::PersistentRecursive) => WatchMode::Recursive,
            None => return Err(ErrorCode::MarshallingError),
        };
        self.watch_persistent(&asked.path, reach)?;
        Ok(Body::Number(0))
    }

    fn find_watch(&self, asked: &PathNumber, remove: bool) -> Result<Body, ErrorCode> {
        let (side, reach) = match WatcherType::from_number(asked.number) {
            Some(WatcherType::Children) => (Some(WatchKind::Children), Some(WatchMode::OneShot)),
            Some(WatcherType::Data) => (Some(WatchKind::Data), Some(WatchMode::OneShot)),
            Some(WatcherType::Persistent) => (None, Some(WatchMode::Persistent)),
            Some(WatcherType::PersistentRecursive) => (None, Some(WatchMode::Recursive)),
            Some(WatcherType::Any) => (None, None),
            None => return Err(ErrorCode::MarshallingError),
        };
        let found = self.registry.watches_of(self.watcher, |watches| match remove {
            true => watches.remove(self.watcher, &asked.path, side, reach),
            false => watches.has(self.watcher, &asked.path, side, reach),
        });
        if found { Ok(Body::Nothing) } else { Err(ErrorCode::NoWatcher) }
    }

    /// Watches as before a reconnection. A watch that missed something hears of it
    /// now, and is gone.
    fn watch_again(&self, before: SetWatches, told: &mut Vec<(EventType, String)>) -> Result<(), ErrorCode> {
        let seen = zxid_seen(before.seen);
        for path in before.data {
            match self.node(&path).ok() {
                None => told.push((EventType::NodeDeleted, path)),
                Some(node) if node.stamps.mzxid > seen => {
                    told.push((EventType::NodeDataChanged, path));
                }
                Some(_) => self.watch(&PathWatch { path, watch: true }, WatchKind::Data)?,
            }
        }
        for path in before.exist {
            match self.node(&path).ok() {
                Some(_) => told.push((EventType::NodeCreated, path)),
                None => self.watch(&PathWatch { path, watch: true }, WatchKind::Data)?,
            }
        }
        for path in before.children {
            match self.node(&path).ok() {
                None => told.push((EventType::NodeDeleted, path)),
                Some(node) if node.stamps.pzxid > seen => {
                    told.push((EventType::NodeChildrenChanged, path));
                }
                Some(_) => self.watch(&PathWatch { path, watch: true }, WatchKind::Children)?,
            }
        }
        Ok(())
    }
}

/// Maps [`TooManyWatches`] to `ThrottledOp`. A watcher that is already gone adds nothing.
fn throttle_error(watcher: Watcher, added: Option<Result<(), TooManyWatches>>) -> Result<(), ErrorCode> {
    added.unwrap_or(Ok(())).map_err(|error| {
        tracing::debug!(watcher = watcher.0, %error, "watch refused");
        ErrorCode::ThrottledOp
    })
}

/// Without passwords; addresses of version 6 in Java's notation.
fn info(identity: &Identity) -> ClientInfo {
    let user = match identity.scheme.as_str() {
        "digest" => identity.id.split(':').next().unwrap_or_default().to_owned(),
        "ip" => match identity.id.parse::<Ipv6Addr>() {
            Ok(address) => address.segments().map(|segment| format!("{segment:x}")).join(":"),
            Err(_) => identity.id.clone(),
        },
        _ => identity.id.clone(),
    };
    ClientInfo { scheme: identity.scheme.clone(), user }
}
