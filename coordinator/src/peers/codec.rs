//! Frames between servers: `[length: u32 be][crc32 of the payload: u32 be][payload]`.
//!
//! A frame that is longer than its connection allows, or whose checksum is wrong, ends
//! the connection. Memory grows with the bytes that have arrived, never with a length
//! that was only announced.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

const HEAD_BYTES: usize = 8;
/// Most room that is made for bytes that have not arrived.
const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub(crate) struct FrameCodec {
    /// Largest payload that is read, in bytes.
    bytes_max: usize,
}

impl FrameCodec {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max }
    }

    /// Changes the largest payload that is read from here on.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }
}

impl Decoder for FrameCodec {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        let Some((&[a, b, c, d, e, f, g, h], _)) = source.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if [a, b, c, d] == *b"HTTP" {
            return Err(invalid("it answers in HTTP: is this the address of --http?".to_owned()));
        }
        if len > self.bytes_max {
            return Err(invalid(format!(
                "a frame of {len} bytes, where at most {} are allowed",
                self.bytes_max
            )));
        }
        let missing = (HEAD_BYTES + len).saturating_sub(source.len());
        if missing > 0 {
            source.reserve(missing.min(RESERVE_BYTES_MAX));
            return Ok(None);
        }
        source.advance(HEAD_BYTES);
        let payload = source.split_to(len);
        if crc32fast::hash(&payload) != u32::from_be_bytes([e, f, g, h]) {
            return Err(invalid("the checksum of a frame is wrong".to_owned()));
        }
        Ok(Some(payload))
    }
}

impl Encoder<Bytes> for FrameCodec {
    type Error = io::Error;

    fn encode(&mut self, payload: Bytes, out: &mut BytesMut) -> io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        out.reserve(HEAD_BYTES + payload.len());
        out.put_u32(len);
        out.put_u32(crc32fast::hash(&payload));
        out.put_slice(&payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(payload: &'static [u8]) -> BytesMut {
        let mut out = BytesMut::new();
        FrameCodec::new(0).encode(Bytes::from_static(payload), &mut out).unwrap();
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_arrive() {
        let stream = [&encoded(b"one")[..], &encoded(b"")[..], &encoded(b"three")[..]].concat();
        for step in 1..stream.len() {
            let mut codec = FrameCodec::new(5);
            let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
            for part in stream.chunks(step) {
                buffer.put_slice(part);
                while let Some(frame) = codec.decode(&mut buffer).unwrap() {
                    frames.push(frame.to_vec());
                }
            }
            assert_eq!(frames, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()], "steps of {step}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_or_damaged_is_an_error() {
        let long = FrameCodec::new(2).decode(&mut encoded(b"one")).unwrap_err();
        assert!(long.to_string().contains("3 bytes"), "{long}");
        for at in 4..encoded(b"one").len() {
            let mut damaged = encoded(b"one");
            damaged[at] ^= 1;
            assert!(FrameCodec::new(9).decode(&mut damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn nothing_is_allocated_for_a_length_alone() {
        let mut announced = BytesMut::from(&[0x7f, 0, 0, 0, 0, 0, 0, 0][..]);
        assert!(FrameCodec::new(usize::MAX).decode(&mut announced).unwrap().is_none());
        assert!(announced.capacity() <= 2 * RESERVE_BYTES_MAX);
    }
}
