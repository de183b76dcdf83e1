//! Pools as the tree holds them, decoded once and kept in step.
//!
//! Derived from the state and nothing else: loaded from it at the start or from
//! a snapshot, then led along by the events of every command. It serves the
//! readers of tables and the assignment controller, which would otherwise
//! decode every row each time they look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::history::Written;
use super::layout::{self, PathKind};
use super::{
    Affinity, AwaitingRejoinEntry, Bucket, Causes, DecodedWrites, Delta, Item, Kind, Member, MemberEntry,
    Owner, Plan, RowEntry, Spec, TableIndex, from_json,
};
use crate::Zxid;
use crate::state::{Event, Node, State};

/// Which members something concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AffectedMembers {
    /// All of them.
    All,
    /// These.
    Some(BTreeSet<String>),
}

impl AffectedMembers {
    pub(super) fn add(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Some(names), Self::Some(more)) => names.extend(more),
            _ => *self = Self::All,
        }
    }
}

impl Default for AffectedMembers {
    fn default() -> Self {
        Self::Some(BTreeSet::new())
    }
}

/// One pool. A clone costs O(members), so that it can be planned for while the
/// state moves on.
#[derive(Debug, Clone)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its spec.
    pub spec: Spec,
    /// The version of the spec's node.
    pub spec_version: i32,
    /// Its members, by name.
    pub members: BTreeMap<String, MemberEntry>,
    /// Its items, by name; always empty in a hashed pool.
    pub items: OrdMap<String, Item>,
    /// Its rows.
    pub rows: OrdMap<Bucket, RowEntry>,
    /// The buckets whose rows name a member, as an owner or preparing.
    held: OrdMap<String, OrdSet<Bucket>>,
    /// Members that have gone and may come back: what the tree keeps of them.
    pub awaiting_rejoin: BTreeMap<String, AwaitingRejoinEntry>,
    /// Members that have gone since this view began, as they were.
    pub recently_left: BTreeMap<String, MemberEntry>,
    /// The nodes of its history.
    pub history: OrdMap<String, Written>,
    /// When what decides who owns what changed last, by kind.
    pub causes: Causes,
    /// Its last plan (number 0 before the first).
    pub plan: Arc<Plan>,
    /// The version of the plan's node, if there is one.
    pub plan_version: Option<i32>,
    /// Its last change but for checkpoints and history.
    pub changed: Zxid,
    /// The last change that concerned all members, as far as is known.
    told_all: Zxid,
    /// The last one that concerned a member besides.
    told: OrdMap<String, Zxid>,
    table: TableIndex,
}

/// The spec that a pool's node holds, if it is one and within bounds.
pub(super) fn spec_of(node: &Node) -> Option<Spec> {
    from_json(node.bytes()).ok().filter(|spec: &Spec| spec.check().is_ok())
}

impl PoolView {
    pub(super) fn load(state: &State, name: &str) -> Option<Self> {
        let tree = state.tree();
        let path = layout::pool(name);
        let spec_node = tree.get(&path)?;
        let buckets = format!("{path}/buckets");
        let mut view = Self {
            name: name.to_owned(),
            spec: spec_of(spec_node)?,
            spec_version: spec_node.stamps.version,
            members: BTreeMap::new(),
            items: OrdMap::new(),
            rows: OrdMap::new(),
            held: OrdMap::new(),
            awaiting_rejoin: BTreeMap::new(),
            recently_left: BTreeMap::new(),
            history: OrdMap::new(),
            causes: Causes { spec: spec_node.stamps.mzxid, ..Causes::default() },
            plan: Arc::default(),
            plan_version: None,
            changed: state.zxid(),
            told_all: state.zxid(),
            told: OrdMap::new(),
            table: TableIndex::default(),
        };
        let no_decoded_writes = DecodedWrites::default();
        let version = tree.children(&buckets).map(|(_, n)| n.stamps.mzxid).max().unwrap_or(0);
        let removed = tree.get(&buckets).map_or(0, |node| node.stamps.pzxid);
        // The parent's last child was made or removed then: after that, none was removed.
        view.table = TableIndex::starting_at(version.max(removed), removed);
        for (path, node) in tree.children(&format!("{path}/members")) {
            view.put_member(path.name(), Some(node));
        }
        for (path, node) in tree.children(&format!("{path}/items")) {
            view.put_item(path.name(), Some(node));
        }
        for (path, node) in tree.children(&buckets) {
            view.put_row(&Bucket::new(path.name()), Some(node), node.stamps.mzxid, &no_decoded_writes);
        }
        for (path, node) in tree.children(&format!("{path}/away")) {
            view.put_awaiting_rejoin(path.name(), Some(node));
        }
        for (path, node) in tree.children(&layout::history(name)) {
            view.put_history_segment(path.name(), Some(node), &no_decoded_writes);
        }
        view.put_plan(tree.get(&layout::plan(name)), &no_decoded_writes);
        view.rebuild_recently_left();
        // A folder's pzxid is that of the last child that came or went.
        let last = |folder: &str| tree.get(&format!("{path}/{folder}")).map_or(0, |node| node.stamps.pzxid);
        view.causes.items = last("items");
        view.causes.departure = Some(last("members")).filter(|at| *at > view.causes.joined).unwrap_or(0);
        Some(view)
    }

