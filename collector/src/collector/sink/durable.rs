//! Directories that are there after a loss of power too.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes the directories above `path`.
///
/// # Errors
/// When one cannot be made.
pub fn create_dirs(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
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
