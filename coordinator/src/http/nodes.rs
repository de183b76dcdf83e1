//! `/v1/nodes`, `/v1/multi`, `/v1/watch`: the tree itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use rota_core::events::{EventsSince as CoreMissed, Interest};
use rota_core::path::{NodePath, check_path};
use rota_core::state::{Actor, Op, OpReply, Reply, Tree, perms};
use rota_protocol::http::{
    AclBody, Children, Code, Data, Encoding, ErrorBody, EventBody, Missed, Mode, MultiOp, MultiReply,
    MultiRequest, NodeBody, NodeCreate, NodeRead, NodeSet, NodeStat,
};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Caller, Names, Params, Shared, poll_deadline};
use crate::service::{RequestKind, ServiceError};

/// Most children that are listed under the state lock; longer lists are built on the compute pool.
const INLINE_CHILDREN_MAX: u32 = 1_000;
/// Children named in one answer.
const CHILDREN_MAX: usize = 10_000;
/// Events in one answer; the rest comes with the next.
const EVENTS_MAX: usize = 1_000;
/// Operations in one multi.
const OPS_MAX: usize = 1_000;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(read_root))
        .routes(routes!(read, create, set, delete))
        .routes(routes!(multi))
        .routes(routes!(watch))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct NodeParams {
    /// Name the children instead of giving the data.
    #[serde(default)]
    children: bool,
    /// See every write that was acknowledged before.
    #[serde(default)]
    consistent: bool,
    /// Only children whose names come after this one.
    after: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DeleteParams {
    /// The version that the node must have.
    version: Option<i32>,
}

/// Read the root.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", params(NodeParams),
    responses((status = 200, body = NodeRead), (status = "default", body = ErrorBody)))]
async fn read_root(
    service: State<Shared>,
    params: Params<NodeParams>,
    caller: Caller,
) -> ApiResult<Json<NodeRead>> {
    read_at(service.0, "/", params.0, &caller).await
}

/// Read a node, or the names of its children.
#[utoipa::path(get, path = "/v1/nodes/{*path}", tag = "nodes", params(("path" = String, Path), NodeParams),
    responses((status = 200, body = NodeRead), (status = "default", body = ErrorBody)))]
async fn read(
    State(service): State<Shared>,
    Names(path): Names<String>,
    Params(params): Params<NodeParams>,
    caller: Caller,
) -> ApiResult<Json<NodeRead>> {
    read_at(service, &absolute(&path)?, params, &caller).await
}

async fn read_at(
    service: Shared,
    path: &str,
    params: NodeParams,
    caller: &Caller,
) -> ApiResult<Json<NodeRead>> {
    if params.consistent {
        // Boxed, as below, to keep a rarely used future out of every read's future.
        Box::pin(service.catch_up()).await?;
    }
    let after = params.after.unwrap_or_default();
    let (tree, stat) = {
        let applied = service.replica.read();
        let tree = applied.state.tree();
        let Some(node) = tree.get(path) else { return Err(no_node(path)) };
        caller.check(path, node, perms::READ)?;
        let stat = node.stat().into();
        if !params.children {
            let data = Some(Data::from(node.bytes()));
            return Ok(Json(NodeRead::Node(NodeBody { path: path.to_owned(), data, stat })));
        }
        if node.child_count() <= INLINE_CHILDREN_MAX {
            return Ok(Json(NodeRead::Children(children_of(tree, path, stat, &after))));
        }
        (tree.clone(), stat)
    };
    let path = path.to_owned();
    let children = move || children_of(&tree, &path, stat, &after);
    Ok(Json(NodeRead::Children(Box::pin(service.compute(RequestKind::Read, children)).await?)))
}

/// One page of a node's child names, those after `after`.
fn children_of(tree: &Tree, path: &str, stat: NodeStat, after: &str) -> Children {
    let mut names: Vec<&str> =
        tree.paths_below(path).map(NodePath::name).filter(|name| *name > after).collect();
    let more = names.len() > CHILDREN_MAX;
    if more {
        names.select_nth_unstable(CHILDREN_MAX);
        names.truncate(CHILDREN_MAX);
    }
    names.sort_unstable();
    let children = names.into_iter().map(str::to_owned).collect();
    Children { path: path.to_owned(), stat, children, more }
}

/// Create a node.
#[utoipa::path(post, path = "/v1/nodes/{*path}", tag = "nodes", params(("path" = String, Path)),
    request_body = NodeCreate,
    responses((status = 201, body = NodeBody), (status = "default", body = ErrorBody)))]
