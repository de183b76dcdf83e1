//! Decoders of this crate for the fuzz targets in `fuzz/`, which build with `--cfg fuzzing`.

use crate::agent::fuzzing::check_record;
use crate::collector::checkpoint::Checkpoint;
use crate::collector::gaps::GapRecord;
use crate::wire::Gaps;

/// What agents and collectors keep and send: the record of a source, a checkpoint, gaps.
pub fn decode_agent_files(bytes: &[u8]) {
    check_record(bytes);
    if let Some(checkpoint) = std::str::from_utf8(bytes).ok().and_then(|text| Checkpoint::decode(text).ok()) {
        assert_eq!(Checkpoint::decode(&checkpoint.encode()).expect("it was encoded"), checkpoint);
    }
    let _ = serde_json::from_slice::<Gaps>(bytes);
    let _ = serde_json::from_slice::<GapRecord>(bytes);
}
