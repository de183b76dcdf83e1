//! A bounded memory of recent events, for watchers that come and go.
//!
//! A watcher says the zxid up to which it knows everything; it gets what
//! happened since, or is told that some of it may be forgotten. So a watcher
//! costs the server nothing while it is away, and never misses a change without
//! knowing it.

use std::collections::VecDeque;

use crate::Zxid;
use crate::path::is_at_or_below;
use crate::state::{Event, Identity, perms};

/// The most recent events, in order.
#[derive(Debug, Clone)]
pub struct EventLog {
    events: VecDeque<Event>,
    /// Of what they refer to: [`Event::bytes`].
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
    /// Every event after this zxid is remembered.
    floor: Zxid,
    last: Zxid,
}

/// What a watcher wants to know of.
#[derive(Debug, Clone, Copy)]
pub struct Interest<'a> {
    /// A node.
    pub path: &'a str,
    /// Whether everything below it, too.
    pub recursive: bool,
    /// Who the watcher is: it is told of nodes that it may read.
    pub who: &'a [Identity],
}

impl Interest<'_> {
    fn covers(&self, event: &Event) -> bool {
        let here = event.path.as_str();
        (here == self.path || self.recursive && is_at_or_below(here, self.path))
            && event.acl.allows(perms::READ, self.who)
    }
}

/// What a watcher missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsSince {
    /// These events, all there were, up to and including `through`.
    Events {
        /// In the order of the log.
        events: Vec<Event>,
        /// The watcher knows everything up to here now.
        through: Zxid,
    },
    /// Perhaps more than is remembered: read the nodes anew, then watch on from
    /// `through`.
    Compacted {
        /// Where to watch on from.
        through: Zxid,
    },
}

impl EventLog {
    /// Remembers events after `floor`, at most `events_max` of them, and of those no more
    /// than have paths and lists of `bytes_max` bytes together.
    #[must_use]
    pub fn new(floor: Zxid, events_max: usize, bytes_max: usize) -> Self {
        let events = VecDeque::with_capacity(events_max);
        Self { events, bytes: 0, events_max, bytes_max, floor, last: floor }
    }

    /// Takes in the events of the writes up to `zxid`.
    pub fn push(&mut self, zxid: Zxid, events: Vec<Event>) {
        self.last = self.last.max(zxid);
        for event in events {
            // Room is made first: the memory of all of them is taken once.
            self.bytes += event.bytes();
            while self.events.len() >= self.events_max || self.bytes > self.bytes_max {
                let Some(oldest) = self.events.front() else { break };
                self.floor = oldest.zxid;
                self.drop_oldest();
            }
            self.events.push_back(event);
        }
        // A write's events are remembered together or not at all.
        while self.events.front().is_some_and(|e| e.zxid == self.floor) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        self.bytes -= self.events.pop_front().map_or(0, |event| event.bytes());
    }

    /// The last write whose events were taken in.
    #[must_use]
    pub fn last(&self) -> Zxid {
        self.last
    }

    /// What happened after `since` that somebody wants to know and may, at most
    /// `events_max` events.
    #[must_use]
    pub fn since(&self, since: Zxid, interest: &Interest<'_>, events_max: usize) -> EventsSince {
        if since < self.floor {
            return EventsSince::Compacted { through: self.last };
        }
        let start = self.events.partition_point(|e| e.zxid <= since);
        let mut events: Vec<Event> = Vec::new();
        for event in self.events.range(start..) {
            if !interest.covers(event) {
                continue;
            }
            let full = events.len() >= events_max;
            match events.last() {
                Some(last) if full && last.zxid != event.zxid => {
                    let through = last.zxid;
                    return EventsSince::Events { events, through };
                }
                _ => events.push(event.clone()),
            }
        }
        EventsSince::Events { events, through: self.last.max(since) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::NodePath;
    use crate::state::{Acl, EventKind};

    fn event(zxid: Zxid, path: &str) -> Event {
        let path = NodePath::parse(path).unwrap();
        Event { zxid, kind: EventKind::DataChanged, path, acl: Acl::open() }
    }

    fn at(path: &str, recursive: bool) -> Interest<'_> {
        Interest { path, recursive, who: &[] }
    }

    fn zxids(missed: EventsSince) -> Vec<Zxid> {
        match missed {
            EventsSince::Events { events, .. } => events.iter().map(|e| e.zxid).collect(),
            EventsSince::Compacted { .. } => panic!("unknown"),
        }
    }

    #[test]
    fn a_watcher_gets_what_it_missed_or_is_told() {
        let mut log = EventLog::new(0, 3, 1_000);
        for zxid in 1..=3 {
            log.push(zxid, vec![event(zxid, "/a"), event(zxid, "/b/c")]);
        }
        // Six events, room for three: write 1 is gone whole, and half of 2 with it.
        assert_eq!(log.since(1, &at("/", true), 10), EventsSince::Compacted { through: 3 });
        assert_eq!(zxids(log.since(2, &at("/", true), 10)), [3, 3]);
        assert_eq!(zxids(log.since(2, &at("/a", false), 10)), [3]);
        assert_eq!(zxids(log.since(2, &at("/b", true), 10)), [3]);
        assert_eq!(zxids(log.since(2, &at("/b", false), 10)), [0u64; 0]);
    }

    #[test]
    fn what_events_refer_to_is_bounded_too() {
        let long = |n: usize| format!("/{}", n.to_string().repeat(500));
        let mut log = EventLog::new(0, 100, 2_000);
        for n in 1..=9 {
            log.push(n as Zxid, vec![event(n as Zxid, &long(n))]);
        }
        assert_eq!(zxids(log.since(6, &at("/", true), 10)), [7, 8, 9]);
        assert_eq!(log.since(5, &at("/", true), 10), EventsSince::Compacted { through: 9 });
        // One that is too large by itself is not remembered, and those who watch are told.
        log.push(10, (0..9).map(|n| event(10, &long(n))).collect());
        assert_eq!(log.since(9, &at("/", true), 10), EventsSince::Compacted { through: 10 });
        log.push(11, vec![event(11, "/a")]);
        assert_eq!(zxids(log.since(10, &at("/", true), 10)), [11]);
    }

    #[test]
    fn a_long_answer_is_cut_between_writes() {
        let mut log = EventLog::new(0, 100, 1_000);
        log.push(1, vec![event(1, "/a"), event(1, "/a")]);
        log.push(2, vec![event(2, "/a")]);
        let EventsSince::Events { events, through } = log.since(0, &at("/a", false), 1) else { panic!() };
        assert_eq!((events.len(), through), (2, 1));
    }
}
