//! What a server of ZooKeeper has on disk: its newest snapshot, and what its logs
//! have beyond that. Source: `FileTxnSnapLog.java`, `DataTree.processTxn`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::output::say;
use anyhow::{Context, bail};
use rota_core::state::Stamps;
use rota_protocol::zk::disk::{Node, Snapshot, Txn, TxnHeader, read_log};
use rota_protocol::zk::{SetAcl, SetData};

/// What helps against damage.
const ANOTHER: &str = "it cannot be read; take the folder of another server of the cluster";

/// All that was held.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) nodes: BTreeMap<String, Node>,
    /// With their timeouts in milliseconds.
    pub(super) sessions: BTreeMap<u64, i32>,
    pub(super) zxid: u64,
    /// What each session owns.
    owned: BTreeMap<u64, BTreeSet<String>>,
}

/// Reads a server's folders: that of its snapshots, and that of its logs, if there is
/// more than the snapshot.
///
/// # Errors
/// When there is no snapshot or no log, or one of the files is damaged.
pub(super) fn read(snapshots: &Path, logs: Option<&Path>) -> anyhow::Result<Held> {
    let mut held = newest_snapshot(snapshots)?;
    let Some(logs) = logs else { return Ok(held) };
    let found = files(logs, "log.")?;
    if found.is_empty() {
        bail!(
            "{} holds no transaction log (log.…): name the dataLogDir with --logs, or say --without-logs to \
             take the snapshot alone",
            logs.display()
        );
    }
    check_gap(&found, held.zxid)?;
    for (_, path) in found {
        let name = path.display();
        let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        let log = read_log(bytes.into()).with_context(|| format!("{name}: {ANOTHER}"))?;
        for (header, txn) in log.txns {
            if header.zxid > held.zxid {
                held.zxid = header.zxid;
                held.apply(&header, txn);
            }
        }
        if log.is_torn {
            say(&format!(
                "{name} ends within a record, as after a crash: what came after write 0x{:x} is not in it. \
                 Another server may have more",
                held.zxid
            ));
        }
    }
    Ok(held)
}

/// What the newest snapshot has that is whole. A server that was killed while it wrote
/// one goes on from the one before, and so do we.
fn newest_snapshot(folder: &Path) -> anyhow::Result<Held> {
    let packed = packed_snapshot(folder);
    let found = files(folder, "snapshot.")?;
    if let Some((zxid, name)) = packed
        && found.last().is_none_or(|(newest, _)| zxid > *newest)
    {
        bail!(
            "{}: the newest snapshot, {name}, is compressed: unpack it first, under its name without the ending",
            folder.display()
        );
    }
    let mut fault = None;
    for (zxid, path) in found.iter().rev() {
        let name = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
        match Snapshot::read(bytes.into()) {
            Ok(snapshot) => return Ok(Held::of(*zxid, snapshot)),
            Err(error) => {
                say(&format!("{name} is passed over: {error}"));
                fault.get_or_insert_with(|| anyhow::Error::new(error).context(format!("{name}: {ANOTHER}")));
            }
        }
    }
    Err(fault.unwrap_or_else(|| {
        let folder = folder.display();
        anyhow::anyhow!(
            "{folder} holds no file snapshot.…: it should be the dataDir of a server of ZooKeeper"
        )
    }))
}

/// The newest snapshot that is compressed: its last write, and its name.
fn packed_snapshot(folder: &Path) -> Option<(u64, String)> {
    let entries = fs::read_dir(inner(folder)).ok()?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let packed = names.filter_map(|name| {
        let (hex, _) = name.strip_prefix("snapshot.")?.split_once('.')?;
        Some((u64::from_str_radix(hex, 16).ok()?, name))
    });
    packed.max()
}

/// Logs are named by their first write. Within one leader's time, none may be missing
/// between the snapshot and the first log after it.
fn check_gap(logs: &[(u64, PathBuf)], snapshot: u64) -> anyhow::Result<()> {
    let is_covered = logs.iter().any(|(first, _)| *first <= snapshot + 1);
    match logs.first() {
        Some((first, path)) if !is_covered && first >> 32 == snapshot >> 32 => bail!(
            "the writes from 0x{:x} to 0x{:x} are missing, between the newest snapshot and {}: \
             take the folder of another server of the cluster",
            snapshot + 1,
            first - 1,
            path.display()
        ),
        _ => Ok(()),
    }
}

/// Servers keep their files below a folder of this name.
fn inner(folder: &Path) -> PathBuf {
    let inner = folder.join("version-2");
    if inner.is_dir() { inner } else { folder.to_owned() }
}

/// The files of a kind, by the write that their names say.
fn files(folder: &Path, prefix: &str) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    let folder = inner(folder);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(zxid) = name.strip_prefix(prefix).and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            files.push((zxid, path));
        }
    }
    files.sort();
    Ok(files)
}

impl Held {
    fn of(zxid: u64, snapshot: Snapshot) -> Self {
        let mut held = Self { zxid, ..Self::default() };
        for session in snapshot.sessions {
            held.sessions.insert(session.session, session.timeout_ms);
        }
        for (path, node) in snapshot.nodes {
            held.own(node.owner, &path);
            held.nodes.insert(path, node);
        }
        held
    }

    fn own(&mut self, owner: u64, path: &str) {
        if owner != 0 {
            self.owned.entry(owner).or_default().insert(path.to_owned());
        }
    }

    /// A snapshot was written while writes went on: it may have what a transaction
    /// does already, or more.
    fn apply(&mut self, header: &TxnHeader, txn: Txn) {
        match txn {
            Txn::Create { path, data, acl, owner, parent_creations } => {
                if let Some(parent) = self.nodes.get_mut(parent(&path))
                    && parent_creations > parent.stamps.child_creations
                {
                    parent.stamps.child_creations = parent_creations;
                    parent.stamps.pzxid = header.zxid;
                }
                let owner = owner.unwrap_or(header.session);
                self.own(owner, &path);
                let stamps = Stamps::new(header.zxid, header.time_ms);
                self.nodes.entry(path).or_insert(Node { data, acl, owner, stamps });
            }
            Txn::Delete { path } => self.delete(&path, header.zxid),
            Txn::SetData(SetData { path, data, version }) => {
                if let Some(node) = self.nodes.get_mut(&path) {
                    node.data = data;
                    node.stamps.version = version;
                    node.stamps.mzxid = header.zxid;
                    node.stamps.mtime_ms = header.time_ms;
                }
            }
            Txn::SetAcl(SetAcl { path, acl, version }) => {
                if let Some(node) = self.nodes.get_mut(&path) {
                    node.acl = acl;
                    node.stamps.aversion = version;
                }
            }
            Txn::OpenSession { timeout_ms } => {
                self.sessions.insert(header.session, timeout_ms);
            }
            Txn::CloseSession => {
                self.sessions.remove(&header.session);
                let own = self.owned.remove(&header.session).unwrap_or_default();
                own.iter().for_each(|path| self.delete(path, header.zxid));
            }
            Txn::Multi(txns) => txns.into_iter().for_each(|txn| self.apply(header, txn)),
            Txn::Nothing => {}
        }
    }

    fn delete(&mut self, path: &str, zxid: u64) {
        if let Some(node) = self.nodes.remove(path)
            && let Some(own) = self.owned.get_mut(&node.owner)
        {
            own.remove(path);
        }
        if let Some(parent) = self.nodes.get_mut(parent(path)) {
            parent.stamps.pzxid = parent.stamps.pzxid.max(zxid);
        }
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}
