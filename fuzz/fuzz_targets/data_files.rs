//! The small files of a data directory: the identity and the position of the log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rota_coordinator::fuzzing::open_data_directory(bytes));