async fn create(
    State(service): State<Shared>,
    Names(path): Names<String>,
    Caller(by): Caller,
    Body(body): Body<NodeCreate>,
) -> ApiResult<(StatusCode, Json<NodeBody>)> {
    // A sequential node may have the name "", as in ZooKeeper: "/a/" + number.
    let path = format!("/{path}");
    let data = bytes(body.data, body.encoding)?;
    let op = create_op(path, data, body.mode, body.ttl_ms, body.acl)?;
    Ok((StatusCode::CREATED, Json(node_body(service.op(by, op).await?)?)))
}

/// Replace a node's data.
#[utoipa::path(put, path = "/v1/nodes/{*path}", tag = "nodes", params(("path" = String, Path)),
    request_body = NodeSet,
    responses((status = 200, body = NodeBody), (status = "default", body = ErrorBody)))]
async fn set(
    State(service): State<Shared>,
    Names(path): Names<String>,
    Caller(by): Caller,
    Body(body): Body<NodeSet>,
) -> ApiResult<Json<NodeBody>> {
    let path = absolute(&path)?;
    let data = bytes(body.data, body.encoding)?;
    let op = Op::set(path.clone(), data, body.version);
    let mut node = node_body(service.op(by, op).await?)?;
    node.path = path;
    Ok(Json(node))
}

/// Delete a node.
#[utoipa::path(delete, path = "/v1/nodes/{*path}", tag = "nodes", params(("path" = String, Path), DeleteParams),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn delete(
    State(service): State<Shared>,
    Names(path): Names<String>,
    Params(params): Params<DeleteParams>,
    Caller(by): Caller,
) -> ApiResult<StatusCode> {
    let op = Op::Delete { path: absolute(&path)?, version: params.version };
    service.op(by, op).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Do several operations, or none.
#[utoipa::path(post, path = "/v1/multi", tag = "nodes", request_body = MultiRequest,
    responses((status = 200, body = MultiReply), (status = "default", body = ErrorBody)))]
async fn multi(
    State(service): State<Shared>,
    Caller(by): Caller,
    Body(body): Body<MultiRequest>,
) -> ApiResult<Json<MultiReply>> {
    if body.ops.is_empty() || body.ops.len() > OPS_MAX {
        let message = format!("a multi has from 1 to {OPS_MAX} operations, not {}", body.ops.len());
        return Err(ApiError::new(Code::BadRequest, message));
    }
    let paths: Vec<String> = body.ops.iter().map(op_path).collect();
    let ops: Vec<Op> = body.ops.into_iter().map(into_op).collect::<ApiResult<_>>()?;
    let Reply::Multi(replies) = service.multi(by, ops).await? else {
        return Err(ServiceError::OutcomeUnknown.into());
    };
    let results = replies.into_iter().zip(paths).map(|(reply, path)| match reply {
        OpReply::Created { path, stat } => Some(NodeBody { path, data: None, stat: stat.into() }),
        OpReply::Set { stat } => Some(NodeBody { path, data: None, stat: stat.into() }),
        OpReply::Deleted | OpReply::Checked { .. } | OpReply::Ensured => None,
    });
    Ok(Json(MultiReply { results: results.collect() }))
}

#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct WatchParams {
    /// The node to watch.
    path: String,
    /// Everything below it too.
    #[serde(default)]
    recursive: bool,
    /// What the client knows already: the `through` of the last answer, or the
    /// header `rota-zxid` of what it read. Default: everything until now.
    since: Option<u64>,
    /// How long to wait for an event, in milliseconds.
    #[serde(default)]
    wait_ms: u64,
}

/// Watch a node: what happened since, by long poll or (with the header `accept:
/// text/event-stream`) as a stream.
#[utoipa::path(get, path = "/v1/watch", tag = "nodes", params(WatchParams),
    responses((status = 200, content((Missed = "application/json"), (String = "text/event-stream"))), (status = "default", body = ErrorBody)))]
async fn watch(
    State(service): State<Shared>,
    Params(params): Params<WatchParams>,
    Caller(by): Caller,
    headers: HeaderMap,
) -> ApiResult<Response> {
    check_path(&params.path).map_err(|e| ApiError::new(Code::BadPath, e.to_string()))?;
    let since = params.since.unwrap_or_else(|| service.replica.read().events.last());
    service.reach(since).await?;
    if wants_stream(&headers) {
        let states = Arc::clone(&service);
        let events =
            stream::unfold((service, params, by, since), |(service, params, by, since)| async move {
                let missed = next_events(&service, &params, &by, since, None).await;
                let through = missed.through;
                let event =
                    SseEvent::default().id(through.to_string()).json_data(&missed).unwrap_or_default();
                Some((Ok::<_, Infallible>(event), (service, params, by, through)))
            });
        let events = super::while_in_service(&states, events);
        return Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response());
    }
    let deadline = poll_deadline(params.wait_ms)?;
    Ok(Json(next_events(&service, &params, &by, since, Some(deadline)).await).into_response())
}

