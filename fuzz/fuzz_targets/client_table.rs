//! The client's table: its records on disk, and servers' answers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rota_client::fuzzing::decode_table(bytes));
