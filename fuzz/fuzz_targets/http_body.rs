//! Bodies of HTTP requests. The first byte selects the kind.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rota_coordinator::fuzzing::apply_http_body(bytes));
