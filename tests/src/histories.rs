//! The judge of ownership: reads what all workers of a pool wrote down of when
//! they worked on which bucket.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rota_worker::HistoryEvent;

/// One bucket's work by one member, from when it began until it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stint {
    /// The bucket.
    pub bucket: String,
    /// Who worked.
    pub member: String,
    /// The fence of the grant.
    pub fence: u64,
    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// When it ended; `None` while it goes on.
    pub ended_ns: Option<u64>,
}

/// What happened to a worker's process, which it cannot write down itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was killed then: whatever it did ended then.
    Killed {
        /// When.
        at_ns: u64,
    },
    /// It was paused for longer than its lease can last. Nothing of it ran
    /// meanwhile. What it was doing counts as ownership for as long as its lease
    /// certainly held, and what it did after it went on and before it noticed is
    /// the time of a zombie, against which there is the fence.
    Paused {
        /// Its lease certainly held until then.
        held_ns: u64,
        /// When it went on.
        resumed_ns: u64,
    },
}

/// A time in which nobody worked on a bucket, between two who did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// The bucket.
    pub bucket: String,
    /// When the last one ended.
    pub from_ns: u64,
    /// How long it was until the next one began.
    pub lasted: Duration,
    /// Who worked before and after.
    pub between: (String, String),
}

/// What all workers of a pool wrote down.
#[derive(Debug, Clone, Default)]
pub struct Histories {
    /// By bucket, in the order in which they began.
    stints: BTreeMap<String, Vec<Stint>>,
    /// How long zombies went on.
    zombies: Vec<Duration>,
}

impl Histories {
    /// Reads all histories in `directory`, and ends what those could not who met
    /// a fate. Fates go by the names of the files.
    ///
    /// # Panics
    /// When a file is not a history.
    #[must_use]
    pub fn read(directory: &Path, fates: &BTreeMap<String, Fate>) -> Self {
        let mut histories = Self::default();
        for entry in std::fs::read_dir(directory).expect("the histories can be read").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).expect("a history can be read");
            histories.take(&text, fates.get(&name).copied());
        }
        for stints in histories.stints.values_mut() {
            stints.sort_by_key(|stint| stint.began_ns);
        }
        histories
    }

    fn take(&mut self, text: &str, fate: Option<Fate>) {
        let mut open: BTreeMap<(String, u64), Stint> = BTreeMap::new();
        for line in text.lines() {
            let event: HistoryEvent = serde_json::from_str(line).expect("each line is an event");
            let key = (event.bucket.clone(), event.fence);
            if event.began {
                let HistoryEvent { bucket, member, fence, at_ns, .. } = event;
                let stint = Stint { bucket, member, fence, began_ns: at_ns, ended_ns: None };
                assert!(open.insert(key, stint).is_none(), "begun twice: {line}");
            } else {
                let mut stint = open.remove(&key).unwrap_or_else(|| panic!("ended before it began: {line}"));
                stint.ended_ns = Some(event.at_ns);
                self.put(stint, fate);
            }
        }
        for stint in open.into_values() {
            self.put(stint, fate);
        }
    }

    fn put(&mut self, mut stint: Stint, fate: Option<Fate>) {
        match fate {
            Some(Fate::Killed { at_ns }) => stint.ended_ns = Some(stint.ended_ns.unwrap_or(at_ns)),
            Some(Fate::Paused { held_ns, resumed_ns })
                if stint.began_ns < held_ns && stint.ended_ns.is_none_or(|end| end > held_ns) =>
            {
                let end = stint.ended_ns.expect("a worker that went on after its lease ends its work");
                self.zombies.push(Duration::from_nanos(end.saturating_sub(resumed_ns)));
                stint.ended_ns = Some(held_ns);
            }
            _ => {}
        }
        self.stints.entry(stint.bucket.clone()).or_default().push(stint);
    }

    /// Makes sure that no bucket had two owners at one time, and that its fences
    /// grew from owner to owner.
    ///
    /// # Panics
    /// When that was not so.
    pub fn check(&self) {
        for pair in self.pairs() {
            let (before, after) = pair;
            let ended = before.ended_ns.unwrap_or(u64::MAX);
            assert!(ended <= after.began_ns, "two owners at one time: {before:?} and {after:?}");
            let same_grant = before.fence == after.fence && before.member == after.member;
            assert!(
                before.fence < after.fence || same_grant,
                "the fence did not grow: {before:?}, {after:?}"
            );
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&Stint, &Stint)> {
        self.stints.values().flat_map(|stints| stints.iter().zip(stints.iter().skip(1)))
    }

    /// The times without an owner that ended after `since_ns`, the longest first.
    #[must_use]
    pub fn idle_since(&self, since_ns: u64) -> Vec<Idle> {
        let after = self.pairs().filter(|(_, after)| after.began_ns > since_ns);
        let mut idle: Vec<Idle> = after
            .map(|(before, after)| {
                let from_ns = before.ended_ns.unwrap_or(after.began_ns);
                Idle {
                    bucket: after.bucket.clone(),
                    from_ns,
                    lasted: Duration::from_nanos(after.began_ns.saturating_sub(from_ns)),
                    between: (before.member.clone(), after.member.clone()),
                }
            })
            .collect();
        idle.sort_by_key(|idle| std::cmp::Reverse(idle.lasted));
        idle
    }

    /// On how many buckets each member works now, those in `except` left out.
    #[must_use]
    pub fn shares(&self, except: &[&str]) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        let going_on = self.stints().filter(|stint| stint.ended_ns.is_none());
        for stint in going_on.filter(|stint| !except.contains(&stint.member.as_str())) {
            *shares.entry(stint.member.clone()).or_default() += 1;
        }
        shares
    }

    /// The buckets that a member worked on at a time.
    #[must_use]
    pub fn of_member_at(&self, member: &str, at_ns: u64) -> Vec<&Stint> {
        let at_work = |stint: &&Stint| {
            stint.member == member && stint.began_ns <= at_ns && stint.ended_ns.is_none_or(|end| end >= at_ns)
        };
        self.stints.values().flatten().filter(at_work).collect()
    }

    /// All there is, in no particular order.
    pub fn stints(&self) -> impl Iterator<Item = &Stint> {
        self.stints.values().flatten()
    }

    /// How long each zombie went on before it noticed.
    #[must_use]
    pub fn zombies(&self) -> &[Duration] {
        &self.zombies
    }
}
