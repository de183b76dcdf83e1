//! Filling an empty cluster with what another one held: nodes with their whole
//! Stats, sessions, and the number of the last write, so that those who knew the
//! other cluster find the same things here.
//!
//! An import comes in parts, parents before children. Until its last part, nobody
//! else can write; one that broke off is begun again, from nothing, or given up.

use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use super::acl::{Acl, AclEntry};
use super::node::{Node, NodeKind, Stamps};
use super::ops::no_node;
use super::reply::{Refusal, Reply};
use super::session::{Password, Session, SessionId};
use super::tree::{Links, Tree};
use super::{CONFIG, PERMANENT, State};
use crate::Zxid;
use crate::path::{NodePath, is_at_or_below};
use crate::pool::layout;

/// A part of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Import {
    /// It begins. The cluster must be empty, or full of an import that broke off.
    Begin,
    /// More of it: all of what it holds, or nothing.
    More {
        /// Sessions; each before its nodes.
        sessions: Vec<ImportedSession>,
        /// Nodes; parents before children.
        nodes: Vec<ImportedNode>,
    },
    /// That was all.
    End {
        /// The last write of the other cluster.
        zxid: Zxid,
    },
    /// It is given up: the cluster is empty again, and everybody can write.
    Abandon,
}

/// A session of the other cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedSession {
    /// Its id.
    pub session: SessionId,
    /// Its password, so that its client can go on with it.
    pub password: Password,
    /// Its timeout, in milliseconds.
    pub timeout_ms: u32,
}

/// A node of the other cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedNode {
    /// Where it stands.
    pub path: String,
    /// Its data.
    pub data: Option<Bytes>,
    /// How long it lives.
    pub kind: NodeKind,
    /// Who may do what with it; everybody everything, if `None`.
    pub acl: Option<Vec<AclEntry>>,
    /// Its changes.
    pub stamps: Stamps,
}

/// One thing of another cluster.
enum Part<'a> {
    Session(&'a ImportedSession),
    Node(&'a ImportedNode),
}

/// The largest number that the last write of another cluster may have: this one goes on
/// from there.
const ZXID_MAX: Zxid = 1 << 62;

fn check_zxid(zxid: Zxid) -> Result<(), Refusal> {
    if zxid > ZXID_MAX { Err(Refusal::BadZxid { zxid }) } else { Ok(()) }
}

impl State {
    pub(super) fn import(&mut self, part: &Import) -> Result<Reply, Refusal> {
        match part {
            Import::Begin => self.begin_import()?,
            _ if !self.importing => return Err(Refusal::NotImporting),
            Import::More { sessions, nodes } => {
                // A view, which costs nothing: a part that is refused leaves nothing.
                let before = self.clone();
                let mut parts = sessions.iter().map(Part::Session).chain(nodes.iter().map(Part::Node));
                let taken = parts.try_for_each(|part| match part {
                    Part::Session(session) => self.import_session(session),
                    Part::Node(node) => self.import_node(node),
                });
                if let Err(refusal) = taken {
                    *self = before;
                    return Err(refusal);
                }
            }
            Import::End { zxid } => {
                check_zxid(*zxid)?;
                self.zxid = self.zxid.max(*zxid);
                self.importing = false;
                // On disk, ZooKeeper keeps limits and not what there is.
                self.recount_quotas();
            }
            Import::Abandon => {
                self.begin_import()?;
                self.importing = false;
            }
        }
        Ok(Reply::Imported { anew: !matches!(part, Import::More { .. }) })
    }

    fn begin_import(&mut self) -> Result<(), Refusal> {
        let (removed, _) = self.tree.size(layout::REMOVED);
        // With the node above them.
        let removed = usize::try_from(removed).unwrap_or(0);
        let of_cluster = PERMANENT.len() + if removed > 0 { removed + 1 } else { 0 };
        if !self.importing && self.tree.len() > of_cluster {
            return Err(Refusal::NotEmptyCluster { nodes: (self.tree.len() - of_cluster) as u64 });
        }
        let config = self.tree.get(CONFIG).cloned();
        self.tree = Tree::default();
        self.reapable = OrdSet::new();
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        sessions.into_iter().for_each(|id| self.remove_session(id));
        for path in PERMANENT {
            self.insert_system_node(path);
        }
        if let (Some(config), Ok(path)) = (config, NodePath::parse(CONFIG)) {
            self.tree.replace(&path, Some(Arc::new(config)));
        }
        self.importing = true;
        Ok(())
    }

    /// A session is imported once: a second time would take its ephemeral nodes from it.
    fn import_session(&mut self, session: &ImportedSession) -> Result<(), Refusal> {
        let ImportedSession { session: id, password, timeout_ms } = *session;
        if self.sessions.contains_key(&id) {
            return Err(Refusal::SessionExists { session: id });
        }
        let ephemerals = OrdSet::new();
        let session = Session { password, timeout_ms, opened: self.zxid, connection: 0, ephemerals };
        self.insert_session(id, session);
        Ok(())
    }

    fn import_node(&mut self, imported: &ImportedNode) -> Result<(), Refusal> {
        let path = NodePath::parse(&imported.path)
            .map_err(|cause| Refusal::BadPath { path: imported.path.clone(), cause })?;
        if is_at_or_below(path.as_str(), layout::ROTA) {
            let hint = "a part of the tree that another cluster calls so cannot be taken over".to_owned();
            return Err(Refusal::Reserved { path: path.to_string(), hint });
        }
        if path.as_str() == CONFIG {
            // It tells of this cluster.
            return Ok(());
        }
        if let NodeKind::Ephemeral(session) = imported.kind
            && !self.sessions.contains_key(&session)
        {
            return Err(Refusal::SessionExpired { session });
        }
        let before = self.tree.get(path.as_str());
        let is_permanent = PERMANENT.contains(&path.as_str());
        if before.is_some() && !is_permanent {
            return Err(Refusal::NodeExists { path: path.to_string() });
        }
        let mut stamps = imported.stamps;
        stamps.mzxid = stamps.mzxid.max(stamps.czxid);
        stamps.pzxid = stamps.pzxid.max(stamps.czxid);
        check_zxid(stamps.mzxid.max(stamps.pzxid))?;
        let node = Node {
            data: imported.data.clone(),
            kind: imported.kind,
            acl: imported.acl.clone().map_or_else(Acl::open, Acl::new),
            stamps,
            // Its time to live begins anew: the other cluster's clock means nothing here.
            modified_cluster_ms: self.timestamp.cluster_ms,
            content: 0,
            links: Links::default(),
        }
        .sealed();
        if !is_permanent && let Some(parent) = path.parent() {
            let above = self.tree.get(parent.as_str()).ok_or_else(|| no_node(parent.as_str()))?;
            if above.owner().is_some() {
                return Err(Refusal::NoChildrenForEphemerals { path: parent.to_string() });
            }
        }
        self.zxid = self.zxid.max(stamps.mzxid).max(stamps.pzxid);
        if let NodeKind::Ephemeral(session) = node.kind {
            self.add_ephemeral(session, &path);
        }
        self.replace(&path, Some(Arc::new(node)));
        Ok(())
    }
}
