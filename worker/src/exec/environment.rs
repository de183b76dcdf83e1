//! What a command is told of its bucket: environment variables, and files for what may be too
//! large for one or has bytes that none can have.
//!
//! A variable that cannot be set is left out, and that is logged: one that kept the command from
//! starting would keep it from that for ever.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use rota_core::pool::Role;
use tempfile::NamedTempFile;
use tokio::process::Command;

use crate::lease::Lease;

/// Bytes of a variable with its name, `=` and the final NUL: execve(2) refuses longer ones
/// (`MAX_ARG_STRLEN`, 32 pages of 4 KiB).
const VARIABLE_BYTES_MAX: usize = 128 * 1024;

/// The environment of one command. Its files are removed when this is dropped.
#[derive(Debug)]
pub(super) struct Environment {
    variables: Vec<(&'static str, Vec<u8>)>,
    files: Vec<(&'static str, NamedTempFile)>,
}

impl Environment {
    /// What a command is told that works under this lease, beginning at this checkpoint.
    ///
    /// # Errors
    /// When something fits in no variable, and no file can be written.
    pub(super) async fn new(lease: &Lease, checkpoint: Option<Vec<u8>>) -> io::Result<Self> {
        let role = match lease.role() {
            Role::Primary => "primary",
            Role::Backup => "backup",
            Role::Preparing => "preparing",
        };
        let primary = lease.primary().map(|peer| peer.address).unwrap_or_default();
        let mut environment = Self { variables: Vec::new(), files: Vec::new() };
        for (name, value) in [
            ("ROTA_ROLE", role),
            ("ROTA_PRIMARY", &primary),
            ("ROTA_POOL", lease.pool()),
            ("ROTA_BUCKET", lease.bucket()),
            ("ROTA_MEMBER", lease.member()),
            ("ROTA_FENCE", &lease.fence().to_string()),
        ] {
            environment.set(name, value.as_bytes());
        }
        let checkpoint = checkpoint.unwrap_or_default();
        let item = lease.item().and_then(|item| serde_json::to_vec(item).ok());
        // Files are written where that may take long.
        let filled = tokio::task::spawn_blocking(move || {
            environment.set_with_file("ROTA_CHECKPOINT", "ROTA_CHECKPOINT_FILE", &checkpoint)?;
            if let Some(item) = item {
                environment.set_with_file("ROTA_ITEM", "ROTA_ITEM_FILE", &item)?;
            }
            Ok(environment)
        });
        filled.await.map_err(io::Error::other)?
    }

    /// Sets a variable, if it can be one. Says whether it can.
    fn set(&mut self, name: &'static str, value: &[u8]) -> bool {
        let fits = name.len() + value.len() + 2 <= VARIABLE_BYTES_MAX && !value.contains(&0);
        if fits {
            self.variables.push((name, value.to_owned()));
        } else {
            tracing::warn!(
                variable = name,
                bytes = value.len(),
                "not set for the command: longer than a variable may be, or with a NUL"
            );
        }
        fits
    }

    /// Sets a variable, if it can be one, and another to the path of a file that has the same.
    fn set_with_file(&mut self, name: &'static str, file_name: &'static str, value: &[u8]) -> io::Result<()> {
        let is_set = self.set(name, value);
        match write_file(value) {
            Ok(file) => self.files.push((file_name, file)),
            // Commands that only read the variable go on to run, on a disk that is full, say.
            Err(error) if is_set => {
                tracing::warn!(variable = file_name, %error, "no file could be written for the command");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives all of it to a command. What this process itself has of it is not inherited.
    pub(super) fn apply(&self, command: &mut Command) {
        for name in ["ROTA_CHECKPOINT", "ROTA_CHECKPOINT_FILE", "ROTA_ITEM", "ROTA_ITEM_FILE", "ROTA_PRIMARY"]
        {
            command.env_remove(name);
        }
        for (name, value) in &self.variables {
            command.env(name, OsStr::from_bytes(value));
        }
        for (name, file) in &self.files {
            command.env(name, file.path());
        }
    }
}

/// A file in the directory for temporary files (`TMPDIR`), of mode 0600.
fn write_file(bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::with_prefix("rota-")?;
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn empty() -> Environment {
        Environment { variables: Vec::new(), files: Vec::new() }
    }

    /// What a command sees that is given this checkpoint: the variable, and the file's bytes.
    async fn seen(checkpoint: &[u8]) -> (Option<usize>, Vec<u8>) {
        let mut environment = empty();
        environment.set_with_file("ROTA_CHECKPOINT", "ROTA_CHECKPOINT_FILE", checkpoint).unwrap();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "printf '%s ' \"${ROTA_CHECKPOINT+${#ROTA_CHECKPOINT}}\"; cat \"$ROTA_CHECKPOINT_FILE\"",
        ]);
        command.env("ROTA_CHECKPOINT", "of the worker itself").env("LC_ALL", "C");
        environment.apply(&mut command);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let space = output.stdout.iter().position(|byte| *byte == b' ').unwrap();
        let (len, file) = output.stdout.split_at(space);
        (std::str::from_utf8(len).unwrap().parse().ok(), file[1..].to_owned())
    }

    #[tokio::test]
    async fn what_fits_in_no_variable_comes_by_file() {
        let longest = vec![b'x'; VARIABLE_BYTES_MAX - "ROTA_CHECKPOINT".len() - 2];
        assert_eq!(seen(&longest).await, (Some(longest.len()), longest.clone()));
        let longer = [longest, vec![b'y']].concat();
        assert_eq!(seen(&longer).await, (None, longer));
        assert_eq!(seen(b"a\0b").await, (None, b"a\0b".to_vec()));
        assert_eq!(seen(b"\xff\xfe").await, (Some(2), b"\xff\xfe".to_vec()));
        assert_eq!(seen(b"").await, (Some(0), Vec::new()));
    }

    #[test]
    fn files_are_private_and_go_with_the_command() {
        let mut environment = empty();
        environment.set_with_file("ROTA_ITEM", "ROTA_ITEM_FILE", b"{}").unwrap();
        let path = environment.files[0].1.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(environment);
        assert!(!path.exists());
    }
}
