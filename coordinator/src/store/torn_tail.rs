//! The last record of a log whose machine lost power while it was being written.
//! What of it reached the disk is a part, or all with zeros in it: sectors that the
//! file system had given to the file and not written yet. Such a record is cut off.
//! Anything else that does not decode is damage.

use std::fs::{self, OpenOptions};
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use raft_log::codeq::Decode;
use raft_log::{RaftWalTypes, WALRecord};

use super::codec::head_and_len;
use super::log::Types;

/// Zeros in a row that say that a part of a record was not written. No record has so many
/// but in a client's data.
const UNWRITTEN_BYTES_MIN: usize = 24;
/// Zeros at the end of a record that say the same: more than its checksum begins with.
const UNWRITTEN_END_BYTES_MIN: usize = 4;
/// The type of a record that holds an entry (`RaftLogAction::Append`).
const APPEND_TYPE: u32 = 1;
/// The checksum at the end of a record, in bytes.
const CHECKSUM_BYTES: usize = 8;

/// How the log's last file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// With a whole record, or it is empty.
    Whole,
    /// With a record that is not whole.
    Torn,
    /// With something that no crash leaves.
    Damaged,
}

/// How the log in `directory` ends. Zeros in a torn record are cut off, from the
/// record's beginning on; the log drops a record without an end by itself.
///
/// # Errors
/// For I/O.
pub(super) fn repair(directory: &Path) -> io::Result<Tail> {
    let Some(file) = last_file(directory)? else { return Ok(Tail::Whole) };
    let bytes = fs::read(&file)?;
    let mut at = 0;
    while at < bytes.len() {
        let mut rest = Cursor::new(&bytes[at..]);
        match WALRecord::<RaftWalTypes<Types>>::decode(&mut rest) {
            Ok(_) => at += usize::try_from(rest.position()).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Tail::Torn),
            Err(_) if is_torn(&bytes, at) => {
                let file = OpenOptions::new().write(true).open(&file)?;
                file.set_len(at as u64)?;
                file.sync_all()?;
                return Ok(Tail::Torn);
            }
            Err(_) => return Ok(Tail::Damaged),
        }
    }
    Ok(Tail::Whole)
}

/// The newest file with anything in it: one that was begun and not written to says nothing.
fn last_file(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|end| end == "wal") && entry.metadata()?.len() > 0 {
            files.push(entry.path());
        }
    }
    Ok(files.into_iter().max())
}

/// Whether the record that begins at `at` is the last one, and was not written whole.
fn is_torn(bytes: &[u8], at: usize) -> bool {
    let record = &bytes[at..];
    let zeros_at_the_end = record.iter().rev().take_while(|byte| **byte == 0).count();
    match record_end(record) {
        Some(end) if end == record.len() => {
            zeros_at_the_end >= UNWRITTEN_END_BYTES_MIN || longest_run_of_zeros(record) >= UNWRITTEN_BYTES_MIN
        }
        Some(_) => false,
        // Its length is among what was not written: nothing may follow.
        None => zeros_at_the_end >= UNWRITTEN_END_BYTES_MIN,
    }
}

fn longest_run_of_zeros(bytes: &[u8]) -> usize {
    let mut runs = bytes.split(|byte| *byte != 0).map(<[u8]>::len);
    runs.by_ref().max().unwrap_or(0)
}

/// Where a record that holds an entry ends, by its own word.
fn record_end(bytes: &[u8]) -> Option<usize> {
    let (kind, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*kind) != APPEND_TYPE {
        return None;
    }
    let log_id = head_and_len(rest)?;
    let payload = head_and_len(rest.get(log_id..)?)?;
    Some(4 + log_id + payload + CHECKSUM_BYTES)
}
