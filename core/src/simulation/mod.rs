//! A pool played through on a simulated clock: the real state, planner and controller, and
//! members that do what they are asked after a time. Nobody waits and nothing is sent.
//!
//! Somebody who wants to know what a change would cost tries it here first; we use it for pools
//! that are larger than a test can have processes for.

mod metrics;
mod run;

pub use metrics::{Metrics, Phase, Sample};
pub use run::{Fault, simulate};

use crate::pool::{Bucket, Item, Member, Spec};

/// What happens, and when.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The pool.
    pub spec: Spec,
    /// How long things take.
    pub timing: Timing,
    /// What happens, by time in milliseconds; what happens at one time counts as one event.
    pub events: Vec<(u64, Vec<Act>)>,
}

/// How long things take, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From the death of a member until its session has ended.
    pub session_timeout_ms: u64,
    /// From a change until the controller has looked at it and written what follows.
    pub look_ms: u64,
    /// From being asked to let go or step down until an owner has.
    pub stop_ms: u64,
    /// From being asked to prepare until a member is ready.
    pub copy_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { session_timeout_ms: 10_000, look_ms: 10, stop_ms: 100, copy_ms: 5_000 }
    }
}

/// Something happens.
#[derive(Debug, Clone)]
pub enum Act {
    /// A member joins.
    Join(String, Member),
    /// A member dies: nobody knows before its session has ended.
    Die(String),
    /// A member leaves with all it has.
    Leave(String),
    /// The operator changes a member.
    Change {
        /// Which.
        member: String,
        /// How.
        change: Change,
    },
    /// The operator changes the pool.
    Spec(Spec),
    /// There is an item now.
    AddItem(String, Item),
    /// There is an item no more.
    RemoveItem(String),
    /// Members say how busy a bucket keeps them.
    Load(Bucket, u64),
}

/// A change of a member.
#[derive(Debug, Clone)]
pub enum Change {
    /// It is emptied, or not any more.
    Draining(bool),
    /// It gets no more, or may again.
    Cordoned(bool),
    /// It has another share.
    Weight(u32),
    /// It takes at most so many buckets.
    Capacity(Option<u32>),
    /// It is emptied, and another takes its place.
    Successor(String),
}
