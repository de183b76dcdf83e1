//! `/v1/pools/{pool}/checkpoints`: how far a bucket's work has come, written by
//! its owner alone.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rota_core::Zxid;
use rota_core::pool::{Bucket, PoolView, check_name, layout};
use rota_core::state::{Actor, CreateMode, Op, OpReply, Refusal, Reply};
use rota_protocol::http::{CheckpointBody, CheckpointPut, Code, Data, ErrorBody};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Params, ReadParams, Shared};
use super::nodes::bytes;
use super::pools::{with_pool, with_pool_after_catch_up};
use crate::service::{Service, ServiceError};

/// How often a bucket is looked at that changes between the look and the write.
const LOOKS_MAX: u32 = 8;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(read, write, delete))
}

/// Read a bucket's checkpoint.
#[utoipa::path(get, path = "/v1/pools/{pool}/checkpoints/{bucket}", tag = "checkpoints",
    operation_id = "read_checkpoint",
    params(("pool" = String, Path), ("bucket" = String, Path), ReadParams),
    responses((status = 200, body = CheckpointBody), (status = "default", body = ErrorBody)))]
async fn read(
    State(service): State<Shared>,
    Names((pool, bucket)): Names<(String, String)>,
    Params(params): Params<ReadParams>,
) -> ApiResult<Json<CheckpointBody>> {
    params.ready(&service).await?;
    with_pool(&service, &pool, |_| Ok(()))?;
    let applied = service.replica.read();
    match applied.state.tree().get(&layout::checkpoint(&pool, &bucket)) {
        Some(node) => {
            let Data { data, encoding } = Data::from(node.bytes());
            Ok(Json(CheckpointBody { bucket, data, encoding, zxid: node.stamps.mzxid }))
        }
        None => Err(no_checkpoint(&pool, &bucket)),
    }
}

/// Write a bucket's checkpoint, as its owner: refused once the grant with that
/// fence has ended.
#[utoipa::path(put, path = "/v1/pools/{pool}/checkpoints/{bucket}", tag = "checkpoints",
    operation_id = "write_checkpoint",
    params(("pool" = String, Path), ("bucket" = String, Path)), request_body = CheckpointPut,
    responses((status = 200, body = CheckpointBody), (status = 409, body = ErrorBody), (status = "default", body = ErrorBody)))]
