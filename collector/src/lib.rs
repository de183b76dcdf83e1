//! Log collection without loss and without doubling.
//!
//! An [`agent`] runs where the log files are. It finds them, follows them
//! through rotation, makes each an item of a named pool and serves their bytes
//! over HTTP. A [`collector`] is a member of that pool: it pulls the sources
//! that it owns from their checkpoints onward and writes them below a
//! directory.
//!
//! ```text
//!   application ──writes──► file ◄──reads── agent ◄──HTTP── collector ──► output file
//!                                             │                 │
//!                                             │ items           │ row, fence, checkpoint
//!                                             ▼                 ▼
//!                                            the pool `logs` of the coordinator
//! ```
//!
//! Words used throughout:
//!
//! - A *source* is one path as an application sees it, on one host. It is one
//!   item, so it has one bucket and one owner.
//! - An *incarnation* is what a source contained from one beginning to one end:
//!   a file that was rotated away, or the content before a truncation. Bytes of
//!   one incarnation never change; an offset in it stays true for ever.
//! - A *position* is (incarnation, offset). It travels in the checkpoint.
//! - A *gap* is a range of bytes that existed and cannot be had any more.

pub mod agent;
pub mod clock;
pub mod collector;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod naming;
mod pool;
pub mod wire;

/// The pool whose items are the sources, unless another is configured.
pub const POOL_DEFAULT: &str = "logs";
