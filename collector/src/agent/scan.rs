//! Looks into directories: which files match, and which names there are. It
//! reads no file and decides nothing.
//!
//! It runs every second over all files, so it costs one `stat` per file that
//! matches and nothing per file that does not.
//!
//! Symbolic links are followed only if that is asked for, and listed otherwise.
//! Whether a link leads to where it may is found out when the file is opened. A
//! directory that could not be read is listed, too, because "no file is there"
//! must never be concluded from an error.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use super::glob::{DEPTH_MAX, Patterns};
use super::identity::Stat;
use super::rooted_fs::{LinkError, RootedFs};

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
    /// A symbolic link led to it.
    pub is_link: bool,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Scan {
    /// Regular files that match, by path. Ordered as bytes, which is much
    /// cheaper than as paths.
    pub files: BTreeMap<OsString, Entry>,
    /// The directories that were looked into.
    pub dirs: BTreeSet<PathBuf>,
    /// What matches, or could have led to what matches, and was not looked at; and
    /// why: symbolic links, and directories that are too deep.
    pub skipped: BTreeMap<PathBuf, String>,
    /// What could not be read.
    pub failed: Vec<(PathBuf, io::Error)>,
    /// Every directory that was seen in them, looked into or not.
    pub subdirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, Names>,
    follows_links: bool,
    /// Links to directories that were looked through.
    pub linked_dirs: BTreeSet<PathBuf>,
}

/// Most links to directories that are looked through in one scan.
const DIR_LINKS_MAX: usize = 4_096;

/// A walk through all that the globs can match.
struct Walk<'a> {
    patterns: &'a Patterns,
    beneath: &'a RootedFs,
    /// The glob matches at any depth, and only the bound ends the walk.
    is_unbounded: bool,
    /// The directories that were read, and how deep below them was looked.
    visited: BTreeMap<PathBuf, usize>,
    /// Links that it came to, and how deep to look through them.
    links: Vec<(PathBuf, usize)>,
}

/// The names in a directory.
#[derive(Debug)]
struct Names {
    names: Vec<(OsString, u64)>,
    /// When the directory had last changed before they were read.
    changed: Option<SystemTime>,
    /// It may change once more without a later timestamp.
    is_fresh: bool,
    /// How often they were read in this look.
    reads: usize,
    /// The error for which they could not be read, if another attempt may succeed.
    failed: Option<i32>,
}

/// Most searches for a file, or for files with rotated names, in one look while their directory
/// changes.
pub(super) const SEARCHES_MAX: usize = 3;

/// Most reads of the names in a directory in one look: each takes time in proportion to their number.
const READS_MAX: usize = 64;

/// File systems stamp changes with a clock that ticks this often, at most.
const TICK: Duration = Duration::from_millis(20);

/// Whether an error of the system passes by itself: another attempt may succeed.
pub(super) fn is_transient(error: &io::Error) -> bool {
    let of_system = error.raw_os_error().map(Errno::from_raw);
    let is_shortage = matches!(of_system, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR));
    is_shortage || error.kind() == io::ErrorKind::UnexpectedEof
}

impl Names {
    fn read(dir: &Path) -> Self {
        let changed = changed(dir);
        let is_fresh = changed.and_then(|at| at.elapsed().ok()).is_none_or(|age| age < TICK);
        let entries = fs::read_dir(dir);
        let failed =
            entries.as_ref().err().filter(|error| is_transient(error)).and_then(io::Error::raw_os_error);
        let entries = entries.into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<_> = entries.map(|entry| (entry.file_name(), entry.ino())).collect();
        names.sort_unstable();
        Self { names, changed, is_fresh, reads: 1, failed }
    }

    fn are_stale(&self, dir: &Path) -> bool {
        self.is_fresh || changed(dir) != self.changed
    }
}

fn changed(dir: &Path) -> Option<SystemTime> {
    fs::metadata(dir).and_then(|meta| meta.modified()).ok()
}

/// What is in a directory.
#[derive(Default)]
struct Below {
    dirs: Vec<PathBuf>,
    links: Vec<PathBuf>,
}

