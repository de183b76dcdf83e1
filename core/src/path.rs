//! Node paths: ZooKeeper's rules for what a path may be, and an order in which
//! the children of a node stand side by side.
//!
//! The order is (parent, name), compared bytewise. It is what lets the tree be
//! one ordered map with no list of children anywhere: children are a range.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use equivalent::{Comparable, Equivalent};

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
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodePath {
    text: Arc<str>,
    parent_len: u32,
}

/// A borrowed, already valid path, for look-ups that allocate nothing.
#[derive(Clone, Copy, Debug)]
pub struct PathRef<'a> {
    parent: &'a str,
    name: &'a str,
}

impl NodePath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self { text: Arc::from("/"), parent_len: 0 }
    }

    /// Checks `text` and takes it as a path.
    ///
    /// # Errors
    /// [`PathError`] names the first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check_path(text)?;
        Ok(Self { text: Arc::from(text), parent_len: parent_len(text) })
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The last name of the path; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        split(&self.text, self.parent_len).1
    }

    /// The parent's path, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<NodePath> {
        self.parent_ref().map(|parent| Self { text: Arc::from(parent), parent_len: parent_len(parent) })
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
        let (parent, name) = split(&self.text, self.parent_len);
        PathRef { parent, name }
    }
}

impl<'a> PathRef<'a> {
    /// Borrows a text that is known to be a valid path. An invalid text does no
    /// harm: it is equal to no path in any map.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let (parent, name) = split(text, parent_len(text));
        Self { parent, name }
    }

    /// Where the children of `parent` begin in the order of paths.
    #[must_use]
    pub fn first_child_of(parent: &'a str) -> Self {
        let parent = if parent == "/" { "" } else { parent };
        // The root itself is ("", ""), just before its children.
        Self { parent, name: "" }
    }
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

fn parent_len(text: &str) -> u32 {
    u32::try_from(text.rfind('/').unwrap_or(0)).unwrap_or(u32::MAX)
}

fn split(text: &str, parent_len: u32) -> (&str, &str) {
    if !text.starts_with('/') {
        // No path. A name with a slash in it is in no map.
        return ("", "/");
    }
    let (parent, name) = text.split_at(parent_len as usize);
    (parent, name.strip_prefix('/').unwrap_or(name))
}

impl Ord for NodePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().key().cmp(&other.as_ref().key())
    }
}

impl PartialOrd for NodePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> PathRef<'a> {
    fn key(self) -> (&'a str, &'a str) {
        (self.parent, self.name)
    }
}

impl Equivalent<NodePath> for PathRef<'_> {
    fn equivalent(&self, path: &NodePath) -> bool {
        self.key() == path.as_ref().key()
    }
}

impl Comparable<NodePath> for PathRef<'_> {
    fn compare(&self, path: &NodePath) -> Ordering {
        self.key().cmp(&path.as_ref().key())
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
        let text: Vec<&str> = paths.iter().map(NodePath::as_str).collect();
        assert_eq!(text, ["/", "/a", "/a-b", "/b", "/a/x", "/a/z", "/a/x/y"]);
    }

    #[test]
    fn parents() {
        let parent = |p: &str| NodePath::parse(p).unwrap().parent().map(|p| p.to_string());
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a").as_deref(), Some("/"));
        assert_eq!(parent("/a/b").as_deref(), Some("/a"));
    }
}
