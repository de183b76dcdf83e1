//! The open output of one owner: see [`super`] for why it is written like this.

use std::cmp::Ordering;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::warn;

use super::claims::FenceFiles;
use super::durable::sync_dirs;
use super::failpoints::{Failpoints, Step};
use super::{Modes, Place, SinkError};
use crate::naming::display_text;

/// How long to wait for a lock before its holder is displaced. A holder that
/// runs gives it back within the time of one write.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often a lock is tried while waiting: the system has no wait with a bound.
const LOCK_RETRY: Duration = Duration::from_millis(2);

/// The output of one source, open for its owner. All methods block.
#[derive(Debug)]
pub struct Sink {
    place: Place,
    claims: FenceFiles,
    file: File,
    len: u64,
    ends_line: bool,
    lock_wait: Duration,
    steps: Failpoints,
}

impl Sink {
    /// Takes over the output, and cuts it back to `out_len`, which the
    /// checkpoint says; `None` if there is no checkpoint. It may be shorter than
    /// that ([`Sink::len`]): somebody else has rotated, removed or emptied it.
    ///
    /// # Errors
    /// When there is a newer owner, there is an output without a checkpoint or in
    /// another directory, or the file system refuses.
    pub fn claim(
        place: Place,
        fence: u64,
        out_len: Option<u64>,
        lock_wait: Duration,
    ) -> Result<Self, SinkError> {
        Self::claim_in_steps(place, fence, out_len, lock_wait, Failpoints::default())
    }

    fn claim_in_steps(
        place: Place,
        fence: u64,
        out_len: Option<u64>,
        lock_wait: Duration,
        steps: Failpoints,
    ) -> Result<Self, SinkError> {
        let failed = |source| SinkError::Io { path: place.output.clone(), source };
        // Every earlier owner has left a claim.
        if let Some(out_len) = out_len.filter(|len| *len > 0)
            && !place.own.try_exists().map_err(failed)?
        {
            return Err(SinkError::OtherDirectory { path: place.output, out_len });
        }
        let claims = FenceFiles::claim_fence(&place.own, fence, place.modes).map_err(failed)?;
        let file = open(&place)?;
        let len = out_len.unwrap_or(0);
        let mut sink = Self { place, claims, file, len, ends_line: true, lock_wait, steps };
        sink.steps.done(Step::Opened);
        // Before a displacement, which would leave out what is not explained.
        sink.len = sink.len_to_keep(out_len)?;
        sink.locked(|sink| {
            sink.len = sink.len_to_keep(out_len)?;
            sink.cut_to_len()
        })?;
        Ok(sink)
    }

    /// Goes on with what is at the output's path now, after somebody else has
    /// renamed, removed or truncated it. What was appended before is brought to
    /// the disk, wherever it is. [`Sink::len`] is that of the new file.
    ///
    /// # Errors
    /// When there is a newer owner, or the file system refuses.
    pub fn reopen(&mut self) -> Result<(), SinkError> {
        self.io(|sink| sink.file.sync_data())?;
        self.file = open(&self.place)?;
        self.locked(|sink| {
            sink.len = sink.io(|sink| Ok(sink.file.metadata()?.len()))?;
            sink.cut_to_len()
        })
    }

    fn cut_to_len(&mut self) -> Result<(), SinkError> {
        self.io(|sink| {
            sink.file.set_len(sink.len)?;
            sink.ends_line = sink.len == 0 || last_byte(&sink.file, sink.len)? == b'\n';
            sink.file.sync_all()?;
            sync_dirs(&sink.place.output, &sink.place.dir)
        })
    }

    /// Appends.
    ///
    /// # Errors
    /// When there is a newer owner or the file system refuses. The sink is then
    /// of no more use: the next claim cuts off what was written in part.
    pub fn append(&mut self, parts: &[Bytes]) -> Result<(), SinkError> {
        self.locked(|sink| {
            let found = sink.io(|sink| Ok(sink.file.metadata()?.len()))?;
            match found.cmp(&sink.len) {
                Ordering::Less => return Err(SinkError::Replaced { path: sink.place.output.clone() }),
                Ordering::Greater => return Err(SinkError::Meddled { path: sink.place.output.clone() }),
                Ordering::Equal => {}
            }
            sink.io(|sink| {
                for part in parts.iter().filter(|part| !part.is_empty()) {
                    sink.file.write_all_at(part, sink.len)?;
                    sink.len += part.len() as u64;
                    sink.ends_line = part.ends_with(b"\n");
                }
                Ok(())
            })
        })
    }

