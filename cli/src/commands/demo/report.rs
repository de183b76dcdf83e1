//! The account at the end: what went in against what came out, and whether any
//! bucket ever had two owners.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use rota_worker::HistoryEvent;
use serde::Serialize;

/// Lines in and out of one file or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Lines {
    pub(super) lines_in: u64,
    pub(super) lines_out: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// There, but not in the same order, or with other bytes between them.
    pub(super) out_of_order: u64,
}

impl Lines {
    /// Compares what was written with what was collected.
    pub(super) fn compare(written: &[u8], collected: &[u8]) -> Self {
        let (written, collected) = (split(written), split(collected));
        let mut lines =
            Self { lines_in: written.len() as u64, lines_out: collected.len() as u64, ..Self::default() };
        if written == collected {
            return lines;
        }
        let mut balance: BTreeMap<&[u8], i64> = BTreeMap::new();
        written.iter().for_each(|line| *balance.entry(line).or_default() += 1);
        collected.iter().for_each(|line| *balance.entry(line).or_default() -= 1);
        lines.lost = balance.values().filter(|n| **n > 0).map(|n| n.unsigned_abs()).sum();
        lines.doubled = balance.values().filter(|n| **n < 0).map(|n| n.unsigned_abs()).sum();
        let displaced = written.iter().zip(&collected).filter(|(a, b)| a != b).count();
        lines.out_of_order = displaced as u64;
        lines
    }

    pub(super) fn add(&mut self, other: Self) {
        self.lines_in += other.lines_in;
        self.lines_out += other.lines_out;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
    }
}

/// Lines with their ends; the last may have none.
fn split(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|b| *b == b'\n').collect()
}

/// What became of all of it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Account {
    pub(super) files: u64,
    pub(super) lines: Lines,
    pub(super) two_owners: u64,
    pub(super) leader_gap_ms: Option<u64>,
    pub(super) worker_takeover_ms: Option<u64>,
    pub(super) drain_idle_ms: Option<u64>,
    pub(super) moves: u64,
    pub(super) moves_lower_bound: u64,
    pub(super) faults: Vec<String>,
}

impl Account {
    pub(super) fn is_clean(&self) -> bool {
        let Lines { lost, doubled, out_of_order, .. } = self.lines;
        lost == 0 && doubled == 0 && out_of_order == 0 && self.two_owners == 0 && self.faults.is_empty()
    }

    pub(super) fn print(&self) {
        let ms =
            |value: Option<u64>| value.map_or_else(|| "not measured".to_owned(), |ms| format!("{ms} ms"));
        println!();
        println!("files collected                                 {}", self.files);
        println!("lines in                                        {}", self.lines.lines_in);
        println!("lines out                                       {}", self.lines.lines_out);
        println!("lost                                            {}", self.lines.lost);
        println!("doubled                                         {}", self.lines.doubled);
        println!("out of order                                    {}", self.lines.out_of_order);
        println!("buckets with two owners at one time             {}", self.two_owners);
        println!("without an acknowledged write, leader killed    {}", ms(self.leader_gap_ms));
        println!("from a worker's death until all its buckets ran {}", ms(self.worker_takeover_ms));
        println!("longest idle time of a drained bucket           {}", ms(self.drain_idle_ms));
        println!(
            "moves made / fewest possible                    {} / {}",
            self.moves, self.moves_lower_bound
        );
        for fault in &self.faults {
            println!("fault: {fault}");
        }
    }
}

/// One owner's time with a bucket, in nanoseconds of the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tenure {
    pub(super) member: String,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

/// Who worked on each bucket, and when, by the workers' own records.
#[derive(Debug, Default)]
pub(super) struct Tenures(BTreeMap<(String, String), Vec<Tenure>>);

