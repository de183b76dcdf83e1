//! ZooKeeper client frames, connect requests and requests; requests round-trip.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{ConnectRequest, OpCode, Request, frame};

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = frame::take(&mut buffer, 1 << 20) {
        let _ = ConnectRequest::read(&mut frame.clone());
    }
    let Some((number, rest)) = bytes.split_first_chunk::<4>() else { return };
    let Some(op) = OpCode::from_number(i32::from_be_bytes(*number)) else { return };
    let Ok(request) = Request::read(op, &mut Bytes::copy_from_slice(rest)) else { return };
    let mut written = BytesMut::new();
    request.write(&mut written);
    let again = Request::read(op, &mut written.freeze()).expect("what was written is read");
    assert_eq!(again, request);
});
