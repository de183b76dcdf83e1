//! Node paths: ZooKeeper's rules for what a path may be, and an order in which
//! the children of a node stand side by side.
//!
//! The order is (hash of the parent, hash of the path, path). It is what lets the
//! tree be one ordered map with no list of children anywhere: children are a range.
//! Both hashes are held with the path, so that a look-up in the tree compares numbers
//! and looks at one text only, the one that it finds; names would be a cache miss
//! for each comparison. The hashes are the same on every server and for ever
//! (XXH3, 64 bits); names that were chosen to have the same hash cost a comparison of
//! texts, and no more.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};
use xxhash_rust::xxh3::xxh3_64;

/// Longest path, in bytes. ZooKeeper has no such bound of its own; ours keeps
/// a path far below the size limit of a request.
pub const PATH_LEN_MAX: usize = 4096;

/// Why a text is not a path. Rules: ZooKeeper's `PathUtils.validatePath`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The text is empty or does not start with a slash.
    #[error("a path starts with '/'")]
    NotAbsolute,
    /// The text ends with a slash and is not the root.
    #[error("a path does not end with '/'")]
    TrailingSlash,
    /// Two slashes in a row.
    #[error("a path has no empty names ('//')")]
    EmptyName,
    /// A name is `.` or `..`.
    #[error("the names '.' and '..' are not allowed in a path")]
    Relative,
    /// A control character, or one that ZooKeeper's clients cannot print.
    #[error("character {0:?} is not allowed in a path")]
    Character(char),
    /// Longer than [`PATH_LEN_MAX`] bytes.
    #[error("a path has at most {PATH_LEN_MAX} bytes")]
    TooLong,
}

/// A valid absolute path. Cheap to clone.
#[derive(Clone)]
pub struct NodePath {
    text: Arc<str>,
    parent_len: u32,
    parent_hash: u64,
    hash: u64,
}

/// A borrowed, already valid path, for look-ups that allocate nothing.
#[derive(Clone, Copy, Debug)]
pub struct PathRef<'a> {
    text: &'a str,
    parent_hash: u64,
    hash: u64,
}

impl NodePath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self::of(PathRef::new("/"))
    }

    /// Checks `text` and takes it as a path.
    ///
    /// # Errors
    /// [`PathError`] names the first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check_path(text)?;
        Ok(Self::of(PathRef::new(text)))
    }

    fn of(path: PathRef<'_>) -> Self {
        let PathRef { text, parent_hash, hash } = path;
        let parent_len = u32::try_from(slash(text)).unwrap_or(u32::MAX);
        Self { text: Arc::from(text), parent_len, parent_hash, hash }
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A number for the path, the same on every server.
    #[must_use]
    pub fn hash64(&self) -> u64 {
        self.hash
    }

    /// The last name of the path; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.text[self.parent_len as usize + 1..]
    }

    /// The parent's path, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<NodePath> {
        self.parent_ref().map(|parent| Self::of(PathRef::new(parent)))
    }

    /// The parent's path as text, or `None` for the root.
    #[must_use]
    pub fn parent_ref(&self) -> Option<&str> {
        match (self.text.len(), self.parent_len) {
            (1, _) => None,
            (_, 0) => Some("/"),
            (_, len) => Some(&self.text[..len as usize]),
        }
    }

    /// The same path, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> PathRef<'_> {
        PathRef { text: &self.text, parent_hash: self.parent_hash, hash: self.hash }
    }
}

impl<'a> PathRef<'a> {
    /// Borrows a text that is known to be a valid path. An invalid text does no
    /// harm: it is equal to no path in any map.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let parent_hash = match slash(text) {
            // Nothing is above the root.
            0 if text.len() <= 1 => 0,
            0 => hash("/"),
            at => hash(&text[..at]),
        };
        Self { text, parent_hash, hash: hash(text) }
    }

    /// Where the children of `parent` begin in the order of paths.
    #[must_use]
    pub fn first_child_of(parent: &str) -> Self {
        Self { text: "", parent_hash: hash(parent), hash: 0 }
    }

    /// Whether both stand in the same place of the order, as far as their parents decide.
    #[must_use]
    pub fn is_beside(&self, other: &PathRef<'_>) -> bool {
        self.parent_hash == other.parent_hash
    }
}