impl Scan {
    /// Looks. Single directories may be `linked_dirs`, as an earlier look at
    /// everything found out.
    #[must_use]
    pub fn of(
        scope: &Scope,
        patterns: &Patterns,
        beneath: &RootedFs,
        linked_dirs: &BTreeSet<PathBuf>,
    ) -> Self {
        let mut survey = Self { follows_links: beneath.follows_links(), ..Self::default() };
        match scope {
            Scope::All => {
                let (visited, links) = (BTreeMap::new(), Vec::new());
                let mut walk = Walk { patterns, beneath, is_unbounded: false, visited, links };
                for root in patterns.roots() {
                    walk.is_unbounded = root.depth == DEPTH_MAX;
                    survey.walk(&root.base, root.depth, &mut walk);
                }
                survey.follow_dir_links(&mut walk);
            }
            Scope::Some { dirs, files } => {
                survey.linked_dirs.clone_from(linked_dirs);
                for dir in dirs {
                    survey.read_dir(dir, patterns);
                }
                for file in files.iter().filter(|file| patterns.is_match(file)) {
                    match fs::symlink_metadata(file) {
                        Ok(meta) if meta.is_symlink() => survey.note_link(file),
                        meta => survey.note(file, false, meta),
                    }
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

    /// All names in `dir` with their inode numbers. Few looks need them.
    pub fn names_in(&mut self, dir: &Path) -> &[(OsString, u64)] {
        &self.names.entry(dir.to_owned()).or_insert_with(|| Names::read(dir)).names
    }

    /// Reads the names in `dir` again, if it may have changed since they were read. Returns
    /// whether they were read.
    ///
    /// # Errors
    /// When they cannot be read for now.
    pub fn refresh_names_in(&mut self, dir: &Path) -> io::Result<bool> {
        let is_stale = self.names.get(dir).is_none_or(|names| names.are_stale(dir));
        if is_stale {
            let reads = self.names.get(dir).map_or(0, |names| names.reads);
            let names = Names::read(dir);
            let failed = names.failed;
            self.names.insert(dir.to_owned(), Names { reads: reads + names.reads, ..names });
            if let Some(error) = failed {
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        Ok(is_stale)
    }

    /// The names in `dir` that begin with `stem`, with their inode numbers.
    pub fn names_with_prefix<'a>(
        &'a mut self,
        dir: &Path,
        stem: &'a str,
    ) -> impl Iterator<Item = &'a (OsString, u64)> {
        let names = self.names_in(dir);
        let from = names.partition_point(|(name, _)| name.as_os_str() < OsStr::new(stem));
        let begins = |name: &OsStr| name.as_encoded_bytes().starts_with(stem.as_bytes());
        names[from..].iter().take_while(move |(name, _)| begins(name))
    }

    /// Whether the names in `dir` have changed again, and were read [`READS_MAX`] times.
    pub fn is_read_too_often(&self, dir: &Path) -> bool {
        self.names.get(dir).is_some_and(|names| names.reads >= READS_MAX && names.are_stale(dir))
    }

    fn walk(&mut self, dir: &Path, depth: usize, walk: &mut Walk<'_>) {
        if walk.visited.get(dir).is_some_and(|before| *before >= depth) {
            return;
        }
        walk.visited.insert(dir.to_owned(), depth);
        let Below { dirs, links } = self.read_dir(dir, walk.patterns);
        if depth == 1 && walk.is_unbounded {
            let error = format!("deeper than {DEPTH_MAX} levels below the glob's directory: not looked at");
            self.skipped.extend(dirs.iter().map(|dir| (dir.clone(), error.clone())));
        }
        if depth > 1 {
            dirs.iter().for_each(|dir| self.walk(dir, depth - 1, walk));
            walk.links.extend(links.into_iter().map(|link| (link, depth - 1)));
        }
    }

    /// Looks through the links to directories that a walk has come to; through
    /// those last, so that a file is known by its own name. Links may lead in
    /// circles, and through many ways to the same place, so they are counted.
    fn follow_dir_links(&mut self, walk: &mut Walk<'_>) {
        let mut followed = 0;
        let mut links = std::mem::take(&mut walk.links);
        while !links.is_empty() {
            links.sort();
            for (link, depth) in links {
                if !fs::metadata(&link).is_ok_and(|meta| meta.is_dir()) {
                    continue;
                }
                if !self.follows_links {
                    self.skipped.insert(link, LinkError::Refused.to_string());
                    continue;
                }
                let leads_back = |real: &PathBuf| {
                    let dirs = link.ancestors().skip(1).filter_map(|dir| fs::canonicalize(dir).ok());
                    dirs.into_iter().any(|dir| dir == *real)
                };
                match walk.beneath.resolve(&link) {
                    Ok(real) if leads_back(&real) => {}
                    Ok(_) if followed == DIR_LINKS_MAX => {
                        let error = format!("more than {DIR_LINKS_MAX} links to directories");
                        self.skipped.insert(link, error);
                    }
                    Ok(_) => {
                        followed += 1;
                        self.linked_dirs.insert(link.clone());
                        self.walk(&link, depth, walk);
                    }
                    Err(error) => drop(self.skipped.insert(link, error.to_string())),
                }
            }
            links = std::mem::take(&mut walk.links);
        }
    }

    /// Reads one directory and returns the directories in it.
    fn read_dir(&mut self, dir: &Path, patterns: &Patterns) -> Below {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.fail(dir, error);
                return Below::default();
            }
        };
        self.dirs.insert(dir.to_owned());
        let mut below = Below::default();
        let is_linked = dir.ancestors().any(|dir| self.linked_dirs.contains(dir));
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                Ok((kind, entry)) if kind.is_dir() => {
                    self.subdirs.insert(entry.path());
                    below.dirs.push(entry.path());
                }
                Ok((kind, entry)) => {
                    let path = entry.path();
                    match (kind.is_symlink(), patterns.is_match(&path)) {
                        (true, true) => {
                            self.note_link(&path);
                            below.links.push(path);
                        }
                        (true, false) => below.links.push(path),
                        (false, true) => self.note(&path, is_linked, entry.metadata()),
                        (false, false) => {}
                    }
                }
                Err(error) => self.fail(dir, error),
            }
        }
        below
    }

