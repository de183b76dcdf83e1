//! Opens files that nobody has vouched for yet, and never one outside the
//! directories that the operator named: applications write to directories that an
//! agent reads with more rights than they have. A file that is known already may be
//! opened by any path: its identity is checked before a byte of it is used.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::naming::display_text;

/// Which symbolic links are followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Links {
    /// None below the literal part of a glob.
    #[default]
    Refused,
    /// Those that lead to a file below the literal part of a glob, or below one
    /// of these directories.
    Followed(Vec<PathBuf>),
}

/// Opens files below certain directories.
///
/// A name there may be made to lead anywhere, between any two looks. A path is
/// therefore opened component by component, each relative to the one before and
/// without following symbolic links. If links are to be followed, the path is
/// resolved first, what it resolves to must be in an allowed directory, and *that*
/// path is opened in the same way.
#[derive(Debug, Clone)]
pub struct RootedFs {
    /// The literal directories of the globs. Links in *their* paths are the
    /// operator's own, and followed.
    bases: Vec<PathBuf>,
    links: Links,
}

/// A file that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The file.
    pub file: Arc<File>,
    /// Where it is, if links led there from the path that was opened.
    pub real_path: Option<PathBuf>,
}

impl Opened {
    /// One that is at its path.
    #[must_use]
    pub fn here(file: Arc<File>) -> Self {
        Self { file, real_path: None }
    }
}

/// Why a path is not opened although it is there.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Links are not followed.
    #[error("symbolic link: not followed without --follow-symlinks")]
    Refused,
    /// It leads out.
    #[error("symbolic link to {0}, which is below no directory of --path or --root")]
    Outside(String),
}

impl LinkError {
    /// The same, as an error of opening a file.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, self)
    }
}

impl RootedFs {
    /// Opens files below `bases`.
    #[must_use]
    pub fn new(bases: Vec<PathBuf>, links: Links) -> Self {
        Self { bases, links }
    }

    /// Whether links are followed.
    #[must_use]
    pub fn follows_links(&self) -> bool {
        self.links != Links::Refused
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// When there is none, it is not allowed, or it cannot be opened.
    pub fn open(&self, path: &Path) -> io::Result<Opened> {
        match &self.links {
            Links::Refused => {
                let base = self.bases.iter().filter(|base| path.starts_with(base)).max();
                let base = base.ok_or_else(|| outside(path))?;
                Ok(Opened::here(Arc::new(walk(base, path)?)))
            }
            Links::Followed(_) => {
                let real = self.resolve(path)?;
                let root = self.root_of(&real).ok_or_else(|| outside(&real))?;
                let file = Arc::new(walk(&root, &real)?);
                Ok(Opened { file, real_path: (real != path).then_some(real) })
            }
        }
    }

    /// Where a path leads, if that is allowed. The answer may be outdated at
    /// once: it is for finding files, not for opening them.
    ///
    /// # Errors
    /// When it leads nowhere, or out.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let real = fs::canonicalize(path)?;
        if self.root_of(&real).is_some() { Ok(real) } else { Err(outside(&real)) }
    }

    /// The allowed directory that a resolved path is in.
    fn root_of(&self, real: &Path) -> Option<PathBuf> {
        let Links::Followed(roots) = &self.links else { return None };
        let mut allowed = self.bases.iter().chain(roots).filter_map(|root| fs::canonicalize(root).ok());
        allowed.find(|root| real.starts_with(root))
    }
}

/// Whether a file is not opened on account of a link.
#[must_use]
pub fn is_link_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<LinkError>())
}

fn outside(real: &Path) -> io::Error {
    LinkError::Outside(display_text(real)).into_io()
}

/// Opens a regular file for reading, without waiting should it be a pipe. Not
/// when the last part of its path is a symbolic link.
///
/// # Errors
/// When it cannot be opened or is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let mut options = fs::OpenOptions::new();
    regular(std::os::unix::fs::OpenOptionsExt::custom_flags(options.read(true), flags.bits()).open(path)?)
}

