//! Files and directories that are there after a loss of power too, and that only
//! their owner may read unless the operator says otherwise.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Who may read what a collector makes: logs often hold what only root may read
/// where they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modes {
    file: u32,
}

impl Default for Modes {
    fn default() -> Self {
        Self::of_files(0o600)
    }
}

impl Modes {
    /// Files with this mode, whatever the umask; the owner may read and write them
    /// in any case. Who may read a file may enter its directory.
    #[must_use]
    pub fn of_files(mode: u32) -> Self {
        Self { file: (mode & 0o666) | 0o600 }
    }

    fn of_dirs(self) -> u32 {
        self.file | ((self.file & 0o444) >> 2)
    }

    /// Opens a file for reading and writing, and makes it if it is not there.
    /// `options` may say more. One that is there keeps its mode.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn create(self, path: &Path, options: &OpenOptions) -> io::Result<File> {
        match options.clone().create_new(true).mode(self.file).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
            made => {
                let made = made?;
                made.set_permissions(Permissions::from_mode(self.file))?;
                Ok(made)
            }
        }
    }

    /// Makes a directory, and those above it that are not there.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create_dir(self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.is_dir()).collect();
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(self.of_dirs()).create(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
                made => {
                    made?;
                    fs::set_permissions(dir, Permissions::from_mode(self.of_dirs()))?;
                }
            }
        }
        Ok(())
    }

    /// Makes the directories above `path`.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn create_dirs_above(self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |dir| self.create_dir(dir))
    }
}

/// Brings the names of `path` and of the directories above it, up to `top`, to
/// the disk.
///
/// # Errors
/// When the disk fails.
pub fn sync_dirs(path: &Path, top: &Path) -> io::Result<()> {
    let above = path.ancestors().skip(1).take_while(|dir| dir.starts_with(top));
    above.map(File::open).try_for_each(|dir| dir?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_may_read_unless_more_is_said() {
        let cases = [
            (Modes::default(), 0o600, 0o700),
            (Modes::of_files(0o640), 0o640, 0o750),
            (Modes::of_files(0o444), 0o644, 0o755),
        ];
        for (modes, file_mode, dir_mode) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a/b/f");
            modes.create_dirs_above(&path).unwrap();
            modes.create_dirs_above(&path).unwrap();
            let options = OpenOptions::new().read(true).write(true).clone();
            modes.create(&path, &options).unwrap();
            assert_eq!(
                (mode(&path), mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))),
                (file_mode, dir_mode, dir_mode)
            );
            // What the operator has changed since stays.
            fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
            modes.create(&path, &options).unwrap();
            assert_eq!(mode(&path), 0o604);
        }
    }
}
