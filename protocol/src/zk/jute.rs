//! Jute, ZooKeeper's encoding: big-endian numbers, and lengths of 32 bits before
//! texts, buffers and lists, where -1 stands for "none".
//!
//! Nothing is allocated for a length before the bytes that it promises have been
//! seen to be there. Source: `zookeeper-jute`, `BinaryInputArchive.java`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end in the middle of a value.
    #[error("the record is cut off")]
    CutOff,
    /// A length is negative and not -1.
    #[error("a length of {0}")]
    Length(i32),
    /// A text that must be there is none.
    #[error("a text is missing")]
    Missing,
    /// A discriminant means nothing here.
    #[error("{0} is not known here")]
    Unknown(i32),
}

/// A value with an encoding.
pub trait Record: Sized {
    /// The fewest bytes that its encoding takes.
    const LEN_MIN: usize;

    /// Takes the value from the front of `from`.
    ///
    /// # Errors
    /// [`DecodeError`]; `from` is then of no more use.
    fn read(from: &mut Bytes) -> Result<Self, DecodeError>;

    /// Appends the value to `to`.
    fn write(&self, to: &mut BytesMut);
}

/// Fails unless `len` bytes are left.
fn need(from: &Bytes, len: usize) -> Result<(), DecodeError> {
    if from.len() < len { Err(DecodeError::CutOff) } else { Ok(()) }
}

/// A length, or `None` for -1.
fn read_len(from: &mut Bytes) -> Result<Option<usize>, DecodeError> {
    match i32::read(from)? {
        -1 => Ok(None),
        len => usize::try_from(len).map(Some).map_err(|_| DecodeError::Length(len)),
    }
}

/// No length on this wire reaches 2 GiB: a packet is far shorter.
fn put_len(to: &mut BytesMut, len: usize) {
    to.put_i32(i32::try_from(len).expect("a packet is shorter than 2 GiB"));
}

impl Record for i32 {
    const LEN_MIN: usize = 4;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        need(from, 4)?;
        Ok(from.get_i32())
    }

    fn write(&self, to: &mut BytesMut) {
        to.put_i32(*self);
    }
}

impl Record for i64 {
    const LEN_MIN: usize = 8;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        need(from, 8)?;
        Ok(from.get_i64())
    }

    fn write(&self, to: &mut BytesMut) {
        to.put_i64(*self);
    }
}

/// Numbers that ZooKeeper's Java holds in a signed `long`: bit for bit the same.
impl Record for u64 {
    const LEN_MIN: usize = 8;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        i64::read(from).map(i64::cast_unsigned)
    }

    fn write(&self, to: &mut BytesMut) {
        to.put_u64(*self);
    }
}

impl Record for bool {
    const LEN_MIN: usize = 1;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        need(from, 1)?;
        Ok(from.get_u8() != 0)
    }

    fn write(&self, to: &mut BytesMut) {
        to.put_u8(u8::from(*self));
    }
}

/// A text that must not be "none", which ZooKeeper refuses, too. What is not UTF-8 is replaced, as Java
/// does, and so becomes a text that no path allows.
impl Record for String {
    const LEN_MIN: usize = 4;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        let len = read_len(from)?.ok_or(DecodeError::Missing)?;
        need(from, len)?;
        Ok(Self::from_utf8_lossy(&from.split_to(len)).into_owned())
    }

    fn write(&self, to: &mut BytesMut) {
        put_len(to, self.len());
        to.put_slice(self.as_bytes());
    }
}

/// A text that may be none.
impl Record for Option<String> {
    const LEN_MIN: usize = 4;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        let bytes = Option::<Bytes>::read(from)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn write(&self, to: &mut BytesMut) {
        match self {
            Some(text) => text.write(to),
            None => to.put_i32(-1),
        }
    }
}

/// A buffer, which may be none. Shares the memory of what it was read from.
impl Record for Option<Bytes> {
    const LEN_MIN: usize = 4;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        let Some(len) = read_len(from)? else { return Ok(None) };
        need(from, len)?;
        Ok(Some(from.split_to(len)))
    }

    fn write(&self, to: &mut BytesMut) {
        match self {
            Some(bytes) => {
                put_len(to, bytes.len());
                to.put_slice(bytes);
            }
            None => to.put_i32(-1),
        }
    }
}

/// A list; "none" reads as an empty one.
impl<T: Record> Record for Vec<T> {
    const LEN_MIN: usize = 4;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        let len = read_len(from)?.unwrap_or(0);
        need(from, len.saturating_mul(T::LEN_MIN.max(1)))?;
        let mut items = Self::with_capacity(len);
        for _ in 0..len {
            items.push(T::read(from)?);
        }
        Ok(items)
    }

    fn write(&self, to: &mut BytesMut) {
        put_len(to, self.len());
        for item in self {
            item.write(to);
        }
    }
}

/// Declares records: their fields in the order of the wire.
macro_rules! records {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::zk::jute::Record for $name {
            const LEN_MIN: usize = 0 $(+ <$type as $crate::zk::jute::Record>::LEN_MIN)*;

            fn read(from: &mut ::bytes::Bytes) -> Result<Self, $crate::zk::jute::DecodeError> {
                Ok(Self { $($field: <$type as $crate::zk::jute::Record>::read(from)?,)* })
            }

            fn write(&self, to: &mut ::bytes::BytesMut) {
                $($crate::zk::jute::Record::write(&self.$field, to);)*
            }
        }
    )*};
}
pub(crate) use records;

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Record>(bytes: &'static [u8]) -> Result<T, DecodeError> {
        T::read(&mut Bytes::from_static(bytes))
    }

    #[test]
    fn none_differs_from_empty_where_it_matters() {
        assert_eq!(read::<Option<Bytes>>(&[0xff; 4]), Ok(None));
        assert_eq!(read::<Option<Bytes>>(&[0; 4]), Ok(Some(Bytes::new())));
        assert_eq!(read::<String>(&[0xff; 4]), Err(DecodeError::Missing));
        assert_eq!(read::<String>(&[0; 4]), Ok(String::new()));
        assert_eq!(read::<Vec<String>>(&[0xff; 4]), Ok(Vec::new()));
    }

    #[test]
    fn a_length_that_nothing_follows_allocates_nothing() {
        assert_eq!(read::<Vec<i64>>(&[0x7f, 0xff, 0xff, 0xff, 0, 0]), Err(DecodeError::CutOff));
        assert_eq!(read::<String>(&[0x7f, 0xff, 0xff, 0xff, b'a']), Err(DecodeError::CutOff));
        assert_eq!(read::<Option<Bytes>>(&[0xff, 0xff, 0xff, 0xfe]), Err(DecodeError::Length(-2)));
    }

    #[test]
    fn what_is_not_utf8_becomes_what_no_path_allows() {
        let text = read::<String>(&[0, 0, 0, 2, b'/', 0xff]).unwrap();
        assert_eq!(text, "/\u{fffd}");
        assert!(rota_core::path::check_path(&text).is_err());
    }
}
