//! Quotas: how many nodes and bytes may stand below a node.
//!
//! They are nodes themselves, which clients write: `/zookeeper/quota/P/zookeeper_limits`
//! says what `P` and everything below it may hold, and the state keeps in
//! `/zookeeper/quota/P/zookeeper_stats` what it does hold, without a trace in that
//! node's Stat. The nearest limit counts. Going over a soft limit is only told;
//! over a hard one, refused. Source: `DataTree.java`, `Quotas.java`,
//! `StatsTrack.java`; hard limits as with `enforceQuota=true`.

use bytes::Bytes;

use super::State;
use super::ops::Change;
use super::reply::Refusal;
use super::tree::Tree;
use crate::path::NodePath;

/// Below it stand the quotas.
pub(super) const QUOTAS: &str = "/zookeeper/quota";
const LIMITS: &str = "zookeeper_limits";
/// Quotas that one multi may begin: for each, all that is below it is counted.
const QUOTAS_PER_MULTI_MAX: u32 = 4;
const STATS: &str = "zookeeper_stats";

/// Two numbers of nodes and bytes, as limits or as what there is, with -1 for
/// none; and two hard limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Track {
    count: i64,
    bytes: i64,
    count_hard: i64,
    bytes_hard: i64,
}

impl Track {
    /// `count=5,bytes=-1=;byteHardLimit=100;countHardLimit=-1`
    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut track = Self { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 };
        for pair in text.split([',', ';']) {
            let mut parts = pair.split('=');
            let (Some(name), Some(number)) = (parts.next(), parts.next()) else { continue };
            let number = number.parse().unwrap_or(-1);
            match name {
                "count" => track.count = number,
                "bytes" => track.bytes = number,
                "countHardLimit" => track.count_hard = number,
                "byteHardLimit" => track.bytes_hard = number,
                _ => {}
            }
        }
        track
    }

    fn at(tree: &Tree, path: &str) -> Option<Self> {
        tree.get(path).map(|node| Self::parse(node.bytes()))
    }

    fn text(&self) -> Bytes {
        format!("count={},bytes={}", self.count, self.bytes).into()
    }
}

fn limits(path: &str) -> String {
    format!("{QUOTAS}{path}/{LIMITS}")
}

fn stats(path: &str) -> String {
    format!("{QUOTAS}{path}/{STATS}")
}

/// The nearest node, from `path` upward, that has a limit.
fn governing<'a>(tree: &Tree, path: &'a str) -> Option<&'a str> {
    if !tree.has_quotas() {
        return None;
    }
    let mut here = path;
    while here.len() > 1 {
        if tree.get(&limits(here)).is_some() {
            return Some(here);
        }
        here = &here[..here.rfind('/')?];
    }
    None
}

impl State {
    /// Counts for every quota what there is.
    pub(super) fn recount_quotas(&mut self) {
        let counted: Vec<(NodePath, Track)> = self
            .tree
            .iter()
            .filter_map(|(path, _)| {
                let (count, bytes) = self.tree.size(counted_by(path.as_str())?);
                Some((path.clone(), Track { count, bytes, count_hard: -1, bytes_hard: -1 }))
            })
            .collect();
        for (path, held) in counted {
            self.change(path.as_str(), |node| node.set_data(Some(held.text())));
        }
    }
}

/// What the node at `path` says the size of, if it is one that says such.
fn counted_by(path: &str) -> Option<&str> {
    path.strip_suffix(STATS)?.strip_suffix('/')?.strip_prefix(QUOTAS)
}

impl Change<'_> {
    /// Refuses what would go over a hard limit.
    pub(super) fn check_quota(&self, path: &str, nodes: i64, bytes: i64) -> Result<(), Refusal> {
        // Clients write quotas, and may not stop Rota itself by one.
        if self.is_rota() {
            return Ok(());
        }
        let tree = &self.state.tree;
        let Some(governing) = governing(tree, path) else { return Ok(()) };
        let Some((limit, held)) = Track::at(tree, &limits(governing)).zip(Track::at(tree, &stats(governing)))
        else {
            return Ok(());
        };
        let exceeds =
            |hard: i64, held: i64, more: i64| hard > -1 && more != 0 && held.saturating_add(more) > hard;
        match exceeds(limit.count_hard, held.count, nodes) || exceeds(limit.bytes_hard, held.bytes, bytes) {
            true => Err(Refusal::QuotaExceeded { path: governing.to_owned() }),
            false => Ok(()),
        }
    }

    /// Counts a change below a node with a limit.
    pub(super) fn count_quota(&mut self, path: &str, nodes: i64, bytes: i64) {
        let Some(governing) = governing(&self.state.tree, path) else { return };
        let stats = stats(governing);
        let Some(held) = Track::at(&self.state.tree, &stats) else { return };
        self.put_stats(
            &stats,
            Track {
                count: held.count.saturating_add(nodes),
                bytes: held.bytes.saturating_add(bytes),
                ..held
            },
        );
    }

    /// Counts everything there is, when a new node asks for it.
    pub(super) fn create_quota(&mut self, path: &NodePath) -> Result<(), Refusal> {
        let Some(counted) = counted_by(path.as_str()) else { return Ok(()) };
        self.counted += 1;
        if self.counted > QUOTAS_PER_MULTI_MAX {
            let fault = format!("one multi begins at most {QUOTAS_PER_MULTI_MAX} quotas");
            return Err(Refusal::BadContent { path: path.to_string(), fault });
        }
        let (count, bytes) = self.state.tree.size(counted);
        self.put_stats(path.as_str(), Track { count, bytes, count_hard: -1, bytes_hard: -1 });
        Ok(())
    }

    fn put_stats(&mut self, path: &str, held: Track) {
        self.update(path, |node| node.set_data(Some(held.text())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_all_versions_of_zookeeper_are_read() {
        let old = Track::parse(b"count=5,bytes=-1");
        assert_eq!((old.count, old.bytes, old.count_hard, old.bytes_hard), (5, -1, -1, -1));
        let new = Track::parse(b"count=1,bytes=2=;byteHardLimit=3;countHardLimit=4");
        assert_eq!((new.count, new.bytes, new.count_hard, new.bytes_hard), (1, 2, 4, 3));
        assert_eq!(Track::parse(b"what=ever"), Track::parse(b""));
    }
}
