//! ZooKeeper's protocol.

use anyhow::{Context, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use rota_core::state::Acl;
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{ConnectRequest, ConnectResponse, OpCode, frame};

use super::codec::{Answer, Ask, Codec, path};

/// Longer than anything that is answered.
const PACKET_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Long: the load says something all the time.
const TIMEOUT_MS: i32 = 30_000;

/// Its frames, in the order of the questions.
#[derive(Debug, Default)]
pub struct Frames {
    asked: i32,
    /// The list that everybody may do everything, encoded once.
    open: BytesMut,
}

impl Codec for Frames {
    fn hello(&mut self, to: &mut BytesMut) {
        Acl::open().entries().write(&mut self.open);
        let hello = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout_ms: TIMEOUT_MS,
            session: 0,
            password: Some(Bytes::from_static(&[0; 16])),
            read_only: Some(false),
        };
        frame::put(to, |to| hello.write(to));
    }

    fn welcome(&mut self, from: &mut BytesMut) -> anyhow::Result<bool> {
        let Some(mut packet) = frame::take(from, PACKET_BYTES_MAX)? else { return Ok(false) };
        ensure!(ConnectResponse::read(&mut packet)?.session != 0, "the server gives no session");
        Ok(true)
    }

    fn ask(&mut self, ask: Ask<'_>, to: &mut BytesMut) -> u64 {
        self.asked += 1;
        let (xid, open) = (self.asked, &self.open);
        frame::put(to, |to| {
            to.put_i32(xid);
            match ask {
                Ask::Set { key, value } => {
                    to.put_i32(OpCode::SetData.number());
                    put_set(to, key, value);
                }
                Ask::Create { path, value } => {
                    to.put_i32(OpCode::Create.number());
                    put_create(to, path, value, open);
                }
                Ask::Fill { key, count, value } => {
                    to.put_i32(OpCode::Multi.number());
                    for key in key..key + count {
                        put_part(to, OpCode::Create.number(), false);
                        put_create(to, &path('k', key), value, open);
                    }
                    put_part(to, -1, true);
                }
                Ask::Get { key } => {
                    to.put_i32(OpCode::GetData.number());
                    put_bytes(to, &path('k', key));
                    to.put_u8(0);
                }
                Ask::Multi { key, count, value } => {
                    to.put_i32(OpCode::Multi.number());
                    for key in key..key + count {
                        put_part(to, OpCode::SetData.number(), false);
                        put_set(to, key, value);
                    }
                    put_part(to, -1, true);
                }
            }
        });
        u64::from(xid.unsigned_abs())
    }

    fn answer(&mut self, from: &mut BytesMut, _to: &mut BytesMut) -> anyhow::Result<Option<Answer>> {
        let Some(packet) = frame::take(from, PACKET_BYTES_MAX)? else { return Ok(None) };
        let mut head = packet.get(..16).context("a short answer")?;
        let (xid, _zxid, error) = (head.get_i32(), head.get_i64(), head.get_i32());
        let number = u64::from(xid.unsigned_abs());
        Ok(Some(if error == 0 { Answer::Done(number) } else { Answer::Refused(number) }))
    }
}

fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    to.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    to.extend_from_slice(bytes);
}

fn put_set(to: &mut BytesMut, key: u64, value: &[u8]) {
    put_bytes(to, &path('k', key));
    put_bytes(to, value);
    to.put_i32(-1);
}

/// A node that stays.
fn put_create(to: &mut BytesMut, path: &[u8], value: &[u8], acl: &[u8]) {
    put_bytes(to, path);
    put_bytes(to, value);
    to.extend_from_slice(acl);
    to.put_i32(0);
}

/// The head of a part of a multi.
fn put_part(to: &mut BytesMut, op: i32, is_last: bool) {
    to.put_i32(op);
    to.put_u8(u8::from(is_last));
    to.put_i32(-1);
}
