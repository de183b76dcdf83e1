//! All pools, followed event by event, and which members a command affects.

use std::collections::BTreeMap;

use super::layout::{self, PathKind};
use super::view::{AffectedMembers, PoolView, spec_of};
use super::{Bucket, DecodedWrites, RowEntry};
use crate::state::{Event, State};

/// All pools, by name.
#[derive(Debug, Clone, Default)]
pub struct Pools {
    pools: BTreeMap<String, PoolView>,
}

/// What a command touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeSet {
    /// The pools, and which of their members are told something else now of what they own.
    pub pools: BTreeMap<String, AffectedMembers>,
}

impl Pools {
    /// Reads all pools from the state.
    #[must_use]
    pub fn load(state: &State) -> Self {
        let mut pools = Self::default();
        let names: Vec<String> =
            state.tree().children(layout::POOLS).map(|(p, _)| p.name().to_owned()).collect();
        for name in names {
            if let Some(view) = PoolView::load(state, &name) {
                pools.pools.insert(name, view);
            }
        }
        pools
    }

    /// Updates the views after commands were applied. `state` is the state after them or later;
    /// `decoded` holds values decoded in advance. Returns the pools whose assignment may change, and
    /// the affected members.
    pub fn apply_events(&mut self, state: &State, events: &[Event], decoded: &DecodedWrites) -> ChangeSet {
        let mut touched = ChangeSet::default();
        for event in events {
            let Some((pool, place)) = layout::path_kind(event.path.as_str()) else { continue };
            if matches!(place, PathKind::Checkpoint(_) | PathKind::HistorySegment(_) | PathKind::Other) {
                self.follow_one(state, pool, (&place, event), decoded);
                // What is left of a deleted pool decides nothing, and has to be removed.
                if self.pools.get(pool).is_some_and(|view| view.spec.deleting) {
                    touched.pools.entry(pool.to_owned()).or_default();
                }
                continue;
            }
            let mut whom = AffectedMembers::default();
            self.mark_affected(pool, &place, &mut whom);
            self.follow_one(state, pool, (&place, event), decoded);
            self.mark_affected(pool, &place, &mut whom);
            if let Some(view) = self.pools.get_mut(pool) {
                view.mark_notified(&whom, event.zxid);
            }
            touched.pools.entry(pool.to_owned()).or_default().add(whom);
        }
        touched
    }

    /// Whom something in a pool concerns, as it is now.
    fn mark_affected(&self, pool: &str, place: &PathKind<'_>, whom: &mut AffectedMembers) {
        let Some(view) = self.pools.get(pool) else { return *whom = AffectedMembers::All };
        let AffectedMembers::Some(names) = whom else { return };
        match place {
            PathKind::Spec => *whom = AffectedMembers::All,
            // The owners of a row are told where the others are.
            PathKind::Member(name) => {
                names.insert((*name).to_owned());
                let rows = view.held_by(name).map(|(_, entry)| entry);
                names.extend(rows.flat_map(RowEntry::named).map(|owner| owner.member.clone()));
            }
            PathKind::Item(item) => names.extend(view.named_in(&Bucket::new(item))),
            PathKind::Row(bucket) => names.extend(view.named_in(bucket)),
            PathKind::Plan => {
                names.extend(view.plan.moves.iter().filter_map(|mv| mv.from.clone()));
                // Whether anything is still to pass on depends on what the plan says at large.
                let emptied = view.members.iter().filter(|(_, entry)| entry.member.draining);
                names.extend(emptied.map(|(name, _)| name.clone()));
            }
            PathKind::Away(_) | PathKind::Buckets => {}
            PathKind::Checkpoint(_) | PathKind::HistorySegment(_) | PathKind::Other => {}
        }
    }

    fn follow_one(
        &mut self,
        state: &State,
        pool: &str,
        (place, event): (&PathKind<'_>, &Event),
        decoded: &DecodedWrites,
    ) {
        let node = state.tree().get(event.path.as_str());
        if *place == PathKind::Spec && node.and_then(spec_of).is_none() {
            self.pools.remove(pool);
            return;
        }
        match self.pools.get_mut(pool) {
            Some(view) => view.apply_event(node, place, event, decoded),
            None => {
                if let Some(view) = PoolView::load(state, pool) {
                    self.pools.insert(pool.to_owned(), view);
                }
            }
        }
    }

    /// A pool, by name.
    #[must_use]
    pub fn get(&self, pool: &str) -> Option<&PoolView> {
        self.pools.get(pool)
    }

    /// All pools, by name.
    pub fn iter(&self) -> impl Iterator<Item = &PoolView> {
        self.pools.values()
    }
}
