//! An application that writes a log and rotates it by rename, as logrotate
//! would, and remembers every byte that it wrote.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

/// What the application is called.
pub(super) const APP: &str = "shop";
/// Its log file.
pub(super) const FILE: &str = "shop.log";
/// Lines are written this often, this many at once.
const PERIOD: Duration = Duration::from_millis(10);
const LINES_AT_ONCE: u64 = 5;
/// The file is rotated after so many lines.
const LINES_PER_FILE: u64 = 3_000;
/// So many rotated files are kept.
const KEPT: u32 = 3;

/// The application's log, and a record of all that was written to it.
#[derive(Clone)]
pub(super) struct Application {
    directory: PathBuf,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Application {
    pub(super) fn new(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).context("cannot make the application's log directory")?;
        Ok(Self { directory: directory.to_owned(), written: Arc::default() })
    }

    /// Which files an agent is to look for.
    pub(super) fn glob(&self) -> String {
        format!("{}/*.log", self.directory.display())
    }

    /// All that was written so far.
    pub(super) fn written(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.written)
    }

    /// Writes until it is told to stop.
    pub(super) async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let path = self.directory.join(FILE);
        let mut file = File::create(&path)?;
        let mut ticks = tokio::time::interval(PERIOD);
        let mut number = 0u64;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            for _ in 0..LINES_AT_ONCE {
                number += 1;
                let line = format!("{number:09} order placed by customer {:05}\n", number * 7919 % 100_000);
                file.write_all(line.as_bytes())?;
                self.written.lock().expect("no code panics while it holds this").extend(line.as_bytes());
            }
            if number.is_multiple_of(LINES_PER_FILE) {
                rotate(&path)?;
                file = File::create(&path)?;
            }
        }
    }
}

/// shop.log becomes shop.log.1, that becomes shop.log.2, and the last is
/// deleted.
fn rotate(path: &Path) -> std::io::Result<()> {
    let name = |n: u32| PathBuf::from(format!("{}.{n}", path.display()));
    for n in (1..KEPT).rev() {
        if name(n).exists() {
            fs::rename(name(n), name(n + 1))?;
        }
    }
    fs::rename(path, name(1))
}
