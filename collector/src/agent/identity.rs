//! What is remembered of a file so that it is known again: which inode it is,
//! what it begins with, and what stood before its last known end.
//!
//! An inode number alone is given to another file soon after the first is
//! deleted; a beginning alone is shared by files that start with the same
//! banner; only the end shows that a file was overwritten with one that begins
//! alike. So all three must agree.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::xxh3_64;

/// How much of a file's beginning is remembered, in bytes.
pub const HEAD_BYTES: u64 = 1024;
/// How much before the last known end is remembered, in bytes.
pub const TAIL_BYTES: u64 = 64;

/// Which file it is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// When the inode was made, in nanoseconds since 1970; 0 where the file
    /// system does not say. It tells an inode number that was given again.
    pub born_ns: u64,
}

/// What a `stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Which file.
    pub id: FileId,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed in any way (`ctime`, which cannot be set
    /// back), in nanoseconds since 1970.
    pub changed_ns: u64,
}

/// A hash of some bytes and how many they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// How many.
    pub len: u64,
    /// Their XXH3.
    pub hash: u64,
}

/// What is remembered of an incarnation's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Which file, how long, when changed.
    pub stat: Stat,
    /// Of its first [`HEAD_BYTES`].
    pub head: Mark,
    /// Of the [`TAIL_BYTES`] before `stat.size`.
    pub tail: Mark,
}

/// A file looked at with a trace in mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What it is now.
    pub trace: Fingerprint,
    /// It begins with the same bytes.
    pub head_same: bool,
    /// The same bytes stand before the end that was known.
    pub tail_same: bool,
}

impl FileId {
    /// The identity in a file's metadata.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.map_or(0, |born| u64::try_from(born.as_nanos()).unwrap_or(0));
        Self { dev: meta.dev(), ino: meta.ino(), born_ns }
    }
}

impl Stat {
    /// The part of a file's metadata that matters here.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        let changed_ns = meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec());
        Self { id: FileId::of(meta), size: meta.len(), changed_ns: u64::try_from(changed_ns).unwrap_or(0) }
    }
}

impl Fingerprint {
    /// The trace of a file that cannot be read: its content is not known.
    #[must_use]
    pub fn without_marks(stat: Stat) -> Self {
        let nothing = Mark { len: 0, hash: xxh3_64(&[]) };
        Self { stat, head: nothing, tail: nothing }
    }

    /// The trace of an open file.
    ///
    /// # Errors
    /// When it cannot be read, or becomes shorter meanwhile.
    pub fn of(file: &File) -> io::Result<Self> {
        let stat = Stat::of(&file.metadata()?);
        let head = mark(file, 0, stat.size.min(HEAD_BYTES))?;
        let tail_len = stat.size.min(TAIL_BYTES);
        let tail = mark(file, stat.size - tail_len, tail_len)?;
        let (Some(head), Some(tail)) = (head, tail) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        Ok(Self { stat, head, tail })
    }
}

/// Looks at `file` with the trace `known` in mind.
///
/// The new trace is taken before the comparison: if the file is overwritten in
/// between, the comparison fails, and the new content is never taken for the
/// continuation of the old.
///
/// # Errors
/// When it cannot be read, or becomes shorter meanwhile.
pub fn look(file: &File, known: &Fingerprint) -> io::Result<Seen> {
    let trace = Fingerprint::of(file)?;
    let same = |offset: u64, mark_known: Mark| {
        Ok::<_, io::Error>(mark(file, offset, mark_known.len)? == Some(mark_known))
    };
    let head_same = same(0, known.head)?;
    let tail_same = same(known.stat.size.saturating_sub(known.tail.len), known.tail)?;
    Ok(Seen { trace, head_same, tail_same })
}

/// The mark of `len` bytes at `offset`; `None` if the file ends before.
fn mark(file: &File, offset: u64, len: u64) -> io::Result<Option<Mark>> {
    debug_assert!(len <= HEAD_BYTES, "marks are small");
    let mut bytes = [0; HEAD_BYTES as usize];
    let bytes = &mut bytes[..usize::try_from(len).unwrap_or(0)];
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(Some(Mark { len, hash: xxh3_64(bytes) })),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn written(content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn growth_keeps_head_and_tail() {
        let (_dir, path) = written("one\n");
        let known = Fingerprint::of(&File::open(&path).unwrap()).unwrap();
        fs::write(&path, "one\ntwo\n").unwrap();
        let seen = look(&File::open(&path).unwrap(), &known).unwrap();
        assert!(seen.head_same && seen.tail_same);
        assert_eq!((seen.trace.stat.size, seen.trace.head.len), (8, 8));
    }

    #[test]
    fn an_overwritten_head_or_tail_shows() {
        let long = format!("{}{}", "h".repeat(2000), "t".repeat(100));
        let (_dir, path) = written(&long);
        let file = File::open(&path).unwrap();
        let known = Fingerprint::of(&file).unwrap();
        fs::write(&path, format!("{}{}", "x".repeat(2000), "t".repeat(100))).unwrap();
        let seen = look(&file, &known).unwrap();
        assert!(!seen.head_same && seen.tail_same);
        fs::write(&path, format!("{}{}", "h".repeat(2000), "x".repeat(200))).unwrap();
        let seen = look(&file, &known).unwrap();
        assert!(seen.head_same && !seen.tail_same);
    }

    #[test]
    fn a_file_that_became_shorter_is_not_the_same() {
        let (_dir, path) = written("one\ntwo\n");
        let file = File::open(&path).unwrap();
        let known = Fingerprint::of(&file).unwrap();
        fs::write(&path, "one\n").unwrap();
        let seen = look(&file, &known).unwrap();
        assert!(!seen.head_same && !seen.tail_same);
    }
}