    /// A symbolic link whose name matches. One that leads nowhere is no news: it is
    /// what a rotation of its target leaves for a moment.
    fn note_link(&mut self, path: &Path) {
        match fs::metadata(path) {
            Ok(meta) if meta.is_file() && !self.follows_links => {
                self.skipped.insert(path.to_owned(), LinkError::Refused.to_string());
            }
            Err(_) if !self.follows_links => {}
            meta => self.note(path, true, meta),
        }
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

    use super::super::rooted_fs::Links;
    use super::*;

    fn survey(root: &Path, glob: &str, links: Links) -> Scan {
        let patterns = Patterns::new(&[format!("{}/{glob}", root.display())], &[]).unwrap();
        let beneath = RootedFs::new(patterns.roots().map(|root| root.base.clone()).collect(), links);
        let survey = Scan::of(&Scope::All, &patterns, &beneath, &BTreeSet::new());
        assert!(survey.failed.is_empty());
        survey
    }

    fn relative(root: &Path, path: &Path) -> String {
        path.strip_prefix(root).unwrap().display().to_string()
    }

    fn seen(root: &Path, glob: &str) -> Vec<String> {
        let survey = survey(root, glob, Links::Followed(Vec::new()));
        survey.files.keys().map(|path| relative(root, Path::new(path))).collect()
    }

    fn skipped(root: &Path, glob: &str, links: Links) -> Vec<String> {
        survey(root, glob, links).skipped.keys().map(|path| relative(root, path)).collect()
    }

    #[test]
    fn links_that_are_not_followed_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let root = &dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("apps/v1")).unwrap();
        fs::write(root.join("apps/v1/app.log"), "").unwrap();
        fs::write(root.join("other"), "").unwrap();
        symlink("v1", root.join("apps/current")).unwrap();
        symlink(root.join("other"), root.join("apps/v1/link.log")).unwrap();
        symlink(root.join("nowhere"), root.join("apps/v1/dangling.log")).unwrap();
        let glob = "apps/*/*.log";
        let refused = survey(root, glob, Links::Refused);
        assert_eq!(refused.files.len(), 1);
        assert_eq!(skipped(root, glob, Links::Refused), ["apps/current", "apps/v1/link.log"]);
        // Both names of the file; which of them is a link's decides who has it.
        let followed = survey(root, glob, Links::Followed(Vec::new()));
        let names =
            followed.files.iter().map(|(path, entry)| (relative(root, Path::new(path)), entry.is_link));
        let names: Vec<_> = names.filter(|(path, _)| path.ends_with("app.log")).collect();
        assert_eq!(names, [("apps/current/app.log".into(), true), ("apps/v1/app.log".into(), false)]);
    }

    #[test]
    fn circles_and_links_that_lead_out_end() {
        let dir = tempfile::tempdir().unwrap();
        let root = &dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("logs/a/b")).unwrap();
        fs::create_dir_all(root.join("secret")).unwrap();
        fs::write(root.join("secret/x.log"), "").unwrap();
        symlink(root.join("logs"), root.join("logs/a/b/circle")).unwrap();
        symlink("..", root.join("logs/a/up")).unwrap();
        symlink(root.join("secret"), root.join("logs/out")).unwrap();
        assert!(seen(root, "logs/**/*.log").is_empty());
        assert_eq!(skipped(root, "logs/**/*.log", Links::Followed(Vec::new())), ["logs/out"]);
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
    fn what_is_too_deep_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let root = &dir.path().canonicalize().unwrap();
        let deepest = (1..DEPTH_MAX).fold(root.clone(), |dir, _| dir.join("d"));
        fs::create_dir_all(deepest.join("too-deep")).unwrap();
        fs::write(deepest.join("x.log"), "").unwrap();
        let survey = survey(root, "**/*.log", Links::Refused);
        assert_eq!(
            (survey.files.len(), survey.skipped.keys().collect::<Vec<_>>()),
            (1, vec![&deepest.join("too-deep")])
        );
        assert!(skipped(root, "*/*.log", Links::Refused).is_empty());
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
        let beneath = RootedFs::new(vec![root.to_owned()], Links::Refused);
        let survey = Scan::of(&scope, &patterns, &beneath, &BTreeSet::new());
        assert_eq!(survey.files.keys().collect::<Vec<_>>(), [root.join("a/y.log").as_os_str()]);
        assert_eq!(survey.subdirs, [root.join("a/new")].into());
        assert!(scope.covers(&root.join("gone.log")) && !scope.covers(&root.join("x.log")));
    }

    #[test]
    fn after_an_error_nothing_is_certainly_gone() {
        let failed = vec![(PathBuf::from("/v"), io::ErrorKind::PermissionDenied.into())];
        let survey = Scan { failed, ..Scan::default() };
        assert!(!survey.is_certain(Path::new("/v/x.log")) && survey.is_certain(Path::new("/w/x.log")));
    }
}
