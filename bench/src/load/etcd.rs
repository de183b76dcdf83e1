//! etcd's gRPC: HTTP/2 frames by hand, so that the load costs as little as with the
//! others. Sources: RFC 9113, RFC 7541, `rpc.proto` of etcd 3.4.

use anyhow::{bail, ensure};
use bytes::{Buf, BufMut, BytesMut};

use super::codec::{Answer, Ask, Codec, path};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// Larger frames are not allowed to us, nor to the server.
const FRAME_BYTES_MAX: usize = 16_384;
/// What a server takes before it says more, on a stream and in all.
const WINDOW: i64 = 65_535;
/// What we take: as much as can be said.
const OWN_WINDOW: u32 = (1 << 31) - 1;
/// After so many bytes we say that we take more.
const OWN_WINDOW_STEP: u32 = 1 << 30;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
}

/// Places in the table of headers that everybody has.
const AUTHORITY: u8 = 1;
const PATH: u8 = 4;
const CONTENT_TYPE: u8 = 31;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// One connection: a stream for each question.
#[derive(Debug, Default)]
pub struct Frames {
    stream: u32,
    /// What the server takes in all.
    window: i64,
    /// What came since we said that we take more.
    taken: u32,
    /// Streams whose answers have begun: only what was done has a body.
    with_body: std::collections::HashSet<u32>,
    /// The request's message, before its length is known.
    message: BytesMut,
}

impl Codec for Frames {
    // An empty list is an answer like others.
    const TELLS_ABSENCE: bool = false;

    fn hello(&mut self, to: &mut BytesMut) {
        self.window = WINDOW;
        to.extend_from_slice(PREFACE);
        // No table for headers (1), no pushes (2), the largest window for a stream (4).
        put_head(to, 18, kind::SETTINGS, 0, 0);
        for (setting, value) in [(1, 0), (2, 0), (4, OWN_WINDOW)] {
            to.put_u16(setting);
            to.put_u32(value);
        }
        put_head(to, 4, kind::WINDOW_UPDATE, 0, 0);
        to.put_u32(OWN_WINDOW - u32::try_from(WINDOW).unwrap_or(0));
    }

    fn welcome(&mut self, _from: &mut BytesMut) -> anyhow::Result<bool> {
        // What the server says first is taken with the answers.
        Ok(true)
    }

