//! What a server of ZooKeeper has on disk: its newest snapshot, and what its logs
//! have beyond that. Source: `FileTxnSnapLog.java`, `DataTree.processTxn`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rota_core::state::Stamps;
use rota_protocol::zk::disk::{Node, Snapshot, Txn, TxnHeader, read_log};

/// All that was held.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) nodes: BTreeMap<String, Node>,
    /// With their timeouts in milliseconds.
    pub(super) sessions: BTreeMap<u64, i32>,
    pub(super) zxid: u64,
}

/// Reads a server's folders: that of its snapshots, and that of its logs.
///
/// # Errors
/// When there is no snapshot, or one of the files is damaged.
pub(super) fn read(snapshots: &Path, logs: &Path) -> anyhow::Result<Held> {
    let found = files(snapshots, "snapshot.")?;
    let Some((zxid, path)) = found.last() else {
        bail!(
            "{} holds no file snapshot.…: it should be the dataDir of a server of ZooKeeper",
            snapshots.display()
        );
    };
    let name = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let snapshot = Snapshot::read(bytes.into()).with_context(|| {
        format!("{name}: one that is compressed must be unpacked first (gunzip), under its name without the ending")
    })?;
    let mut held = Held { zxid: *zxid, ..Held::default() };
    for session in snapshot.sessions {
        held.sessions.insert(session.session, session.timeout_ms);
    }
    held.nodes.extend(snapshot.nodes);
    for (_, path) in files(logs, "log.")? {
        let name = path.display();
        let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        let txns = read_log(bytes.into()).with_context(|| name.to_string())?;
        for (header, txn) in txns {
            if header.zxid > held.zxid {
                held.zxid = header.zxid;
                held.apply(&header, txn);
            }
        }
    }
    Ok(held)
}

/// The files of a kind, by the write that their names say.
fn files(folder: &Path, prefix: &str) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    let inner = folder.join("version-2");
    let folder = if inner.is_dir() { inner } else { folder.to_owned() };
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
                let stamps = Stamps::new(header.zxid, header.time_ms);
                self.nodes.entry(path).or_insert(Node { data, acl, owner, stamps });
            }
            Txn::Delete { path } => self.delete(&path, header.zxid),
            Txn::SetData { path, data, version } => {
                if let Some(node) = self.nodes.get_mut(&path) {
                    node.data = data;
                    node.stamps.version = version;
                    node.stamps.mzxid = header.zxid;
                    node.stamps.mtime_ms = header.time_ms;
                }
            }
            Txn::SetAcl { path, acl, version } => {
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
                let own = self.nodes.iter().filter(|(_, node)| node.owner == header.session);
                let own: Vec<String> = own.map(|(path, _)| path.clone()).collect();
                own.iter().for_each(|path| self.delete(path, header.zxid));
            }
            Txn::Multi(txns) => txns.into_iter().for_each(|txn| self.apply(header, txn)),
            Txn::Nothing => {}
        }
    }

    fn delete(&mut self, path: &str, zxid: u64) {
        self.nodes.remove(path);
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
