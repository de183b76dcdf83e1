//! The agent's decoders for the fuzz targets.

use super::record::Record;
use crate::clock::Now;

/// Reads the record of a source, and writes it again.
pub fn check_record(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let source = record.into_source("/v/f".into(), Now { unix_ms: 20, monotonic_ms: 8 });
    let written = serde_json::to_vec(&Record::of(&source)).expect("a record is JSON");
    let again: Record = serde_json::from_slice(&written).expect("what was written is read");
    let again = again.into_source("/v/f".into(), Now { unix_ms: 20, monotonic_ms: 8 });
    assert_eq!(format!("{again:?}"), format!("{source:?}"));
}

/// Whether a text is the record of a source.
#[cfg(test)]
pub fn is_record(text: &str) -> bool {
    serde_json::from_str::<Record>(text).is_ok()
}
