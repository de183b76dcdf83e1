//! JSON of pool nodes, which clients can write.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_core::pool::history::HistorySegment;
use rota_core::pool::{AwaitingRejoin, Item, Member, Plan, Row, Spec, from_json, to_json};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn check_round_trip<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = from_json(bytes).ok()?;
    assert_eq!(from_json::<T>(&to_json(&value)).expect("what was written is read"), value);
    Some(value)
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(spec) = check_round_trip::<Spec>(bytes) {
        let _ = spec.check();
    }
    if let Some(member) = check_round_trip::<Member>(bytes) {
        let _ = member.check();
    }
    if let Some(item) = check_round_trip::<Item>(bytes) {
        let _ = item.check();
    }
    check_round_trip::<Row>(bytes);
    check_round_trip::<Plan>(bytes);
    check_round_trip::<AwaitingRejoin>(bytes);
    check_round_trip::<HistorySegment>(bytes);
});
