//! Whether this server serves everybody, or, cut off from every leader, at most those
//! who read. When that changes, its clients are sent away: they find another server,
//! or come back for what there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Zk;

/// How often it is asked whether a leader is there.
const PERIOD: Duration = Duration::from_millis(200);

/// How long a removed server goes on serving, so that the client that removed it gets its answer.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What this server can do for clients now.
#[derive(Debug, Default)]
pub(crate) struct ServingMode {
    cut_off: AtomicBool,
}

impl ServingMode {
    /// Whether no leader is there, and has not been for long.
    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }
}

/// Watches for the leader until the server stops.
pub(crate) async fn run(zk: Arc<Zk>) {
    let mut heard_at = Instant::now();
    let mut out_since = None;
    // Longer than an election.
    let patience = Duration::from_millis(zk.service.config.timing.election_max_ms);
    loop {
        tokio::time::sleep(PERIOD).await;
        let now = Instant::now();
        let is_led = zk.service.group.recent_leader().await.is_some();
        if is_led {
            heard_at = now;
        }
        let is_out = zk.service.states.is_out_of_service();
        let out_at = *out_since.get_or_insert(now);
        if !is_out {
            out_since = None;
        }
        // The client that removed this server gets its answer first.
        let is_answering = zk.reconfigs.load(Ordering::Acquire) > 0 && now - out_at < LAST_ANSWER_TIMEOUT;
        let cut_off = !is_answering && (now - heard_at > patience || is_out);
        if zk.serving_mode.cut_off.swap(cut_off, Ordering::AcqRel) == cut_off {
            if cut_off {
                // Nobody else keeps the time of sessions now.
                zk.registry
                    .connections()
                    .iter()
                    .filter(|c| c.is_idle_without_leader())
                    .for_each(|c| c.close());
            }
            continue;
        }
        let connections = zk.registry.len();
        if cut_off {
            let goes_on = zk.service.config.zookeeper.read_only;
            tracing::warn!(connections, goes_on, "no leader is there: clients of ZooKeeper are sent away");
        } else {
            tracing::info!(
                connections,
                "a leader is there: clients that only read are sent away, to come back"
            );
        }
        zk.registry.close_all();
    }
}
