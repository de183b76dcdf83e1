//! A pool's spec: what kind of work it is and how it is to be shared.

use serde::{Deserialize, Serialize};

use super::{Affinity, MemberError};
use crate::placement::REPLICAS_MAX;

/// Most buckets a hashed pool can have.
pub const BUCKETS_MAX: u32 = 100_000;
/// Buckets of a hashed pool, unless its spec says otherwise.
pub const BUCKETS_DEFAULT: u32 = 1024;
/// Planned moves at once, unless the spec says otherwise. A bucket that waits
/// for its turn is still owned; the bound keeps a plan small and a mistake slow.
pub const MAX_CONCURRENT_MOVES_DEFAULT: u32 = 256;
/// Most planned moves at once: the plan must fit one node.
pub const MAX_CONCURRENT_MOVES_MAX: u32 = 4096;
/// Buckets that are moved in a minute for loads and stuck owners, unless the spec says otherwise.
pub const MAX_REBALANCES_DEFAULT: u32 = 10;
/// Longest time for which the rows of a member that has gone wait for it, in milliseconds: a
/// day.
pub const REJOIN_GRACE_MS_MAX: u64 = 24 * 3600 * 1000;

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
    /// Owners of each bucket, from 1 to 7.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
    /// How the owners of one bucket lie to each other.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spread: Spread,
    /// Which members may have its buckets.
    #[serde(flatten)]
    pub affinity: Affinity,
    /// Most planned moves under way at once.
    #[serde(default = "max_concurrent_moves")]
    pub max_concurrent_moves: u32,
    /// Of those, most from or to one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_moves_per_member: Option<u32>,
    /// Of those, most from or to one zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_moves_per_zone: Option<u32>,
    /// Most members that are being emptied or are away at once: the buckets of others that are to
    /// be emptied wait. One that is empty does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// How long the rows of a member that has gone wait for one of the same name, in
    /// milliseconds; 0 for not at all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rejoin_grace_ms: u64,
    /// What members do when their lease ends and no coordinator is heard.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_lease_expiry: OnLeaseExpiry,
    /// What counts when buckets are shared in balance.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// Where buckets have weights or loads: nothing is moved to even out unless the busiest
    /// member is so much above what is possible, in percent.
    #[serde(default = "imbalance_threshold", skip_serializing_if = "is_imbalance_threshold")]
    pub imbalance_threshold_percent: u32,
    /// Most buckets that are moved in a minute to even out loads or weights, or away from stuck
    /// owners. If absent, [`MAX_REBALANCES_DEFAULT`] for loads and stuck owners; what follows from
    /// weights has no bound then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rebalances_per_minute: Option<u32>,
    /// An owner that says nothing new of its work for so long counts as stuck, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_ms: Option<u64>,
    /// What becomes of its bucket.
    #[serde(default, skip_serializing_if = "is_default")]
    pub when_stuck: WhenStuck,
    /// Living members keep what they have: no planned move begins. What nobody has is
    /// granted all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
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
    /// Sorted buckets to sorted members, in runs, as MetaQ's consumers do.
    Range,
    /// By consistent hashing: who knows the members can find an owner without asking.
    Ring,
}

/// What counts when buckets are shared in balance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// How many buckets a member has; where items have weights, what they weigh.
    #[default]
    Weight,
    /// How busy they keep it, as its members say.
    Load,
}

/// What becomes of the bucket of an owner that is stuck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhenStuck {
    /// It is shown.
    #[default]
    Show,
    /// It is shown, and moved to another member.
    Move,
}

/// How the owners of one bucket lie to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// In as many zones as can be.
    #[default]
    Zone,
    /// Anywhere.
    None,
}

/// What members do when their lease ends and no coordinator is heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnLeaseExpiry {
    /// They stop: no two members ever work on one bucket at one time.
    #[default]
    Stop,
    /// They go on. Another may have been granted the bucket meanwhile: what they write must be
    /// guarded by its fence.
    KeepRunning,
}

/// How a bucket passes from one living member to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Handoff {
    /// The old owner stops before the new one starts.
    #[default]
    Exclusive,
    /// The new owner copies what it takes first, and says when it is ready. Then it leads,
    /// and only then the old one is let go.
    Warm,
}

