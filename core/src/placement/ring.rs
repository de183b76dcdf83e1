//! The strategy `ring`: consistent hashing (D. Karger and others, "Consistent hashing and random
//! trees", STOC 1997), for caches: whoever knows the members and the rule can find a bucket's
//! owner without asking anybody.
//!
//! The points are `hashring`'s, with `xxh3_64` (seed 0): a member's point `n` is the hash of its
//! name's bytes and `n` as four bytes, little endian; a bucket's is that of its name. A bucket
//! belongs to the first point at or after its own, in a circle; its further owners are the next
//! points of other members, of other zones first. `hashring` itself has no weights, names
//! members twice among replicas, and copies the ring for each look-up of them: so the circle is
//! walked here.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use xxhash_rust::xxh3::Xxh3Builder;

use super::range::fill;
use super::{Answer, Owners, Problem, keep_irreplaceable};

/// Points of a member for each unit of its weight. With so many the largest share of equal
/// members is about a fifth above the mean.
pub const POINTS_PER_WEIGHT: u32 = 128;
/// Most points of a member: greater weights than 32 count as 32.
pub const POINTS_MAX: u32 = 32 * POINTS_PER_WEIGHT;

/// What is hashed: a problem knows only numbers.
#[derive(Debug, Clone)]
pub struct Names<'a> {
    /// The members' names.
    pub members: Vec<&'a str>,
    /// The buckets' names.
    pub buckets: Vec<&'a str>,
}

/// Each bucket's owners are the next ones on the ring.
#[must_use]
pub fn solve(problem: &Problem, names: &Names<'_>) -> Answer {
    let mut used = vec![0u64; problem.members.len()];
    // Buckets that the same members may own are on the same ring.
    let mut rings: BTreeMap<&[bool], Ring> = BTreeMap::new();
    for (number, class) in problem.classes.iter().enumerate() {
        rings.entry(&class.allowed).or_insert_with(|| Ring::of(problem, number, &names.members));
    }
    let owners = problem.buckets.iter().zip(&names.buckets).map(|(bucket, name)| {
        let mut row = Owners::default();
        let ring = &rings[problem.classes[bucket.class].allowed.as_slice()];
        fill(problem, bucket, &mut row, &ring.from(name), &mut used);
        row
    });
    let mut answer = Answer { owners: owners.collect(), is_approximate: false };
    keep_irreplaceable(problem, &mut answer);
    answer
}

/// A member's point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point<'a> {
    member: usize,
    name: &'a str,
    number: u32,
}

impl Hash for Point<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.name.as_bytes());
        state.write(&self.number.to_le_bytes());
    }
}

/// A bucket's point.
struct Key<'a>(&'a str);

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}

/// The members that may have buckets of one class, in a circle.
struct Ring {
    /// The hashes of the points, and whose they are, in order.
    circle: Vec<(u64, u32)>,
}

impl Ring {
    fn of(problem: &Problem, class: usize, names: &[&str]) -> Self {
        let mut ring = HashRing::with_hasher(Xxh3Builder::new());
        let members = (0..problem.members.len()).filter(|member| problem.may_own(class, *member));
        let points = members.flat_map(|member| {
            let weight = problem.members[member].weight;
            let count = weight.saturating_mul(POINTS_PER_WEIGHT).min(POINTS_MAX);
            (0..count).map(move |number| Point { member, name: names[member], number })
        });
        ring.batch_add(points.collect());
        // All of them: it gives no more than there are.
        let order: Vec<Point<'_>> = ring.get_with_replicas(&Key(""), ring.len() + 1).unwrap_or_default();
        let placed = |point: &Point<'_>| {
            (
                Xxh3Builder::new().hash_one(point),
                u32::try_from(point.member).expect("fewer members than that"),
            )
        };
        let mut circle: Vec<(u64, u32)> = order.iter().map(placed).collect();
        // It began at a bucket's point.
        circle.sort_by_key(|(hash, _)| *hash);
        Self { circle }
    }

    /// The members from a bucket's point on, once round.
    fn from(&self, bucket: &str) -> impl Iterator<Item = usize> + Clone + '_ {
        let hash = Xxh3Builder::new().hash_one(Key(bucket));
        let at = self.circle.partition_point(|(point, _)| *point < hash);
        let around = self.circle[at..].iter().chain(&self.circle[..at]);
        around.map(|(_, member)| *member as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::count;

    const NAMES: [&str; 5] = ["w1", "w2", "w3", "w4", "w5"];

    fn placed(problem: &Problem) -> Vec<Owners> {
        let buckets: Vec<String> = (0..problem.buckets.len()).map(|bucket| bucket.to_string()).collect();
        let names = Names {
            members: NAMES[..problem.members.len()].to_vec(),
            buckets: buckets.iter().map(String::as_str).collect(),
        };
        solve(problem, &names).owners
    }

    /// The same vectors stand in `docs/routing.md` for other languages.
    #[test]
    fn buckets_find_their_members() {
        let mut problem = Problem::simple(&[1, 1, 1], 12);
        problem.replicas = 2;
        let rows: Vec<String> = placed(&problem)
            .iter()
            .map(|row| row.iter().map(|member| NAMES[member]).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(rows, VECTORS);
    }

    const VECTORS: [&str; 12] = [
        "w3 w2", "w1 w2", "w1 w3", "w2 w1", "w1 w2", "w1 w3", "w2 w3", "w3 w2", "w1 w2", "w1 w3", "w1 w3",
        "w3 w2",
    ];

    #[test]
    fn one_more_takes_only_for_itself_and_weights_count() {
        let before = placed(&Problem::simple(&[1, 1, 1, 1], 4000));
        let after = placed(&Problem::simple(&[1, 1, 1, 1, 1], 4000));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        assert!(moved.iter().all(|(_, row)| row.primary() == Some(4)));
        assert!((600..1000).contains(&moved.len()), "{}", moved.len());
        let counts = count(&placed(&Problem::simple(&[1, 3], 4000)), 2);
        assert!((2700..3300).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn replicas_are_distinct_and_of_other_zones() {
        let mut problem = Problem::simple(&[1, 1, 1], 500);
        problem.replicas = 2;
        problem.members[2].zone = 1;
        for row in placed(&problem) {
            assert!(row.len() == 2 && row.contains(2), "{row:?}");
        }
    }
}
