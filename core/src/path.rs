//! Node paths: ZooKeeper's rules for what a path may be, and a number for each, the
//! same on every server and for ever, of which digests are made.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

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

/// A valid absolute path. Cheap to clone. Its order is that of (parent, name).
#[derive(Clone, PartialEq, Eq)]
pub struct NodePath {
    /// Compared first: the texts of most paths that differ are not looked at.
    hash: u64,
    text: Arc<str>,
}

impl NodePath {
    /// The root, `/`.
    #[must_use]
    pub fn root() -> Self {
        Self::of("/")
    }

    /// Checks `text` and takes it as a path.
    ///
    /// # Errors
    /// [`PathError`] names the first rule that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check_path(text)?;
        Ok(Self::of(text))
    }

    fn of(text: &str) -> Self {
        Self { hash: xxh3_64(text.as_bytes()), text: Arc::from(text) }
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
        &self.text[slash(&self.text) + 1..]
    }

    /// The parent's path, or `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<NodePath> {
        self.parent_ref().map(Self::of)
    }

    /// The parent's path as text, or `None` for the root.
    #[must_use]
    pub fn parent_ref(&self) -> Option<&str> {
        match (self.text.len(), slash(&self.text)) {
            (1, _) => None,
            (_, 0) => Some("/"),
            (_, at) => Some(&self.text[..at]),
        }
    }
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

/// That of its text, by which the tree finds it.
impl Hash for NodePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for NodePath {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.parent_ref(), self.name()).cmp(&(other.parent_ref(), other.name()))
    }
}

impl PartialOrd for NodePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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

    /// Digests rest on it.
    #[test]
    fn hashes_are_the_same_for_ever() {
        assert_eq!(NodePath::parse("/a/b").unwrap().hash64(), 12_645_720_004_982_519_145);
    }

    #[test]
    fn parents() {
        let parent = |p: &str| NodePath::parse(p).unwrap().parent().map(|p| p.to_string());
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a").as_deref(), Some("/"));
        assert_eq!(parent("/a/b").as_deref(), Some("/a"));
    }
}
