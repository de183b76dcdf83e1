//! An answer in the making: rows that keep the rules, and who holds what.

use super::{Answer, Owners, Problem, Quotas};

/// Rows that break no rule but may have too few owners, or give members too much or too
/// little.
#[derive(Debug, Clone)]
pub(super) struct Rows<'a> {
    pub(super) problem: &'a Problem,
    pub(super) quotas: &'a Quotas,
    rows: Vec<Owners>,
    /// The buckets of each member.
    held: Vec<Vec<u32>>,
    /// Owners of all rows.
    total: u64,
}

impl<'a> Rows<'a> {
    /// Whoever owns a bucket now, and may, keeps it; of those who are too many in a zone,
    /// the first do.
    pub(super) fn kept(problem: &'a Problem, quotas: &'a Quotas) -> Self {
        let rows = vec![Owners::default(); problem.buckets.len()];
        let mut kept =
            Self { problem, quotas, rows, held: vec![Vec::new(); problem.members.len()], total: 0 };
        for (bucket, demand) in problem.buckets.iter().enumerate() {
            for owner in demand.owners.iter() {
                let has_share = quotas.most[owner] > 0;
                if has_share && kept.len(bucket) < problem.replicas && kept.may_take(bucket, owner, None) {
                    kept.add(bucket, owner);
                }
            }
        }
        kept
    }

    /// Whether a member may own a bucket besides those who do, if one of them gives it up.
    pub(super) fn may_take(&self, bucket: usize, member: usize, instead_of: Option<usize>) -> bool {
        let class = self.problem.buckets[bucket].class;
        !self.rows[bucket].contains(member)
            && self.problem.may_own(class, member)
            && self.zone_has_room(bucket, self.problem.members[member].zone, instead_of)
    }

    /// Whether one more of a zone may own a bucket, if one owner gives it up.
    pub(super) fn zone_has_room(&self, bucket: usize, zone: usize, instead_of: Option<usize>) -> bool {
        let rest = self.rows[bucket].iter().filter(|owner| Some(*owner) != instead_of);
        let there = rest.filter(|owner| self.problem.members[*owner].zone == zone).count();
        there < self.quotas.spread[self.problem.buckets[bucket].class]
    }

    /// Whether a member owned a bucket before.
    pub(super) fn owned(&self, bucket: usize, member: usize) -> bool {
        self.problem.buckets[bucket].owners.contains(member)
    }

    pub(super) fn row(&self, bucket: usize) -> &Owners {
        &self.rows[bucket]
    }

    pub(super) fn len(&self, bucket: usize) -> usize {
        self.rows[bucket].len()
    }

    pub(super) fn load(&self, member: usize) -> u64 {
        self.held[member].len() as u64
    }

    /// The buckets of a member.
    pub(super) fn held(&self, member: usize) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.held[member].iter().map(|bucket| *bucket as usize)
    }

    /// Owners of all rows that are missing still.
    pub(super) fn missing(&self) -> u64 {
        self.quotas.total.saturating_sub(self.total)
    }

    pub(super) fn add(&mut self, bucket: usize, member: usize) {
        self.rows[bucket].push(member);
        self.held[member].push(u32::try_from(bucket).expect("fewer buckets than that"));
        self.total += 1;
    }

    pub(super) fn remove(&mut self, bucket: usize, member: usize) {
        self.take_away(member, &[bucket]);
    }

    /// Takes many buckets from a member.
    pub(super) fn take_away(&mut self, member: usize, buckets: &[usize]) {
        buckets.iter().for_each(|bucket| self.rows[*bucket].remove(member));
        let rows = &self.rows;
        self.held[member].retain(|bucket| rows[*bucket as usize].contains(member));
        self.total -= buckets.len() as u64;
    }

    /// Owners who live and lose their bucket, without those that it is to have no more.
    pub(super) fn moves(&self) -> u64 {
        let pairs = self.problem.buckets.iter().zip(&self.rows);
        pairs
            .map(|(demand, row)| {
                let lost = demand.owners.iter().filter(|owner| !row.contains(*owner)).count();
                lost.saturating_sub(demand.owners.len().saturating_sub(self.problem.replicas)) as u64
            })
            .sum()
    }

    /// The rows as they are, whoever owned a bucket before first.
    pub(super) fn into_answer(self) -> Answer {
        let ordered = self.problem.buckets.iter().zip(&self.rows).map(|(demand, row)| {
            let before = demand.owners.iter().filter(|owner| row.contains(*owner));
            before.chain(row.iter().filter(|owner| !demand.owners.contains(*owner))).collect()
        });
        Answer { owners: ordered.collect(), is_approximate: false }
    }
}
