//! What a simulation has cost.

use std::collections::BTreeMap;

use crate::pool::{Bucket, Report};

/// What a simulation has cost.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// From each event to the next.
    pub phases: Vec<Phase>,
    /// What was when something changed, in order.
    pub samples: Vec<Sample>,
    /// Since when buckets have nobody who leads them.
    unowned: BTreeMap<Bucket, u64>,
}

/// What followed from one event.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    /// When it was, in milliseconds.
    pub at_ms: u64,
    /// Buckets of which a living owner has let go.
    pub moves: u64,
    /// Buckets that passed from one living owner to another as their primary.
    pub promotions: u64,
    /// Buckets that a member has copied.
    pub copies: u64,
    /// The fewest moves that the planner says any plan could do with, when it first looked.
    pub moves_lower_bound: u32,
    /// When all was quiet again.
    pub settled_ms: u64,
    /// Buckets that had nobody who leads them for a while, and for how long together.
    pub unowned: u64,
    /// How long together, in milliseconds.
    pub unowned_ms: u64,
    /// The longest of these times, in milliseconds.
    pub longest_ms: u64,
    /// What the planner said last.
    pub report: Report,
}

/// What was at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// When, in milliseconds.
    pub at_ms: u64,
    /// Buckets that nobody leads.
    pub unowned: u64,
    /// Moves that are under way.
    pub moving: u64,
    /// Buckets of which a living owner has let go, since the beginning.
    pub moved: u64,
    /// The most buckets that a living member owns.
    pub most: u64,
    /// The fewest.
    pub least: u64,
}

impl Metrics {
    /// The phase that goes on.
    pub(super) fn phase(&mut self) -> &mut Phase {
        if self.phases.is_empty() {
            self.phases.push(Phase::default());
        }
        self.phases.last_mut().expect("there is one")
    }

    /// Somebody leads a bucket now, or nobody does.
    pub(super) fn note(&mut self, bucket: &Bucket, is_led: bool, now_ms: u64) {
        if !is_led {
            self.unowned.entry(bucket.clone()).or_insert(now_ms);
        } else if let Some(since_ms) = self.unowned.remove(bucket) {
            let lasted_ms = now_ms - since_ms;
            let phase = self.phase();
            phase.unowned += 1;
            phase.unowned_ms += lasted_ms;
            phase.longest_ms = phase.longest_ms.max(lasted_ms);
        }
    }

    /// A bucket is gone: nobody is missed.
    pub(super) fn forget(&mut self, bucket: &Bucket) {
        self.unowned.remove(bucket);
    }

    /// Buckets that nobody leads.
    #[must_use]
    pub fn unowned(&self) -> u64 {
        self.unowned.len() as u64
    }
}
