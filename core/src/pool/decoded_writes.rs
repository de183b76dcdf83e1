//! Rows, plans and histories that commands write, decoded before the batch is applied, because
//! readers are blocked while it is applied.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::history::HistorySegment;
use super::layout::{self, PathKind};
use super::{Plan, Row, from_json};
use crate::Zxid;
use crate::state::{Command, Node, Op};

/// Decoded values by the data of their nodes.
#[derive(Debug, Default)]
pub struct DecodedWrites {
    rows: BTreeMap<Bytes, Row>,
    plans: BTreeMap<Bytes, Arc<Plan>>,
    /// [`HistorySegment::through`].
    segments: BTreeMap<Bytes, Zxid>,
}

impl DecodedWrites {
    /// Decodes the values that commands write.
    pub fn from_commands(commands: impl IntoIterator<Item = impl Borrow<Command>>) -> Self {
        let mut decoded = Self::default();
        for command in commands {
            match command.borrow() {
                Command::Write { op, .. } => decoded.add(op),
                Command::Multi { ops, .. } => ops.iter().for_each(|op| decoded.add(op)),
                _ => {}
            }
        }
        decoded
    }

    fn add(&mut self, op: &Op) {
        let (Op::Create { path, data: Some(data), .. } | Op::SetData { path, data: Some(data), .. }) = op
        else {
            return;
        };
        match layout::path_kind(path) {
            Some((_, PathKind::Row(_))) => {
                self.rows.entry(data.clone()).or_insert_with(|| row(data));
            }
            Some((_, PathKind::Plan)) => {
                self.plans.entry(data.clone()).or_insert_with(|| plan(data));
            }
            Some((_, PathKind::HistorySegment(_))) => {
                self.segments.entry(data.clone()).or_insert_with(|| through(data));
            }
            _ => {}
        }
    }

    /// The row that a node holds.
    pub(super) fn decode_row(&self, node: &Node) -> Row {
        self.rows.get(node.bytes()).cloned().unwrap_or_else(|| row(node.bytes()))
    }

    /// The plan that a node holds.
    pub(super) fn decode_plan(&self, node: &Node) -> Arc<Plan> {
        self.plans.get(node.bytes()).map_or_else(|| plan(node.bytes()), Arc::clone)
    }

    /// [`HistorySegment::through`] of the part of the history that a node holds.
    pub(super) fn decode_segment_end(&self, node: &Node) -> Zxid {
        self.segments.get(node.bytes()).copied().unwrap_or_else(|| through(node.bytes()))
    }
}

/// Only the controller writes rows. One that does not decode is owned by nobody that could be
/// named, so it is granted anew.
fn row(data: &[u8]) -> Row {
    from_json(data).unwrap_or_default()
}

fn plan(data: &[u8]) -> Arc<Plan> {
    Arc::new(from_json(data).unwrap_or_default())
}

fn through(data: &[u8]) -> Zxid {
    from_json(data).map_or(0, |segment: HistorySegment| segment.through)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Owner, to_json};
    use crate::state::{Actor, CreateMode};

    #[test]
    fn only_rows_plans_and_histories_are_decoded() {
        let written = Row::owned_by(Owner::new("w", 3));
        let segment = HistorySegment { changes: Vec::new(), through: 7 };
        let create = |path: String, data: Bytes| Op::create(path, data, CreateMode::Persistent);
        let ops = vec![
            create(layout::row("p", "0"), to_json(&written)),
            Op::set(layout::row("p", "1"), to_json(&written), None),
            Op::set(layout::plan("p"), to_json(&Plan::default()), None),
            create(format!("{}/h-", layout::history("p")), to_json(&segment)),
            create("/elsewhere".to_owned(), to_json(&written)),
            Op::set(layout::row("p", "2"), Bytes::from_static(b"no row"), None),
        ];
        let write = Command::Write { by: Actor::rota(None), op: ops[0].clone() };
        let decoded = DecodedWrites::from_commands([&write, &Command::Multi { by: Actor::rota(None), ops }]);
        let rows: Vec<&Row> = decoded.rows.values().collect();
        assert_eq!(rows, [&Row::default(), &written]);
        assert_eq!(decoded.plans.len(), 1);
        assert_eq!(decoded.segments.into_values().collect::<Vec<_>>(), [7]);
    }
}
