//! The owners of one bucket, in order.

use std::fmt;

/// Most owners that a bucket can have.
pub const REPLICAS_MAX: usize = 7;

/// Members in order, each at most once, by index; the first is the primary. At most
/// [`REPLICAS_MAX`]; it lies flat, so that a hundred thousand rows are one allocation.
#[derive(Clone, Copy, Default)]
pub struct Owners {
    len: u8,
    at: [u32; REPLICAS_MAX],
}

impl Owners {
    /// All of them.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        &self.at[..usize::from(self.len)]
    }

    /// All of them, as indexes.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.as_slice().iter().map(|member| *member as usize)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether nobody owns the bucket.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first.
    #[must_use]
    pub fn primary(&self) -> Option<usize> {
        self.iter().next()
    }

    /// Whether `member` is one of them.
    #[must_use]
    pub fn contains(&self, member: usize) -> bool {
        self.iter().any(|owner| owner == member)
    }

    /// Adds a member after the others.
    ///
    /// # Panics
    /// When there are [`REPLICAS_MAX`] already.
    pub fn push(&mut self, member: usize) {
        self.at[self.len()] = u32::try_from(member).expect("fewer members than that");
        self.len += 1;
    }

    /// Takes a member out; the others keep their order.
    pub fn remove(&mut self, member: usize) {
        let kept: Self = self.iter().filter(|owner| *owner != member).collect();
        *self = kept;
    }

    /// Makes a member the first; the others keep their order.
    pub fn promote(&mut self, member: usize) {
        let rest = self.iter().filter(|owner| *owner != member);
        *self = std::iter::once(member).chain(rest).collect();
    }
}

impl FromIterator<usize> for Owners {
    fn from_iter<I: IntoIterator<Item = usize>>(members: I) -> Self {
        let mut owners = Self::default();
        members.into_iter().for_each(|member| owners.push(member));
        owners
    }
}

impl PartialEq for Owners {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Owners {}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
