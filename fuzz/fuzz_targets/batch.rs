//! Batches, units and commands: applying them is deterministic and keeps the state's invariants.
//! The checksum is set first, or nearly every input would fail on it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use rota_core::batch::{Batch, apply, fix_checksum};
use rota_core::state::State;
use rota_core::state::check::check;

fuzz_target!(|bytes: &[u8]| {
    let bytes = fix_checksum(Bytes::copy_from_slice(bytes));
    let run = || {
        let mut state = State::new();
        apply(&mut state, Batch::decode(bytes.clone()).ok()?, |_, _, _| {});
        Some(state)
    };
    let Some(state) = run() else { return };
    assert_eq!(check(&state), [""; 0]);
    assert_eq!(run(), Some(state));
});
