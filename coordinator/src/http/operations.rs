//! `/metrics`, `/healthz`, `/readyz`: for those who run the server.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use rota_protocol::http::Code;

use super::error::{ApiError, ApiResult};
use super::extract::Shared;
use super::summaries::recent_summaries;
use crate::connections::Protocol;
use crate::metrics as names;
use crate::raft::Leadership;

/// A gauge that is not set any more is shown for so long.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// How long a scrape waits for the summaries of pools before it shows the last ones.
const SUMMARIES_TIMEOUT: Duration = Duration::from_secs(2);
/// What is observed is kept one by one for so long.
const SORTED_EVERY: Duration = Duration::from_secs(5);
/// Bounds of the latency histograms, in seconds.
const SECONDS: [f64; 11] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];
/// Bounds of the size histograms, in bytes.
const BYTES: [f64; 7] = [256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
}

/// The recorder of this process, installed when it is first needed.
fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let suffix = |text: &str| metrics_exporter_prometheus::Matcher::Suffix(text.to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(suffix("_seconds"), &SECONDS)
            .and_then(|b| b.set_buckets_for_metric(suffix("_bytes"), &BYTES))
            .expect("the bounds are not empty")
            // All gauges are set when they are asked for, but those of a pool that is gone.
            .idle_timeout(MetricKindMask::GAUGE, Some(GONE_AFTER))
            .build_recorder();
        let handle = recorder.handle();
        if ::metrics::set_global_recorder(recorder).is_ok() {
            names::describe();
            names::begin_at_zero();
        }
        handle
    })
}

/// Begins to count. Called once when a server starts.
pub(crate) fn install_recorder() {
    recorder();
}

/// Sorts what was observed into buckets now and then. Until then each observation is kept,
/// and nobody may ever ask for the metrics.
pub(crate) async fn sort_observations() {
    loop {
        tokio::time::sleep(SORTED_EVERY).await;
        recorder().run_upkeep();
    }
}

async fn metrics(State(service): State<Shared>) -> Response {
    {
        let applied = service.replica.read();
        gauge(names::APPLIED_ZXID, applied.state.zxid());
        gauge(names::NODES, applied.state.tree().len() as u64);
        gauge(names::SESSIONS, applied.state.session_count() as u64);
    }
    // If the compute pool is busy, the pool gauges keep their last values.
    for pool in recent_summaries(&service, SUMMARIES_TIMEOUT).await {
        let stuck = service.session_leases.member_reports.stuck_count(&pool.name);
        for (name, value) in [
            (names::UNASSIGNED, f64::from(pool.vacant)),
            (names::AWAITING_REJOIN, pool.away.len() as f64),
            (names::DEGRADED, f64::from(pool.degraded)),
            (names::STUCK, stuck as f64),
        ] {
            ::metrics::gauge!(name, "pool" => pool.name.clone()).set(value);
        }
    }
    gauge(names::PURGED, service.group.purged());
    gauge(names::TERM, service.group.term());
    gauge(names::IS_LEADER, u64::from(matches!(service.group.current_leadership(), Leadership::Own { .. })));
    for (peer, answers) in service.group.peers_up() {
        ::metrics::gauge!(names::PEER_UP, "peer" => peer.to_string()).set(f64::from(u8::from(answers)));
        let is_out = service.group.fault_of(peer).is_some();
        ::metrics::gauge!(names::PEER_OUT, "peer" => peer.to_string()).set(f64::from(u8::from(is_out)));
    }
    for protocol in [Protocol::Http, Protocol::ZooKeeper] {
        let count = service.connections.count(protocol) as f64;
        ::metrics::gauge!(names::CONNECTIONS, "protocol" => protocol.name()).set(count);
    }
    gauge(names::HTTP_WATCHES, service.replica.http_watches().len() as u64);
    gauge(names::ZK_CONNECTIONS, service.registry.len() as u64);
    gauge(names::ZK_WATCHES, service.registry.watch_counts().iter().map(|side| side.watches as u64).sum());
    let packets = service.registry.totals().counts();
    for (direction, count) in [("received", packets.received), ("sent", packets.sent)] {
        ::metrics::counter!(names::ZK_PACKETS, "direction" => direction).absolute(count);
    }
    gauge(names::PENDING_WRITES, service.write_queue.len() as u64);
    recorder().run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], recorder().render()).into_response()
}

fn gauge(name: &'static str, value: u64) {
    ::metrics::gauge!(name).set(value as f64);
}

/// Ready while this server belongs to its cluster and a leader is there: reads may be old
/// without one, and writes would wait.
async fn ready(State(service): State<Shared>) -> ApiResult<&'static str> {
    if let Some(why) = service.states.unavailable() {
        return Err(ApiError::new(Code::NotServing, why));
    }
    match service.group.recent_leader().await {
        Some(_) => Ok("ready\n"),
        None => Err(ApiError::new(Code::NoLeader, "no leader is there now")),
    }
}
