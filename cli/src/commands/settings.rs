//! What a pool can be told, for `rota pool create` and `rota pool change`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use rota_core::pool::{Balance, Handoff, Labels, OnLeaseExpiry, Spread, Strategy, WhenStuck};
use rota_protocol::http::PoolChange;

use super::change::{Limit, number_or_none};
use super::worker::label;
use crate::args::duration;

/// The names of all settings: a change needs one of them.
pub(crate) const ALL: [&str; 19] = [
    "buckets",
    "strategy",
    "handoff",
    "replicas",
    "spread",
    "max_concurrent_moves",
    "max_concurrent_moves_per_member",
    "max_concurrent_moves_per_zone",
    "max_unavailable",
    "rejoin_grace",
    "on_lease_expiry",
    "balance",
    "imbalance_threshold",
    "max_rebalances_per_minute",
    "stuck_after",
    "when_stuck",
    "require",
    "prefer",
    "spec_version",
];

/// A pool's settings. What is left out stays as it is, or is as by default.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Buckets of a hashed pool, at most 100,000; fixed for its life. Default: 1024.
    #[arg(long, allow_negative_numbers = true)]
    buckets: Option<u32>,
    /// How the buckets are shared.
    #[arg(long, value_enum)]
    strategy: Option<StrategyArg>,
    /// How a bucket passes from one living member to another.
    #[arg(long, value_enum)]
    handoff: Option<HandoffArg>,
    /// Owners of each bucket, from 1 to 7; the first is the primary. Default: 1.
    #[arg(long, allow_negative_numbers = true)]
    replicas: Option<u32>,
    /// How the owners of one bucket lie to each other.
    #[arg(long, value_enum)]
    spread: Option<SpreadArg>,
    /// Most planned moves under way at once. Default: 256.
    #[arg(long)]
    max_concurrent_moves: Option<u32>,
    /// Of those, most from or to one member; "none" for no bound.
    #[arg(long, value_parser = number_or_none, value_name = "N")]
    max_concurrent_moves_per_member: Option<Limit>,
    /// Of those, most from or to one zone; "none" for no bound.
    #[arg(long, value_parser = number_or_none, value_name = "N")]
    max_concurrent_moves_per_zone: Option<Limit>,
    /// Most members that are being emptied or are away at once; "none" for no bound.
    #[arg(long, value_parser = number_or_none, value_name = "N")]
    max_unavailable: Option<Limit>,
    /// How long the rows of a member that has gone wait for one of the same name, e.g. 30s, for
    /// rolling restarts; 0s for not at all.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    rejoin_grace: Option<Duration>,
    /// What members do when their lease ends and no coordinator is heard.
    #[arg(long, value_enum)]
    on_lease_expiry: Option<OnLeaseExpiryArg>,
    /// What counts when buckets are shared in balance.
    #[arg(long, value_enum)]
    balance: Option<BalanceArg>,
    /// Where buckets have weights or loads: nothing is moved to even out as long as the busiest
    /// member is less above what is possible, in percent. Default: 10.
    #[arg(long, value_name = "PERCENT")]
    imbalance_threshold: Option<u32>,
    /// Most buckets that are moved in a minute to even out loads or weights, or away from stuck
    /// owners; "none" for 10 of those that follow from loads and stuck owners, and no bound for
    /// those that follow from weights.
    #[arg(long, value_parser = number_or_none, value_name = "N")]
    max_rebalances_per_minute: Option<Limit>,
    /// An owner that says nothing new of its work for so long counts as stuck, e.g. 60s; "none"
    /// for never.
    #[arg(long, value_parser = time_or_none, value_name = "TIME")]
    stuck_after: Option<TimeLimit>,
    /// What becomes of its bucket.
    #[arg(long, value_enum)]
    when_stuck: Option<WhenStuckArg>,
    /// Only members with this label: KEY=VALUE, more than once. The zone counts as a label
    /// "zone". In a change they take the place of those before; "none" for none.
    #[arg(long, value_name = "KEY=VALUE")]
    require: Vec<String>,
    /// Of those, only members with this label too, as long as they can take all: KEY=VALUE,
    /// more than once. In a change they take the place of those before; "none" for none.
    #[arg(long, value_name = "KEY=VALUE")]
    prefer: Vec<String>,
    /// The version that the spec must have: refused if somebody has changed it.
    #[arg(long, value_name = "N")]
    spec_version: Option<i32>,
}