/// Why a spec, or a change of one, is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// None, or too many.
    #[error("buckets is {0}: it must be from 1 to {BUCKETS_MAX}")]
    Buckets(u32),
    /// None, or too many.
    #[error("max_concurrent_moves is {0}: it must be from 1 to {MAX_CONCURRENT_MOVES_MAX}")]
    MaxMoving(u32),
    /// None, or too many.
    #[error("replicas is {0}: it must be from 1 to {REPLICAS_MAX}")]
    Replicas(u32),
    /// A bound that lets nothing happen.
    #[error("{0} is 0: it must be at least 1; leave it out for no bound")]
    Zero(&'static str),
    /// Too small or too large.
    #[error("{0} is {1}: it must be from {2} to {3}")]
    Range(&'static str, u64, u64, u64),
    /// Too long.
    #[error("rejoin_grace_ms is {0}: it must be at most {REJOIN_GRACE_MS_MAX}, a day")]
    RejoinGrace(u64),
    /// One setting without another.
    #[error("{0}")]
    Senseless(&'static str),
    /// Too many labels, or too long ones.
    #[error("{0}")]
    Labels(MemberError),
    /// A named pool has one bucket for each item.
    #[error("a named pool has one bucket for each item: leave out buckets")]
    NamedBuckets,
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

fn max_concurrent_moves() -> u32 {
    MAX_CONCURRENT_MOVES_DEFAULT
}

/// Bounds of `stuck_ms`: a keep-alive may come a second late, and after a day somebody has looked.
const STUCK_MS: (u64, u64) = (1000, 24 * 3600 * 1000);
const IMBALANCE_THRESHOLD_PERCENT: (u32, u32) = (3, 1000);
const MAX_REBALANCES: (u32, u32) = (1, 100_000);

fn imbalance_threshold() -> u32 {
    10
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_imbalance_threshold(percent: &u32) -> bool {
    *percent == imbalance_threshold()
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

fn widened((least, most): (u32, u32)) -> (u64, u64) {
    (u64::from(least), u64::from(most))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Spec {
    /// A pool of that kind, all else as by default.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            strategy: Strategy::Balanced,
            handoff: Handoff::Exclusive,
            replicas: 1,
            spread: Spread::Zone,
            affinity: Affinity::default(),
            max_concurrent_moves: MAX_CONCURRENT_MOVES_DEFAULT,
            max_concurrent_moves_per_member: None,
            max_concurrent_moves_per_zone: None,
            max_unavailable: None,
            rejoin_grace_ms: 0,
            on_lease_expiry: OnLeaseExpiry::Stop,
            balance: Balance::Weight,
            imbalance_threshold_percent: imbalance_threshold(),
            max_rebalances_per_minute: None,
            stuck_ms: None,
            when_stuck: WhenStuck::Show,
            paused: false,
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
        if self.max_concurrent_moves == 0 || self.max_concurrent_moves > MAX_CONCURRENT_MOVES_MAX {
            return Err(SpecError::MaxMoving(self.max_concurrent_moves));
        }
        if self.replicas == 0 || self.replicas as usize > REPLICAS_MAX {
            return Err(SpecError::Replicas(self.replicas));
        }
        if self.rejoin_grace_ms > REJOIN_GRACE_MS_MAX {
            return Err(SpecError::RejoinGrace(self.rejoin_grace_ms));
        }
        let bounds = [
            ("max_concurrent_moves_per_member", self.max_concurrent_moves_per_member),
            ("max_concurrent_moves_per_zone", self.max_concurrent_moves_per_zone),
            ("max_unavailable", self.max_unavailable),
        ];
        let (gain, churn) = (self.imbalance_threshold_percent, self.churn_per_minute());
        let ranges = [
            ("imbalance_threshold_percent", u64::from(gain), widened(IMBALANCE_THRESHOLD_PERCENT)),
            ("max_rebalances_per_minute", u64::from(churn), widened(MAX_REBALANCES)),
            ("stuck_ms", self.stuck_ms.unwrap_or(STUCK_MS.0), STUCK_MS),
        ];
        if let Some((name, value, (least, most))) =
            ranges.into_iter().find(|(_, value, (least, most))| !(*least..=*most).contains(value))
        {
            return Err(SpecError::Range(name, value, least, most));
        }
        if let Some((name, _)) = bounds.iter().find(|(_, bound)| *bound == Some(0)) {
            return Err(SpecError::Zero(name));
        }
        if self.when_stuck == WhenStuck::Move && self.stuck_ms.is_none() {
            let fault = "when_stuck is move, but nobody counts as stuck: set stuck_ms (--stuck-after) too";
            return Err(SpecError::Senseless(fault));
        }
        if self.balance == Balance::Load && self.strategy != Strategy::Balanced {
            let fault = "balance is load, but range and ring do not look at loads: use the strategy balanced";
            return Err(SpecError::Senseless(fault));
        }
        self.affinity.check().map_err(SpecError::Labels)
    }

    /// Most buckets that are moved in a minute for what changes by itself.
    #[must_use]
    pub fn churn_per_minute(&self) -> u32 {
        self.max_rebalances_per_minute.unwrap_or(MAX_REBALANCES_DEFAULT)
    }

    /// Whether that bounds what evens out the members.
    #[must_use]
    pub fn is_evened_out_slowly(&self) -> bool {
        self.balance == Balance::Load || self.max_rebalances_per_minute.is_some()
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
        let spec: Spec = serde_json::from_str(r#"{"kind":"named","max_concurrent_moves":3}"#).unwrap();
        assert_eq!(spec.max_concurrent_moves, 3);
        assert!(serde_json::from_str::<Spec>(r#"{"kind":"odd"}"#).is_err());
    }

    #[test]
    fn what_is_fixed_stays() {
        let hashed = |buckets| Spec::new(Kind::Hashed { buckets });
        assert_eq!(hashed(0).check(), Err(SpecError::Buckets(0)));
        assert_eq!(hashed(8).check_change(&hashed(9)), Err(SpecError::BucketsFixed));
        assert_eq!(hashed(8).check_change(&Spec::new(Kind::Named)), Err(SpecError::KindFixed));
        let paced = Spec { max_concurrent_moves: 1, ..hashed(8) };
        assert_eq!(hashed(8).check_change(&paced), Ok(()));
        let replicas = |replicas| Spec { replicas, ..hashed(8) }.check();
        assert_eq!((replicas(0), replicas(8)), (Err(SpecError::Replicas(0)), Err(SpecError::Replicas(8))));
        assert_eq!(
            Spec { max_unavailable: Some(0), ..hashed(8) }.check(),
            Err(SpecError::Zero("max_unavailable"))
        );
        assert_eq!(
            Spec { rejoin_grace_ms: u64::MAX, ..hashed(8) }.check(),
            Err(SpecError::RejoinGrace(u64::MAX))
        );
    }
}
