//! Which member should own which bucket: plain problem in, plain answer out.
//!
//! A [`Problem`] and its [`Answer`] know only numbers; [`crate::assign`]
//! translates names. [`solve`] has no memory and no chance in it: the same
//! problem always has the same answer, and an answer that is posed again as the
//! problem changes nothing. [`check`](check::check) verifies an answer without
//! the code that made it.

mod balanced;
pub mod check;

pub use balanced::solve;

/// Buckets and the members that may own them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Each member's share of the work; 0 for one that is to be emptied.
    pub weights: Vec<u32>,
    /// Each bucket's owner now, as an index into `weights`.
    pub owners: Vec<Option<usize>>,
}

/// Who should own each bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Each bucket's owner, as an index into the problem's weights. `None` only
    /// if no member has a weight and the bucket has no owner now.
    pub owners: Vec<Option<usize>>,
}

impl Problem {
    /// Buckets that each member owns now.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        count(&self.owners, self.weights.len())
    }

    /// The sum of all weights.
    #[must_use]
    pub fn weight_total(&self) -> u64 {
        self.weights.iter().map(|w| u64::from(*w)).sum()
    }
}

/// How many buckets each of `members` owners has.
#[must_use]
pub fn count(owners: &[Option<usize>], members: usize) -> Vec<u64> {
    let mut counts = vec![0; members];
    for owner in owners.iter().flatten() {
        counts[*owner] += 1;
    }
    counts
}
