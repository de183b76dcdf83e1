//! Commands that are run to their end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;

/// No test runs a command that takes longer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// What a command said, and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// Its output as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }

    /// Makes sure that it failed with exit code 1 and said why, on standard
    /// error, in words that name every one of `naming`.
    ///
    /// # Panics
    /// When it did anything else.
    pub fn failed(&self, naming: &[&str]) {
        assert_eq!(self.code, Some(1), "{self:?}");
        for name in naming {
            assert!(self.err.contains(name), "it does not name {name:?}: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

/// Runs `rota` with these arguments. It is killed when it does not end.
///
/// # Panics
/// When it cannot be started, or does not end.
pub async fn command(args: &[&str]) -> Ran {
    run(&crate::rota(), args, COMMAND_TIMEOUT).await
}

/// Runs a program with these arguments; it finds the binary under test in
/// `ROTA_BIN`. It is killed when it does not end.
///
/// # Panics
/// When it cannot be started, or does not end.
pub async fn run(program: &Path, args: &[&str], within: Duration) -> Ran {
    let mut command = tokio::process::Command::new(program);
    command.args(args).env("ROTA_BIN", crate::rota());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().expect("the program can be started");
    let ended = tokio::time::timeout(within, child.wait_with_output()).await;
    let output = ended
        .unwrap_or_else(|_| panic!("{} {args:?} does not end", program.display()))
        .expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}
