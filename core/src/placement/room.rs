//! Members that have room still: the emptiest of the emptiest zone first, so that no zone
//! and no member is left with more than the last buckets can go to. Buckets of one owner can
//! go anywhere: there the first with room is as good, and buckets stay in runs.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Bound;

use super::Problem;

/// How much room each member has, by zone.
#[derive(Debug)]
pub(super) struct Room {
    room: Vec<u64>,
    /// Each zone's members with room, the emptiest first.
    members: Vec<BTreeSet<(Reverse<u64>, usize)>>,
    /// What the members of each zone have together.
    zones: Vec<u64>,
    /// The zones with room, the emptiest first.
    order: BTreeSet<(Reverse<u64>, usize)>,
    /// How empty counts.
    emptiest_first: bool,
}

impl Room {
    pub(super) fn new(problem: &Problem, room: Vec<u64>) -> Self {
        let mut zones = vec![0; problem.zones()];
        room.iter().zip(&problem.members).for_each(|(room, member)| zones[member.zone] += room);
        let mut new = Self {
            members: vec![BTreeSet::new(); zones.len()],
            room,
            zones,
            order: BTreeSet::new(),
            emptiest_first: problem.replicas > 1,
        };
        for member in (0..new.room.len()).filter(|member| new.room[*member] > 0) {
            let key = new.key(new.room[member], member);
            new.members[problem.members[member].zone].insert(key);
        }
        new.order = (0..new.zones.len())
            .filter(|zone| new.zones[*zone] > 0)
            .map(|zone| new.key(new.zones[zone], zone))
            .collect();
        new
    }

    fn key(&self, room: u64, at: usize) -> (Reverse<u64>, usize) {
        (Reverse(if self.emptiest_first { room } else { 0 }), at)
    }

    pub(super) fn of(&self, member: usize) -> u64 {
        self.room[member]
    }

    /// The emptiest member of the emptiest zone that will do. Among those that are alike,
    /// the search begins at `start` (of each, as a number), so that different buckets find
    /// different ones.
    pub(super) fn find(
        &self,
        start: usize,
        zone_will_do: impl Fn(usize) -> bool,
        will_do: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let zones = emptiest_first(&self.order, start % self.zones.len().max(1));
        let start = start % self.room.len().max(1);
        let members_of = |zone: usize| emptiest_first(&self.members[zone], start);
        zones.filter(|zone| zone_will_do(*zone)).flat_map(members_of).find(|member| will_do(*member))
    }

    /// A member has taken a bucket.
    pub(super) fn take(&mut self, problem: &Problem, member: usize) {
        let zone = problem.members[member].zone;
        let (of_member, of_zone) = (self.key(self.room[member], member), self.key(self.zones[zone], zone));
        self.members[zone].remove(&of_member);
        self.order.remove(&of_zone);
        self.room[member] -= 1;
        self.zones[zone] -= 1;
        let (of_member, of_zone) = (self.key(self.room[member], member), self.key(self.zones[zone], zone));
        if self.room[member] > 0 {
            self.members[zone].insert(of_member);
        }
        if self.zones[zone] > 0 {
            self.order.insert(of_zone);
        }
    }
}

/// Those with the most room first; among those that are alike, from `start` on.
fn emptiest_first(all: &BTreeSet<(Reverse<u64>, usize)>, start: usize) -> impl Iterator<Item = usize> + '_ {
    let next_level = move |level: &Reverse<u64>| {
        all.range((Bound::Excluded((*level, usize::MAX)), Bound::Unbounded)).next().map(|(level, _)| *level)
    };
    let levels = std::iter::successors(all.first().map(|(level, _)| *level), next_level);
    let within = move |level| {
        let after = all.range((level, start)..=(level, usize::MAX));
        after.chain(all.range((level, 0)..(level, start))).map(|(_, at)| *at)
    };
    levels.flat_map(within)
}
