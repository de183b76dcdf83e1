//! Where the Python is that has kazoo, and kazoo's own tests:
//! `tests/clients/kazoo/set-up.sh` puts them there.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A command that runs Python with kazoo.
///
/// # Panics
/// When it was not set up.
#[must_use]
pub fn python() -> Command {
    let mut command = Command::new(set_up("venv/bin/python"));
    // Nothing is left behind between the sources, and what is said is said at once.
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    command
}

/// kazoo's source archive, unpacked.
///
/// # Panics
/// When it was not set up.
#[must_use]
pub fn kazoo_sources() -> PathBuf {
    set_up("kazoo-2.11.0")
}

fn set_up(what: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kazoo");
    let path = home.join(what);
    let complete = home.join("ready").is_file() && path.exists();
    assert!(complete, "there is no {}: run `sh tests/set-up.sh`", path.display());
    path
}
