//! The ledger of what could not be collected: one line of JSON per gap in
//! `<dir>/.rota/gaps.jsonl`; and of outputs that somebody else rotated, removed or
//! emptied: in `<dir>/.rota/outputs.jsonl`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::sink::{Modes, OWN_DIR};
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

/// An output that did not have the bytes that its checkpoint counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The source's item.
    pub source: String,
    /// The incarnation that was being collected.
    pub incarnation: u64,
    /// The offset in it from which on lines are in the new output.
    pub offset: u64,
    /// How many bytes the output had had.
    pub expected: u64,
    /// How many it has.
    pub found: u64,
    /// When it was found out, in milliseconds since 1970.
    pub time_ms: u64,
}

impl OutputRecord {
    fn is_same(&self, other: &Self) -> bool {
        *self == Self { time_ms: self.time_ms, ..other.clone() }
    }
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
pub fn record(dir: &Path, gap: &GapRecord, modes: Modes) -> io::Result<()> {
    append_unless(&dir.join(OWN_DIR).join("gaps.jsonl"), gap, modes, |known: &GapRecord| known.is_same(gap))
}

/// Adds an output to the record of those that others have changed. Blocks.
///
/// # Errors
/// When the record cannot be read or written.
pub fn record_output(dir: &Path, output: &OutputRecord, modes: Modes) -> io::Result<()> {
    append_unless(&dir.join(OWN_DIR).join("outputs.jsonl"), output, modes, |known: &OutputRecord| {
        known.is_same(output)
    })
}

fn append_unless<T: Serialize + DeserializeOwned>(
    path: &Path,
    record: &T,
    modes: Modes,
    is_known: impl Fn(&T) -> bool,
) -> io::Result<()> {
    modes.create_dirs_above(path)?;
    let mut file = modes.create(path, OpenOptions::new().read(true).append(true))?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(SEARCHED_BYTES)))?;
    let mut recent = Vec::new();
    file.read_to_end(&mut recent)?;
    let mut lines = recent.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    if lines.any(|known| is_known(&known)) {
        return Ok(());
    }
    // Whoever died within a line has left it without an end.
    let mut line = if recent.last().is_some_and(|last| *last != b'\n') { b"\n".to_vec() } else { Vec::new() };
    serde_json::to_writer(&mut line, record)?;
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
        record(dir.path(), &gap(1), Modes::default()).unwrap();
        record(dir.path(), &gap(2), Modes::default()).unwrap();
        record(dir.path(), &GapRecord { time_ms: 99, ..gap(1) }, Modes::default()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [gap(1), gap(2)]);
    }

    #[test]
    fn a_replaced_output_that_is_found_again_is_recorded_once() {
        let dir = tempfile::tempdir().unwrap();
        let output = |expected, time_ms| OutputRecord {
            source: "a@h:f".into(),
            incarnation: 7,
            offset: 10,
            expected,
            found: 0,
            time_ms,
        };
        for (expected, time_ms) in [(10, 1), (10, 2), (20, 3)] {
            record_output(dir.path(), &output(expected, time_ms), Modes::default()).unwrap();
        }
        let text = fs::read_to_string(dir.path().join(OWN_DIR).join("outputs.jsonl")).unwrap();
        let lines: Vec<OutputRecord> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [output(10, 1), output(20, 3)]);
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
        record(dir.path(), &gap, Modes::default()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [gap]);
    }
}
