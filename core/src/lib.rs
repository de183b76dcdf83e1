//! The pure core of Rota: what is decided, never how it is carried out.
//!
//! Nothing in this crate reads a clock, draws chance, touches a file or a
//! socket, or waits. Times, ids and passwords arrive as arguments; effects
//! leave as return values. Every server that applies the same commands in the
//! same order therefore reaches the same state, byte for byte.
//!
//! - [`state`]: the replicated tree, sessions, and the one door to change them.
//! - [`batch`]: how commands travel: one Raft entry is one encoded batch.
//! - [`pool`]: what the nodes below `/rota/pools` mean.
//! - [`placement`]: which member should own which bucket.
//! - [`assign`]: the next step from what is to what should be.
//! - [`events`]: a bounded memory of what changed, for watchers that come and go.
//! - [`simulation`]: a pool played through on a simulated clock.
//! - [`watches`]: who is to be told of what changes, as in ZooKeeper.

pub mod assign;
pub mod batch;
pub mod events;
pub mod path;
pub mod placement;
pub mod pool;
pub mod simulation;
pub mod state;
pub mod watches;

/// Number of a committed write. Every command that is applied gets the next
/// one, whether it is refused or not (as in ZooKeeper, where a failed write
/// also takes a zxid).
pub type Zxid = u64;
