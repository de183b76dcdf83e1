//! `/v1/pools/{pool}/items`: what a named pool has a bucket for each of.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rota_core::pool::{Item, Kind, check_name, layout, to_json};
use rota_core::state::{Actor, CreateMode, Op, Refusal, SessionId};
use rota_protocol::http::{Code, ErrorBody, ItemBody, ItemCreate};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Params, ReadParams, Session, Shared};
use super::members::check_living;
use super::pools::{with_pool, with_pool_after_catch_up};
use crate::service::{Service, ServiceError};

/// Attempts to create or replace an item that other clients modify concurrently.
const ATTEMPTS_MAX: usize = 8;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list_items, put_item)).routes(routes!(show_item, delete_item))
}

/// List a named pool's items.
#[utoipa::path(get, path = "/v1/pools/{pool}/items", tag = "items", params(("pool" = String, Path), ReadParams),
    responses((status = 200, body = Vec<ItemBody>), (status = "default", body = ErrorBody)))]
async fn list_items(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<Vec<ItemBody>>> {
    read.ready(&service).await?;
    with_pool(&service, &pool, |view| {
        let body = |(name, item): (&String, &Item)| ItemBody { name: name.clone(), item: item.clone() };
        Ok(Json(view.items.iter().map(body).collect()))
    })
}

/// The item of a body.
pub(super) fn checked_item(body: &ItemCreate) -> ApiResult<Item> {
    check_name(&body.name)?;
    let item = body.item();
    item.check()?;
    Ok(item)
}

/// Add an item, or replace it. There is one bucket for each.
#[utoipa::path(post, path = "/v1/pools/{pool}/items", tag = "items", params(("pool" = String, Path)),
    request_body = ItemCreate,
    responses((status = 201, body = ItemBody), (status = "default", body = ErrorBody)))]
async fn put_item(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    session: Session,
    Body(body): Body<ItemCreate>,
) -> ApiResult<(StatusCode, Json<ItemBody>)> {
    let item = checked_item(&body)?;
    check_living(&service, &pool).await?;
    with_pool(&service, &pool, |view| match view.spec.kind {
        Kind::Named => Ok(()),
        Kind::Hashed { .. } => Err(ApiError::new(
            Code::BadRequest,
            format!("pool {pool:?} is hashed: only a named pool has items"),
        )),
    })?;
    let (mode, session) = match body.persistent {
        true => (CreateMode::Persistent, None),
        false => (CreateMode::Ephemeral, Some(session.needed()?.session)),
    };
    let path = layout::item(&pool, &body.name);
    let by = || Actor::rota(session);
    for _ in 0..ATTEMPTS_MAX {
        let exists = match service.op(by(), Op::create(path.clone(), to_json(&item), mode)).await {
            Err(ServiceError::Refused(Refusal::NodeExists { .. })) => true,
            Err(ServiceError::Refused(Refusal::NoNode { .. })) => return Err(ApiError::no_pool(&pool)),
            other => other.map(|_| false)?,
        };
        if !exists || replace_item(&service, &path, session, to_json(&item)).await? {
            return Ok((StatusCode::CREATED, Json(ItemBody { name: body.name, item })));
        }
    }
    Err(ApiError::new(
        Code::Exists,
        format!("item {:?} was modified concurrently in {ATTEMPTS_MAX} attempts; retry", body.name),
    ))
}

/// Replaces an item of the same session; false if it was changed or deleted concurrently.
/// An item of another session is not replaced: it is deleted when that session ends.
async fn replace_item(
    service: &Service,
    path: &str,
    session: Option<SessionId>,
    data: bytes::Bytes,
) -> ApiResult<bool> {
    let found = service.replica.read().state.tree().get(path).map(|node| (node.owner(), node.stamps.mzxid));
    let Some((keeper, fence)) = found else { return Ok(false) };
    if keeper != session {
        return Err(ApiError::new(
            Code::Exists,
            "another session keeps an item of that name: it is free when that session's timeout is over",
        ));
    }
    // The node may have been recreated by another session.
    let guard = Op::CheckFence { path: path.to_owned(), fence };
    let set = Op::set(path.to_owned(), data, None);
    match service.multi(Actor::rota(session), vec![guard, set]).await {
        Ok(_) => Ok(true),
        Err(ServiceError::Refused(Refusal::Multi { cause, .. }))
            if matches!(*cause, Refusal::StaleFence { .. } | Refusal::NoNode { .. }) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Show an item.
#[utoipa::path(get, path = "/v1/pools/{pool}/items/{item}", tag = "items",
    params(("pool" = String, Path), ("item" = String, Path), ReadParams),
    responses((status = 200, body = ItemBody), (status = "default", body = ErrorBody)))]
async fn show_item(
    State(service): State<Shared>,
    Names((pool, item)): Names<(String, String)>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<ItemBody>> {
    read.ready(&service).await?;
    with_pool(&service, &pool, |view| match view.items.get(&item) {
        Some(found) => Ok(Json(ItemBody { name: item.clone(), item: found.clone() })),
        None => Err(no_item(&pool, &item)),
    })
}

/// Delete an item. Its bucket goes when its owner has let go of it.
#[utoipa::path(delete, path = "/v1/pools/{pool}/items/{item}", tag = "items",
    params(("pool" = String, Path), ("item" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn delete_item(
    State(service): State<Shared>,
    Names((pool, item)): Names<(String, String)>,
    session: Session,
) -> ApiResult<StatusCode> {
    with_pool_after_catch_up(&service, &pool, |view| {
        if view.items.contains_key(&item) { Ok(()) } else { Err(no_item(&pool, &item)) }
    })
    .await?;
    let op = Op::Delete { path: layout::item(&pool, &item), version: None };
    service.op(Actor::rota(session.0.map(|who| who.session)), op).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn no_item(pool: &str, item: &str) -> ApiError {
    ApiError::new(Code::NoItem, format!("pool {pool:?} has no item {item:?}"))
}
