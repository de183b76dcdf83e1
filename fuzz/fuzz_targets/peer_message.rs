//! Peer messages round-trip. The first byte selects the type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rota_protocol::peer::{
    self, Answer, AppendReply, AppendRequest, Call, Hello, SnapshotHead, Vote, Welcome,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn check_round_trip<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    if let Ok(message) = peer::decode::<T>(bytes) {
        let encoded = peer::encode(&message);
        let again: T = peer::decode(&encoded).expect("what was encoded decodes");
        assert_eq!(peer::encode(&again), encoded);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind {
        0 => {
            let _ = peer::hello_version(bytes);
            check_round_trip::<Hello>(bytes);
        }
        1 => check_round_trip::<Welcome>(bytes),
        2 => check_round_trip::<AppendRequest>(bytes),
        3 => check_round_trip::<AppendReply>(bytes),
        4 => check_round_trip::<(u64, Call)>(bytes),
        5 => check_round_trip::<(u64, Answer)>(bytes),
        6 => check_round_trip::<SnapshotHead>(bytes),
        _ => check_round_trip::<Vote>(bytes),
    }
});
