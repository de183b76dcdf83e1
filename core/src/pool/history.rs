//! Who owned a bucket when, and why that changed: written by the controller next to the rows,
//! in the same multi, and bounded.
//!
//! One node holds what one multi changed, and what members had changed by themselves since the
//! one before. Buckets to which the same happened stand together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Bucket, Reason, Role, Row};
use crate::Zxid;

/// Most nodes of one pool's history.
pub const NODES_MAX: usize = 1000;
/// Most bytes of their data.
pub const BYTES_MAX: usize = 4 * 1024 * 1024;

/// A node's data: what happened, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistorySegment {
    /// What happened.
    pub changes: Vec<Change>,
    /// What members had done by themselves is put down up to this version of the table.
    #[serde(default)]
    pub through: Zxid,
}

/// The same happened to some buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// To which.
    pub buckets: Vec<Bucket>,
    /// Who owns them since then, in order.
    pub owners: Vec<String>,
    /// Who prepares to own them since then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preparing: Vec<String>,
    /// Why.
    pub reason: Reason,
    /// When, in milliseconds since 1970; when the node was written, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<u64>,
}

/// What happened to one bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Leader's wall clock, in milliseconds since the Unix epoch. Events are in commit order even if
    /// the clock was set back.
    pub at_ms: u64,
    /// Who owns it since then, in order; nobody, while it was vacant.
    pub owners: Vec<String>,
    /// Who prepares to own it since then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preparing: Vec<String>,
    /// Why.
    pub reason: Reason,
}

/// Gathers what happens to many buckets.
#[derive(Debug, Default)]
pub struct Recorder {
    changes: BTreeMap<Key, Vec<Bucket>>,
}

type Key = (Option<u64>, Vec<String>, Vec<String>, Reason);

impl Recorder {
    /// A bucket's row is this now: since a moment, or since the node will be written.
    pub fn note(&mut self, bucket: &Bucket, row: &Row, reason: Reason, at_ms: Option<u64>) {
        let names = |owners: &[super::Owner]| owners.iter().map(|owner| owner.member.clone()).collect();
        let key = (at_ms, names(&row.owners), names(&row.preparing), reason);
        self.changes.entry(key).or_default().push(bucket.clone());
    }

    /// What is gathered, if anything is: what happened before first. `through` is the version of the
    /// table up to which nothing is missing.
    #[must_use]
    pub fn into_segment(self, through: Zxid) -> Option<HistorySegment> {
        let change = |((at_ms, owners, preparing, reason), buckets)| Change {
            buckets,
            owners,
            preparing,
            reason,
            at_ms,
        };
        let (now, before): (Vec<Change>, Vec<Change>) =
            self.changes.into_iter().map(change).partition(|change| change.at_ms.is_none());
        let changes = [before, now].concat();
        (!changes.is_empty()).then_some(HistorySegment { changes, through })
    }
}

/// What happened to a bucket, from segments in order, each with the time of its node. Events are in
/// commit order, not clock order; an action that a member took by itself appears in the next
/// segment that mentions the bucket.
pub fn events_of(bucket: &Bucket, segments: impl IntoIterator<Item = (u64, HistorySegment)>) -> Vec<Event> {
    let mut events = Vec::new();
    for (written_ms, segment) in segments {
        for change in segment.changes {
            if change.buckets.contains(bucket) {
                let Change { owners, preparing, reason, at_ms, .. } = change;
                events.push(Event { at_ms: at_ms.unwrap_or(written_ms), owners, preparing, reason });
            }
        }
    }
    events
}

/// The last event at or before `at_ms`; `None` if the history does not reach that far. If the clock
/// was set back, the later event wins.
#[must_use]
pub fn event_at(events: &[Event], at_ms: u64) -> Option<&Event> {
    events.iter().rev().find(|event| event.at_ms <= at_ms)
}

/// What the view of a pool knows of a node of its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// When it was written.
    pub zxid: Zxid,
    /// What [`HistorySegment::through`] says.
    pub through: Zxid,
    /// How long its data are.
    pub bytes: usize,
}

impl Event {
    /// What a member was to the bucket since then.
    #[must_use]
    pub fn role_of(&self, member: &str) -> Option<Role> {
        match self.owners.iter().position(|owner| owner == member) {
            Some(0) => Some(Role::Primary),
            Some(_) => Some(Role::Backup),
            None => self.preparing.iter().any(|other| other == member).then_some(Role::Preparing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Owner;

    fn row(owners: &[&str]) -> Row {
        Row { owners: owners.iter().map(|name| Owner::new(name, 1)).collect(), ..Row::default() }
    }

    #[test]
    fn what_happened_alike_stands_together_and_each_finds_its_own() {
        let (a, b) = (Bucket::new("a"), Bucket::new("b"));
        let mut first = Recorder::default();
        first.note(&a, &row(&["w1"]), Reason::Vacant, None);
        first.note(&b, &row(&["w1"]), Reason::Vacant, None);
        let mut second = Recorder::default();
        second.note(&a, &row(&["w2"]), Reason::Joined, None);
        second.note(&a, &row(&[]), Reason::Joined, Some(150));
        let segments = [(100, first.into_segment(0).unwrap()), (200, second.into_segment(0).unwrap())];
        assert_eq!(segments[0].1.changes.len(), 1);
        let events = events_of(&a, segments.clone());
        let told: Vec<_> = events.iter().map(|event| (event.at_ms, event.owners.join(","))).collect();
        assert_eq!(told, [(100, "w1".to_owned()), (150, String::new()), (200, "w2".to_owned())]);
        assert_eq!(events_of(&b, segments).len(), 1);
        assert_eq!(event_at(&events, 99), None);
        assert_eq!(event_at(&events, 199).unwrap().owners, [""; 0]);
        assert_eq!(events[2].role_of("w2"), Some(Role::Primary));
        assert_eq!(Recorder::default().into_segment(0), None);
    }
}
