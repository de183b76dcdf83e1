//! The byte stream between servers, cut into frames.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rota_coordinator::fuzzing::decode_frames(bytes));