    pub(super) fn apply_event(
        &mut self,
        node: Option<&Node>,
        place: &PathKind<'_>,
        event: &Event,
        decoded: &DecodedWrites,
    ) {
        if let PathKind::Checkpoint(_) | PathKind::Other = place {
            return;
        }
        if let PathKind::HistorySegment(name) = place {
            return self.put_history_segment(name, node, decoded);
        }
        self.changed = event.zxid;
        match place {
            PathKind::Spec => {
                if let Some((node, spec)) = node.and_then(|n| Some((n, spec_of(n)?))) {
                    self.spec = spec;
                    self.spec_version = node.stamps.version;
                    self.causes.spec = node.stamps.mzxid;
                }
            }
            PathKind::Member(name) => {
                if node.is_none() {
                    self.causes.departure = event.zxid;
                }
                self.put_member(name, node);
            }
            PathKind::Item(name) => {
                self.causes.items = event.zxid;
                self.put_item(name, node);
            }
            PathKind::Row(bucket) => self.put_row(bucket, node, event.zxid, decoded),
            PathKind::Plan => self.put_plan(node, decoded),
            PathKind::Away(name) => self.put_awaiting_rejoin(name, node),
            PathKind::Buckets => self.table.advance(node.map_or(0, |n| n.stamps.pzxid)),
            PathKind::HistorySegment(_) | PathKind::Checkpoint(_) | PathKind::Other => {}
        }
    }

    fn put_member(&mut self, name: &str, node: Option<&Node>) {
        match node.and_then(|n| Some((n, from_json(n.bytes()).ok()?))) {
            Some((node, member)) => {
                let entry = MemberEntry {
                    member,
                    joined: node.stamps.czxid,
                    version: node.stamps.version,
                    session: node.owner(),
                };
                self.recently_left.remove(name);
                self.causes.joined = self.causes.joined.max(entry.joined);
                if node.stamps.mzxid > entry.joined {
                    self.causes.operator = self.causes.operator.max(node.stamps.mzxid);
                }
                self.members.insert(name.to_owned(), entry);
            }
            None => {
                if let Some(entry) = self.members.remove(name) {
                    self.record_departure(name, entry);
                }
            }
        }
    }

    pub(super) fn record_departure(&mut self, name: &str, entry: MemberEntry) {
        if self.spec.rejoin_grace_ms > 0 && !entry.member.draining && self.held.contains_key(name) {
            self.recently_left.insert(name.to_owned(), entry);
        }
    }

    /// Whoever had gone before this view began, and nothing was decided of it yet: what it said
    /// of itself is not known any more. It counts as the strongest, so that it keeps what it had.
    fn rebuild_recently_left(&mut self) {
        let weight = self.members.values().map(|entry| entry.member.weight).max().unwrap_or(1);
        let unknown: Vec<String> = self
            .departed_members()
            .filter(|name| !self.awaiting_rejoin.contains_key(*name))
            .map(str::to_owned)
            .collect();
        for name in unknown {
            let named = self.held_by(&name).flat_map(|(_, entry)| entry.named());
            let joined = named.filter(|owner| owner.member == name).map(|owner| owner.joined).max();
            let member = Member { weight, ..Member::default() };
            let entry = MemberEntry { member, joined: joined.unwrap_or(0), version: 0, session: None };
            self.record_departure(&name, entry);
        }
    }

