//! Packets on a stream: each is its length in 32 bits, then that many bytes.
//! Source: `NIOServerCnxn.java`, `ClientCnxnSocket.java`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before a packet.
pub const LEN_BYTES: usize = 4;

/// A length that no packet may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {len} bytes; at most {len_max} are taken")]
pub struct BadLength {
    /// What it said.
    pub len: i32,
    /// What is allowed.
    pub len_max: usize,
}

/// Takes the next packet off the front of `buffer`, once all of it is there.
///
/// # Errors
/// When its length is negative or above `len_max`.
pub fn take(buffer: &mut BytesMut, len_max: usize) -> Result<Option<Bytes>, BadLength> {
    let Some(mut prefix) = buffer.get(..LEN_BYTES) else { return Ok(None) };
    let said = prefix.get_i32();
    let len = usize::try_from(said).ok().filter(|len| *len <= len_max);
    let len = len.ok_or(BadLength { len: said, len_max })?;
    if buffer.len() < LEN_BYTES + len {
        return Ok(None);
    }
    buffer.advance(LEN_BYTES);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// Appends a packet: what `write` appends, after its length.
pub fn put(to: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = to.len();
    to.put_i32(0);
    write(to);
    let len = i32::try_from(to.len() - start - LEN_BYTES).expect("a packet is shorter than 2 GiB");
    to[start..start + LEN_BYTES].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_whole_or_not_at_all() {
        let mut stream = BytesMut::new();
        put(&mut stream, |to| to.put_slice(b"abc"));
        put(&mut stream, |_| {});
        let mut buffer = BytesMut::new();
        let mut packets = Vec::new();
        for byte in stream {
            buffer.put_u8(byte);
            packets.extend(take(&mut buffer, 3).unwrap());
        }
        assert_eq!(packets, [Bytes::from_static(b"abc"), Bytes::new()]);
    }

    #[test]
    fn lengths_have_a_bound() {
        for len in [-1, 4, i32::MAX, i32::MIN] {
            let mut buffer = BytesMut::from(&len.to_be_bytes()[..]);
            assert_eq!(take(&mut buffer, 3), Err(BadLength { len, len_max: 3 }));
        }
    }
}
