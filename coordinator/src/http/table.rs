//! `/v1/pools/{pool}/table` and `/owner`: who owns what.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use rota_core::pool::{Bucket, Delta, Kind, PoolView, RowEntry, bucket_of_key};
use rota_protocol::http::{Code, ErrorBody, OwnerOfKey, RowBody, TableBody};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Names, Params, ReadParams, Shared, poll_deadline};
use super::nodes::wants_stream;
use super::pools::with_pool;
use crate::service::Service;

/// Least time between two events of one stream: what changes meanwhile is one event, so that
/// ten thousand listeners are not told each of a thousand moves by itself.
const PACE: Duration = Duration::from_millis(250);
/// Most cached tables and deltas: clients at different versions ask for different deltas.
const TABLES_MAX: usize = 256;
/// Bytes of them.
const TABLES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most rows that are encoded under the state lock; larger tables are encoded on the compute pool.
const INLINE_ROWS_MAX: usize = 256;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(table)).routes(routes!(row)).routes(routes!(owner))
}

#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TableParams {
    /// The version that the client has: only what changed since is sent.
    since: Option<u64>,
    /// How long to wait for a newer version, in milliseconds.
    #[serde(default)]
    wait_ms: u64,
    /// See every write that was acknowledged before.
    #[serde(default)]
    consistent: bool,
}

/// A pool's table: all of it, or what changed since a version; by long poll, or
/// (with the header `accept: text/event-stream`) as a stream. The header
/// `if-none-match` with the version's ETag is answered by 304.
#[utoipa::path(get, path = "/v1/pools/{pool}/table", tag = "table", params(("pool" = String, Path), TableParams),
    responses((status = 200, content((TableBody = "application/json"), (String = "text/event-stream"))), (status = 304), (status = "default", body = ErrorBody)))]
async fn table(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Params(params): Params<TableParams>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    ReadParams { consistent: params.consistent }.ready(&service).await?;
    with_pool(&service, &pool, |_| Ok(()))?;
    let deadline = poll_deadline(params.wait_ms)?;
    let since = known_here(&service, &pool, params.since).await?;
    if wants_stream(&headers) {
        return Ok(table_stream(service, pool, since));
    }
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let found = newer_table(&service, &pool, since, deadline, |version| Some(&*etag_of(version)) == known);
    let (version, json) = found.await?;
    let etag = etag_of(version);
    match json {
        None => Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response()),
        Some(json) => {
            let json_type = (header::CONTENT_TYPE, "application/json".to_owned());
            Ok(([(header::ETAG, etag), json_type], json).into_response())
        }
    }
}

fn etag_of(version: u64) -> String {
    format!("\"{version}\"")
}

/// A version that a client has, once this server has it too: another may have brought the client
/// up to date, and it must not go back. `None` if the table has no such version: it is of another
/// life of the cluster.
async fn known_here(service: &Service, pool: &str, since: Option<u64>) -> ApiResult<Option<u64>> {
    let version = || with_pool(service, pool, |view| Ok(view.table_version()));
    match since {
        Some(since) if since > version()? => {
            service.catch_up().await?;
            Ok(Some(since).filter(|since| version().is_ok_and(|version| *since <= version)))
        }
        since => Ok(since),
    }
}

/// The table as JSON once it is newer than `since`, or as it is at the deadline, with its version;
/// no JSON if the client already has that version (`is_known`).
async fn newer_table(
    service: &Service,
    pool: &str,
    since: Option<u64>,
    deadline: Instant,
    is_known: impl Fn(u64) -> bool,
) -> ApiResult<(u64, Option<Bytes>)> {
    let mut changes = service.replica.subscribe_pool(pool);
    loop {
        let version = with_pool(service, pool, |view| Ok(view.table_version()))?;
        let newer = since.is_none_or(|since| version > since);
        if newer || !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            if is_known(version) {
                return Ok((version, None));
            }
            let (version, json) = table_json(service, pool, since).await?;
            return Ok((version, Some(json)));
        }
    }
}

