//! Which files are sources: compiled globs, the directories they can match in,
//! and the name of a file relative to the glob that found it.
//!
//! `*` and `?` do not cross a slash; `**` does.

use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use crate::naming::path_text;

/// How many directories deep `**` looks below the glob's literal prefix. A
/// tree of logs is not deeper, and a loop of mounts must end somewhere.
pub const DEPTH_MAX: usize = 16;

/// Characters that make a part of a glob more than a literal name.
const META: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

/// Why a glob is refused.
#[derive(Debug, thiserror::Error)]
pub enum GlobError {
    /// There is none.
    #[error("no glob is given: at least one is needed")]
    None,
    /// It would depend on where the agent was started.
    #[error("glob {0:?} is not absolute")]
    Relative(String),
    /// A name relative to it would be no plain name.
    #[error("glob {0:?} has a part '.' or '..'")]
    Dots(String),
    /// It does not compile.
    #[error("glob {glob:?} is not understood")]
    Syntax {
        /// Which.
        glob: String,
        /// Why.
        source: globset::Error,
    },
}

/// The globs of an agent.
#[derive(Debug)]
pub struct Patterns {
    patterns: Vec<Pattern>,
    excluded_paths: Vec<GlobMatcher>,
    excluded_names: Vec<GlobMatcher>,
}

#[derive(Debug)]
struct Pattern {
    matcher: GlobMatcher,
    root: Root,
}

/// A directory in which files may match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    /// The longest prefix of the glob that is a literal directory.
    pub base: PathBuf,
    /// How many levels below it can match; 1 is the directory itself.
    pub depth: usize,
}

impl Patterns {
    /// Compiles `globs`. A file that matches one of `exclude` is left out: by
    /// its whole path if the glob has a slash, otherwise by its name.
    ///
    /// # Errors
    /// [`GlobError`] names the first glob that is refused.
    pub fn new(globs: &[String], exclude: &[String]) -> Result<Self, GlobError> {
        if globs.is_empty() {
            return Err(GlobError::None);
        }
        let patterns = globs
            .iter()
            .map(|glob| Ok(Pattern { root: root_of(glob)?, matcher: compile(glob)? }))
            .collect::<Result<_, GlobError>>()?;
        let (paths, names): (Vec<&String>, Vec<_>) = exclude.iter().partition(|glob| glob.contains('/'));
        let compile_all =
            |globs: Vec<&String>| globs.into_iter().map(|g| compile(g)).collect::<Result<Vec<_>, _>>();
        Ok(Self { patterns, excluded_paths: compile_all(paths)?, excluded_names: compile_all(names)? })
    }

    /// Where to look.
    pub fn roots(&self) -> impl Iterator<Item = &Root> {
        self.patterns.iter().map(|pattern| &pattern.root)
    }

    /// Whether the file at `path` is a source.
    #[must_use]
    pub fn is_match(&self, path: &Path) -> bool {
        self.pattern_of(path).is_some()
    }

    /// The name of the file at `path` relative to the first glob that matches
    /// it; its whole path, without the leading slash, if none does.
    #[must_use]
    pub fn file_name(&self, path: &Path) -> String {
        let relative = self.pattern_of(path).and_then(|pattern| path.strip_prefix(&pattern.root.base).ok());
        relative.map_or_else(|| whole_name(path), path_text)
    }

    fn pattern_of(&self, path: &Path) -> Option<&Pattern> {
        let found = self.patterns.iter().find(|pattern| pattern.matcher.is_match(path))?;
        let name = path.file_name()?;
        let excluded = self.excluded_paths.iter().any(|glob| glob.is_match(path))
            || self.excluded_names.iter().any(|glob| glob.is_match(name));
        (!excluded).then_some(found)
    }
}

/// The name of a file whose relative name is taken: its path without the
/// leading slash.
#[must_use]
pub fn whole_name(path: &Path) -> String {
    path_text(path.strip_prefix("/").unwrap_or(path))
}

/// The directory and depth in which `glob` can match.
///
/// # Errors
/// When the glob is relative or has parts `.` or `..`.
pub fn root_of(glob: &str) -> Result<Root, GlobError> {
    if !glob.starts_with('/') {
        return Err(GlobError::Relative(glob.to_owned()));
    }
    if glob.split('/').any(|part| part == "." || part == "..") {
        return Err(GlobError::Dots(glob.to_owned()));
    }
    let literal = glob.find(META).unwrap_or(glob.len());
    let split = glob[..literal].rfind('/').expect("it starts with a slash");
    let (base, rest) = (&glob[..=split], &glob[split + 1..]);
    // Alternatives (`{a,b/c}`) may have slashes of their own, so this is an
    // upper bound; it only says how deep to look.
    let depth = if rest.contains("**") { DEPTH_MAX } else { 1 + rest.matches('/').count() };
    Ok(Root { base: Path::new(base).components().filter(|c| *c != Component::CurDir).collect(), depth })
}

fn compile(glob: &str) -> Result<GlobMatcher, GlobError> {
    let built = GlobBuilder::new(glob).literal_separator(true).build();
    built
        .map(|glob| glob.compile_matcher())
        .map_err(|source| GlobError::Syntax { glob: glob.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(globs: &[&str], exclude: &[&str]) -> Patterns {
        let owned = |globs: &[&str]| globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>();
        Patterns::new(&owned(globs), &owned(exclude)).unwrap()
    }

    #[test]
    fn roots() {
        let cases = [
            ("/var/log/app.log", "/var/log", 1),
            ("/var/log/*.log", "/var/log", 1),
            ("/var/log/app-*/x.log", "/var/log", 2),
            ("/var/log/**/*.log", "/var/log", DEPTH_MAX),
            ("/var/{log,spool/x}/*.log", "/var", 3),
            ("/*.log", "/", 1),
            ("/var//log/*.log", "/var/log", 1),
        ];
        for (glob, base, depth) in cases {
            assert_eq!(root_of(glob).unwrap(), Root { base: base.into(), depth }, "{glob}");
        }
        assert!(matches!(root_of("var/*.log"), Err(GlobError::Relative(_))));
        assert!(matches!(root_of("/var/../*.log"), Err(GlobError::Dots(_))));
    }

    #[test]
    fn matches() {
        let p = patterns(&["/var/log/**/*.log", "/srv/app?.txt"], &["*.tmp.log", "/var/log/old/**"]);
        let cases = [
            ("/var/log/a.log", true),
            ("/var/log/x/y/a.log", true),
            ("/var/log/a.txt", false),
            ("/srv/app1.txt", true),
            ("/srv/app12.txt", false),
            ("/var/log/a.tmp.log", false),
            ("/var/log/old/x/a.log", false),
        ];
        for (path, matched) in cases {
            assert_eq!(p.is_match(Path::new(path)), matched, "{path}");
        }
    }

    #[test]
    fn names_are_relative_to_the_first_glob_that_matches() {
        let p = patterns(&["/var/log/app/*.log", "/var/log/**/*.log"], &[]);
        assert_eq!(p.file_name(Path::new("/var/log/app/a.log")), "a.log");
        assert_eq!(p.file_name(Path::new("/var/log/web/a.log")), "web/a.log");
        assert_eq!(whole_name(Path::new("/var/log/web/a.log")), "var/log/web/a.log");
    }

    #[test]
    fn a_glob_that_is_no_glob_is_named() {
        let refused = Patterns::new(&["/var/[".to_owned()], &[]).unwrap_err();
        assert_eq!(refused.to_string(), "glob \"/var/[\" is not understood");
        assert!(matches!(Patterns::new(&[], &[]), Err(GlobError::None)));
    }
}