fn hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// Where the last slash stands.
fn slash(text: &str) -> usize {
    text.rfind('/').unwrap_or(0)
}

/// Whether `path` is `ancestor` or lies below it.
#[must_use]
pub fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    ancestor == "/"
        || path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks ZooKeeper's rules for paths.
///
/// # Errors
/// [`PathError`] names the first rule that `text` breaks.
pub fn check_path(text: &str) -> Result<(), PathError> {
    if text.len() > PATH_LEN_MAX {
        return Err(PathError::TooLong);
    }
    if text == "/" {
        return Ok(());
    }
    let names = text.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    if names.ends_with('/') {
        return Err(PathError::TrailingSlash);
    }
    for name in names.split('/') {
        match name {
            "" => return Err(PathError::EmptyName),
            "." | ".." => return Err(PathError::Relative),
            _ => {}
        }
    }
    match names.chars().find(|&c| is_refused(c)) {
        Some(c) => Err(PathError::Character(c)),
        None => Ok(()),
    }
}

/// The characters that ZooKeeper's `PathUtils` refuses: controls, the private
/// use area, the specials, and all above them, which are surrogates in Java.
fn is_refused(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{10ffff}')
}

impl PartialEq for NodePath {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for NodePath {}

impl Hash for NodePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for NodePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().compare(other)
    }
}

impl PartialOrd for NodePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Equivalent<NodePath> for PathRef<'_> {
    fn equivalent(&self, path: &NodePath) -> bool {
        self.hash == path.hash && *self.text == *path.text
    }
}

impl Comparable<NodePath> for PathRef<'_> {
    #[inline]
    fn compare(&self, path: &NodePath) -> Ordering {
        (self.parent_hash, self.hash)
            .cmp(&(path.parent_hash, path.hash))
            .then_with(|| self.text.cmp(&path.text))
    }
}

impl fmt::Debug for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_zookeeper_refuses() {
        for (text, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("/a/", PathError::TrailingSlash),
            ("/a//b", PathError::EmptyName),
            ("/a/./b", PathError::Relative),
            ("/..", PathError::Relative),
            ("/a\u{0}", PathError::Character('\u{0}')),
            ("/a\u{85}", PathError::Character('\u{85}')),
            ("/\u{e001}", PathError::Character('\u{e001}')),
        ] {
            assert_eq!(NodePath::parse(text).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn children_stand_side_by_side() {
        let mut paths: Vec<NodePath> =
            ["/a", "/", "/a/x/y", "/a-b", "/a/z", "/a/x", "/b"].map(|p| NodePath::parse(p).unwrap()).to_vec();
        paths.sort();
        let mut parents: Vec<Option<&str>> = paths.iter().map(NodePath::parent_ref).collect();
        parents.dedup();
        assert_eq!(parents.len(), 4, "{parents:?}");
        for path in &paths {
            assert_eq!(path.as_ref().compare(&NodePath::parse(path.as_str()).unwrap()), Ordering::Equal);
            if let Some(parent) = path.parent_ref() {
                assert_eq!(PathRef::first_child_of(parent).compare(path), Ordering::Less);
            }
        }
    }

    /// A snapshot and a digest rest on it.
    #[test]
    fn hashes_are_the_same_for_ever() {
        assert_eq!(NodePath::parse("/a/b").unwrap().hash64(), 12_645_720_004_982_519_145);
    }

    #[test]
    fn what_is_no_path_is_equal_to_none() {
        for text in ["", "a", "/a/", "a/b"] {
            for path in ["/", "/a", "/a/b"] {
                assert_ne!(PathRef::new(text).compare(&NodePath::parse(path).unwrap()), Ordering::Equal);
            }
        }
    }

    #[test]
    fn parents() {
        let parent = |p: &str| NodePath::parse(p).unwrap().parent().map(|p| p.to_string());
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a").as_deref(), Some("/"));
        assert_eq!(parent("/a/b").as_deref(), Some("/a"));
    }
}
