//! The tree: a persistent map from path to node, each of which lists its children.
//!
//! Persistent in the sense of data structures: a clone costs O(1) and shares
//! everything, so a snapshot's view is taken between two writes and written out
//! while writes go on. Long lists of children are persistent too, and a child knows its
//! place in its parent's, so that nothing costs what a list is long
//! (`docs/decisions/0014-hashed-tree.md`).
//!
//! The tree keeps no rules but these: its digest is the sum of its nodes' digests, it
//! knows how many bytes of data they have and how many of them are quotas, and a node
//! that comes or goes does so in its parent's list. Which changes are allowed is
//! decided in [`super::ops`].

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use equivalent::Equivalent;
use imbl::{HashMap, Vector};

use super::acl::Acl;
use super::node::{Node, Stamps, Stat};
use super::quota::QUOTAS;
use crate::path::NodePath;

/// All nodes, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The hashes are keyed by chance, so that nobody can choose names that meet. What
    /// the state does depends on no order of this map.
    nodes: HashMap<NodePath, Arc<Node>>,
    digest: u64,
    bytes: u64,
    path_bytes: u64,
    /// Nodes below [`QUOTAS`], of which every write asks whether there are any.
    quotas: usize,
}

/// Where a node stands among its siblings, and which children it has. Both follow from
/// the paths: two nodes do not differ by them.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    children: Option<Box<Children>>,
    place: u32,
}

/// Up to this many children are a plain list: the least persistent one takes 1.5 KB, which
/// a parent that has had more of them keeps until it has none.
const FEW_MAX: usize = 64;

#[derive(Debug, Clone)]
enum Children {
    Few(Vec<NodePath>),
    Many(Vector<NodePath>),
}

impl Children {
    fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(list) => list.len(),
        }
    }

    fn get(&self, place: usize) -> Option<&NodePath> {
        match self {
            Self::Few(list) => list.get(place),
            Self::Many(list) => list.get(place),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &NodePath> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list), None),
            Self::Many(list) => (None, Some(list)),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    fn push(&mut self, child: NodePath) {
        match self {
            Self::Few(list) if list.len() < FEW_MAX => list.push(child),
            Self::Few(list) => {
                let mut many: Vector<NodePath> = std::mem::take(list).into();
                many.push_back(child);
                *self = Self::Many(many);
            }
            Self::Many(list) => list.push_back(child),
        }
    }

    fn pop(&mut self) -> Option<NodePath> {
        match self {
            Self::Few(list) => list.pop(),
            Self::Many(list) => list.pop_back(),
        }
    }

    fn set(&mut self, place: usize, child: NodePath) {
        match self {
            Self::Few(list) => list[place] = child,
            Self::Many(list) => drop(list.set(place, child)),
        }
    }
}

impl PartialEq for Links {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Links {}

impl Links {
    pub(super) fn len(&self) -> usize {
        self.children.as_ref().map_or(0, |children| children.len())
    }

    fn children(&self) -> impl Iterator<Item = &NodePath> {
        self.children.iter().flat_map(|children| children.iter())
    }

    /// Puts a child at the end, and says where that is.
    fn push(&mut self, child: NodePath) -> u32 {
        let children = self.children.get_or_insert_with(|| Box::new(Children::Few(Vec::new())));
        children.push(child);
        u32::try_from(children.len() - 1).unwrap_or(u32::MAX)
    }

    /// Takes a child away, and says which one has its place now, if one does.
    fn take(&mut self, place: u32) -> Option<NodePath> {
        let children = self.children.as_mut()?;
        let last = children.pop()?;
        if children.len() == 0 {
            self.children = None;
            return None;
        }
        let place = place as usize;
        (place < children.len()).then(|| {
            children.set(place, last.clone());
            last
        })
    }
}

/// What was changed of a node, as it was before.
#[derive(Debug)]
pub(super) struct Before {
    stamps: Stamps,
    modified_cluster_ms: u64,
    acl: Acl,
    content: u64,
    data: DataBefore,
}

/// A node's data before a change.
#[derive(Debug)]
pub(super) enum DataBefore {
    /// They are as they were.
    Unchanged,
    /// They were other ones, or none.
    Was(Option<Bytes>),
}

/// A change that was made.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) path: NodePath,
    /// The node's Stat from now on.
    pub(super) stat: Stat,
    /// Its list from now on.
    pub(super) acl: Acl,
    pub(super) before: Before,
}

