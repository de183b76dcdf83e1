//! The tree as one persistent ordered map from path to node.
//!
//! Persistent in the sense of data structures: a clone costs O(1) and shares
//! everything, so a snapshot's view is taken between two writes and written out
//! while writes go on. Children of a node are a range of the map.
//!
//! The tree keeps no rules but these: its digest is the sum of its nodes' digests, and
//! it knows how many bytes of data they have, and how many of them are quotas. Which changes are allowed is decided in [`super::ops`].

use std::sync::Arc;

use imbl::OrdMap;

use super::node::{Node, Stat};
use super::quota::QUOTAS;
use crate::path::{NodePath, PathRef};

/// All nodes, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: OrdMap<NodePath, Arc<Node>>,
    digest: u64,
    bytes: u64,
    /// Nodes below [`QUOTAS`].
    quotas: usize,
}

impl Tree {
    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node, not even the root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Bytes of data in all nodes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sum (wrapping) of all nodes' digests.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The node at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&PathRef::new(path)).map(|node| &**node)
    }

    /// All nodes, each parent's children side by side.
    pub fn iter(&self) -> impl Iterator<Item = (&NodePath, &Node)> {
        self.nodes.iter().map(|(path, node)| (path, &**node))
    }

    /// The children of `parent`, in an order that is the same on every server, but not
    /// that of their names.
    pub fn children<'a>(&'a self, parent: &'a str) -> impl Iterator<Item = (&'a NodePath, &'a Node)> {
        let start = PathRef::first_child_of(parent);
        self.nodes
            .range(start..)
            .take_while(move |(path, _)| path.as_ref().is_beside(&start))
            // Another parent may have the same hash.
            .filter(move |(path, _)| path.parent_ref() == Some(parent))
            .map(|(path, node)| (path, &**node))
    }

    /// The children of `parent`, in the order of their names. It costs a sorting.
    #[must_use]
    pub fn children_by_name<'a>(&'a self, parent: &'a str) -> Vec<(&'a NodePath, &'a Node)> {
        let mut children: Vec<_> = self.children(parent).collect();
        children.sort_unstable_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        children
    }

    /// Whether there is anything below the node where quotas stand.
    pub(super) fn has_quotas(&self) -> bool {
        self.quotas > 0
    }

    /// Puts a node at `path`, or takes it away, and returns what was there.
    pub(super) fn replace(&mut self, path: &NodePath, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let is_quota = path.as_str().strip_prefix(QUOTAS).is_some_and(|below| !below.is_empty());
        if let Some(node) = &node {
            self.quotas += usize::from(is_quota);
            self.digest = self.digest.wrapping_add(node.digest(path));
            self.bytes += node.bytes().len() as u64;
        }
        let before = match node {
            Some(node) => self.nodes.insert(path.clone(), node),
            None => self.nodes.remove(&path.as_ref()),
        };
        if let Some(before) = &before {
            self.quotas -= usize::from(is_quota);
            self.digest = self.digest.wrapping_sub(before.digest(path));
            self.bytes -= before.bytes().len() as u64;
        }
        before
    }

    /// Changes the node at `path` in place, if there is one, and says its new Stat.
    pub(super) fn update(&mut self, path: &NodePath, change: impl FnOnce(&mut Node)) -> Option<Stat> {
        let node = self.nodes.get_mut(&path.as_ref())?;
        let before = node.digest(path);
        self.bytes -= node.bytes().len() as u64;
        let node = Arc::make_mut(node);
        change(node);
        self.bytes += node.bytes().len() as u64;
        let after = node.digest(path);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        Some(node.stat())
    }

    /// A shared handle on the node at `path`, for undoing a change of it.
    pub(super) fn share(&self, path: &NodePath) -> Option<Arc<Node>> {
        self.nodes.get(&path.as_ref()).map(Arc::clone)
    }

    /// The node at `path`, and the path as the map holds it, so that its text is
    /// shared.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<(&NodePath, &Node)> {
        self.nodes.get_key_value(&PathRef::new(path)).map(|(key, node)| (key, &**node))
    }

    /// How many nodes there are at and below `path`, and how many bytes of data they
    /// hold.
    #[must_use]
    pub fn size(&self, path: &str) -> (i64, i64) {
        let Some((top, node)) = self.entry(path) else { return (0, 0) };
        let mut total = (0, 0);
        let mut open = vec![(top, node)];
        while let Some((path, node)) = open.pop() {
            total.0 += 1;
            total.1 += i64::try_from(node.bytes().len()).unwrap_or(i64::MAX);
            if node.child_count > 0 {
                open.extend(self.children(path.as_str()));
            }
        }
        total
    }
}
