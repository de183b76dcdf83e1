//! A pool's spec: what kind of work it is and how it is to be shared.

use serde::{Deserialize, Serialize};

/// Most buckets a hashed pool can have.
pub const BUCKETS_MAX: u32 = 100_000;
/// Buckets of a hashed pool, unless its spec says otherwise.
pub const BUCKETS_DEFAULT: u32 = 1024;
/// Planned moves at once, unless the spec says otherwise. A bucket that waits
/// for its turn is still owned; the bound keeps a plan small and a mistake slow.
pub const MAX_MOVING_DEFAULT: u32 = 256;
/// Most planned moves at once: the plan must fit one node.
pub const MAX_MOVING_MAX: u32 = 4096;

/// What a pool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Spec {
    /// Where its buckets come from.
    #[serde(flatten)]
    pub kind: Kind,
    /// How the buckets are shared among the members.
    #[serde(default)]
    pub strategy: Strategy,
    /// How a bucket passes from one living member to another.
    #[serde(default)]
    pub handoff: Handoff,
    /// Most planned moves under way at once.
    #[serde(default = "max_moving")]
    pub max_moving: u32,
    /// The pool is being taken apart: its members let go of everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
}

/// Where a pool's buckets come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// Keys are hashed to a fixed number of buckets.
    Hashed {
        /// How many; fixed for the pool's life.
        #[serde(default = "buckets")]
        buckets: u32,
    },
    /// One bucket for each item.
    Named,
}

/// How buckets are shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// By weight, to within one bucket, with the fewest moves.
    #[default]
    Balanced,
}

/// How a bucket passes from one living member to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Handoff {
    /// The old owner stops before the new one starts.
    #[default]
    Exclusive,
}

/// Why a spec, or a change of one, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// None, or too many.
    #[error("buckets is {0}: it must be from 1 to {BUCKETS_MAX}")]
    Buckets(u32),
    /// None, or too many.
    #[error("max_moving is {0}: it must be from 1 to {MAX_MOVING_MAX}")]
    MaxMoving(u32),
    /// Keys would land in other buckets.
    #[error("a pool's buckets are fixed for its life: make a new pool and move the keys to it")]
    BucketsFixed,
    /// Hashed cannot become named or the other way round.
    #[error("a pool's kind is fixed for its life: make a new pool")]
    KindFixed,
}

fn buckets() -> u32 {
    BUCKETS_DEFAULT
}

fn max_moving() -> u32 {
    MAX_MOVING_DEFAULT
}

impl Spec {
    /// A pool of that kind, all else as by default.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            strategy: Strategy::Balanced,
            handoff: Handoff::Exclusive,
            max_moving: MAX_MOVING_DEFAULT,
            deleting: false,
        }
    }

    /// Checks the spec's bounds.
    ///
    /// # Errors
    /// [`SpecError`] names the first bound that is broken.
    pub fn check(&self) -> Result<(), SpecError> {
        match self.kind {
            Kind::Hashed { buckets } if buckets == 0 || buckets > BUCKETS_MAX => {
                return Err(SpecError::Buckets(buckets));
            }
            _ => {}
        }
        if self.max_moving == 0 || self.max_moving > MAX_MOVING_MAX {
            return Err(SpecError::MaxMoving(self.max_moving));
        }
        Ok(())
    }

    /// Checks that a living pool with this spec may get the spec `next`.
    ///
    /// # Errors
    /// When `next` is out of bounds, or changes what is fixed for a pool's life.
    pub fn check_change(&self, next: &Spec) -> Result<(), SpecError> {
        next.check()?;
        match (&self.kind, &next.kind) {
            (Kind::Hashed { buckets: a }, Kind::Hashed { buckets: b }) if a != b => {
                Err(SpecError::BucketsFixed)
            }
            (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => Err(SpecError::KindFixed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_and_defaults() {
        let spec: Spec = serde_json::from_str(r#"{"kind":"hashed"}"#).unwrap();
        assert_eq!(spec, Spec::new(Kind::Hashed { buckets: 1024 }));
        let spec: Spec = serde_json::from_str(r#"{"kind":"named","max_moving":3}"#).unwrap();
        assert_eq!(spec.max_moving, 3);
        assert!(serde_json::from_str::<Spec>(r#"{"kind":"odd"}"#).is_err());
    }

    #[test]
    fn what_is_fixed_stays() {
        let hashed = |buckets| Spec::new(Kind::Hashed { buckets });
        assert_eq!(hashed(0).check(), Err(SpecError::Buckets(0)));
        assert_eq!(hashed(8).check_change(&hashed(9)), Err(SpecError::BucketsFixed));
        assert_eq!(hashed(8).check_change(&Spec::new(Kind::Named)), Err(SpecError::KindFixed));
        let paced = Spec { max_moving: 1, ..hashed(8) };
        assert_eq!(hashed(8).check_change(&paced), Ok(()));
    }
}
