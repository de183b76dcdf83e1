//! The output file of one source: appended to by its owner, and by nobody who
//! was its owner once.
//!
//! The difficulty is the *zombie*: a collector that was stopped (by a signal, a
//! debugger, a hypervisor), has lost its grant meanwhile, and goes on in the
//! middle of whatever it was doing. A check before each write does not help if
//! it was stopped between the two, so:
//!
//! - Every change of the output happens under an exclusive lock on the output's
//!   inode, after looking whether a larger fence was claimed (`claims`). A new
//!   owner claims first and then takes the lock once. After that no earlier
//!   owner can pass the check, so usually this is all there is.
//! - A zombie may have been stopped while it held the lock, and then never gives
//!   it back. A new owner waits for a bounded time, then *displaces*: it copies
//!   what the checkpoint vouches for into a new file and renames that over the
//!   output. Whatever the zombie does later, it does to an inode that has no
//!   name any more.
//! - The new owner may itself be stopped before the rename and become a zombie
//!   that would rename an old copy over the output of its successor. So a claim
//!   removes the copies of all smaller fences, and a copy is renamed only if,
//!   after it was created, no larger fence was claimed. Either the copy is there
//!   when the larger claim removes it, and the rename finds nothing, or it is
//!   created later, and the check finds the claim.
//!
//! What is copied is not changed meanwhile: whoever holds the lock rightly
//! changes only bytes beyond the last checkpoint, since every checkpoint was
//! written by somebody who held the lock, or displaced its holder, before.
//!
//! Others than collectors may rotate, remove or empty an output. Its owner goes on
//! with what is at its path then, and says so: what was appended before is on the
//! disk, and the next checkpoint counts the bytes of the new file.
//!
//! All collectors that share a directory must run on one machine: locks and
//! names of a network file system promise less.

mod claims;
mod durable;
mod failpoints;
mod output;
mod place;

use std::io;
use std::path::PathBuf;

pub use durable::Modes;
pub use output::{LOCK_WAIT, Sink};
pub use place::{OWN_DIR, Place, PlaceError};

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The grant has ended: there is a newer owner.
    #[error("{path}: fence {ours} is stale, the output belongs to {theirs}")]
    Fenced {
        /// The output.
        path: PathBuf,
        /// Our fence.
        ours: u64,
        /// The owner's.
        theirs: u64,
    },
    /// Nothing in the output directory is of this source, but the checkpoint says
    /// that something was written: this is another directory, or one that is not
    /// mounted.
    #[error(
        "{path}: the checkpoint says {out_len} bytes, but nothing of the source is in this output directory: is it mounted? To collect all anew, delete the checkpoint"
    )]
    OtherDirectory {
        /// The output.
        path: PathBuf,
        /// What the checkpoint says.
        out_len: u64,
    },
    /// Somebody else has renamed, removed or truncated the output: see
    /// [`Sink::reopen`].
    #[error("{path} was rotated, removed or emptied by somebody else")]
    Replaced {
        /// The output.
        path: PathBuf,
    },
    /// Bytes are there that no checkpoint explains.
    #[error("{path} has {len} bytes, but there is no checkpoint: move the file away to collect all anew")]
    NoCheckpoint {
        /// The output.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// Somebody else wrote to the output.
    #[error("{path} was written to by somebody else")]
    Meddled {
        /// The output.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("{path}")]
    Io {
        /// The output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
