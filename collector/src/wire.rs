//! What agent and collector say to each other over HTTP.
//!
//! ```text
//! GET /v1/sources                                    -> 200 Sources
//! GET /v1/sources/{item}/data?wait_ms=N
//!     If-Match: "<incarnation>"    absent: the oldest one
//!     Range: bytes=<offset>-       absent: from 0
//!     rota-collected: <incarnation>:<offset>:<gaps>
//!         a hint that the checkpoint of the source has come so far. The agent does
//!         not believe it: it reads the checkpoint from the coordinator, which lets
//!         only the owner of the row write it. Reading alone releases nothing.
//! -> 206  ETag: "<incarnation>"  Content-Range: bytes <from>-<last>/<size>
//!    204  ETag: "<incarnation>"  nothing came within wait_ms
//!    416  ETag: "<incarnation>"  rota-next-incarnation: <n>  [rota-gap: <from>-[<to>]  rota-gap-reason: <reason>]
//!         the incarnation is over, and `offset` is at its end or beyond what can be had of it
//!    416  ETag: "<incarnation>"  rota-resume-offset: <n>  rota-gap: <from>-[<to>]  rota-gap-reason: <reason>
//!         the rest of the incarnation is lost and there is no next one yet: record the
//!         gap, then go on from <n> in the same incarnation
//!    416  ETag: "<incarnation>"  Content-Range: bytes */<size>
//!         `offset` is beyond all that the agent has seen: start again from the checkpoint
//!    412  rota-incarnation: <n>  that incarnation is not known; <n> is the oldest to go on with
//!    All with rota-gaps: <number>, of the last gap in the list below, if there is any.
//!    A request that waits is answered (204) when that is larger than its own <gaps>.
//! GET /v1/sources/{item}/gaps?after=N                -> 200 Gaps, those with larger numbers than N
//! ```
//!
//! The file itself is the buffer: an agent keeps no data, and what is not asked
//! for is not read. `offset` counts bytes of the incarnation, from 0.

use serde::{Deserialize, Serialize};

/// Most bytes in one answer. Large enough that requests cost little, small
/// enough that a thousand of them fit in memory.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Longest time, in milliseconds, that a request may ask to wait for data.
pub const WAIT_MS_MAX: u64 = rota_protocol::http::WAIT_MS_MAX;
/// Header of a request: where the checkpoint is said to be.
pub const HEADER_COLLECTED: &str = "rota-collected";
/// Header of an answer: the number of a source's last gap.
pub const HEADER_GAPS: &str = "rota-gaps";
/// Header of a 416: where to go on in the same incarnation.
pub const HEADER_RESUME: &str = "rota-resume-offset";
/// Header of a 416: the incarnation to go on with, from offset 0.
pub const HEADER_NEXT: &str = "rota-next-incarnation";
/// Header of a 412: the oldest incarnation that can be had.
pub const HEADER_OLDEST: &str = "rota-incarnation";
/// Header of a 416: `<from>-<to>`, bytes that are gone; `to` is not among them,
/// and is missing when nobody saw the end.
pub const HEADER_GAP: &str = "rota-gap";
/// Header of a 416 with [`HEADER_GAP`]: a [`GapReason`].
pub const HEADER_GAP_REASON: &str = "rota-gap-reason";

/// Why bytes cannot be had any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The file was truncated or overwritten before they were read.
    Truncated,
    /// The file was rotated away and could not be found again, or was deleted
    /// while nobody held it open.
    Gone,
    /// They were written to a file that had been rotated away, after the reader
    /// had moved on to its successor. In the agent's list: they may still be there.
    Late,
    /// The agent does not know the incarnation (any more).
    Unknown,
}

impl GapReason {
    /// The reason as it stands in headers and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Gone => "gone",
            Self::Late => "late",
            Self::Unknown => "unknown",
        }
    }

    /// The reason that `text` names; [`GapReason::Unknown`] for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "truncated" => Self::Truncated,
            "gone" => Self::Gone,
            "late" => Self::Late,
            _ => Self::Unknown,
        }
    }
}

/// Bytes of one incarnation that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Gap {
    /// Its number among the gaps that the source lists, ascending; 0 for one that
    /// is not listed, but told to the reader that comes to it.
    #[serde(default)]
    pub number: u64,
    /// The incarnation.
    pub incarnation: u64,
    /// The first byte that is missing.
    pub from: u64,
    /// The byte after the last one that is missing; `None`: nobody saw the end.
    pub to: Option<u64>,
    /// Why.
    pub reason: GapReason,
}

/// The gaps of a source that no reader comes to by reading on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gaps {
    /// They, ascending by number.
    pub gaps: Vec<Gap>,
}

/// What an agent serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sources {
    /// Its sources, by item.
    pub sources: Vec<SourceBody>,
    /// What it cannot read, and tries again at every scan; symbolic links that it
    /// does not follow. A bounded part of it, if there is too much.
    pub unreadable: Vec<UnreadableBody>,
    /// How many more there are.
    #[serde(default)]
    pub unreadable_omitted: usize,
    /// Why the index cannot be written, if it cannot. Sources are served all the
    /// same; an agent that ends now forgets which file is which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_error: Option<String>,
}

/// One source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceBody {
    /// The item of the pool.
    pub item: String,
    /// The path on the agent's machine.
    pub path: String,
    /// The label `file`.
    pub file: String,
    /// What it contained, the oldest first.
    pub incarnations: Vec<IncarnationBody>,
    /// What is collected of it for good, as far as the agent has looked at the
    /// checkpoint: it does when there is something to release.
    pub reader: Option<ReaderBody>,
    /// What no reader comes to by reading on: late writes, and incarnations that
    /// were dropped. The oldest first.
    pub gaps: Vec<Gap>,
}

/// One incarnation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IncarnationBody {
    /// Its number, larger than that of every earlier one of the source.
    pub incarnation: u64,
    /// How long it was when last looked at, in bytes.
    pub size: u64,
    /// Whether and how its bytes can be had.
    pub state: IncarnationState,
    /// Where its file is, if it is anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Why its bytes are gone, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<GapReason>,
}

/// Whether and how the bytes of an incarnation can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncarnationState {
    /// The source's path leads to it.
    Live,
    /// It was rotated away; its bytes can still be read.
    Away,
    /// Its bytes are gone.
    Lost,
}

/// What is collected of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderBody {
    /// All of the incarnations before this one,
    pub incarnation: u64,
    /// and what is before this offset in this one.
    pub offset: u64,
}

/// A file or directory that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableBody {
    /// Which.
    pub path: String,
    /// Why.
    pub error: String,
}
