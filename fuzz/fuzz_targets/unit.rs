//! A unit that passes `check_unit` decodes on every replica.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use rota_core::batch::{Batch, UnitOutcome, Header, apply, check_unit, encode_batch};
use rota_core::state::{State, Timestamp};
use rota_core::state::check::check;

fuzz_target!(|bytes: &[u8]| {
    let unit = Bytes::copy_from_slice(bytes);
    if check_unit(&unit).is_err() {
        return;
    }
    let header = Header { timestamp: Timestamp::at(5), checkpoint: (0, 0) };
    let batch = Batch::decode(encode_batch(header, std::iter::once(&unit))).expect("it was encoded here");
    let mut state = State::new();
    apply(&mut state, batch, |_, _, fate| {
        assert!(!matches!(fate, UnitOutcome::Undecodable), "it was checked");
    });
    assert_eq!(check(&state), [""; 0]);
});