/// A path as the map looks for it. `Borrow<str>` would promise that paths stand in the
/// order of their texts, and they do not.
struct Text<'a>(&'a str);

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<NodePath> for Text<'_> {
    fn equivalent(&self, path: &NodePath) -> bool {
        self.0 == path.as_str()
    }
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

    /// Bytes of all paths.
    #[must_use]
    pub fn path_bytes(&self) -> u64 {
        self.path_bytes
    }

    /// The sum (wrapping) of all nodes' digests.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The node at `path`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&Text(path)).map(|node| &**node)
    }

    /// The node at `path`, and the path as the map holds it, so that its text is
    /// shared.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<(&NodePath, &Node)> {
        self.nodes.get_key_value(&Text(path)).map(|(key, node)| (key, &**node))
    }

    /// All nodes, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&NodePath, &Node)> {
        self.nodes.iter().map(|(path, node)| (path, &**node))
    }

    /// All nodes, each after its parent, in an order that is the same on every server.
    pub(super) fn parents_first(&self) -> impl Iterator<Item = (&NodePath, &Node)> {
        let mut parents: VecDeque<&Node> = VecDeque::new();
        let mut children: Box<dyn Iterator<Item = &NodePath>> =
            Box::new(self.entry("/").map(|(path, _)| path).into_iter());
        std::iter::from_fn(move || {
            loop {
                if let Some(path) = children.next() {
                    let node = &**self.nodes.get(path)?;
                    if node.child_count() > 0 {
                        parents.push_back(node);
                    }
                    return Some((path, node));
                }
                children = Box::new(parents.pop_front()?.links.children());
            }
        })
    }

    /// The paths of the children of `parent`, in an order that is the same on every server:
    /// that in which they came, but the last one takes the place of one that goes.
    pub fn paths_below(&self, parent: &str) -> impl Iterator<Item = &NodePath> {
        self.get(parent).into_iter().flat_map(|node| node.links.children())
    }

    /// The children of `parent`, in the order of [`Tree::paths_below`].
    pub fn children(&self, parent: &str) -> impl Iterator<Item = (&NodePath, &Node)> {
        self.paths_below(parent).filter_map(|path| self.nodes.get(path).map(|node| (path, &**node)))
    }

    /// Whether there is anything below the node where quotas stand.
    pub(super) fn has_quotas(&self) -> bool {
        self.quotas > 0
    }

    pub(super) fn quotas(&self) -> usize {
        self.quotas
    }

    /// Puts a node at `path`, or takes it away, and returns what was there. It has no
    /// children when it goes.
    pub(super) fn replace(&mut self, path: &NodePath, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        let Some(mut node) = node else {
            let before = self.nodes.remove(path)?;
            self.discount(path, &before);
            let moved = self.above(path).and_then(|above| above.links.take(before.links.place));
            if let Some(moved) = moved.and_then(|moved| self.nodes.get_mut(&moved)) {
                Arc::make_mut(moved).links.place = before.links.place;
            }
            return Some(before);
        };
        let Some(before) = self.nodes.get(path) else {
            let added = self.add(path, node);
            debug_assert!(added, "nothing is above {path}");
            return None;
        };
        let links = before.links.clone();
        Arc::make_mut(&mut node).links = links;
        self.put(path, node)
    }

    /// Puts a node where none is. False when one is there after all, or its parent is
    /// not: the tree is of no use then.
    pub(super) fn add(&mut self, path: &NodePath, mut node: Arc<Node>) -> bool {
        let place = self.above(path).map(|above| above.links.push(path.clone()));
        Arc::make_mut(&mut node).links = Links { place: place.unwrap_or(0), children: None };
        let has_parent = place.is_some() || path.parent_ref().is_none();
        self.put(path, node).is_none() && has_parent
    }

    /// As [`Tree::add`], with many of one parent; the root has none.
    pub(super) fn add_children(
        &mut self,
        parent: Option<&NodePath>,
        mut nodes: Vec<(NodePath, Node)>,
    ) -> bool {
        if let Some(parent) = parent {
            let Some(above) = self.nodes.get_mut(parent) else { return false };
            let links = &mut Arc::make_mut(above).links;
            for (path, node) in &mut nodes {
                node.links.place = links.push(path.clone());
            }
        }
        nodes.into_iter().all(|(path, node)| self.put(&path, Arc::new(node)).is_none())
    }

    fn put(&mut self, path: &NodePath, node: Arc<Node>) -> Option<Arc<Node>> {
        self.quotas += usize::from(is_quota(path));
        self.digest = self.digest.wrapping_add(node.digest(path));
        self.bytes += node.bytes().len() as u64;
        self.path_bytes += path.as_str().len() as u64;
        let before = self.nodes.insert(path.clone(), node)?;
        self.discount(path, &before);
        Some(before)
    }

    /// Whether a node stands in its parent's list.
    pub(super) fn is_listed(&self, path: &NodePath, node: &Node) -> bool {
        let Some(parent) = path.parent_ref() else { return true };
        let listed =
            self.get(parent).and_then(|above| above.links.children.as_ref()?.get(node.links.place as usize));
        listed == Some(path)
    }

    fn above(&mut self, path: &NodePath) -> Option<&mut Node> {
        self.nodes.get_mut(&Text(path.parent_ref()?)).map(Arc::make_mut)
    }

    fn discount(&mut self, path: &NodePath, gone: &Node) {
        self.quotas -= usize::from(is_quota(path));
        self.digest = self.digest.wrapping_sub(gone.digest(path));
        self.bytes -= gone.bytes().len() as u64;
        self.path_bytes -= path.as_str().len() as u64;
    }

    /// Changes the node at `path` in place if there is one and `check` lets it. What
    /// `change` puts instead of the node's data, it returns.
    pub(super) fn change<E>(
        &mut self,
        path: &str,
        check: impl FnOnce(&Node) -> Result<(), E>,
        change: impl FnOnce(&mut Node) -> DataBefore,
    ) -> Option<Result<Changed, E>> {
        let (path, node) = self.nodes.get_key_value_mut(&Text(path))?;
        if let Err(refusal) = check(node) {
            return Some(Err(refusal));
        }
        let digest = node.digest(path);
        let bytes = node.bytes().len() as u64;
        let node = Arc::make_mut(node);
        let Node { stamps, modified_cluster_ms, content, .. } = *node;
        let before =
            Before { stamps, modified_cluster_ms, acl: node.acl.clone(), content, data: change(node) };
        self.bytes = self.bytes - bytes + node.bytes().len() as u64;
        self.digest = self.digest.wrapping_sub(digest).wrapping_add(node.digest(path));
        let (path, stat, acl) = (path.clone(), node.stat(), node.acl.clone());
        Some(Ok(Changed { path, stat, acl, before }))
    }

    /// Undoes a change of the node at `path`.
    pub(super) fn restore(&mut self, path: &NodePath, before: Before) {
        let Before { stamps, modified_cluster_ms, acl, content, data } = before;
        let unconditional = |_: &Node| Ok::<(), ()>(());
        // The node is there: what came after that change is undone already.
        let _ = self.change(path.as_str(), unconditional, |node| {
            if let DataBefore::Was(data) = data {
                node.data = data;
            }
            node.modified_cluster_ms = modified_cluster_ms;
            (node.acl, node.stamps, node.content) = (acl, stamps, content);
            DataBefore::Unchanged
        });
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
            if node.child_count() > 0 {
                open.extend(self.children(path.as_str()));
            }
        }
        total
    }
}

/// Whether it stands below [`QUOTAS`].
pub(super) fn is_quota(path: &NodePath) -> bool {
    path.as_str().strip_prefix(QUOTAS).is_some_and(|below| !below.is_empty())
}
