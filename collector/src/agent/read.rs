//! Reads a chunk of one incarnation, and makes sure afterwards that it was
//! still that incarnation which was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::identity::{FileId, Trace, look};
use super::judge::{Verdict, judge};
use crate::wire::CHUNK_BYTES;

/// What is to be read.
#[derive(Debug)]
pub struct Job {
    /// The file, if it is open.
    pub file: Option<Arc<File>>,
    /// Where to open it otherwise.
    pub path: Option<PathBuf>,
    /// What is known of it.
    pub trace: Trace,
    /// Where to begin.
    pub offset: u64,
}

/// What was read.
#[derive(Debug)]
pub enum Outcome {
    /// Bytes; none at the end of the file.
    Data {
        /// They.
        bytes: Bytes,
        /// The file's trace after that.
        trace: Trace,
        /// The file.
        file: Arc<File>,
    },
    /// The file ends before the offset.
    Shorter,
    /// It is not the incarnation any more, or not to be found where it was.
    Changed,
}

/// Reads at most [`CHUNK_BYTES`]. Blocks.
///
/// The identity is checked after reading: if the file was truncated or
/// overwritten before or during the read, what was read is thrown away. So no
/// reader ever gets bytes of two incarnations for one.
///
/// # Errors
/// When the file cannot be opened or read.
pub fn read(job: Job) -> io::Result<Outcome> {
    let file = match (job.file, job.path) {
        (Some(file), _) => file,
        (None, Some(path)) => match open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Changed),
            Err(error) => return Err(error),
        },
        (None, None) => return Ok(Outcome::Changed),
    };
    let meta = file.metadata()?;
    if FileId::of(&meta).ino != job.trace.stat.id.ino {
        return Ok(Outcome::Changed);
    }
    let there = meta.len().saturating_sub(job.offset).min(CHUNK_BYTES as u64);
    let bytes = read_at(&file, job.offset, usize::try_from(there).unwrap_or(CHUNK_BYTES))?;
    let seen = match look(&file, &job.trace) {
        Ok(seen) => seen,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Outcome::Changed),
        Err(error) => return Err(error),
    };
    match judge(&job.trace, Some(&seen)) {
        Verdict::Same | Verdict::Grown if seen.trace.stat.size < job.offset => Ok(Outcome::Shorter),
        Verdict::Same | Verdict::Grown => Ok(Outcome::Data { bytes, trace: seen.trace, file }),
        Verdict::Truncated | Verdict::Replaced | Verdict::Missing => Ok(Outcome::Changed),
    }
}

/// Opens a file for reading, without waiting should it be a pipe.
///
/// # Errors
/// When it cannot be opened or is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn job(path: &Path, trace: Trace, offset: u64) -> Job {
        Job { file: None, path: Some(path.to_owned()), trace, offset }
    }

    fn bytes(outcome: Outcome) -> Vec<u8> {
        let Outcome::Data { bytes, .. } = outcome else { panic!("{outcome:?}") };
        bytes.to_vec()
    }

    #[test]
    fn what_was_read_is_what_was_asked_for_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one\ntwo\n").unwrap();
        let trace = Trace::of(&File::open(&path).unwrap()).unwrap();
        assert_eq!(bytes(read(job(&path, trace, 0)).unwrap()), b"one\ntwo\n");
        assert_eq!(bytes(read(job(&path, trace, 4)).unwrap()), b"two\n");
        assert!(bytes(read(job(&path, trace, 8)).unwrap()).is_empty());
        assert!(matches!(read(job(&path, trace, 9)).unwrap(), Outcome::Shorter));

        fs::write(&path, "ONE\ntwo\nthree\n").unwrap();
        assert!(matches!(read(job(&path, trace, 8)).unwrap(), Outcome::Changed), "overwritten");
        fs::write(&path, "one\n").unwrap();
        assert!(matches!(read(job(&path, trace, 4)).unwrap(), Outcome::Changed), "truncated");
        fs::remove_file(&path).unwrap();
        assert!(matches!(read(job(&path, trace, 4)).unwrap(), Outcome::Changed), "deleted");
    }

    #[test]
    fn an_open_file_is_read_after_it_was_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one\n").unwrap();
        let file = Arc::new(open(&path).unwrap());
        let trace = Trace::of(&file).unwrap();
        fs::remove_file(&path).unwrap();
        let job = Job { file: Some(file), path: None, trace, offset: 0 };
        assert_eq!(bytes(read(job).unwrap()), b"one\n");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path()).is_err());
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&pipe).is_err());
    }
}
