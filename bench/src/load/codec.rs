//! What a protocol is to the load: bytes that ask, and answers in bytes.

use bytes::BytesMut;

/// One thing that is asked.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    /// New data for a key.
    Set { key: u64, value: &'a [u8] },
    /// A new key.
    Create { path: &'a [u8], value: &'a [u8] },
    /// A key's data.
    Get { key: u64 },
    /// So many new keys from `key` on, at once.
    Fill { key: u64, count: u64, value: &'a [u8] },
    /// New data for so many keys from `key` on, at once.
    Multi { key: u64, count: u64, value: &'a [u8] },
}

/// How an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What was asked was done. The number is that of the question.
    Done(u64),
    /// It was refused.
    Refused(u64),
}

/// One connection's side of a protocol.
pub trait Codec: Default {
    /// Whether the answer about a key that is not there is a refusal.
    const TELLS_ABSENCE: bool = true;

    /// What is said first.
    fn hello(&mut self, to: &mut BytesMut);

    /// Takes what the server says first. True when it is all there.
    fn welcome(&mut self, from: &mut BytesMut) -> anyhow::Result<bool>;

    /// Asks, and says the question's number.
    fn ask(&mut self, ask: Ask<'_>, to: &mut BytesMut) -> u64;

    /// Whether the server takes so many more bytes now.
    fn has_room(&self, _bytes: usize) -> bool {
        true
    }

    /// The next answer, once all of it is there. What else the protocol wants to be said
    /// is put to `to`.
    fn answer(&mut self, from: &mut BytesMut, to: &mut BytesMut) -> anyhow::Result<Option<Answer>>;
}

/// Where keys are.
pub const FOLDER: &[u8] = b"/bench";

/// A key's path: all are of one length, so that a request's bytes can be used again.
pub fn path(kind: char, key: u64) -> [u8; 24] {
    let mut path = *b"/bench/k0000000000000000";
    path[7] = u8::try_from(kind).unwrap_or(b'k');
    let mut rest = key;
    for digit in path[8..].iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    path
}
