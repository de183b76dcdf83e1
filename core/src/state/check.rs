//! Verifies a state's invariants, written without the code that changes it.
//!
//! All of it runs in tests after every step. A snapshot that is read is checked, node by
//! node, for what its bytes can get wrong; sums, counts and lists are made of what is read.

use std::collections::{BTreeMap, BTreeSet};

use super::node::Node;
use super::session::SessionId;
use super::tree::is_quota;
use super::{State, digest};
use crate::path::NodePath;

/// All invariants that `state` breaks, in words; empty for a sound state.
/// Costs O(n) in the number of nodes.
#[must_use]
pub fn check(state: &State) -> Vec<String> {
    let mut faults = Vec::new();
    check_sessions(state, &mut faults);
    let mut owned: BTreeMap<SessionId, BTreeSet<&str>> = BTreeMap::new();
    let (mut digest, mut bytes, mut path_bytes) = (0u64, 0, 0);
    let (mut children, mut reapable, mut quotas) = (0, 0, 0);

    for (path, node) in state.tree().iter() {
        check_node(state, path, node, &mut faults);
        if !state.tree().is_listed(path, node) {
            faults.push(format!("{path} is not where its parent says"));
        }
        digest = digest.wrapping_add(node.digest(path));
        bytes += node.bytes().len() as u64;
        path_bytes += path.as_str().len() as u64;
        if node.content != node.content_hash() {
            faults.push(format!("{path}: the hash of its data and list is another one's"));
        }
        children += node.child_count() as usize;
        quotas += usize::from(is_quota(path));
        reapable += usize::from(node.kind.is_reapable());
        if let Some(session) = node.owner() {
            owned.entry(session).or_default().insert(path.as_str());
        }
        if node.kind.is_reapable() && !state.reapable.contains(path) {
            faults.push(format!("{path} is not listed among those to be reaped"));
        }
    }

    // Each but the root stands in a list, and the lists have no more.
    if children + 1 != state.tree().len() {
        faults.push(format!("{children} children are listed of {} nodes", state.tree().len()));
    }
    if (bytes, path_bytes) != (state.tree().bytes(), state.tree().path_bytes()) {
        faults.push("the bytes of data or of paths are not the sum of the nodes'".to_owned());
    }
    if quotas != state.tree().quotas() {
        faults.push("the number of quotas is another one".to_owned());
    }
    if digest != state.tree().digest() {
        faults.push("the digest is not the sum of the nodes' digests".to_owned());
    }

    let mut registered = 0u64;
    for (server, unit) in &state.submitted {
        registered = registered.wrapping_add(digest::submitted_digest(*server, *unit));
    }
    for (server, endpoints) in &state.server_endpoints {
        registered = registered.wrapping_add(digest::endpoints_digest(*server, endpoints));
    }
    for (id, session) in state.sessions() {
        registered = registered.wrapping_add(session.digest(id));
    }
    if registered != state.non_tree_digest {
        faults.push("the registry digest is not the sum of its components' digests".to_owned());
    }
    for (id, session) in state.sessions() {
        let listed: BTreeSet<&str> = session.ephemerals.iter().map(|path| path.as_str()).collect();
        if listed != owned.remove(&id).unwrap_or_default() {
            faults.push(format!("session {id} lists other ephemeral nodes than it owns"));
        }
    }
    if state.reapable.len() != reapable {
        faults.push("other nodes are listed among those to be reaped".to_owned());
    }
    faults
}

/// What a node says of itself.
pub(super) fn check_node(state: &State, path: &NodePath, node: &Node, faults: &mut Vec<String>) {
    let stamps = &node.stamps;
    for (name, zxid) in [("czxid", stamps.czxid), ("mzxid", stamps.mzxid), ("pzxid", stamps.pzxid)] {
        if zxid > state.zxid() || zxid < stamps.czxid {
            faults.push(format!("{path}: {name} {zxid} is out of order"));
        }
    }
    if node.modified_cluster_ms > state.last_timestamp().cluster_ms {
        faults.push(format!(
            "{path}: modified at {} ms, later than the cluster clock",
            node.modified_cluster_ms
        ));
    }
    if let Some(session) = node.owner()
        && state.session(session).is_none()
    {
        faults.push(format!("{path} belongs to session {session}, which is gone"));
    }
}

/// What sessions say of themselves and of their nodes, and that there is a root.
pub(super) fn check_sessions(state: &State, faults: &mut Vec<String>) {
    for (id, session) in state.sessions() {
        if session.opened > state.zxid() {
            faults.push(format!("session {id} was opened in the future"));
        }
        for path in &session.ephemerals {
            if state.tree().get(path.as_str()).is_none_or(|node| node.child_count() > 0) {
                faults.push(format!("ephemeral node {path} is gone or has children"));
            }
        }
    }
    if state.tree().get("/").is_none() {
        faults.push("there is no root".to_owned());
    }
}