    fn ask(&mut self, ask: Ask<'_>, to: &mut BytesMut) -> u64 {
        // Those of a client are odd.
        let stream = self.stream * 2 + 1;
        self.stream += 1;
        let method: &[u8] = match ask {
            Ask::Set { .. } | Ask::Create { .. } => b"/etcdserverpb.KV/Put",
            Ask::Get { .. } => b"/etcdserverpb.KV/Range",
            Ask::Fill { .. } | Ask::Multi { .. } => b"/etcdserverpb.KV/Txn",
        };
        self.message.clear();
        let message = &mut self.message;
        match ask {
            Ask::Set { key, value } => put_pair(message, &path('k', key), value),
            Ask::Create { path, value } => put_pair(message, path, value),
            Ask::Get { key } => {
                put_field(message, 1, &path('k', key));
                // `serializable`: what this server has, as with the others.
                message.extend_from_slice(&[7 << 3, 1]);
            }
            Ask::Fill { key, count, value } | Ask::Multi { key, count, value } => {
                for key in key..key + count {
                    let mut put = BytesMut::new();
                    put_pair(&mut put, &path('k', key), value);
                    let mut op = BytesMut::new();
                    put_field(&mut op, 2, &put);
                    put_field(message, 2, &op);
                }
            }
        }
        put_method(to, stream, method);
        put_message(to, stream, END_STREAM, &self.message);
        self.window -= 5 + i64::try_from(self.message.len()).unwrap_or(i64::MAX);
        u64::from(stream)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.window >= i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    fn answer(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> anyhow::Result<Option<Answer>> {
        while let Some(Frame { kind, flags, stream }) = self.frame(from, to)? {
            match kind {
                kind::DATA => drop(self.with_body.insert(stream)),
                kind::HEADERS if flags & END_STREAM != 0 => {
                    let number = u64::from(stream);
                    let is_done = self.with_body.remove(&stream);
                    return Ok(Some(if is_done { Answer::Done(number) } else { Answer::Refused(number) }));
                }
                kind::RST_STREAM => return Ok(Some(Answer::Refused(u64::from(stream)))),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// A frame that came, without what is in it.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frames {
    /// Begins to watch a key, on a stream that stays open.
    pub fn watch(&mut self, key: &[u8], to: &mut BytesMut) {
        let (mut create, mut message) = (BytesMut::new(), BytesMut::new());
        put_field(&mut create, 1, key);
        put_field(&mut message, 1, &create);
        let stream = self.stream * 2 + 1;
        self.stream += 1;
        put_method(to, stream, b"/etcdserverpb.Watch/Watch");
        put_message(to, stream, 0, &message);
    }

    /// Whether a message about what is watched has come: that it is watched, or that it
    /// has changed.
    ///
    /// # Errors
    /// When the server ends it.
    pub fn told(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> anyhow::Result<bool> {
        while let Some(Frame { kind, flags, .. }) = self.frame(from, to)? {
            match kind {
                kind::DATA => return Ok(true),
                kind::HEADERS if flags & END_STREAM == 0 => {}
                kind::HEADERS | kind::RST_STREAM => bail!("the server ends the watch"),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The next frame, once all of it is there. What keeps the connection going is done.
    fn frame(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> anyhow::Result<Option<Frame>> {
        let Some(mut head) = from.get(..FRAME_HEAD_BYTES) else { return Ok(None) };
        let len = usize::try_from(head.get_uint(3))?;
        let (kind, flags, stream) = (head.get_u8(), head.get_u8(), head.get_u32());
        ensure!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes");
        if from.len() < FRAME_HEAD_BYTES + len {
            return Ok(None);
        }
        from.advance(FRAME_HEAD_BYTES);
        let mut body = from.split_to(len);
        match kind {
            kind::DATA => {
                self.taken += u32::try_from(len)?;
                if self.taken >= OWN_WINDOW_STEP {
                    put_head(to, 4, kind::WINDOW_UPDATE, 0, 0);
                    to.put_u32(self.taken);
                    self.taken = 0;
                }
            }
            kind::SETTINGS if flags & ACK == 0 => put_head(to, 0, kind::SETTINGS, ACK, 0),
            kind::PING if flags & ACK == 0 => {
                put_head(to, 8, kind::PING, ACK, 0);
                to.extend_from_slice(&body);
            }
            kind::WINDOW_UPDATE if stream == 0 => self.window += i64::from(body.get_u32()),
            kind::GOAWAY => bail!("the server goes away"),
            _ => {}
        }
        Ok(Some(Frame { kind, flags, stream }))
    }
}

/// The headers of a request.
fn put_method(to: &mut BytesMut, stream: u32, method: &[u8]) {
    let head = to.len();
    put_head(to, 0, kind::HEADERS, END_HEADERS, stream);
    // `:method: POST` and `:scheme: http` stand in the fixed table.
    to.put_u8(0x83);
    to.put_u8(0x86);
    put_header(to, Name::Fixed(PATH), method);
    put_header(to, Name::Fixed(AUTHORITY), b"etcd");
    put_header(to, Name::Fixed(CONTENT_TYPE), b"application/grpc");
    put_header(to, Name::New(b"te"), b"trailers");
    let len = u32::try_from(to.len() - head - FRAME_HEAD_BYTES).unwrap_or(0);
    to[head..head + 3].copy_from_slice(&len.to_be_bytes()[1..]);
}

/// A message of gRPC, not packed.
fn put_message(to: &mut BytesMut, stream: u32, flags: u8, message: &[u8]) {
    put_head(to, 5 + message.len(), kind::DATA, flags, stream);
    to.put_u8(0);
    to.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    to.extend_from_slice(message);
}

fn put_head(to: &mut BytesMut, len: usize, kind: u8, flags: u8, stream: u32) {
    to.put_uint(len as u64, 3);
    to.put_u8(kind);
    to.put_u8(flags);
    to.put_u32(stream);
}

#[derive(Clone, Copy)]
enum Name {
    /// Its place in the table that everybody has.
    Fixed(u8),
    New(&'static [u8]),
}

/// A header that nobody remembers.
fn put_header(to: &mut BytesMut, name: Name, value: &[u8]) {
    match name {
        Name::Fixed(place) if place < 15 => to.put_u8(place),
        Name::Fixed(place) => {
            // A number that does not fit in four bits: 15, and the rest.
            to.put_u8(15);
            to.put_u8(place - 15);
        }
        Name::New(name) => {
            to.put_u8(0);
            put_text(to, name);
        }
    }
    put_text(to, value);
}

/// Shorter than 127 bytes, not packed.
fn put_text(to: &mut BytesMut, text: &[u8]) {
    to.put_u8(u8::try_from(text.len()).unwrap_or(0));
    to.extend_from_slice(text);
}

/// A message's field of bytes.
fn put_field(to: &mut BytesMut, number: u8, bytes: &[u8]) {
    to.put_u8(number << 3 | 2);
    let mut rest = bytes.len();
    while rest >= 0x80 {
        to.put_u8(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    to.put_u8(u8::try_from(rest).unwrap_or(0));
    to.extend_from_slice(bytes);
}

/// A `PutRequest`.
fn put_pair(to: &mut BytesMut, key: &[u8], value: &[u8]) {
    put_field(to, 1, key);
    put_field(to, 2, value);
}
