//! `/v1/pools`: specs and plans.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rota_core::pool::{PoolView, Spec, SpecError, check_name, layout, to_json};
use rota_core::state::{Actor, Op, Refusal};
use rota_protocol::http::{Code, ErrorBody, PlanBody, PoolBody, PoolChange, PoolCreate};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Params, ReadParams, Shared};
use super::summaries::{all_summaries, summary};
use crate::service::{RequestKind, Service, ServiceError};

/// How long a delete waits until the members have let go of everything.
const DELETE_TIMEOUT: Duration = Duration::from_secs(8);
/// How often a change is tried again when another came in between.
const ATTEMPTS: usize = 5;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, delete))
        .routes(routes!(plan))
}

/// Looks at a pool.
pub(super) fn with_pool<T>(
    service: &Service,
    pool: &str,
    look: impl FnOnce(&PoolView) -> ApiResult<T>,
) -> ApiResult<T> {
    let applied = service.replica.read();
    look(applied.pools.get(pool).ok_or_else(|| ApiError::no_pool(pool))?)
}

/// Looks at a pool on account of a write. This server may be behind what the
/// client knows of, so the answer is no only when it is still no once this server
/// has caught up.
pub(super) async fn with_pool_after_catch_up<T>(
    service: &Service,
    pool: &str,
    look: impl Fn(&PoolView) -> ApiResult<T>,
) -> ApiResult<T> {
    if let Ok(found) = with_pool(service, pool, &look) {
        return Ok(found);
    }
    service.catch_up().await?;
    with_pool(service, pool, look)
}

/// List the pools.
#[utoipa::path(get, path = "/v1/pools", tag = "pools", params(ReadParams),
    responses((status = 200, body = Vec<PoolBody>), (status = "default", body = ErrorBody)))]
async fn list(
    State(service): State<Shared>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<Vec<PoolBody>>> {
    read.ready(&service).await?;
    Ok(Json(all_summaries(&service).await?.iter().map(|body| PoolBody::clone(body)).collect()))
}

/// Create a pool.
#[utoipa::path(post, path = "/v1/pools", tag = "pools", request_body = PoolCreate,
    responses((status = 201, body = PoolBody), (status = "default", body = ErrorBody)))]
async fn create(
    State(service): State<Shared>,
    Body(body): Body<PoolCreate>,
) -> ApiResult<(StatusCode, Json<PoolBody>)> {
    match service.multi(Actor::rota(None), create_ops(&body)?).await {
        Err(ServiceError::Refused(refusal)) if matches!(refusal.cause(), Refusal::NodeExists { .. }) => {
            return Err(ApiError::new(Code::Exists, format!("there is a pool {:?} already", body.name)));
        }
        other => other?,
    };
    Ok((StatusCode::CREATED, Json(summary(&service, &body.name, RequestKind::Write).await?)))
}

/// The operations that create a pool.
pub(super) fn create_ops(body: &PoolCreate) -> ApiResult<Vec<Op>> {
    check_name(&body.name)?;
    let spec = body.spec()?;
    spec.check()?;
    if body.settings.version.is_some() {
        return Err(ApiError::new(Code::BadSpec, "version is for changes: a new pool has none yet"));
    }
    Ok(layout::create_pool(&body.name, to_json(&spec)))
}

/// Show a pool.
#[utoipa::path(get, path = "/v1/pools/{pool}", tag = "pools", params(("pool" = String, Path), ReadParams),
    responses((status = 200, body = PoolBody), (status = "default", body = ErrorBody)))]
async fn show(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<PoolBody>> {
    read.ready(&service).await?;
    Ok(Json(summary(&service, &pool, RequestKind::Read).await?))
}

/// Change a pool. What is left out stays as it is.
#[utoipa::path(put, path = "/v1/pools/{pool}", tag = "pools", params(("pool" = String, Path)),
    request_body = PoolChange,
    responses((status = 200, body = PoolBody), (status = "default", body = ErrorBody)))]
async fn change(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Body(body): Body<PoolChange>,
) -> ApiResult<Json<PoolBody>> {
    edit_spec(&service, &pool, |spec, version| changed(&pool, spec, version, &body)).await?;
    Ok(Json(summary(&service, &pool, RequestKind::Write).await?))
}

/// What a spec of that version becomes.
pub(super) fn changed(pool: &str, spec: &Spec, version: i32, change: &PoolChange) -> ApiResult<Spec> {
    if let Some(expected) = change.version
        && expected != version
    {
        let refusal = Refusal::BadVersion { path: layout::pool(pool), expected, actual: version };
        return Err(refusal.into());
    }
    // A living pool is what it is.
    Ok(change.applied(spec).map_err(|_| SpecError::KindFixed)?)
}

/// Replaces a pool's spec by what `edit` makes of it and its version.
async fn edit_spec(
    service: &Service,
    pool: &str,
    edit: impl Fn(&Spec, i32) -> ApiResult<Spec>,
) -> ApiResult<()> {
    let mut attempts = 0..ATTEMPTS;
    loop {
        let (next, version) = with_pool_after_catch_up(service, pool, |view| {
            let next = edit(&view.spec, view.spec_version)?;
            view.spec.check_change(&next)?;
            Ok((next, view.spec_version))
        })
        .await?;
        let op = Op::set(layout::pool(pool), to_json(&next), Some(version));
        match service.op(Actor::rota(None), op).await {
            Err(ServiceError::Refused(Refusal::BadVersion { .. })) if attempts.next().is_some() => {}
            Err(ServiceError::Refused(Refusal::NoNode { .. })) => return Err(ApiError::no_pool(pool)),
            other => return other.map(drop).map_err(ApiError::from),
        }
    }
}

/// Delete a pool. Its members are asked to let go of everything first; 202 says
/// that some have not yet.
#[utoipa::path(delete, path = "/v1/pools/{pool}", tag = "pools", params(("pool" = String, Path)),
    responses((status = 204), (status = 202, body = PoolBody), (status = "default", body = ErrorBody)))]
async fn delete(
    State(service): State<Shared>,
    Names(pool): Names<String>,
) -> ApiResult<Result<StatusCode, (StatusCode, Json<PoolBody>)>> {
    let mut changes = service.replica.subscribe_pool(&pool);
    edit_spec(&service, &pool, |spec, _| Ok(Spec { deleting: true, ..spec.clone() })).await?;
    let gone = async {
        while service.replica.read().pools.get(&pool).is_some() {
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    if tokio::time::timeout(DELETE_TIMEOUT, gone).await.is_ok() {
        return Ok(Ok(StatusCode::NO_CONTENT));
    }
    Ok(Err((StatusCode::ACCEPTED, Json(summary(&service, &pool, RequestKind::Write).await?))))
}

/// Show a pool's plan: its pending moves, and what the planner said of it.
#[utoipa::path(get, path = "/v1/pools/{pool}/plan", tag = "pools", params(("pool" = String, Path), ReadParams),
    responses((status = 200, body = PlanBody), (status = "default", body = ErrorBody)))]
async fn plan(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<PlanBody>> {
    read.ready(&service).await?;
    with_pool(&service, &pool, |pool| {
        Ok(Json(PlanBody::new(&pool.plan, pool.pending_moves().cloned().collect())))
    })
}
