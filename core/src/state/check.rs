//! Verifies a state's invariants, written without the code that changes it.
//! It runs in tests after every step, and on every snapshot that is read.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use super::session::SessionId;

/// All invariants that `state` breaks, in words; empty for a sound state.
/// Costs O(n) in the number of nodes.
#[must_use]
pub fn check(state: &State) -> Vec<String> {
    let mut faults = check_nodes(state);
    for (path, node) in state.tree().iter() {
        if !state.tree().is_listed(path, node) {
            faults.push(format!("{path} is not where its parent says"));
        }
    }
    faults
}

/// All but the places of nodes in lists, which no snapshot tells of.
pub(super) fn check_nodes(state: &State) -> Vec<String> {
    let mut faults = Vec::new();
    let mut owned: BTreeMap<SessionId, BTreeSet<&str>> = BTreeMap::new();
    let (mut digest, mut bytes, mut children, mut mortal) = (0u64, 0, 0, 0);

    for (path, node) in state.tree().iter() {
        digest = digest.wrapping_add(node.digest(path));
        bytes += node.bytes().len() as u64;
        if node.content != node.content_hash() {
            faults.push(format!("{path}: the hash of its data and list is another one's"));
        }
        if node.links.len() != node.child_count as usize {
            faults.push(format!("{path} counts {} children and has {}", node.child_count, node.links.len()));
        }
        children += node.child_count as usize;
        mortal += usize::from(node.kind.is_mortal());
        if let Some(session) = node.owner() {
            owned.entry(session).or_default().insert(path.as_str());
            if node.child_count > 0 {
                faults.push(format!("ephemeral node {path} has children"));
            }
        }
        for (name, zxid) in
            [("czxid", node.stamps.czxid), ("mzxid", node.stamps.mzxid), ("pzxid", node.stamps.pzxid)]
        {
            if zxid > state.zxid() || zxid < node.stamps.czxid {
                faults.push(format!("{path}: {name} {zxid} is out of order"));
            }
        }
        // Among themselves they may be out of order where another cluster's clocks were.
        if node.stamps.mtime_ms > state.time_ms() || node.stamps.ctime_ms > state.time_ms() {
            faults.push(format!("{path}: times are out of order"));
        }
        if node.kind.is_mortal() && !state.mortal.contains(path) {
            faults.push(format!("{path} is not listed among those to be reaped"));
        }
    }

    // Each but the root stands in a list, and the lists have no more.
    if children + 1 != state.tree().len() {
        faults.push(format!("{children} children are counted of {} nodes", state.tree().len()));
    }
    if state.tree().get("/").is_none() {
        faults.push("there is no root".to_owned());
    }
    if bytes != state.tree().bytes() {
        faults.push("the bytes of data are not the sum of the nodes'".to_owned());
    }
    if digest != state.tree().digest() {
        faults.push("the digest is not the sum of the nodes' digests".to_owned());
    }

    for (id, session) in state.sessions() {
        let listed: BTreeSet<&str> = session.ephemerals.iter().map(|path| path.as_str()).collect();
        if listed != owned.remove(&id).unwrap_or_default() {
            faults.push(format!("session {id} lists other ephemeral nodes than it owns"));
        }
        if session.opened > state.zxid() {
            faults.push(format!("session {id} was opened in the future"));
        }
    }
    if state.mortal.len() != mortal {
        faults.push("other nodes are listed among those to be reaped".to_owned());
    }
    faults.extend(owned.keys().map(|id| format!("ephemeral nodes of session {id}, which is gone")));
    faults
}
