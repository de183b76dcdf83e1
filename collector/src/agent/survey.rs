//! Looks into directories: which files match, and which names there are. It
//! reads no file and decides nothing.
//!
//! It runs every second over all files, so it costs one `stat` per file that
//! matches and nothing per file that does not.
//!
//! Symbolic links to regular files count as files; links to directories are not
//! followed, since they may lead in circles. A directory that could not be read
//! is said so, because "no file is there" must never be concluded from an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

use super::glob::Patterns;
use super::identity::Stat;

/// What is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All that the globs can match.
    All,
    /// These directories and files, not what is below.
    Some {
        /// Directories, whole.
        dirs: BTreeSet<PathBuf>,
        /// Single files.
        files: BTreeSet<PathBuf>,
    },
}

impl Scope {
    /// Whether `path` was to be looked at.
    #[must_use]
    pub fn covers(&self, path: &Path) -> bool {
        match self {
            Self::All => true,
            Self::Some { dirs, files } => {
                files.contains(path) || path.parent().is_some_and(|dir| dirs.contains(dir))
            }
        }
    }
}

/// A file that matches.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its `stat`, of what a link leads to.
    pub stat: Stat,
    /// The path is a symbolic link.
    pub is_link: bool,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Survey {
    /// Regular files that match, by path. Ordered as bytes, which is much
    /// cheaper than as paths.
    pub files: BTreeMap<OsString, Entry>,
    /// The directories that were looked into.
    pub dirs: BTreeSet<PathBuf>,
    /// What could not be read.
    pub failed: Vec<(PathBuf, io::Error)>,
    /// Every directory that was seen in them, looked into or not.
    pub subdirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, Vec<(OsString, u64)>>,
}

impl Survey {
    /// Looks.
    #[must_use]
    pub fn of(scope: &Scope, patterns: &Patterns) -> Self {
        let mut survey = Self::default();
        match scope {
            Scope::All => {
                let mut visited = BTreeMap::new();
                for root in patterns.roots() {
                    survey.walk(&root.base, root.depth, patterns, &mut visited);
                }
            }
            Scope::Some { dirs, files } => {
                for dir in dirs {
                    survey.read_dir(dir, patterns);
                }
                for file in files.iter().filter(|file| patterns.is_match(file)) {
                    let is_link = fs::symlink_metadata(file).is_ok_and(|meta| meta.is_symlink());
                    survey.note(file, is_link, fs::metadata(file));
                }
            }
        }
        survey
    }

    /// The file at `path`, if it matches and is there.
    #[must_use]
    pub fn file(&self, path: &Path) -> Option<&Entry> {
        self.files.get(path.as_os_str())
    }

    /// Whether a file that was not seen at `path` is really not there.
    #[must_use]
    pub fn is_certain(&self, path: &Path) -> bool {
        !self.failed.iter().any(|(failed, _)| path.starts_with(failed))
    }

    /// All names in `dir` with their inode numbers, as they are now. Few looks
    /// need them.
    pub fn names_in(&mut self, dir: &Path) -> &[(OsString, u64)] {
        self.names.entry(dir.to_owned()).or_insert_with(|| {
            let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
            entries.filter_map(Result::ok).map(|entry| (entry.file_name(), entry.ino())).collect()
        })
    }

    fn walk(
        &mut self,
        dir: &Path,
        depth: usize,
        patterns: &Patterns,
        visited: &mut BTreeMap<PathBuf, usize>,
    ) {
        if visited.get(dir).is_some_and(|before| *before >= depth) {
            return;
        }
        visited.insert(dir.to_owned(), depth);
        let below = self.read_dir(dir, patterns);
        if depth > 1 {
            below.iter().for_each(|dir| self.walk(dir, depth - 1, patterns, visited));
        }
    }

    /// Reads one directory and returns the directories in it.
    fn read_dir(&mut self, dir: &Path, patterns: &Patterns) -> Vec<PathBuf> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.fail(dir, error);
                return Vec::new();
            }
        };
        self.dirs.insert(dir.to_owned());
        let mut below = Vec::new();
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                Ok((kind, entry)) if kind.is_dir() => {
                    self.subdirs.insert(entry.path());
                    below.push(entry.path());
                }
                Ok((kind, entry)) => {
                    let path = entry.path();
                    if patterns.is_match(&path) {
                        let is_link = kind.is_symlink();
                        let meta = if is_link { fs::metadata(&path) } else { entry.metadata() };
                        self.note(&path, is_link, meta);
                    }
                }
                Err(error) => self.fail(dir, error),
            }
        }
        below
    }

    fn note(&mut self, path: &Path, is_link: bool, meta: io::Result<Metadata>) {
        match meta {
            Ok(meta) if meta.is_file() => {
                self.files.insert(path.into(), Entry { stat: Stat::of(&meta), is_link });
            }
            Ok(_) => {}
            Err(error) => self.fail(path, error),
        }
    }

    /// That something is not there is an answer; anything else is a failure.
    fn fail(&mut self, path: &Path, error: io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.failed.push((path.to_owned(), error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn seen(root: &Path, glob: &str) -> Vec<String> {
        let patterns = Patterns::new(&[format!("{}/{glob}", root.display())], &[]).unwrap();
        let survey = Survey::of(&Scope::All, &patterns);
        assert!(survey.failed.is_empty());
        let relative = |path| Path::new(path).strip_prefix(root).unwrap().display().to_string();
        survey.files.keys().map(relative).collect()
    }

    #[test]
    fn files_at_every_depth_and_links_to_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b.log")).unwrap();
        for file in ["x.log", "a/y.log", "a/b.log/z.log", "a/n.txt"] {
            fs::write(root.join(file), "").unwrap();
        }
        symlink(root.join("a/n.txt"), root.join("link.log")).unwrap();
        symlink(root.join("nowhere"), root.join("dangling.log")).unwrap();
        symlink(root, root.join("a/circle.log")).unwrap();
        assert_eq!(seen(root, "**/*.log"), ["a/b.log/z.log", "a/y.log", "link.log", "x.log"]);
        assert_eq!(seen(root, "*.log"), ["link.log", "x.log"]);
        assert_eq!(seen(root, "*/*.log"), ["a/y.log"]);
        assert_eq!(seen(root, "a/y.log"), ["a/y.log"]);
        assert!(seen(root, "no/*.log").is_empty());
    }

    #[test]
    fn part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/new")).unwrap();
        fs::write(root.join("a/y.log"), "").unwrap();
        fs::write(root.join("x.log"), "").unwrap();
        let patterns = Patterns::new(&[format!("{}/**/*.log", root.display())], &[]).unwrap();
        let scope = Scope::Some { dirs: [root.join("a")].into(), files: [root.join("gone.log")].into() };
        let survey = Survey::of(&scope, &patterns);
        assert_eq!(survey.files.keys().collect::<Vec<_>>(), [root.join("a/y.log").as_os_str()]);
        assert_eq!(survey.subdirs, [root.join("a/new")].into());
        assert!(scope.covers(&root.join("gone.log")) && !scope.covers(&root.join("x.log")));
    }

    #[test]
    fn after_an_error_nothing_is_certainly_gone() {
        let failed = vec![(PathBuf::from("/v"), io::ErrorKind::PermissionDenied.into())];
        let survey = Survey { failed, ..Survey::default() };
        assert!(!survey.is_certain(Path::new("/v/x.log")) && survey.is_certain(Path::new("/w/x.log")));
    }
}
