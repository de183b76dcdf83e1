//! Which of a bucket's owners is the primary: as even as the rows allow, and whoever is
//! it now stays it where that makes no difference.

use std::collections::VecDeque;

use super::{Answer, Candidate, Demand, LabelGroup, Problem, Quotas};

/// Puts every bucket's primary first. The others keep their order.
pub(super) fn choose(problem: &Problem, answer: &mut Answer) {
    if problem.replicas == 1 {
        return;
    }
    let quotas = quotas(problem, answer);
    let mut roles = Roles { rows: answer, led: vec![Vec::new(); problem.members.len()] };
    let mut leaderless = Vec::new();
    for (bucket, demand) in problem.buckets.iter().enumerate() {
        match demand.owners.primary().filter(|primary| roles.rows.owners[bucket].contains(*primary)) {
            Some(primary) => roles.lead(bucket, primary),
            None => leaderless.push(bucket),
        }
    }
    for bucket in leaderless {
        // Those who own it already come first: they have what it takes. Then whoever is
        // the farthest from its share.
        let owned = |owner: usize| problem.buckets[bucket].owners.contains(owner);
        let wants = |owner: usize| quotas.shares[owner] - roles.led[owner].len() as f64;
        let better = |a: &usize, b: &usize| {
            owned(*a).cmp(&owned(*b)).then(wants(*a).total_cmp(&wants(*b))).then(b.cmp(a))
        };
        if let Some(primary) = roles.rows.owners[bucket].iter().max_by(better) {
            roles.lead(bucket, primary);
        }
    }
    let (least, most) = (&quotas.least, &quotas.most);
    let gives: [&dyn Fn(usize, u64) -> bool; 3] =
        [&|m, led| led > most[m], &|m, led| led > most[m], &|m, led| led > least[m]];
    let takes: [&dyn Fn(usize, u64) -> bool; 3] =
        [&|m, led| led < least[m], &|m, led| led < most[m], &|m, led| led < least[m]];
    for (gives, takes) in gives.into_iter().zip(takes) {
        while roles.pass_on(gives, takes) {}
    }
}

/// How many buckets each member is to lead: its share by weight, as far as it has buckets.
fn quotas(problem: &Problem, answer: &Answer) -> Quotas {
    let counts = super::count(&answer.owners, problem.members.len());
    let led = answer.owners.iter().filter(|row| !row.is_empty()).count();
    let members = problem.members.iter().zip(counts);
    let limited = |(member, count): (&Candidate, u64)| Candidate {
        capacity: Some(u32::try_from(count).unwrap_or(u32::MAX)),
        zone: 0,
        ..*member
    };
    Quotas::of(&Problem {
        members: members.map(limited).collect(),
        replicas: 1,
        classes: vec![LabelGroup { allowed: vec![true; problem.members.len()] }],
        buckets: vec![Demand::default(); led],
        ..Problem::default()
    })
}

struct Roles<'a> {
    rows: &'a mut Answer,
    /// The buckets that each member leads.
    led: Vec<Vec<usize>>,
}

impl Roles<'_> {
    fn lead(&mut self, bucket: usize, member: usize) {
        self.rows.owners[bucket].promote(member);
        self.led[member].push(bucket);
    }

    /// Passes one role on, from a member that gives one to one that takes one, along the
    /// shortest row of members who each lead a bucket that the next owns. False if there
    /// is none.
    fn pass_on(&mut self, gives: &dyn Fn(usize, u64) -> bool, takes: &dyn Fn(usize, u64) -> bool) -> bool {
        let members = self.led.len();
        let load = |member: usize| self.led[member].len() as u64;
        let mut queue: VecDeque<usize> = (0..members).filter(|m| gives(*m, load(*m))).collect();
        let mut by: Vec<Option<(usize, usize)>> = vec![None; members];
        let mut is_reached = vec![false; members];
        queue.iter().for_each(|member| is_reached[*member] = true);
        let mut taker = None;
        while let Some(from) = queue.pop_front()
            && taker.is_none()
        {
            for (bucket, to) in
                self.led[from].iter().flat_map(|b| self.rows.owners[*b].iter().map(|to| (*b, to)))
            {
                if !std::mem::replace(&mut is_reached[to], true) {
                    by[to] = Some((from, bucket));
                    queue.push_back(to);
                    taker = taker.or(takes(to, load(to)).then_some(to));
                }
            }
        }
        if let Some(to) = taker {
            self.follow(&by, to);
        }
        taker.is_some()
    }

    fn follow(&mut self, by: &[Option<(usize, usize)>], mut to: usize) {
        while let Some((from, bucket)) = by[to] {
            self.led[from].retain(|led| *led != bucket);
            self.lead(bucket, to);
            to = from;
        }
    }
}
