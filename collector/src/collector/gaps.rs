//! The record of what could not be collected: one line of JSON per gap in
//! `<dir>/.rota/gaps.jsonl`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::sink::{OWN_DIR, create_dirs};
use crate::wire::GapReason;

/// How much of the record's end is searched for a line that is there already.
/// A gap is repeated only by an owner that takes over right after it.
const SEARCHED_BYTES: u64 = 1 << 20;

/// One gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The source's item.
    pub source: String,
    /// The incarnation.
    pub incarnation: u64,
    /// The first byte that is missing.
    pub from: u64,
    /// The byte after the last one that is missing; `None`: not known.
    pub to: Option<u64>,
    /// Why.
    pub reason: GapReason,
    /// When it was found out, in milliseconds since 1970.
    pub time_ms: u64,
}

impl GapRecord {
    fn is_same(&self, other: &Self) -> bool {
        (&self.source, self.incarnation, self.from, self.to)
            == (&other.source, other.incarnation, other.from, other.to)
    }
}

/// Adds a gap to the record in the output directory `dir`, once, and brings it
/// to the disk. Blocks.
///
/// # Errors
/// When the record cannot be read or written.
pub fn record(dir: &Path, gap: &GapRecord) -> io::Result<()> {
    let path = dir.join(OWN_DIR).join("gaps.jsonl");
    create_dirs(&path)?;
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(SEARCHED_BYTES)))?;
    let mut recent = Vec::new();
    file.read_to_end(&mut recent)?;
    let mut lines = recent.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    if lines.any(|line: GapRecord| line.is_same(gap)) {
        return Ok(());
    }
    // Whoever died within a line has left it without an end.
    let mut line = if recent.last().is_some_and(|last| *last != b'\n') { b"\n".to_vec() } else { Vec::new() };
    serde_json::to_writer(&mut line, gap)?;
    line.push(b'\n');
    // One write, so that the lines of two collectors do not mix.
    file.write_all(&line)?;
    file.sync_data()
}

/// All gaps that are recorded in the output directory `dir`.
///
/// # Errors
/// When the record cannot be read.
pub fn read(dir: &Path) -> io::Result<Vec<GapRecord>> {
    let lines = match fs::read(dir.join(OWN_DIR).join("gaps.jsonl")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        lines => lines?,
    };
    Ok(lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_recorded_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        let gap = |from| GapRecord {
            source: "a@h:f".into(),
            incarnation: 7,
            from,
            to: None,
            reason: GapReason::Unknown,
            time_ms: from,
        };
        record(dir.path(), &gap(1)).unwrap();
        record(dir.path(), &gap(2)).unwrap();
        record(dir.path(), &GapRecord { time_ms: 99, ..gap(1) }).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [gap(1), gap(2)]);
    }

    #[test]
    fn half_a_line_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let gap = GapRecord {
            source: "a@h:f".into(),
            incarnation: 7,
            from: 1,
            to: Some(2),
            reason: GapReason::Truncated,
            time_ms: 3,
        };
        fs::create_dir(dir.path().join(OWN_DIR)).unwrap();
        fs::write(dir.path().join(OWN_DIR).join("gaps.jsonl"), "{\"source\":\"a@").unwrap();
        record(dir.path(), &gap).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [gap]);
    }
}