/// The table as it is now, or what changed in it after `since`, as JSON, with its version.
/// Many clients ask for the same version: it is encoded once and cached; a large one is encoded off
/// the state lock, one at a time.
async fn table_json(service: &Service, pool: &str, since: Option<u64>) -> ApiResult<(u64, Bytes)> {
    let key = (pool.to_owned(), since);
    if let Some(found) = with_pool(service, pool, |view| cached_or_inline_table(service, &key, view))? {
        return Ok(found);
    }
    let turn = service.acquire_permit(&service.table_permit).await?;
    // Another request may have built it while this one waited.
    let found = with_pool(service, pool, |view| {
        // A clone costs O(members).
        Ok(cached_or_inline_table(service, &key, view)?.ok_or_else(|| view.clone()))
    })?;
    let view = match found {
        Ok(found) => return Ok(found),
        Err(view) => view,
    };
    let tables = Arc::clone(&service.tables);
    let build = move || {
        let built = tables.insert(key, view.members_changed(), &table_since(&view, since));
        drop(turn);
        built.map(|json| (view.table_version(), json))
    };
    tokio::task::spawn_blocking(build).await.map_err(|e| ApiError::new(Code::Internal, e.to_string()))?
}

/// A table from the cache, or one that is short enough to be encoded under the state lock.
fn cached_or_inline_table(
    service: &Service,
    key: &TableKey,
    view: &PoolView,
) -> ApiResult<Option<(u64, Bytes)>> {
    let (since, version, members_changed) = (key.1, view.table_version(), view.members_changed());
    if let Some(json) = service.tables.get(key, version, members_changed) {
        return Ok(Some((version, json)));
    }
    let delta_since = since.filter(|since| view.is_delta_available(*since));
    let is_few = |since| view.rows_changed_after(since).nth(INLINE_ROWS_MAX).is_none();
    if view.rows.len() > INLINE_ROWS_MAX && !delta_since.is_some_and(is_few) {
        return Ok(None);
    }
    let json = service.tables.insert(key.clone(), members_changed, &table_since(view, since))?;
    Ok(Some((version, json)))
}

/// What a stream of a table's changes has come to.
struct Following {
    service: Shared,
    pool: String,
    since: Option<u64>,
    /// Before this it says nothing more.
    next_at: Instant,
}

fn table_stream(service: Shared, pool: String, since: Option<u64>) -> Response {
    let states = Arc::clone(&service);
    let first = Following { service, pool, since, next_at: Instant::now() };
    let deltas = stream::unfold(Some(first), |following| async move {
        let mut following = following?;
        // What changes meanwhile is told together.
        tokio::time::sleep_until(following.next_at).await;
        let far = Instant::now() + Duration::from_secs(24 * 3600);
        let Following { service, pool, since, .. } = &following;
        match newer_table(service, pool, *since, far, |_| false).await {
            Ok((version, json)) => {
                following.since = Some(version);
                following.next_at = Instant::now() + PACE;
                let json = json.unwrap_or_default();
                let event = SseEvent::default().id(version.to_string()).event("table");
                let event = event.data(String::from_utf8_lossy(&json));
                Some((Ok::<_, Infallible>(event), Some(following)))
            }
            // Overloaded: retry at the next event.
            Err(ApiError(error)) if error.code == Code::Overloaded => {
                following.next_at = Instant::now() + PACE;
                Some((Ok(SseEvent::default().comment("busy")), Some(following)))
            }
            Err(ApiError(error)) => {
                let event = SseEvent::default().event("error").json_data(&error);
                Some((Ok(event.unwrap_or_default()), None))
            }
        }
    });
    Sse::new(super::while_in_service(&states, deltas)).keep_alive(KeepAlive::default()).into_response()
}

/// Cached tables and deltas as JSON, by pool and the version that the client had.
#[derive(Debug, Default)]
pub(crate) struct TableCache {
    last: Mutex<VecDeque<CachedTable>>,
}

type TableKey = (String, Option<u64>);

#[derive(Debug)]
struct CachedTable {
    key: TableKey,
    version: u64,
    /// The last change of any member: a table has their addresses.
    members_changed: u64,
    json: Bytes,
}

impl TableCache {
    fn lock(&self) -> MutexGuard<'_, VecDeque<CachedTable>> {
        self.last.lock().expect("no code panics while it holds this")
    }

    fn get(&self, key: &TableKey, version: u64, members_changed: u64) -> Option<Bytes> {
        let last = self.lock();
        let found = last.iter().find(|cached| {
            cached.key == *key && (cached.version, cached.members_changed) == (version, members_changed)
        });
        found.map(|cached| cached.json.clone())
    }

    fn insert(&self, key: TableKey, members_changed: u64, body: &TableBody) -> ApiResult<Bytes> {
        let json = serde_json::to_vec(body).map_err(|e| ApiError::new(Code::Internal, e.to_string()))?;
        let json = Bytes::from(json);
        let mut last = self.lock();
        last.retain(|cached| cached.key != key);
        let version = body.version;
        last.push_back(CachedTable { key, version, members_changed, json: json.clone() });
        while last.len() > TABLES_MAX
            || last.iter().map(|cached| cached.json.len()).sum::<usize>() > TABLES_BYTES_MAX
        {
            last.pop_front();
        }
        Ok(json)
    }
}

