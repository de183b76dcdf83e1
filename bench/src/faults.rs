//! What clients notice when something befalls a server: the longest time without an
//! acknowledged write, and how far the throughput falls.

use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::load::{Operation, Report};
use crate::loaded::{Loaded, Plan};
use crate::systems::{Blow, Kind, System};

/// How long all is well before.
const BEFORE: Duration = Duration::from_secs(2);
/// How long it is watched, with the time before.
const TIME: Duration = Duration::from_secs(6);
/// Observation time when the leader is paused: ZooKeeper takes longer to detect it.
const LEADER_PAUSED_TIME: Duration = Duration::from_secs(30);
/// How long a server is away that comes back.
const AWAY: Duration = Duration::from_secs(2);
/// What is written while one is away that comes back far behind, in bytes; how large the
/// values are, in what time so much must be written, and how long it is watched then.
const FAR_BYTES: u64 = 80_000_000;
const LARGE_BYTES: usize = 2048;
const LONG_TIME: Duration = Duration::from_secs(60);
const AFTER: Duration = Duration::from_secs(5);
/// Tenths of a second in the shortest time whose throughput is looked at.
const WINDOW: usize = 5;

/// Something that befalls a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    LeaderKilled,
    LeaderStopped,
    LeaderPaused,
    FollowerPaused,
    FollowerKilledAndBack,
    FollowerFarBehind,
}

impl Fault {
    pub const ALL: [Self; 6] = [
        Self::LeaderKilled,
        Self::LeaderStopped,
        Self::LeaderPaused,
        Self::FollowerPaused,
        Self::FollowerKilledAndBack,
        Self::FollowerFarBehind,
    ];

    /// On a command line.
    pub fn flag(self) -> &'static str {
        match self {
            Self::LeaderKilled => "leader-killed",
            Self::LeaderStopped => "leader-stopped",
            Self::LeaderPaused => "leader-paused",
            Self::FollowerPaused => "follower-paused",
            Self::FollowerKilledAndBack => "follower-killed",
            Self::FollowerFarBehind => "follower-behind",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::LeaderKilled => "leader killed",
            Self::LeaderStopped => "leader stopped in order",
            Self::LeaderPaused => "leader paused for good",
            Self::FollowerPaused => "follower paused for 2 s",
            Self::FollowerKilledAndBack => "follower killed, back after 2 s",
            Self::FollowerFarBehind => "follower killed, back 80 MB later",
        }
    }

    fn is_the_leaders(self) -> bool {
        matches!(self, Self::LeaderKilled | Self::LeaderStopped | Self::LeaderPaused)
    }
}

/// What clients noticed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noticed {
    pub system: Kind,
    pub fault: Fault,
    pub round: u32,
    /// The longest time without an acknowledged write, in milliseconds.
    pub silence_ms: f64,
    /// The least throughput in half a second, as a share of what it was before.
    pub least_share: f64,
    pub report: Report,
}

/// Lets it befall a server of a system that has just started.
pub async fn notice(kind: Kind, fault: Fault, round: u32) -> anyhow::Result<Noticed> {
    let mut system = System::start(kind).await?;
    let leader = system.leader().await;
    let victim = if fault.is_the_leaders() { leader } else { (leader + 1) % 3 };
    let plan = Plan {
        protocol: kind.protocol(),
        servers: system.addresses(),
        operation: Operation::Set,
        connections: 20,
        outstanding: 16,
        value_bytes: if fault == Fault::FollowerFarBehind { LARGE_BYTES } else { 256 },
        keys: 10_000,
        filled: false,
        warm_up: Duration::from_secs(1),
        time: match fault {
            Fault::FollowerFarBehind => LONG_TIME,
            Fault::LeaderPaused => LEADER_PAUSED_TIME,
            _ => TIME,
        },
        run: round,
    };
    let mut loaded = Loaded::begin(&plan).await?;
    sleep(BEFORE).await;
    match fault {
        Fault::LeaderKilled => system.hit(victim, Blow::Kill).await,
        Fault::LeaderStopped => system.hit(victim, Blow::Stop).await,
        Fault::LeaderPaused => system.hit(victim, Blow::Pause).await,
        Fault::FollowerPaused => {
            system.hit(victim, Blow::Pause).await;
            sleep(AWAY).await;
            system.hit(victim, Blow::Resume).await;
        }
        Fault::FollowerKilledAndBack => {
            system.hit(victim, Blow::Kill).await;
            sleep(AWAY).await;
            system.hit(victim, Blow::Restart).await;
        }
        Fault::FollowerFarBehind => {
            system.hit(victim, Blow::Kill).await;
            loaded.goes_on_by(FAR_BYTES / LARGE_BYTES as u64).await?;
            system.hit(victim, Blow::Restart).await;
            sleep(AFTER).await;
        }
    }
    let report = match fault {
        Fault::FollowerFarBehind => loaded.report_now().await,
        _ => loaded.report().await,
    };
    let report = report.with_context(|| format!("{}, {}", kind.name(), fault.name()))?;
    let (silence_ms, least_share) = (report.longest_silence_ms, least_share(&report.tenths));
    Ok(Noticed { system: kind, fault, round, silence_ms, least_share, report })
}

/// The least of what was done within a window, as a share of the mean before the fault.
fn least_share(tenths: &[u64]) -> f64 {
    let before = usize::try_from(BEFORE.as_millis() / 100).unwrap_or(0).min(tenths.len());
    let usual: u64 = tenths[..before].iter().sum();
    let usual = usual as f64 / before.max(1) as f64 * WINDOW as f64;
    // The last tenth is not whole.
    let rest = &tenths[before..tenths.len().saturating_sub(1).max(before)];
    let least = rest.windows(WINDOW).map(|window| window.iter().sum::<u64>()).min().unwrap_or(0);
    least as f64 / usual
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_half_second_counts() {
        let mut tenths = vec![100; 60];
        tenths[30..33].fill(0);
        assert!((least_share(&tenths) - 0.4).abs() < 1e-9);
        tenths.truncate(60);
        tenths[5..10].fill(0);
        // What is before makes less of the usual, not of the worst.
        assert!(least_share(&tenths) > 0.4);
    }
}
