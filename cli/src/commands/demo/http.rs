//! Writes to the cluster all the time, through every server, and notes when each
//! write was acknowledged: the longest stretch without one is what a failure
//! cost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{NodeCreate, NodeSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PATH: &str = "/v1/nodes/probe";
/// Pause between two writes of one prober.
const PERIOD: Duration = Duration::from_millis(2);
/// How long a write may take before it is given up.
const DEADLINE: Duration = Duration::from_millis(250);

/// When writes were acknowledged.
#[derive(Clone, Default)]
pub(super) struct Probe {
    acknowledged: Arc<Mutex<Vec<Instant>>>,
}

impl Probe {
    /// Probes through `servers` until it is told to stop.
    pub(super) async fn run(&self, servers: Vec<String>, stop: CancellationToken) {
        let Ok(client) = Client::new(servers.clone()) else { return };
        let create = NodeCreate::default();
        // It may be there from an earlier try.
        let _: Result<serde_json::Value, _> =
            client.request(Method::POST, PATH, Some(&create), &[], Idempotency::Safe).await;
        let probers = servers.into_iter().map(|server| self.clone().probe(server));
        tokio::select! {
            _ = futures::future::join_all(probers) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn probe(self, server: String) {
        let Ok(client) = Client::new([server]) else { return };
        let client = client.with_deadline(DEADLINE);
        loop {
            let write: Result<serde_json::Value, _> =
                client.request(Method::PUT, PATH, Some(&NodeSet::default()), &[], Idempotency::Safe).await;
            if write.is_ok() {
                self.acknowledged.lock().expect("no code panics while it holds this").push(Instant::now());
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// The longest stretch without an acknowledged write that ended after
    /// `since`.
    pub(super) fn longest_gap_since(&self, since: Instant) -> Duration {
        let acknowledged = self.acknowledged.lock().expect("no code panics while it holds this");
        let pairs = acknowledged.windows(2).filter(|pair| pair[1] >= since);
        let longest = pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let open = acknowledged.last().map_or_else(|| since.elapsed(), Instant::elapsed);
        longest.max(open)
    }
}