fn table_since(view: &PoolView, since: Option<u64>) -> TableBody {
    let delta = since.map_or(Delta::Whole, |since| view.table_since(since));
    let (whole, rows, removed): (bool, Vec<RowBody>, Vec<Bucket>) = match delta {
        Delta::Whole => (true, view.rows.iter().map(|(b, row)| row_body(b, row)).collect(), Vec::new()),
        Delta::Rows { mut changed, removed } => {
            changed.sort();
            let rows = changed.iter().filter_map(|b| Some(row_body(b, view.rows.get(b)?))).collect();
            (false, rows, removed)
        }
    };
    let named: std::collections::BTreeSet<&String> = rows
        .iter()
        .flat_map(|row| row.owners.iter().chain(&row.preparing))
        .map(|owner| &owner.member)
        .collect();
    let address = |name: &String| Some((name.clone(), view.members.get(name)?.member.address.clone()));
    let addresses: BTreeMap<String, String> = named.into_iter().filter_map(address).collect();
    TableBody {
        version: view.table_version(),
        whole,
        hashed: match view.spec.kind {
            Kind::Hashed { buckets } => Some(buckets),
            Kind::Named => None,
        },
        addresses,
        removed: removed.iter().map(ToString::to_string).collect(),
        rows,
    }
}

pub(super) fn row_body(bucket: &Bucket, entry: &RowEntry) -> RowBody {
    RowBody {
        bucket: bucket.to_string(),
        owners: entry.row.owners.clone(),
        preparing: entry.row.preparing.clone(),
        degraded: entry.row.degraded,
        fence: entry.fence(),
        version: entry.version,
    }
}

/// Show one row.
#[utoipa::path(get, path = "/v1/pools/{pool}/buckets/{bucket}", tag = "table",
    params(("pool" = String, Path), ("bucket" = String, Path), ReadParams),
    responses((status = 200, body = RowBody), (status = "default", body = ErrorBody)))]
async fn row(
    State(service): State<Shared>,
    Names((pool, bucket)): Names<(String, String)>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<RowBody>> {
    read.ready(&service).await?;
    let id = Bucket::new(&bucket);
    with_pool(&service, &pool, |view| {
        let entry = view.rows.get(&id).ok_or_else(|| ApiError::no_bucket(&pool, &bucket))?;
        Ok(Json(row_body(&id, entry)))
    })
}

#[derive(Debug, Clone, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct KeyParams {
    /// The key.
    key: String,
    /// See every write that was acknowledged before, on whichever server.
    #[serde(default)]
    consistent: bool,
}

/// Who owns a key of a hashed pool.
#[utoipa::path(get, path = "/v1/pools/{pool}/owner", tag = "table", params(("pool" = String, Path), KeyParams),
    responses((status = 200, body = OwnerOfKey), (status = "default", body = ErrorBody)))]
async fn owner(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Params(params): Params<KeyParams>,
) -> ApiResult<Json<OwnerOfKey>> {
    ReadParams { consistent: params.consistent }.ready(&service).await?;
    with_pool(&service, &pool, |view| {
        let Kind::Hashed { buckets } = view.spec.kind else {
            let message = format!("pool {pool:?} is named: its buckets are its items, not hashes of keys");
            return Err(ApiError::new(Code::BadRequest, message));
        };
        let bucket = Bucket::number(bucket_of_key(params.key.as_bytes(), buckets));
        let entry = view.rows.get(&bucket).ok_or_else(|| ApiError::no_bucket(&pool, bucket.as_str()))?;
        let member = entry.row.primary().and_then(|owner| view.members.get(&owner.member));
        Ok(Json(OwnerOfKey {
            key: params.key.clone(),
            version: view.table_version(),
            row: row_body(&bucket, entry),
            address: member.map(|m| m.member.address.clone()),
        }))
    })
}
