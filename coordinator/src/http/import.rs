//! `/v1/import`: filling an empty cluster with what another one held.

use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use rota_core::state::{Command, Import};
use rota_protocol::http::{Code, ErrorBody, ImportPart};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Shared};

/// Bytes of one part: a node of the largest size, in hexadecimal digits, and more.
const PART_BYTES_MAX: usize = 24 * 1024 * 1024;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(import)).layer(DefaultBodyLimit::max(PART_BYTES_MAX))
}

/// Take in a part of what another cluster held. `rota import` does that.
#[utoipa::path(post, path = "/v1/import", tag = "cluster", request_body = ImportPart,
    responses((status = 200, body = Value), (status = "default", body = ErrorBody)))]
async fn import(State(service): State<Shared>, Body(part): Body<ImportPart>) -> ApiResult<Json<Value>> {
    let part = Import::try_from(part).map_err(|e| ApiError::new(Code::BadRequest, e.to_string()))?;
    service.write(Command::Import(part)).await?;
    Ok(Json(json!({})))
}