    fn put_awaiting_rejoin(&mut self, name: &str, node: Option<&Node>) {
        let entry = node.and_then(|node| {
            let away = from_json(node.bytes()).ok()?;
            Some(AwaitingRejoinEntry { away, since_wall_ms: node.stamps.mtime_ms })
        });
        match entry {
            Some(entry) => drop(self.awaiting_rejoin.insert(name.to_owned(), entry)),
            None => drop(self.awaiting_rejoin.remove(name)),
        }
        // Whatever was decided about it stands in the tree now.
        self.recently_left.remove(name);
    }

    fn put_item(&mut self, name: &str, node: Option<&Node>) {
        match node.and_then(|n| from_json(n.bytes()).ok()) {
            Some(item) => drop(self.items.insert(name.to_owned(), item)),
            None => drop(self.items.remove(name)),
        }
    }

    fn put_history_segment(&mut self, name: &str, node: Option<&Node>, decoded: &DecodedWrites) {
        match node {
            Some(node) => {
                let through = decoded.decode_segment_end(node);
                let written = Written { zxid: node.stamps.czxid, through, bytes: node.bytes().len() };
                self.history.insert(name.to_owned(), written);
            }
            None => drop(self.history.remove(name)),
        }
    }

    fn put_row(&mut self, bucket: &Bucket, node: Option<&Node>, zxid: Zxid, decoded: &DecodedWrites) {
        let before = match node {
            Some(node) => {
                self.table.row_changed(bucket, node.stamps.mzxid);
                let entry = RowEntry::new(decoded.decode_row(node), node);
                for owner in entry.named() {
                    self.held.entry(owner.member.clone()).or_default().insert(bucket.clone());
                }
                self.rows.insert(bucket.clone(), entry)
            }
            None => {
                self.table.row_removed(bucket, zxid);
                self.rows.remove(bucket)
            }
        };
        let now = self.rows.get(bucket);
        for gone in before.iter().flat_map(RowEntry::named) {
            if now.is_some_and(|now| now.named().any(|owner| owner.member == gone.member)) {
                continue;
            }
            if let Some(held) = self.held.get_mut(&gone.member) {
                held.remove(bucket);
                if held.is_empty() {
                    self.held.remove(&gone.member);
                    self.recently_left.remove(&gone.member);
                }
            }
        }
    }

    fn put_plan(&mut self, node: Option<&Node>, decoded: &DecodedWrites) {
        self.plan_version = node.map(|n| n.stamps.version);
        self.plan = node.map(|node| decoded.decode_plan(node)).unwrap_or_default();
    }

    /// The version of the table: the zxid of the last change to any row.
    #[must_use]
    pub fn table_version(&self) -> Zxid {
        self.table.version()
    }

    /// What changed in the table after version `since`.
    #[must_use]
    pub fn table_since(&self, since: Zxid) -> Delta {
        self.table.since(since)
    }

    /// The last change of any member, as far as is known.
    #[must_use]
    pub fn members_changed(&self) -> Zxid {
        let Causes { joined, departure, operator, .. } = self.causes;
        joined.max(departure).max(operator)
    }

    /// Whether the changes of the table after version `since` are still available (not compacted).
    #[must_use]
    pub fn is_delta_available(&self, since: Zxid) -> bool {
        self.table.is_delta_available(since)
    }

    /// The rows that changed after a version of the table, with when they did last.
    pub fn rows_changed_after(&self, since: Zxid) -> impl Iterator<Item = (Zxid, &Bucket)> {
        self.table.changed_after(since)
    }

    /// Whether `owner` is a member now, and joined when it says.
    #[must_use]
    pub fn is_living(&self, owner: &Owner) -> bool {
        self.members.get(&owner.member).is_some_and(|m| m.joined == owner.joined)
    }

    /// How many rows have a primary that lives.
    #[must_use]
    pub fn led_count(&self) -> usize {
        let leads = |entry: &&RowEntry| entry.row.primary().is_some_and(|owner| self.is_living(owner));
        self.rows.values().filter(leads).count()
    }

