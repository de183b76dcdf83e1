//! Who may write to an output: one directory per output, with one empty file
//! per grant, named by its fence. The largest is the owner.
//!
//! Creating a file never conflicts with another creation, and only files
//! smaller than one's own are removed, so the largest fence never goes back,
//! whoever is stopped wherever. That is why it is not one file with a number in
//! it: a stopped process could overwrite the number with its own.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::Modes;

/// Suffix of the file that replaces an output: see [`super`].
const COPY: &str = ".copy";

/// The claims to one output.
#[derive(Debug, Clone)]
pub struct FenceFiles {
    dir: PathBuf,
    fence: u64,
}

impl FenceFiles {
    /// Stakes the claim of the grant with this fence. It has no effect if there
    /// is one with a larger fence.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn claim_fence(dir: &Path, fence: u64, modes: Modes) -> io::Result<Self> {
        modes.create_dir(dir)?;
        let claims = Self { dir: dir.to_owned(), fence };
        modes.create(&claims.path(fence, ""), OpenOptions::new().write(true))?;
        for (smaller, suffix) in claims.list()?.into_iter().filter(|(other, _)| *other < fence) {
            remove(&claims.path(smaller, suffix))?;
        }
        Ok(claims)
    }

    /// The fence that the claims were staked with.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// The largest fence that was staked.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn largest(&self) -> io::Result<u64> {
        let claims = self.list()?.into_iter().filter(|(_, suffix)| suffix.is_empty());
        Ok(claims.map(|(fence, _)| fence).max().unwrap_or(0))
    }

    /// The file that this grant may put in the place of the output. A larger
    /// claim removes it, so that renaming it then fails.
    #[must_use]
    pub fn copy_path(&self) -> PathBuf {
        self.path(self.fence, COPY)
    }

    fn path(&self, fence: u64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{fence:020}{suffix}"))
    }

    fn list(&self) -> io::Result<Vec<(u64, &'static str)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let (number, suffix) = name.strip_suffix(COPY).map_or((name, ""), |number| (number, COPY));
            found.extend(number.parse().ok().map(|fence| (fence, suffix)));
        }
        Ok(found)
    }
}

/// Removes a file that another may have removed already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_claim_stays_whatever_the_order() {
        for order in [[3, 10, 200], [200, 10, 3], [10, 200, 3]] {
            let dir = tempfile::tempdir().unwrap();
            let claims: Vec<FenceFiles> = order
                .iter()
                .map(|fence| FenceFiles::claim_fence(dir.path(), *fence, Modes::default()).unwrap())
                .collect();
            assert!(claims.iter().all(|claim| claim.largest().unwrap() == 200), "{order:?}");
        }
    }

    #[test]
    fn a_larger_claim_takes_away_what_would_replace_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let (small, large) = (FenceFiles::claim_fence(dir.path(), 3, Modes::default()).unwrap(), 4);
        fs::write(small.copy_path(), "x").unwrap();
        FenceFiles::claim_fence(dir.path(), large, Modes::default()).unwrap();
        assert!(!small.copy_path().exists());
        assert_eq!(small.largest().unwrap(), large);
    }

    #[test]
    fn the_same_grant_may_claim_again() {
        let dir = tempfile::tempdir().unwrap();
        FenceFiles::claim_fence(dir.path(), 3, Modes::default()).unwrap();
        assert_eq!(FenceFiles::claim_fence(dir.path(), 3, Modes::default()).unwrap().largest().unwrap(), 3);
    }
}
