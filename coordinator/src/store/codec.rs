//! How Raft's values stand in the log: `[format: u8][length: u32 le][postcard]`.
//! The log itself adds the checksum of each record.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

const FORMAT: u8 = 1;

/// A value in its stored form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stored<T>(pub(crate) T);

impl<T: Serialize> codeq::Encode for Stored<T> {
    fn encode<W: io::Write>(&self, mut w: W) -> Result<usize, io::Error> {
        let payload = postcard::to_allocvec(&self.0).map_err(io::Error::other)?;
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        w.write_all(&[FORMAT])?;
        w.write_all(&len.to_le_bytes())?;
        w.write_all(&payload)?;
        Ok(5 + payload.len())
    }
}

impl<T: DeserializeOwned> codeq::Decode for Stored<T> {
    fn decode<R: Read>(mut r: R) -> Result<Self, io::Error> {
        let mut head = [0; 5];
        r.read_exact(&mut head)?;
        let [format, len @ ..] = head;
        if format != FORMAT {
            let problem = format!("record format {format} is newer than this version knows ({FORMAT})");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let mut payload = Vec::new();
        let len = u64::from(u32::from_le_bytes(len));
        if r.by_ref().take(len).read_to_end(&mut payload)? as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        postcard::from_bytes(&payload).map(Self).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}
