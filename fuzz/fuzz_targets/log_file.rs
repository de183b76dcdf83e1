//! The log's last file as a crash may have left it: it opens, or the start ends with the reason.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rota_coordinator::fuzzing::open_log(bytes));
