//! How Raft's values stand in the log:
//! `[format: u8][length: u32 le][crc32 of the five: u32 le][postcard]`. The log
//! itself adds the checksum of each record.
//!
//! The length has a checksum of its own, since a damaged one would reach beyond
//! the end of the file: the record, and all after it, would pass for one that was
//! cut off by a crash, and be dropped without a word.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

const FORMAT: u8 = 1;
const HEAD_LEN: usize = 9;

fn head(len: u32) -> [u8; HEAD_LEN] {
    let [a, b, c, d] = len.to_le_bytes();
    let [e, f, g, h] = crc32fast::hash(&[FORMAT, a, b, c, d]).to_le_bytes();
    [FORMAT, a, b, c, d, e, f, g, h]
}

/// How long the stored value at the beginning of `bytes` is, its head included, by its head;
/// `None` when that is damaged.
pub(super) fn head_and_len(bytes: &[u8]) -> Option<usize> {
    let ([format, a, b, c, d, crc @ ..], _) = bytes.split_first_chunk::<HEAD_LEN>()?;
    if crc32fast::hash(&[*format, *a, *b, *c, *d]) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some(HEAD_LEN + u32::from_le_bytes([*a, *b, *c, *d]) as usize)
}

/// A value in its stored form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stored<T>(pub(crate) T);

impl<T: Serialize> codeq::Encode for Stored<T> {
    fn encode<W: io::Write>(&self, mut w: W) -> Result<usize, io::Error> {
        let payload = postcard::to_allocvec(&self.0).map_err(io::Error::other)?;
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        w.write_all(&head(len))?;
        w.write_all(&payload)?;
        Ok(HEAD_LEN + payload.len())
    }
}

impl<T: DeserializeOwned> codeq::Decode for Stored<T> {
    fn decode<R: Read>(mut r: R) -> Result<Self, io::Error> {
        let mut found = [0; HEAD_LEN];
        r.read_exact(&mut found)?;
        let [format, a, b, c, d, crc @ ..] = found;
        let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
        if crc32fast::hash(&[format, a, b, c, d]) != u32::from_le_bytes(crc) {
            return Err(invalid("the checksum of a record's length is wrong".to_owned()));
        }
        if format != FORMAT {
            return Err(invalid(format!(
                "record format {format} is newer than this version knows ({FORMAT})"
            )));
        }
        let mut payload = Vec::new();
        let len = u64::from(u32::from_le_bytes([a, b, c, d]));
        if r.by_ref().take(len).read_to_end(&mut payload)? as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        postcard::from_bytes(&payload).map(Self).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}
