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
    /// Where the incarnation before was left. What it has grown by since, nobody has read.
    pub left: Option<Left>,
}

/// Where an incarnation was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The incarnation.
    pub incarnation: u64,
    /// How many of its bytes had been read.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<Left>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Checkpoint {
    /// The checkpoint as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self { incarnation, offset, out_len, gaps, left } = *self;
        serde_json::to_string(&Written { v: VERSION, incarnation, offset, out_len, gaps, left })
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
        let Written { incarnation, offset, out_len, gaps, left, .. } = serde_json::from_str(text)?;
        Ok(Self { incarnation, offset, out_len, gaps, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_fixed() {
        let checkpoint = Checkpoint { incarnation: 7, offset: 42, out_len: 99, gaps: 0, left: None };
        let text = r#"{"v":1,"incarnation":7,"offset":42,"out_len":99}"#;
        assert_eq!(checkpoint.encode(), text);
        assert_eq!(Checkpoint::decode(text).unwrap(), checkpoint);
        let left = Some(Left { incarnation: 6, offset: u64::MAX });
        let (offset, out_len, gaps) = (u64::MAX, u64::MAX, u64::MAX);
        let largest = Checkpoint { incarnation: u64::MAX, offset, out_len, gaps, left };
        assert_eq!(Checkpoint::decode(&largest.encode()).unwrap(), largest);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(matches!(Checkpoint::decode("17"), Err(CheckpointError::Json(_))));
        assert!(matches!(Checkpoint::decode(r#"{"v":1,"offset":3}"#), Err(CheckpointError::Json(_))));
        assert!(matches!(Checkpoint::decode(r#"{"v":2,"position":"x"}"#), Err(CheckpointError::Version(2))));
    }
}