    /// Whether `owner` has gone, and the pool may wait for it.
    #[must_use]
    pub fn may_rejoin(&self, owner: &Owner) -> bool {
        let is_same = |joined: Option<Zxid>| joined == Some(owner.joined);
        !self.members.contains_key(&owner.member)
            && (is_same(self.recently_left.get(&owner.member).map(|entry| entry.joined))
                || is_same(self.awaiting_rejoin.get(&owner.member).map(|entry| entry.away.joined)))
    }

    pub(super) fn mark_notified(&mut self, whom: &AffectedMembers, zxid: Zxid) {
        match whom {
            AffectedMembers::All => self.told_all = zxid,
            // Who is no member is told nothing any more.
            AffectedMembers::Some(names) => {
                for name in names {
                    match self.members.contains_key(name) {
                        true => drop(self.told.insert(name.clone(), zxid)),
                        false => drop(self.told.remove(name)),
                    }
                }
            }
        }
    }

    /// The last change of what a member is told of what it owns.
    #[must_use]
    pub fn changed_for(&self, member: &str) -> Zxid {
        self.told.get(member).copied().unwrap_or(0).max(self.told_all)
    }

    /// Everybody that a bucket's row names.
    pub(super) fn named_in(&self, bucket: &Bucket) -> impl Iterator<Item = String> + '_ {
        let entry = self.rows.get(bucket).into_iter();
        entry.flat_map(RowEntry::named).map(|owner| owner.member.clone())
    }

    /// The buckets whose rows name a member, whenever it joined.
    pub fn held_by(&self, member: &str) -> impl Iterator<Item = (&Bucket, &RowEntry)> {
        let held = self.held.get(member).into_iter().flatten();
        held.filter_map(|bucket| Some((bucket, self.rows.get(bucket)?)))
    }

    /// Those whom rows name and who are no members any more.
    pub fn departed_members(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str).filter(|name| !self.members.contains_key(*name))
    }

    /// How many rows name a member.
    #[must_use]
    pub fn held_count(&self, member: &str) -> u64 {
        self.held.get(member).map_or(0, |held| held.len() as u64)
    }

    /// The plan's moves that are still pending.
    pub fn pending_moves(&self) -> impl Iterator<Item = &super::Move> {
        self.plan.moves.iter().filter(|mv| self.is_pending(mv))
    }

    /// Those that a member is to give up.
    pub fn held_moves<'a>(&'a self, member: &'a str) -> impl Iterator<Item = &'a super::Move> {
        self.pending_moves().filter(move |mv| mv.from.as_deref() == Some(member))
    }

    /// Whether a move is still to happen.
    #[must_use]
    pub fn is_pending(&self, mv: &super::Move) -> bool {
        self.rows.get(&mv.bucket).is_some_and(|entry| mv.is_pending(&entry.row))
    }

    /// Whether whoever gives a bucket up is asked to now.
    #[must_use]
    pub fn is_due(&self, mv: &super::Move) -> bool {
        self.rows.get(&mv.bucket).is_some_and(|entry| mv.is_due(&entry.row, self.spec.handoff))
    }

    /// Which members may have a bucket.
    #[must_use]
    pub fn affinity_of(&self, bucket: &Bucket) -> Affinity {
        match self.items.get(bucket.as_str()) {
            Some(item) => self.spec.affinity.of_item(&item.affinity),
            None => self.spec.affinity.clone(),
        }
    }

    /// Whether there should be a row for a bucket.
    #[must_use]
    pub fn is_wanted(&self, bucket: &Bucket) -> bool {
        match self.spec.kind {
            _ if self.spec.deleting => false,
            Kind::Hashed { buckets } => bucket.as_str().parse().is_ok_and(|number: u32| number < buckets),
            Kind::Named => self.items.contains_key(bucket.as_str()),
        }
    }

    /// The buckets that there should be rows for.
    pub fn wanted_buckets(&self) -> Box<dyn Iterator<Item = Bucket> + '_> {
        match self.spec.kind {
            _ if self.spec.deleting => Box::new(std::iter::empty()),
            Kind::Hashed { buckets } => Box::new((0..buckets).map(Bucket::number)),
            Kind::Named => Box::new(self.items.keys().map(|item| Bucket::new(item))),
        }
    }
}
