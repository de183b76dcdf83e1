//! Decoders of this crate for the fuzz targets in `fuzz/`, which build with `--cfg fuzzing`.

use crate::agent::fuzzing::check_record;
#[cfg(test)]
use crate::agent::fuzzing::is_record;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzz target runs only by `make fuzz`: its seeds are tried here.
    #[test]
    fn recorded_agent_files_are_decoded() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/agent_files");
        let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
        let read = |path: &std::path::PathBuf| std::fs::read(path).unwrap();
        let seeds: Vec<Vec<u8>> = seeds.iter().map(read).collect();
        seeds.iter().for_each(|seed| decode_agent_files(seed));
        let texts = || seeds.iter().filter_map(|seed| std::str::from_utf8(seed).ok());
        assert!(texts().any(|text| Checkpoint::decode(text).is_ok()), "a checkpoint");
        assert!(texts().any(|text| serde_json::from_str::<Gaps>(text).is_ok()), "an agent's gaps");
        assert!(texts().any(|text| serde_json::from_str::<GapRecord>(text).is_ok()), "a gap record");
        assert!(texts().any(is_record), "a source's record");
    }
}