    /// Does something else that only the owner may do.
    ///
    /// # Errors
    /// When there is a newer owner, or it fails.
    pub fn as_owner(&mut self, act: impl FnOnce() -> io::Result<()>) -> Result<(), SinkError> {
        self.locked(|sink| sink.io(|_| act()))
    }

    /// Brings what was appended to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&mut self) -> Result<(), SinkError> {
        // Without the lock: it changes nothing.
        self.io(|sink| sink.file.sync_data())
    }

    /// The output's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the output ends with a whole line (or is empty).
    #[must_use]
    pub fn ends_line(&self) -> bool {
        self.ends_line
    }

    /// Acts under the lock, as the owner.
    fn locked<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, SinkError>) -> Result<T, SinkError> {
        loop {
            // Whoever is stale already should not even hold the lock for a moment.
            self.check_fence()?;
            self.steps.done(Step::Looked);
            if self.io(|sink| lock_within(&sink.file, sink.lock_wait))? {
                break;
            }
            self.take_over_locked_output()?;
        }
        self.steps.done(Step::Locked);
        let acted = self.check_owner().and_then(|()| {
            self.steps.done(Step::Entitled);
            act(self)
        });
        self.steps.done(Step::Acted);
        self.io(|sink| sink.file.unlock())?;
        acted
    }

    fn check_owner(&mut self) -> Result<(), SinkError> {
        self.check_fence()?;
        let is_ours = self.io(|sink| {
            let ours = sink.file.metadata()?;
            match fs::metadata(&sink.place.output) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                named => named.map(|named| (ours.dev(), ours.ino()) == (named.dev(), named.ino())),
            }
        })?;
        if is_ours {
            return Ok(());
        }
        // A newer owner that displaces us has claimed before.
        self.check_fence()?;
        Err(SinkError::Replaced { path: self.place.output.clone() })
    }

    fn check_fence(&mut self) -> Result<(), SinkError> {
        let (ours, theirs) = (self.claims.fence(), self.io(|sink| sink.claims.largest())?);
        if theirs <= ours {
            return Ok(());
        }
        Err(SinkError::Fenced { path: self.place.output.clone(), ours, theirs })
    }

    fn len_to_keep(&mut self, out_len: Option<u64>) -> Result<u64, SinkError> {
        let len = self.io(|sink| Ok(sink.file.metadata()?.len()))?;
        match out_len {
            Some(out_len) => Ok(len.min(out_len)),
            None if len > 0 => Err(SinkError::NoCheckpoint { path: self.place.output.clone(), len }),
            None => Ok(0),
        }
    }

    /// Puts a copy in the place of the output, whose lock is held by somebody
    /// who does not give it back.
    fn take_over_locked_output(&mut self) -> Result<(), SinkError> {
        warn!(path = %display_text(&self.place.output), "lock held by a dead collector; replacing the output file");
        let path = self.claims.copy_path();
        let copy = self.io(|sink| copy_of(&sink.file, sink.len, &path, sink.place.modes))?;
        self.steps.done(Step::Copied);
        if let Err(fenced) = self.check_fence() {
            // Whether it is still there or a larger claim has removed it.
            let _ = fs::remove_file(&path);
            return Err(fenced);
        }
        self.steps.done(Step::CopyEntitled);
        match fs::rename(&path, &self.place.output) {
            Ok(()) => self.file = copy,
            // A larger claim has removed it; the check that follows says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.check_fence(),
            Err(source) => return Err(SinkError::Io { path: self.place.output.clone(), source }),
        }
        self.steps.done(Step::Displaced);
        self.io(|sink| sync_dirs(&sink.place.output, &sink.place.dir))
    }

    fn io<T>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<T>) -> Result<T, SinkError> {
        act(self).map_err(|source| SinkError::Io { path: self.place.output.clone(), source })
    }
}

fn open(place: &Place) -> Result<File, SinkError> {
    let opened = place.modes.create_dirs_above(&place.output);
    opened
        .and_then(|()| place.modes.create(&place.output, fs::OpenOptions::new().read(true).write(true)))
        .map_err(|source| SinkError::Io { path: place.output.clone(), source })
}

fn lock_within(file: &File, wait: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn copy_of(file: &File, len: u64, path: &Path, modes: Modes) -> io::Result<File> {
    let mut copy = modes.create(path, fs::OpenOptions::new().read(true).write(true).truncate(true))?;
    let mut from = file;
    from.seek(SeekFrom::Start(0))?;
    if io::copy(&mut from.take(len), &mut copy)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    copy.set_permissions(file.metadata()?.permissions())?;
    copy.sync_all()?;
    Ok(copy)
}

fn last_byte(file: &File, len: u64) -> io::Result<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, len - 1)?;
    Ok(byte[0])
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
