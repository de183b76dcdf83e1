//! `/v1/pools/{pool}/buckets/{bucket}/history`: who owned a bucket when, and why.

use axum::Json;
use axum::extract::State;
use rota_core::pool::history::{HistorySegment, event_at, events_of};
use rota_core::pool::{Bucket, from_json, layout};
use rota_core::state::Tree;
use rota_protocol::http::{ErrorBody, HistoryBody};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Names, Params, ReadParams, Shared};
use super::pools::with_pool;
use super::table::row_body;
use crate::service::RequestKind;
use rota_protocol::http::Code;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(history))
}

#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct HistoryParams {
    /// A moment, in milliseconds since 1970: who owned the bucket then.
    at: Option<u64>,
    /// See every write that was acknowledged before.
    #[serde(default)]
    consistent: bool,
}

/// Who owned a bucket when, and why that changed: as much as is remembered.
#[utoipa::path(get, path = "/v1/pools/{pool}/buckets/{bucket}/history", tag = "table",
    params(("pool" = String, Path), ("bucket" = String, Path), HistoryParams),
    responses((status = 200, body = HistoryBody), (status = "default", body = ErrorBody)))]
async fn history(
    State(service): State<Shared>,
    Names((pool, bucket)): Names<(String, String)>,
    Params(params): Params<HistoryParams>,
) -> ApiResult<Json<HistoryBody>> {
    ReadParams { consistent: params.consistent }.ready(&service).await?;
    let id = Bucket::new(&bucket);
    let row = with_pool(&service, &pool, |view| Ok(view.rows.get(&id).map(|entry| row_body(&id, entry))))?;
    let tree = service.replica.read().state.tree().clone();
    // There may be megabytes of it.
    let events = service.compute(RequestKind::Read, move || events_of(&id, segments(&tree, &pool))).await?;
    if row.is_none() && events.is_empty() {
        return Err(ApiError::new(Code::NoBucket, format!("no bucket {bucket:?} is there or remembered")));
    }
    let at = params.at.and_then(|at_ms| event_at(&events, at_ms).cloned());
    Ok(Json(HistoryBody { bucket, row, events, at }))
}

/// The parts of a pool's history in order, each with the time at which it was written.
fn segments(tree: &Tree, pool: &str) -> Vec<(u64, HistorySegment)> {
    let folder = layout::history(pool);
    let mut nodes: Vec<_> = tree.children(&folder).collect();
    nodes.sort_by_key(|(_, node)| node.stamps.czxid);
    let read = nodes.into_iter().filter_map(|(_, node)| {
        // Only the controller writes them.
        Some((node.stamps.ctime_ms, from_json(node.bytes()).ok()?))
    });
    read.collect()
}