/// How buckets are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StrategyArg {
    /// By weight, to within one bucket, with the fewest moves.
    Balanced,
    /// Sorted buckets to sorted members, in runs, as MetaQ's consumers do.
    Range,
    /// By consistent hashing.
    Ring,
}

/// How a bucket passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HandoffArg {
    /// The old owner stops before the new one starts.
    Exclusive,
    /// The new owner copies first; then it leads, and the old one is let go.
    Warm,
}

/// How owners lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SpreadArg {
    /// In as many zones as can be.
    Zone,
    /// Anywhere.
    None,
}

/// What counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BalanceArg {
    /// How many buckets a member has; where items have weights, what they weigh.
    Weight,
    /// How busy they keep it, as its members say.
    Load,
}

/// What becomes of a stuck owner's bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhenStuckArg {
    /// It is shown.
    Show,
    /// It is shown, and moved to another member.
    Move,
}

/// A time, or no limit.
#[derive(Debug, Clone, Copy)]
struct TimeLimit(Option<u64>);

fn time_or_none(text: &str) -> Result<TimeLimit, String> {
    match text {
        "none" => Ok(TimeLimit(None)),
        text => Ok(TimeLimit(Some(u64::try_from(duration(text)?.as_millis()).unwrap_or(u64::MAX)))),
    }
}

/// What members do when nobody is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnLeaseExpiryArg {
    /// They stop: no two ever work on one bucket at one time.
    Stop,
    /// They go on; what they write must be guarded by fences.
    KeepRunning,
}

impl Settings {
    /// Those that are given, as a change.
    pub(crate) fn into_change(self) -> anyhow::Result<PoolChange> {
        let limit = |limit: Option<Limit>| limit.map(|limit| limit.0);
        Ok(PoolChange {
            buckets: self.buckets,
            strategy: self.strategy.map(|strategy| match strategy {
                StrategyArg::Balanced => Strategy::Balanced,
                StrategyArg::Range => Strategy::Range,
                StrategyArg::Ring => Strategy::Ring,
            }),
            handoff: self.handoff.map(|handoff| match handoff {
                HandoffArg::Exclusive => Handoff::Exclusive,
                HandoffArg::Warm => Handoff::Warm,
            }),
            replicas: self.replicas,
            spread: self.spread.map(|spread| match spread {
                SpreadArg::Zone => Spread::Zone,
                SpreadArg::None => Spread::None,
            }),
            max_concurrent_moves: self.max_concurrent_moves,
            max_concurrent_moves_per_member: limit(self.max_concurrent_moves_per_member),
            max_concurrent_moves_per_zone: limit(self.max_concurrent_moves_per_zone),
            max_unavailable: limit(self.max_unavailable),
            rejoin_grace_ms: self
                .rejoin_grace
                .map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
            on_lease_expiry: self.on_lease_expiry.map(|end| match end {
                OnLeaseExpiryArg::Stop => OnLeaseExpiry::Stop,
                OnLeaseExpiryArg::KeepRunning => OnLeaseExpiry::KeepRunning,
            }),
            balance: self.balance.map(|balance| match balance {
                BalanceArg::Weight => Balance::Weight,
                BalanceArg::Load => Balance::Load,
            }),
            imbalance_threshold_percent: self.imbalance_threshold,
            max_rebalances_per_minute: limit(self.max_rebalances_per_minute),
            stuck_ms: self.stuck_after.map(|limit| limit.0),
            when_stuck: self.when_stuck.map(|when| match when {
                WhenStuckArg::Show => WhenStuck::Show,
                WhenStuckArg::Move => WhenStuck::Move,
            }),
            paused: None,
            require: labels(&self.require)?,
            prefer: labels(&self.prefer)?,
            version: self.spec_version,
        })
    }
}

/// Labels to change to; `None` if none are named.
fn labels(texts: &[String]) -> anyhow::Result<Option<Labels>> {
    match texts {
        [] => Ok(None),
        [none] if none == "none" => Ok(Some(Labels::new())),
        texts => {
            let labels = texts.iter().map(|text| label(text).map_err(anyhow::Error::msg));
            labels.collect::<anyhow::Result<Labels>>().map(Some)
        }
    }
}
