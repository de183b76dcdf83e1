//! An accepted snapshot passes `check` and round-trips.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_core::state::check::check;
use rota_core::state::snapshot::{Decoder, encode};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new();
    for part in bytes.chunks(1000) {
        if decoder.push(part).is_err() {
            return;
        }
    }
    let Ok(state) = decoder.finish() else { return };
    assert_eq!(check(&state), [""; 0]);
    let mut again = Decoder::new();
    for block in encode(&state) {
        again.push(&block).expect("what was written is read");
    }
    assert_eq!(again.finish().expect("what was written is read"), state);
});
