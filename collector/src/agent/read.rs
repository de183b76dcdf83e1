//! Reads a chunk of one incarnation, and makes sure afterwards that it was
//! still that incarnation which was read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::classify::{Disposition, classify};
use super::identity::{FileId, Fingerprint, look};
use super::rooted_fs::{RootedFs, is_link_error, open};
use crate::wire::CHUNK_BYTES;

/// What is to be read.
#[derive(Debug)]
pub struct Job {
    /// The file, if it is open.
    pub file: Option<Arc<File>>,
    /// Where to open it otherwise.
    pub path: Option<PathBuf>,
    /// That is the source's own path, which may have become a link.
    pub is_live: bool,
    /// What is known of it.
    pub trace: Fingerprint,
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
        trace: Fingerprint,
        /// The file.
        file: Arc<File>,
    },
    /// The file ends before the offset.
    Shorter {
        /// It has so many bytes.
        size: u64,
    },
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
pub fn read(job: Job, beneath: &RootedFs) -> io::Result<Outcome> {
    let file = match (job.file, job.path) {
        (Some(file), _) => file,
        (None, Some(path)) => {
            let opened = match job.is_live {
                true => beneath.open(&path).map(|opened| opened.file),
                false => open(&path).map(Arc::new),
            };
            match opened {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Changed),
                Err(error) if is_link_error(&error) => return Ok(Outcome::Changed),
                Err(error) => return Err(error),
            }
        }
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
    match classify(&job.trace, Some(&seen)) {
        Disposition::Same | Disposition::Grown if seen.trace.stat.size < job.offset => {
            Ok(Outcome::Shorter { size: seen.trace.stat.size })
        }
        Disposition::Same | Disposition::Grown => Ok(Outcome::Data { bytes, trace: seen.trace, file }),
        Disposition::Truncated | Disposition::Replaced | Disposition::Missing => Ok(Outcome::Changed),
    }
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
    use std::path::Path;

    use super::super::rooted_fs::Links;
    use super::*;

    fn job(path: &Path, trace: Fingerprint, offset: u64) -> Job {
        Job { file: None, path: Some(path.to_owned()), is_live: true, trace, offset }
    }

    fn read(job: Job) -> io::Result<Outcome> {
        let base = job.path.as_ref().and_then(|path| path.parent()).map(Path::to_owned);
        super::read(job, &RootedFs::new(base.into_iter().collect(), Links::Refused))
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
        let trace = Fingerprint::of(&File::open(&path).unwrap()).unwrap();
        assert_eq!(bytes(read(job(&path, trace, 0)).unwrap()), b"one\ntwo\n");
        assert_eq!(bytes(read(job(&path, trace, 4)).unwrap()), b"two\n");
        assert!(bytes(read(job(&path, trace, 8)).unwrap()).is_empty());
        assert!(matches!(read(job(&path, trace, 9)).unwrap(), Outcome::Shorter { size: 8 }));

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
        let trace = Fingerprint::of(&file).unwrap();
        fs::remove_file(&path).unwrap();
        let job = Job { file: Some(file), path: None, is_live: false, trace, offset: 0 };
        assert_eq!(bytes(read(job).unwrap()), b"one\n");
    }

    #[test]
    fn a_file_that_became_a_link_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("f"), dir.path().join("secret"));
        fs::write(&path, "one\n").unwrap();
        fs::write(&secret, "one\nand more\n").unwrap();
        let trace = Fingerprint::of(&File::open(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert!(matches!(read(job(&path, trace, 0)).unwrap(), Outcome::Changed));
    }
}
