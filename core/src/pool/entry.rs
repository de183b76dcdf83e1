//! What the view of a pool keeps of its nodes.

use super::{AwaitingRejoin, Member, Owner, Reason, Row};
use crate::Zxid;
use crate::state::{Node, SessionId, Stamps};

/// A member and how it joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEntry {
    /// What its node says.
    pub member: Member,
    /// The `czxid` of its node.
    pub joined: Zxid,
    /// The version of its node.
    pub version: i32,
    /// The session that keeps it.
    pub session: Option<SessionId>,
}

/// A member that has gone and may come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitingRejoinEntry {
    /// What its node says.
    pub away: AwaitingRejoin,
    /// Wall clock at its departure, in milliseconds since the Unix epoch: for display.
    pub since_wall_ms: u64,
}

/// When what decides who owns what changed last, by kind; 0 for never, as far as is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Causes {
    /// The spec.
    pub spec: Zxid,
    /// A member joined.
    pub joined: Zxid,
    /// A member died or left.
    pub departure: Zxid,
    /// A member was changed: drained, given another weight.
    pub operator: Zxid,
    /// An item came, went or was changed.
    pub items: Zxid,
}

impl Causes {
    /// The last of them, as the reason of what follows from it.
    #[must_use]
    pub fn last(&self) -> Reason {
        let causes = [
            (self.spec, Reason::Operator),
            (self.operator, Reason::Operator),
            (self.items, Reason::Items),
            (self.joined, Reason::Joined),
            (self.departure, Reason::Died),
        ];
        causes.into_iter().max_by_key(|(zxid, _)| *zxid).map_or(Reason::Operator, |(_, reason)| reason)
    }
}

/// A row and the node that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowEntry {
    /// The owners, with their fences.
    pub row: Row,
    /// The `mzxid` of the row's node: it guards writes of the row.
    pub zxid: Zxid,
    /// The version of the row's node.
    pub version: i32,
    /// Wall clock at the write of the node, in milliseconds since the Unix epoch: for display.
    pub written_ms: u64,
}

impl RowEntry {
    pub(super) fn new(row: Row, node: &Node) -> Self {
        let Stamps { mzxid, version, mtime_ms, .. } = node.stamps;
        Self { row: row.resolve_fences(mzxid), zxid: mzxid, version, written_ms: mtime_ms }
    }

    /// The primary's fence; of a vacant row, a number that is larger than every earlier one.
    #[must_use]
    pub fn fence(&self) -> Zxid {
        self.row.primary().map_or(self.zxid, |primary| primary.fence)
    }

    /// Everybody that the row names.
    pub(super) fn named(&self) -> impl Iterator<Item = &Owner> {
        self.row.owners.iter().chain(&self.row.preparing)
    }
}
