//! For tests: an agent without its network and timers, on real files, and a
//! reader. The time is a year ahead when the reader asks, so that what has to
//! settle has settled.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::follow::{Follower, Owner};
use super::glob::Patterns;
use super::index::Index;
use super::plan_read::Answer;
use super::read::{Outcome, read};
use super::rooted_fs::{Links, RootedFs};
use super::scan::Scope;
use super::shared::Shared;
use super::source::Reader;
use crate::clock::Now;
use crate::naming::item_name;
use crate::wire::{Gap, GapReason};

/// What has to settle has settled.
pub(super) fn in_a_year() -> Now {
    let (now, year_ms) = (Now::read(), 365 * 24 * 3_600 * 1_000);
    Now { unix_ms: now.unix_ms + year_ms, monotonic_ms: now.monotonic_ms + year_ms }
}

/// An agent without its network and timers, and a reader.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) glob: &'static str,
    pub(super) links: Links,
    pub(super) open_files_max: usize,
    pub(super) agent: Option<(Follower, Arc<Shared>)>,
    pub(super) reader: BTreeMap<String, (Option<u64>, u64)>,
    pub(super) gaps: Vec<Gap>,
}

impl Bench {
    pub(super) fn new(glob: &'static str) -> Self {
        Self::with(glob, Links::Refused, 1_000)
    }

    pub(super) fn with_links(glob: &'static str) -> Self {
        Self::with(glob, Links::Followed(Vec::new()), 1_000)
    }

    pub(super) fn with(glob: &'static str, links: Links, open_files_max: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("logs")).unwrap();
        let (reader, gaps) = (BTreeMap::new(), Vec::new());
        let mut bench = Self { dir, glob, links, open_files_max, agent: None, reader, gaps };
        bench.start();
        bench
    }

    pub(super) fn start(&mut self) {
        let glob = format!("{}/{}", self.logs().display(), self.glob);
        let patterns = Patterns::new(&[glob], &[]).unwrap();
        let index = Index::open(&self.dir.path().join("state")).unwrap();
        let beneath = RootedFs::new(vec![self.logs()], self.links.clone());
        let shared = Arc::new(Shared::new(beneath, self.open_files_max));
        let owner = Owner { app: "a".into(), host: "h".into() };
        let follower = Follower::new(owner, patterns, index, Arc::clone(&shared));
        self.agent = Some((follower, shared));
        self.look();
    }

    pub(super) fn stop(&mut self) {
        self.agent = None;
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.logs().join(name)
    }

    pub(super) fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub(super) fn look(&mut self) {
        self.agent.as_mut().unwrap().0.scan(&Scope::All);
    }

    /// The files that are sources.
    pub(super) fn files(&self) -> Vec<String> {
        self.agent.as_ref().unwrap().1.table().items().map(|source| source.file.clone()).collect()
    }

    /// All that the reader can get of a file now.
    pub(super) fn read(&mut self, file: &str) -> String {
        let (item, mut text) = (item_name("a", "h", file), String::new());
        for _ in 0..1000 {
            let (asked, offset) = self.reader.get(file).copied().unwrap_or((None, 0));
            let shared = Arc::clone(&self.agent.as_ref().unwrap().1);
            if let Some(incarnation) = asked {
                shared.table().collected(&item, Reader { incarnation, offset, gaps: 0 }, &[], Now::read());
            }
            let asking = shared.table().ask(&item, asked, offset, in_a_year());
            let Some((mut answer, job)) = asking else { return text };
            if let (Answer::Read(number), Some(job)) = (answer, job) {
                let path = self.path(file);
                match read(job, &shared.beneath).unwrap() {
                    Outcome::Data { bytes, trace, .. } if !bytes.is_empty() => {
                        shared.table().grew(&(path, number), trace, Now::read());
                        text.push_str(std::str::from_utf8(&bytes).unwrap());
                        self.reader.insert(file.into(), (Some(number), offset + bytes.len() as u64));
                        continue;
                    }
                    Outcome::Data { .. } => {
                        let table = shared.table();
                        answer = table.get(&path).unwrap().at_end(number, offset, in_a_year());
                    }
                    Outcome::Shorter { .. } => {
                        // As the checkpoint says.
                        shared.table().observe_min_size(&(path, number), offset);
                        self.look();
                        continue;
                    }
                    Outcome::Changed => {
                        self.look();
                        continue;
                    }
                }
            }
            match answer {
                Answer::Ended { next, gap, .. } => {
                    self.gaps.extend(gap);
                    self.reader.insert(file.into(), (Some(next), 0));
                }
                Answer::Skipped { resume, gap } => {
                    self.gaps.push(gap);
                    self.reader.insert(file.into(), (Some(gap.incarnation), resume));
                }
                Answer::Unknown { .. } => panic!("an incarnation is forgotten"),
                _ => return text,
            }
        }
        panic!("the reader never comes to an end");
    }

    pub(super) fn gap_ranges(&self) -> Vec<(u64, Option<u64>, GapReason)> {
        self.gaps.iter().map(|gap| (gap.from, gap.to, gap.reason)).collect()
    }
}

/// Waits until the kernel's clock, which stamps the birth of files, has ticked, and
/// gone on by `more`: files born in one tick cannot be put in order.
pub(super) fn tick(dir: &Path, more: Duration) {
    let born =
        || fs::metadata(tempfile::NamedTempFile::new_in(dir).unwrap().path()).unwrap().created().unwrap();
    let before = born();
    while born() <= before + more {
        std::thread::yield_now();
    }
}
