//! Removes containers that have lost their last child and nodes whose time to live
//! is over. Source: ZooKeeper's `ContainerManager.java`.

use std::time::Duration;

use rota_core::state::{Actor, Command, Op};

use super::LeaderTerm;

/// Removed by one entry.
const REAPED_MAX: usize = 256;

pub(super) async fn run(term: LeaderTerm) {
    let settings = term.control.reaping;
    let mut period = tokio::time::interval(settings.period);
    loop {
        period.tick().await;
        // A view, so that nobody waits while all of them are looked at.
        let (state, _) = term.control.replica.view();
        let now_ms = term.control.replica.cluster_clock().now_ms();
        let due = tokio::task::spawn_blocking(move || -> Vec<String> {
            let due = state.due(now_ms).take(settings.per_period_max());
            due.map(ToString::to_string).collect()
        });
        let Ok(due) = due.await else { continue };
        for some in due.chunks(REAPED_MAX) {
            reap(&term, some).await;
            tokio::time::sleep(settings.pause_after(some.len())).await;
        }
    }
}

/// What is due is looked at once more where it is removed: it may have been changed
/// since.
async fn reap(term: &LeaderTerm, paths: &[String]) {
    let reap = |path: &String| Command::Write { by: Actor::rota(None), op: Op::Reap { path: path.clone() } };
    let commands: Vec<Command> = paths.iter().map(reap).collect();
    match term.propose(&commands).await {
        Ok(refused) => {
            let reaped = paths.len() as u64 - u64::from(refused);
            metrics::counter!(crate::metrics::REAPED).increment(reaped);
        }
        Err(error) => tracing::debug!(%error, "could not reap nodes: tried again"),
    }
}

/// How often and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaping {
    /// Between two looks.
    pub(crate) period: Duration,
    /// Nodes removed in a minute.
    pub(crate) per_minute_max: u32,
}

impl Reaping {
    fn pause_after(self, reaped: usize) -> Duration {
        Duration::from_secs(60) / self.per_minute_max.max(1) * u32::try_from(reaped).unwrap_or(u32::MAX)
    }

    fn per_period_max(self) -> usize {
        let minutes = (self.period.as_secs_f64() / 60.0).max(1.0);
        (f64::from(self.per_minute_max) * minutes) as usize
    }
}
