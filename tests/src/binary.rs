//! Where the binary under test is.

use std::path::{Path, PathBuf};

/// The `rota` binary: what `ROTA_BIN` names, else the release build of this
/// workspace.
///
/// # Panics
/// When there is none: a test of real processes without one shows nothing.
#[must_use]
pub fn rota() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let path =
        std::env::var_os("ROTA_BIN").map_or_else(|| workspace.join("target/release/rota"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no binary at {}: run `make build`, or say in ROTA_BIN where it is",
        path.display()
    );
    path
}