async fn write(
    State(service): State<Shared>,
    Names((pool, bucket)): Names<(String, String)>,
    Body(body): Body<CheckpointPut>,
) -> ApiResult<Json<CheckpointBody>> {
    check_name(&bucket)?;
    let data = bytes(body.data.clone(), body.encoding)?;
    let mut looks = 0..LOOKS_MAX;
    loop {
        let zxid =
            with_pool_after_catch_up(&service, &pool, |view| led_since(view, &bucket, body.fence)).await?;
        let place = Place {
            path: layout::checkpoint(&pool, &bucket),
            fence: Op::CheckFence { path: layout::row(&pool, &bucket), fence: zxid },
            data: data.clone(),
        };
        let written = match body.replaces {
            None => place.write(&service).await.map(Some),
            Some(zxid) => place.replace(&service, zxid).await,
        };
        match written {
            Ok(Some(zxid)) => {
                return Ok(Json(CheckpointBody { bucket, data: body.data, encoding: body.encoding, zxid }));
            }
            Ok(None) => {
                let there = place.found(&service).map_or(0, |(zxid, _)| zxid);
                return Err(ApiError::other_checkpoint(&bucket, body.replaces.unwrap_or(0), there));
            }
            // The row has changed meanwhile: perhaps only its backups have.
            outcome
                if refused_with(&outcome, |r| matches!(r, Refusal::StaleFence { .. }))
                    && looks.next().is_some() =>
            {
                service.catch_up().await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The `mzxid` of a row whose primary has the grant with that fence.
fn led_since(view: &PoolView, bucket: &str, fence: u64) -> ApiResult<Zxid> {
    let entry = view.rows.get(&Bucket::new(bucket)).ok_or_else(|| ApiError::no_bucket(&view.name, bucket))?;
    match entry.row.primary() {
        Some(primary) if primary.fence == fence => Ok(entry.zxid),
        _ => Err(ApiError::stale_fence(bucket, fence, entry.fence())),
    }
}

/// Delete the checkpoint of a bucket that nobody works on: of an item that is gone
/// for good, or to have all work on it begin anew. That of a bucket which has an
/// owner is its owner's.
#[utoipa::path(delete, path = "/v1/pools/{pool}/checkpoints/{bucket}", tag = "checkpoints",
    operation_id = "delete_checkpoint",
    params(("pool" = String, Path), ("bucket" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn delete(
    State(service): State<Shared>,
    Names((pool, bucket)): Names<(String, String)>,
) -> ApiResult<StatusCode> {
    check_name(&bucket)?;
    let path = layout::checkpoint(&pool, &bucket);
    for _ in 0..LOOKS_MAX {
        service.catch_up().await?;
        let fence = with_pool(&service, &pool, |view| {
            let entry = view.rows.get(&Bucket::new(&bucket));
            match entry.and_then(|entry| entry.row.primary()).filter(|owner| view.is_living(owner)) {
                Some(owner) => Err(owned(&pool, &bucket, &owner.member)),
                None => Ok(entry.map(|entry| entry.zxid)),
            }
        })?;
        let version = service.replica.read().state.tree().get(&path).map(|node| node.stamps.version);
        // The bucket may get an owner meanwhile, and that one may write.
        let guard = fence.map(|fence| Op::CheckFence { path: layout::row(&pool, &bucket), fence });
        let delete = Op::Delete { path: path.clone(), version };
        match service.multi(Actor::rota(None), guard.into_iter().chain([delete]).collect()).await {
            outcome if refused_with(&outcome, |r| matches!(r, Refusal::NoNode { .. })) => {
                return Err(no_checkpoint(&pool, &bucket));
            }
            // The row or the checkpoint has changed or gone: look again.
            outcome if refused_with(&outcome, |_| true) => {}
            outcome => return outcome.map(|_| StatusCode::NO_CONTENT).map_err(ApiError::from),
        }
    }
    Err(owned(&pool, &bucket, "somebody"))
}

fn owned(pool: &str, bucket: &str, member: &str) -> ApiError {
    let message = format!(
        "bucket {bucket:?} of pool {pool:?} is {member}'s, and so is its checkpoint: stop the members first"
    );
    ApiError::new(Code::Conflict, message)
}

fn no_checkpoint(pool: &str, bucket: &str) -> ApiError {
    ApiError::new(Code::NoCheckpoint, format!("bucket {bucket:?} of pool {pool:?} has no checkpoint"))
}

/// Where a checkpoint goes, and what.
struct Place {
    path: String,
    fence: Op,
    data: bytes::Bytes,
}

impl Place {
    fn found(&self, service: &Service) -> Option<(Zxid, i32)> {
        let applied = service.replica.read();
        applied.state.tree().get(&self.path).map(|node| (node.stamps.mzxid, node.stamps.version))
    }

    fn create(&self) -> Op {
        Op::create(self.path.clone(), self.data.clone(), CreateMode::Persistent)
    }

    fn set(&self, version: Option<i32>) -> Op {
        Op::set(self.path.clone(), self.data.clone(), version)
    }

    /// Writes it, whatever is there. Returns its zxid.
    async fn write(&self, service: &Service) -> Result<Zxid, ServiceError> {
        let mut outcome = service.multi(Actor::rota(None), vec![self.fence.clone(), self.set(None)]).await;
        if refused_with(&outcome, |r| matches!(r, Refusal::NoNode { .. })) {
            outcome = service.multi(Actor::rota(None), vec![self.fence.clone(), self.create()]).await;
        }
        outcome.map(|reply| written_at(&reply))
    }

    /// Writes it in the place of the one of `replaced` (0: of none); `None` if
    /// another one is there.
    async fn replace(&self, service: &Service, replaced: Zxid) -> Result<Option<Zxid>, ServiceError> {
        service.reach(replaced).await?;
        let write = match self.found(service) {
            Some((zxid, version)) if zxid == replaced => Some(self.set(Some(version))),
            None if replaced == 0 => Some(self.create()),
            _ => None,
        };
        let is_other = write.is_none();
        // Without a write this asks for the fence alone: a writer whose grant has
        // ended is told that before all else.
        let ops: Vec<Op> = std::iter::once(self.fence.clone()).chain(write).collect();
        match service.multi(Actor::rota(None), ops).await {
            Ok(_) if is_other => Ok(None),
            outcome if refused_with(&outcome, is_changed) => Ok(None),
            outcome => outcome.map(|reply| Some(written_at(&reply))),
        }
    }
}

fn is_changed(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::BadVersion { .. } | Refusal::NodeExists { .. } | Refusal::NoNode { .. })
}

fn refused_with<T>(outcome: &Result<T, ServiceError>, is: impl Fn(&Refusal) -> bool) -> bool {
    matches!(outcome, Err(ServiceError::Refused(refusal)) if is(refusal.cause()))
}

/// The zxid of the node that a multi wrote last.
fn written_at(reply: &Reply) -> Zxid {
    let Reply::Multi(replies) = reply else { return 0 };
    match replies.last() {
        Some(OpReply::Created { stat, .. } | OpReply::Set { stat }) => stat.mzxid,
        _ => 0,
    }
}
