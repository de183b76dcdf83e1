//! Writes rows, with the part of the history that tells of them.

use std::collections::BTreeSet;

use super::{OPS_MAX, ensure, public_acl, row_path};
use crate::Zxid;
use crate::pool::history::{self, Recorder};
use crate::pool::{Bucket, PoolView, Reason, Row, RowEntry, layout, to_json};
use crate::state::{CreateMode, Op, perms};

/// Most nodes of the history that one step removes.
const FORGOTTEN_MAX: usize = 64;

/// Gathers writes of rows into multis, each with its part of the history.
pub(super) struct Writer<'a> {
    pool: &'a PoolView,
    multis: Vec<Vec<Op>>,
    ops: Vec<Op>,
    recorder: Recorder,
    /// Rows that members changed by themselves and that no segment tells of.
    unrecorded: BTreeSet<Bucket>,
    /// Up to which version of the table none of those is missing, once this is written.
    through: Zxid,
}

impl<'a> Writer<'a> {
    pub(super) fn new(pool: &'a PoolView) -> Self {
        let through = pool.history.values().map(|written| written.through).max();
        let own: BTreeSet<Zxid> = pool.history.values().map(|written| written.zxid).collect();
        // Of times whose segments are forgotten nothing more is told either.
        let since = through.zip(own.first()).map(|(through, first)| through.max(*first));
        let changed = since.into_iter().flat_map(|since| pool.rows_changed_after(since));
        let unrecorded = changed.filter(|(zxid, _)| !own.contains(zxid)).map(|(_, bucket)| bucket.clone());
        let unrecorded = unrecorded.collect();
        let (multis, ops, recorder) = Default::default();
        Self {
            pool,
            multis,
            ops,
            recorder,
            unrecorded,
            through: through.unwrap_or_else(|| pool.table_version()),
        }
    }

    pub(super) fn create(&mut self, bucket: &Bucket, row: &Row) {
        // Clients write there only what is theirs to say: see `pool::guard`.
        let create = layout::create(row_path(self.pool, bucket), to_json(row), perms::READ | perms::WRITE);
        self.add(vec![create]);
        self.recorder.note(bucket, row, Reason::Vacant, None);
    }

    pub(super) fn replace(&mut self, bucket: &Bucket, entry: &RowEntry, row: &Row, reason: Reason) {
        if *row == entry.row {
            return;
        }
        let write = Op::set(row_path(self.pool, bucket), to_json(row), None);
        self.add(vec![fenced(self.pool, bucket, entry), write]);
        self.record_own(bucket, entry);
        self.recorder.note(bucket, row, reason, None);
    }

    pub(super) fn delete(&mut self, bucket: &Bucket, entry: &RowEntry) {
        let delete = Op::Delete { path: row_path(self.pool, bucket), version: Some(entry.version) };
        self.add(vec![fenced(self.pool, bucket, entry), delete]);
        // If its owner has let go, that was its end.
        let at_ms = self.unrecorded.remove(bucket).then_some(entry.written_ms);
        self.recorder.note(bucket, &Row::vacant(), Reason::Removed, at_ms);
    }

    /// What a member did with a row by itself is put down before what becomes of it.
    fn record_own(&mut self, bucket: &Bucket, entry: &RowEntry) {
        if self.unrecorded.remove(bucket) {
            let planned = self.pool.plan.moves.iter().find(|mv| mv.bucket == *bucket);
            let reason = planned.map_or(Reason::Left, |mv| mv.reason);
            self.recorder.note(bucket, &entry.row, reason, Some(entry.written_ms));
        }
    }

    /// A write and its guard stay in one multi, which has room for its segment.
    fn add(&mut self, write: Vec<Op>) {
        if self.ops.len() + write.len() + 2 > OPS_MAX {
            self.close();
        }
        self.ops.extend(write);
    }

    fn close(&mut self) {
        if let Some(segment) = std::mem::take(&mut self.recorder).into_segment(self.through) {
            let folder = layout::history(&self.pool.name);
            self.ops.push(ensure(folder.clone()));
            let mode = CreateMode::PersistentSequential;
            self.ops.push(Op::Create {
                path: format!("{folder}/h-"),
                data: Some(to_json(&segment)),
                mode,
                acl: public_acl(),
            });
        }
        if !self.ops.is_empty() {
            self.multis.push(std::mem::take(&mut self.ops));
        }
    }

    /// The multis alone: the next plan records what members did by themselves.
    pub(super) fn finish_grants(mut self) -> Vec<Vec<Op>> {
        self.unrecorded.clear();
        self.close();
        self.multis
    }

    pub(super) fn finish(mut self) -> Vec<Vec<Op>> {
        // The last multi tells of whatever is left.
        for bucket in std::mem::take(&mut self.unrecorded) {
            if let Some(entry) = self.pool.rows.get(&bucket) {
                self.unrecorded.insert(bucket.clone());
                self.record_own(&bucket, entry);
            }
        }
        self.through = self.pool.table_version();
        self.close();
        let forgotten = stale_segments(self.pool);
        if !forgotten.is_empty() {
            self.multis.push(forgotten);
        }
        self.multis
    }
}

/// The oldest part of the history goes when there is too much of it.
fn stale_segments(pool: &PoolView) -> Vec<Op> {
    let mut nodes = pool.history.len();
    let mut bytes: usize = pool.history.values().map(|written| written.bytes).sum();
    let mut ops = Vec::new();
    for (name, written) in &pool.history {
        let is_enough = nodes <= history::NODES_MAX && bytes <= history::BYTES_MAX;
        if is_enough || ops.len() == FORGOTTEN_MAX {
            break;
        }
        ops.push(Op::Delete { path: format!("{}/{name}", layout::history(&pool.name)), version: None });
        nodes -= 1;
        bytes -= written.bytes;
    }
    ops
}

fn fenced(pool: &PoolView, bucket: &Bucket, entry: &RowEntry) -> Op {
    Op::CheckFence { path: row_path(pool, bucket), fence: entry.zxid }
}
