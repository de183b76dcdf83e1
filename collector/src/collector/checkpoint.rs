//! A collector's position in a source, as it travels with the bucket.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// The version of the form that is written.
const VERSION: u32 = 1;

/// How far a source was collected. Everything before (`incarnation`, `offset`)
/// is in the output, safely on disk, or in the ledger of gaps. The output has
/// `out_len` bytes; of one that somebody has rotated, those are the bytes since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The incarnation of the source that is read.
    pub incarnation: u64,
    /// How many of its bytes are in the output.
    pub offset: u64,
    /// The length of the output, in bytes.
    pub out_len: u64,
    /// The number of the last gap in the agent's list that is delivered or in the ledger.
    pub gaps: u64,
    /// The incarnations before it, the latest first, as far as they were read: later bytes of
    /// them are unread.
    pub previous: [Option<PreviousIncarnation>; PREVIOUS_MAX],
}

/// How many incarnations before the one that is read a checkpoint knows: as many may be passed
/// before the agent has confirmed the first of them.
pub const PREVIOUS_MAX: usize = 4;

/// The end of what was read of an incarnation before the reader advanced to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousIncarnation {
    /// The incarnation.
    pub incarnation: u64,
    /// The byte after the last one that was read.
    pub offset: u64,
}

/// Where the checkpoint of one bucket is kept, for one grant of it.
///
/// The store refuses a write whose grant has ended. A read must see every write
/// that earlier grants made: the store of the coordinator does, because a grant
/// is younger than all of them.
pub trait Checkpoints: Send + Sync + 'static {
    /// Why a checkpoint cannot be read or written.
    type Error: Error + Send + Sync + 'static;

    /// Reads the checkpoint; `None` if there never was one.
    fn read(&self) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    /// Writes the checkpoint. It has taken effect when this returns `Ok`, and
    /// may have when it returns an error.
    fn write(&self, data: String) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why a text is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It has another form.
    #[error("the checkpoint is not understood")]
    Json(#[from] serde_json::Error),
    /// A newer collector wrote it.
    #[error("the checkpoint has version {0}, this collector understands {VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    incarnation: u64,
    offset: u64,
    out_len: u64,
    /// Absent in what was written before gaps were counted, and when there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    gaps: u64,
    /// Absent in what older collectors wrote, and in the first incarnation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous: Vec<PreviousIncarnation>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Checkpoint {
    /// The checkpoint as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self { incarnation, offset, out_len, gaps, previous } = *self;
        let previous = previous.into_iter().flatten().collect();
        serde_json::to_string(&Written { v: VERSION, incarnation, offset, out_len, gaps, previous })
            .expect("numbers are JSON")
    }

    /// Reads a text.
    ///
    /// # Errors
    /// When it is no checkpoint, or one of another version.
    pub fn decode(text: &str) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let Version { v } = serde_json::from_str(text)?;
        if v != VERSION {
            return Err(CheckpointError::Version(v));
        }
        let Written { incarnation, offset, out_len, gaps, previous, .. } = serde_json::from_str(text)?;
        let mut before = previous.into_iter();
        let previous = std::array::from_fn(|_| before.next());
        Ok(Self { incarnation, offset, out_len, gaps, previous })
    }

    /// The checkpoint at the beginning of the incarnation `next`. The one before was read up to
    /// `offset`.
    #[must_use]
    pub fn advance(self, next: u64, offset: u64) -> Self {
        let passed = PreviousIncarnation { incarnation: self.incarnation, offset };
        let mut previous = self.previous;
        previous.rotate_right(1);
        previous[0] = Some(passed);
        Self { incarnation: next, offset: 0, previous, ..self }
    }

    /// From which byte on an incarnation is not read, if no reader comes to its bytes any more by
    /// reading on.
    #[must_use]
    pub fn unread_from(&self, incarnation: u64) -> Option<u64> {
        let previous = || self.previous.iter().flatten().find(|previous| previous.incarnation == incarnation);
        (incarnation < self.incarnation).then(|| previous().map_or(0, |previous| previous.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_fixed() {
        let checkpoint = Checkpoint { incarnation: 7, offset: 42, out_len: 99, gaps: 0, previous: [None; 4] };
        let text = r#"{"v":1,"incarnation":7,"offset":42,"out_len":99}"#;
        assert_eq!(checkpoint.encode(), text);
        assert_eq!(Checkpoint::decode(text).unwrap(), checkpoint);
        let previous = [Some(PreviousIncarnation { incarnation: 6, offset: u64::MAX }); 4];
        let (offset, out_len, gaps) = (u64::MAX, u64::MAX, u64::MAX);
        let largest = Checkpoint { incarnation: u64::MAX, offset, out_len, gaps, previous };
        assert_eq!(Checkpoint::decode(&largest.encode()).unwrap(), largest);
    }

    #[test]
    fn the_incarnations_before_are_known_as_far_as_they_were_read() {
        let first = Checkpoint { incarnation: 1, ..Checkpoint::default() };
        assert_eq!(first.unread_from(1), None);
        let sixth = (2..=6).fold(first, |at, next| at.advance(next, 10 * at.incarnation));
        let unread: Vec<_> = (1..=7).map(|incarnation| sixth.unread_from(incarnation)).collect();
        assert_eq!(unread, [Some(0), Some(20), Some(30), Some(40), Some(50), None, None]);
        assert_eq!(Checkpoint::decode(&sixth.encode()).unwrap(), sixth);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(matches!(Checkpoint::decode("17"), Err(CheckpointError::Json(_))));
        assert!(matches!(Checkpoint::decode(r#"{"v":1,"offset":3}"#), Err(CheckpointError::Json(_))));
        assert!(matches!(Checkpoint::decode(r#"{"v":2,"position":"x"}"#), Err(CheckpointError::Version(2))));
    }
}