impl Tenures {
    /// Takes in the record of a process. What had begun and not ended when it
    /// was killed, ended then.
    pub(super) fn read(&mut self, path: &Path, killed_at_ns: Option<u64>) -> anyhow::Result<()> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let mut open: BTreeMap<(String, String, u64), (String, u64)> = BTreeMap::new();
        for line in text.lines() {
            let event: HistoryEvent = serde_json::from_str(line)?;
            let key = (event.pool, event.bucket, event.fence);
            if event.began {
                open.insert(key, (event.member, event.at_ns));
            } else if let Some((member, from_ns)) = open.remove(&key) {
                self.push((key.0, key.1), Tenure { member, from_ns, to_ns: event.at_ns });
            }
        }
        for ((pool, bucket, _), (member, from_ns)) in open {
            let to_ns = killed_at_ns.unwrap_or(u64::MAX);
            self.push((pool, bucket), Tenure { member, from_ns, to_ns });
        }
        Ok(())
    }

    fn push(&mut self, bucket: (String, String), tenure: Tenure) {
        let tenures = self.0.entry(bucket).or_default();
        tenures.push(tenure);
        tenures.sort_by_key(|t| (t.from_ns, t.to_ns));
    }

    /// How many buckets had two owners at one time.
    pub(super) fn with_two_owners(&self) -> u64 {
        let overlaps =
            |tenures: &&Vec<Tenure>| tenures.windows(2).any(|pair| pair[1].from_ns < pair[0].to_ns);
        self.0.values().filter(overlaps).count() as u64
    }

    /// How long after `since_ns` the last of the buckets that `member` had then
    /// was worked on again, in milliseconds.
    pub(super) fn takeover_ms(&self, member: &str, since_ns: u64) -> Option<u64> {
        let taken_over = self.0.values().filter_map(|tenures| {
            let at = tenures.iter().position(|t| t.member == member && t.to_ns == since_ns)?;
            Some(tenures.get(at + 1)?.from_ns.saturating_sub(since_ns))
        });
        taken_over.max().map(|ns| ns / 1_000_000)
    }

    /// The longest time that a bucket which `member` let go was idle, in
    /// milliseconds.
    pub(super) fn longest_idle_after_ms(&self, member: &str) -> Option<u64> {
        let idle = self.0.values().flat_map(|tenures| {
            tenures
                .windows(2)
                .filter(|pair| pair[0].member == member)
                .map(|pair| pair[1].from_ns.saturating_sub(pair[0].to_ns))
        });
        idle.max().map(|ns| ns / 1_000_000)
    }

    /// Members that worked on any bucket.
    pub(super) fn members(&self) -> BTreeSet<&str> {
        self.0.values().flatten().map(|t| t.member.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_doubles_are_counted_apart() {
        let same = Lines::compare(b"a\nb\nc", b"a\nb\nc");
        assert_eq!(same, Lines { lines_in: 3, lines_out: 3, ..Lines::default() });
        let lines = Lines::compare(b"a\nb\nc\n", b"a\na\nc\n");
        assert_eq!((lines.lost, lines.doubled), (1, 1));
        let lines = Lines::compare(b"a\nb\n", b"b\na\n");
        assert_eq!((lines.lost, lines.doubled, lines.out_of_order), (0, 0, 2));
    }

    #[test]
    fn overlapping_tenures_are_found() {
        let mut tenures = Tenures::default();
        let key = || ("p".to_owned(), "0".to_owned());
        let tenure = |member: &str, from_ns, to_ns| Tenure { member: member.to_owned(), from_ns, to_ns };
        tenures.push(key(), tenure("a", 0, 10_000_000));
        tenures.push(key(), tenure("b", 12_000_000, 20_000_000));
        assert_eq!(tenures.with_two_owners(), 0);
        assert_eq!(tenures.takeover_ms("a", 10_000_000), Some(2));
        assert_eq!(tenures.longest_idle_after_ms("a"), Some(2));
        tenures.push(key(), tenure("c", 19_999_999, 30_000_000));
        assert_eq!(tenures.with_two_owners(), 1);
    }
}