/// Waits until something happened after `since`, or the deadline.
async fn next_events(
    service: &Shared,
    params: &WatchParams,
    by: &Actor,
    since: u64,
    deadline: Option<tokio::time::Instant>,
) -> Missed {
    let watch = service.replica.http_watches().register(&params.path, params.recursive);
    let mut since = since;
    loop {
        let interest = Interest { path: &params.path, recursive: params.recursive, who: by.identities() };
        let found = service.replica.read().events.since(since, &interest, EVENTS_MAX);
        match found {
            CoreMissed::Compacted { through } => {
                return Missed { events: Vec::new(), through, missed: true };
            }
            CoreMissed::Events { events, through } if !events.is_empty() => {
                return Missed {
                    events: events.iter().map(EventBody::from).collect(),
                    through,
                    missed: false,
                };
            }
            CoreMissed::Events { through, .. } => since = through,
        }
        let far = || tokio::time::Instant::now() + Duration::from_secs(3600);
        let due = deadline.unwrap_or_else(far);
        let changed = tokio::time::timeout_at(due, watch.changed()).await.ok();
        let (through, changed) = {
            let applied = service.replica.read();
            (applied.events.last(), changed.or_else(|| watch.take()))
        };
        match changed {
            // No earlier event matches this watch, so a compacted event log is no gap here.
            Some(zxid) => since = since.max(zxid.saturating_sub(1)),
            None if deadline.is_some() => return Missed { events: Vec::new(), through, missed: false },
            None => since = through,
        }
    }
}

pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/event-stream"))
}

fn no_node(path: &str) -> ApiError {
    rota_core::state::Refusal::NoNode { path: path.to_owned() }.into()
}

fn absolute(path: &str) -> ApiResult<String> {
    let path = format!("/{path}");
    check_path(&path).map_err(|e| ApiError::new(Code::BadPath, format!("{path:?}: {e}")))?;
    Ok(path)
}

pub(super) fn bytes(data: String, encoding: Encoding) -> ApiResult<bytes::Bytes> {
    let bytes = Data { data, encoding }.into_bytes();
    bytes.map(Into::into).map_err(|e| ApiError::new(Code::BadRequest, e.to_string()))
}

fn node_body(reply: Reply) -> ApiResult<NodeBody> {
    match reply {
        Reply::Op(OpReply::Created { path, stat }) => Ok(NodeBody { path, data: None, stat: stat.into() }),
        Reply::Op(OpReply::Set { stat }) => {
            Ok(NodeBody { path: String::new(), data: None, stat: stat.into() })
        }
        _ => Err(ServiceError::OutcomeUnknown.into()),
    }
}

fn op_path(op: &MultiOp) -> String {
    match op {
        MultiOp::Create { path, .. }
        | MultiOp::Delete { path, .. }
        | MultiOp::Set { path, .. }
        | MultiOp::Check { path, .. }
        | MultiOp::CheckFence { path, .. } => path.clone(),
    }
}

pub(super) fn into_op(op: MultiOp) -> ApiResult<Op> {
    Ok(match op {
        MultiOp::Create { path, data, encoding, mode, ttl_ms, acl } => {
            create_op(path, bytes(data, encoding)?, mode, ttl_ms, acl)?
        }
        MultiOp::Delete { path, version } => Op::Delete { path, version },
        MultiOp::Set { path, data, encoding, version } => Op::set(path, bytes(data, encoding)?, version),
        MultiOp::Check { path, version } => Op::Check { path, version },
        MultiOp::CheckFence { path, fence } => Op::CheckFence { path, fence },
    })
}

pub(super) fn create_op(
    path: String,
    data: bytes::Bytes,
    mode: Mode,
    ttl_ms: Option<u64>,
    acl: Option<Vec<AclBody>>,
) -> ApiResult<Op> {
    let mode = mode.with_ttl(ttl_ms).ok_or_else(|| {
        ApiError::new(Code::BadRequest, "ttl_ms belongs to the modes persistent and persistent_sequential")
    })?;
    let acl = acl.map(|acl| acl.into_iter().map(Into::into).collect());
    Ok(Op::Create { path, data: Some(data), mode, acl })
}