/// Opens `path`, which is below `base`, following no link below `base`.
fn walk(base: &Path, path: &Path) -> io::Result<File> {
    let below = path.strip_prefix(base).map_err(|_| outside(path))?;
    let parts: Vec<_> = below.components().collect();
    let Some((name, dirs)) = parts.split_last() else { return Err(io::ErrorKind::IsADirectory.into()) };
    let mut dir: OwnedFd =
        nix::fcntl::open(base, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for part in dirs {
        dir = step(&dir, *part, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    }
    regular(step(&dir, *name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?.into())
}

fn step(dir: &OwnedFd, part: Component<'_>, flags: OFlag) -> io::Result<OwnedFd> {
    let Component::Normal(name) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
    let opened = openat(dir, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    match opened {
        // The second, of a directory that is a link: it is none.
        Err(Errno::ELOOP) => Err(LinkError::Refused.into_io()),
        Err(Errno::ENOTDIR) if is_link(dir, name) => Err(LinkError::Refused.into_io()),
        opened => Ok(opened?),
    }
}

fn is_link(dir: &OwnedFd, name: &std::ffi::OsStr) -> bool {
    let stat = nix::sys::stat::fstatat(dir, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| {
        nix::sys::stat::SFlag::from_bits_truncate(stat.st_mode & nix::sys::stat::SFlag::S_IFMT.bits())
            == nix::sys::stat::SFlag::S_IFLNK
    })
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(opened: io::Result<Opened>) -> Result<String, String> {
        let opened = opened.map_err(|error| error.to_string())?;
        let mut text = String::new();
        (&*opened.file).read_to_string(&mut text).unwrap();
        Ok(text)
    }

    /// `logs` is the base; `secret` and `pods` are beside it.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for sub in ["logs/sub", "secret", "pods"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        fs::write(root.join("logs/sub/x.log"), "x").unwrap();
        fs::write(root.join("secret/shadow"), "SECRET").unwrap();
        fs::write(root.join("pods/0.log"), "pod").unwrap();
        symlink(root.join("secret/shadow"), root.join("logs/out.log")).unwrap();
        symlink("../secret", root.join("logs/outdir")).unwrap();
        symlink("sub/x.log", root.join("logs/in.log")).unwrap();
        symlink(root.join("pods/0.log"), root.join("logs/pod.log")).unwrap();
        (dir, root)
    }

    #[test]
    fn without_leave_no_link_is_followed() {
        let (_dir, root) = tree();
        let beneath = RootedFs::new(vec![root.join("logs")], Links::Refused);
        let open = |path: &str| text(beneath.open(&root.join(path)));
        assert_eq!(open("logs/sub/x.log"), Ok("x".into()));
        for link in ["logs/out.log", "logs/in.log", "logs/pod.log", "logs/outdir/shadow"] {
            assert!(open(link).unwrap_err().starts_with("symbolic link"), "{link}: {:?}", open(link));
        }
        assert!(open("logs/../secret/shadow").is_err());
        assert!(open("secret/shadow").is_err());
    }

    #[test]
    fn links_are_followed_into_allowed_directories_only() {
        let (_dir, root) = tree();
        let beneath = RootedFs::new(vec![root.join("logs")], Links::Followed(vec![root.join("pods")]));
        let open = |path: &str| text(beneath.open(&root.join(path)));
        assert_eq!(open("logs/in.log"), Ok("x".into()));
        assert_eq!(open("logs/pod.log"), Ok("pod".into()));
        for link in ["logs/out.log", "logs/outdir/shadow"] {
            let refused = open(link).unwrap_err();
            assert!(refused.contains("secret/shadow, which is below no directory"), "{link}: {refused}");
        }
        let opened = beneath.open(&root.join("logs/pod.log")).unwrap();
        assert_eq!(opened.real_path, Some(root.join("pods/0.log")));
        assert_eq!(beneath.open(&root.join("logs/sub/x.log")).unwrap().real_path, None);
    }

    /// The literal part of a glob is what the operator wrote.
    #[test]
    fn a_base_may_be_a_link() {
        let (_dir, root) = tree();
        symlink(root.join("logs"), root.join("current")).unwrap();
        for links in [Links::Refused, Links::Followed(Vec::new())] {
            let beneath = RootedFs::new(vec![root.join("current")], links);
            assert_eq!(text(beneath.open(&root.join("current/sub/x.log"))), Ok("x".into()));
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (_dir, root) = tree();
        let pipe = root.join("logs/pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let beneath = RootedFs::new(vec![root.join("logs")], Links::Refused);
        assert!(beneath.open(&pipe).is_err() && open(&pipe).is_err());
        assert!(beneath.open(&root.join("logs/sub")).is_err() && open(&root).is_err());
        assert!(open(&root.join("logs/in.log")).is_err(), "a link");
    }
}
