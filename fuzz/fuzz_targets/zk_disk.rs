//! ZooKeeper snapshot and transaction log files (import).
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use rota_protocol::zk::disk;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = disk::Snapshot::read(bytes.clone());
    let _ = disk::read_log(bytes);
});
