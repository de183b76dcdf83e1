//! What commands write into pools, decoded before they are applied: rows, plans and histories
//! are long texts, and readers wait while a batch is applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::history::Chapter;
use super::layout::{self, Place};
use super::{Plan, Row, from_json};
use crate::Zxid;
use crate::state::{Command, Node, Op};

/// Data of nodes, and what they say.
#[derive(Debug, Default)]
pub struct Decoded {
    rows: BTreeMap<Bytes, Row>,
    plans: BTreeMap<Bytes, Arc<Plan>>,
    /// [`Chapter::upto`].
    chapters: BTreeMap<Bytes, Zxid>,
}

impl Decoded {
    /// Decodes what these commands write.
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut decoded = Self::default();
        for command in commands {
            match command {
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
        match layout::place(path) {
            Some((_, Place::Row(_))) => {
                self.rows.entry(data.clone()).or_insert_with(|| row(data));
            }
            Some((_, Place::Plan)) => {
                self.plans.entry(data.clone()).or_insert_with(|| plan(data));
            }
            Some((_, Place::Chapter(_))) => {
                self.chapters.entry(data.clone()).or_insert_with(|| upto(data));
            }
            _ => {}
        }
    }

    /// What a row's node says.
    pub(super) fn row(&self, node: &Node) -> Row {
        self.rows.get(node.bytes()).cloned().unwrap_or_else(|| row(node.bytes()))
    }

    /// What a plan's node says.
    pub(super) fn plan(&self, node: &Node) -> Arc<Plan> {
        self.plans.get(node.bytes()).map_or_else(|| plan(node.bytes()), Arc::clone)
    }

    /// How far the history goes that a node of it tells.
    pub(super) fn upto(&self, node: &Node) -> Zxid {
        self.chapters.get(node.bytes()).copied().unwrap_or_else(|| upto(node.bytes()))
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

fn upto(data: &[u8]) -> Zxid {
    from_json(data).map_or(0, |chapter: Chapter| chapter.upto)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Owner, to_json};
    use crate::state::{Actor, CreateMode};

    #[test]
    fn rows_plans_and_histories_are_decoded_and_nothing_else() {
        let written = Row::owned_by(Owner::new("w", 3));
        let chapter = Chapter { changes: Vec::new(), upto: 7 };
        let create = |path: String, data: Bytes| Op::create(path, data, CreateMode::Persistent);
        let ops = vec![
            create(layout::row("p", "0"), to_json(&written)),
            Op::set(layout::row("p", "1"), to_json(&written), None),
            Op::set(layout::plan("p"), to_json(&Plan::default()), None),
            create(format!("{}/h-", layout::history("p")), to_json(&chapter)),
            create("/elsewhere".to_owned(), to_json(&written)),
            Op::set(layout::row("p", "2"), Bytes::from_static(b"no row"), None),
        ];
        let write = Command::Write { by: Actor::rota(None), op: ops[0].clone() };
        let decoded = Decoded::of([&write, &Command::Multi { by: Actor::rota(None), ops }]);
        let rows: Vec<&Row> = decoded.rows.values().collect();
        assert_eq!(rows, [&Row::default(), &written]);
        assert_eq!(decoded.plans.len(), 1);
        assert_eq!(decoded.chapters.into_values().collect::<Vec<_>>(), [7]);
    }
}
