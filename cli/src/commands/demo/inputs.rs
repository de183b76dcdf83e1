//! The files that the demo collects besides its own application's: the machine's
//! logs, or a directory of the user's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::processes::HOST;
use super::report::Lines;

/// What the application is called whose files these are.
pub(super) const SYSTEM: &str = "system";
/// Where the machine's own logs are.
const MACHINE_LOGS: &str = "/var/log";
/// Of the machine's own logs, larger ones are left out: a demo is to end soon.
const MACHINE_LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The files, as they were found at the start.
pub(super) struct Inputs {
    base: PathBuf,
    glob: String,
    too_large: Vec<String>,
    files: Vec<Found>,
}

struct Found {
    path: PathBuf,
    identity: (u64, u64),
    bytes: u64,
}

/// A file, and what should have become of it.
pub(super) struct Target {
    path: PathBuf,
    identity: (u64, u64),
    /// Where it may be: a file with several names is one source, called by one of
    /// them.
    collected: Vec<PathBuf>,
    /// Its size when the demo took stock.
    pub(super) bytes: u64,
}

impl Inputs {
    /// Finds all files below `directory`, or the machine's logs.
    pub(super) fn find(directory: Option<&Path>) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        let Some(directory) = directory else {
            let base = PathBuf::from(MACHINE_LOGS);
            walk(&base, &|path| path.extension().is_some_and(|e| e == "log"), &mut files);
            let (fitting, too_large): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|found| found.bytes <= MACHINE_LOG_BYTES_MAX);
            let too_large = too_large.iter().map(|found| escape(&found.path)).collect();
            return Ok(Self { glob: format!("{MACHINE_LOGS}/**/*.log"), base, too_large, files: fitting });
        };
        let base =
            directory.canonicalize().with_context(|| format!("cannot read {}", directory.display()))?;
        if !base.is_dir() {
            bail!("{} is not a directory", base.display());
        }
        walk(&base, &|_| true, &mut files);
        if files.is_empty() {
            bail!("there are no readable files below {}", base.display());
        }
        Ok(Self { glob: format!("{}/**/*", escape(&base)), base, too_large: Vec::new(), files })
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// What an agent is to look for, and what it is to leave out.
    pub(super) fn globs(&self) -> (String, &[String]) {
        (self.glob.clone(), &self.too_large)
    }

    /// What should have been collected by now. A file that was replaced
    /// meanwhile, by the machine's own rotation, is not compared.
    pub(super) fn targets(&self, out: &Path) -> anyhow::Result<Vec<Target>> {
        let mut targets = Vec::new();
        for found in &self.files {
            let Ok(metadata) = fs::metadata(&found.path) else { continue };
            if (metadata.dev(), metadata.ino()) != found.identity {
                continue;
            }
            let relative = found.path.strip_prefix(&self.base)?;
            let collected = out.join(SYSTEM).join(HOST).join(relative);
            match targets.iter_mut().find(|target: &&mut Target| target.identity == found.identity) {
                Some(target) => target.collected.push(collected),
                None => targets.push(Target {
                    path: found.path.clone(),
                    identity: found.identity,
                    collected: vec![collected],
                    bytes: metadata.len(),
                }),
            }
        }
        Ok(targets)
    }
}

impl Target {
    /// Where it was collected, if it was.
    fn output(&self) -> Option<&PathBuf> {
        self.collected.iter().find(|path| path.is_file())
    }

    /// What it is called.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether all of it that was there is collected.
    pub(super) fn is_whole(&self) -> bool {
        let size = self.output().and_then(|path| fs::metadata(path).ok()).map_or(0, |m| m.len());
        size >= self.bytes
    }

    /// Compares the file with what was collected of it. What the file got since
    /// is not held against anybody. `None` if the file was replaced.
    pub(super) fn compare(&self) -> anyhow::Result<Option<Lines>> {
        let metadata = fs::metadata(&self.path)?;
        if (metadata.dev(), metadata.ino()) != self.identity {
            return Ok(None);
        }
        let written = fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        // What is not there was not collected: all its lines are lost.
        let collected = self.output().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let end = collected.len().max(usize::try_from(self.bytes)?).min(written.len());
        Ok(Some(Lines::compare(&written[..end], &collected)))
    }
}

/// All readable, regular files below `directory` that are wanted. What cannot
/// be read is no input.
fn walk(directory: &Path, wanted: &dyn Fn(&Path) -> bool, files: &mut Vec<Found>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            walk(&path, wanted, files);
        } else if metadata.is_file() && wanted(&path) && fs::File::open(&path).is_ok() {
            files.push(Found { path, identity: (metadata.dev(), metadata.ino()), bytes: metadata.len() });
        }
    }
}

/// A path as a glob that matches it alone.
fn escape(path: &Path) -> String {
    let mut glob = String::new();
    for c in path.to_string_lossy().chars() {
        if "*?[]{}!\\".contains(c) {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}
