//! Agent records, checkpoints and gap lists.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rota_collector::fuzzing::decode_agent_files(bytes));
