//! Pool summaries. Building one scans every row, so a summary is cached until its pool changes, and
//! large pools are summarized off the state lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rota_core::Zxid;
use rota_core::pool::{Kind, PoolView};
use rota_protocol::http::PoolBody;

use super::error::{ApiError, ApiResult};
use crate::service::{RequestKind, Service, ServiceError};

/// Most rows plus members that one request summarizes under the state lock; the other pools are
/// summarized on the compute pool.
const INLINE_ENTRIES_MAX: usize = 1024;
/// Most cached summaries before those of deleted pools are removed.
const SUMMARIES_CACHED_MAX: usize = 1024;

/// Cached summaries by pool, each with the pool's last change.
#[derive(Debug, Default)]
pub(crate) struct SummaryCache {
    entries: Mutex<BTreeMap<String, (Zxid, Arc<PoolBody>)>>,
}

impl SummaryCache {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Zxid, Arc<PoolBody>)>> {
        self.entries.lock().expect("no code panics while it holds this")
    }

    fn get(&self, pool: &PoolView) -> Option<Arc<PoolBody>> {
        let entries = self.lock();
        let (changed, body) = entries.get(&pool.name)?;
        (*changed == pool.changed).then(|| Arc::clone(body))
    }

    fn insert(&self, changed: Zxid, body: PoolBody) -> Arc<PoolBody> {
        let body = Arc::new(body);
        self.lock().insert(body.name.clone(), (changed, Arc::clone(&body)));
        body
    }

    /// All summaries, whatever has changed since.
    fn all(&self) -> Vec<Arc<PoolBody>> {
        self.lock().values().map(|(_, body)| Arc::clone(body)).collect()
    }
}

/// The summary of one pool.
///
/// # Errors
/// `no_pool`; for a read, also when the compute pool is busy.
pub(super) async fn summary(service: &Service, pool: &str, answers: RequestKind) -> ApiResult<PoolBody> {
    let found = summaries(service, Some(pool), answers).await?.pop();
    found.map(|body| PoolBody::clone(&body)).ok_or_else(|| ApiError::no_pool(pool))
}

/// The summaries of all pools, by name.
pub(super) async fn all_summaries(service: &Service) -> Result<Vec<Arc<PoolBody>>, ServiceError> {
    summaries(service, None, RequestKind::Read).await
}

/// The summaries of all pools; those that were built last if that takes longer than `within`.
pub(super) async fn recent_summaries(service: &Service, within: Duration) -> Vec<Arc<PoolBody>> {
    let all = tokio::time::timeout(within, all_summaries(service)).await;
    all.ok().and_then(Result::ok).unwrap_or_else(|| service.summary_cache.all())
}

async fn summaries(
    service: &Service,
    only: Option<&str>,
    answers: RequestKind,
) -> Result<Vec<Arc<PoolBody>>, ServiceError> {
    let (mut bodies, large) = summarize_inline(service, only);
    if !large.is_empty() {
        let cache = Arc::clone(&service.summary_cache);
        let summarize = move || -> Vec<Arc<PoolBody>> {
            large.into_iter().map(|pool| cache.insert(pool.changed, describe(&pool))).collect()
        };
        bodies.extend(service.compute(answers, summarize).await?);
        bodies.sort_by(|one, two| one.name.cmp(&two.name));
    }
    Ok(bodies)
}

/// Cached summaries and those of small pools; and the pools that remain to be summarized.
fn summarize_inline(service: &Service, only: Option<&str>) -> (Vec<Arc<PoolBody>>, Vec<PoolView>) {
    let applied = service.replica.read();
    let pools: Vec<&PoolView> = match only {
        Some(name) => applied.pools.get(name).into_iter().collect(),
        None => applied.pools.iter().collect(),
    };
    let cache = &service.summary_cache;
    // Pools come and go, and nobody may ever list them.
    if only.is_none() || cache.lock().len() > SUMMARIES_CACHED_MAX {
        cache.lock().retain(|name, _| applied.pools.get(name).is_some());
    }
    let mut inline_left = INLINE_ENTRIES_MAX;
    let (mut bodies, mut large) = (Vec::new(), Vec::new());
    for pool in pools {
        let size = pool.rows.len() + pool.members.len();
        match cache.get(pool) {
            Some(body) => bodies.push(body),
            None if size <= inline_left => {
                inline_left -= size;
                bodies.push(cache.insert(pool.changed, describe(pool)));
            }
            None => large.push(pool.clone()),
        }
    }
    (bodies, large)
}

fn describe(pool: &PoolView) -> PoolBody {
    let saturating_u32 = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let degraded = pool.rows.values().filter(|entry| entry.row.degraded).count();
    // A pool that was just made has no rows yet.
    let buckets = match pool.spec.kind {
        Kind::Hashed { buckets } if !pool.spec.deleting => buckets,
        _ => saturating_u32(pool.rows.len()),
    };
    PoolBody {
        name: pool.name.clone(),
        spec: pool.spec.clone(),
        version: pool.spec_version,
        table_version: pool.table_version(),
        members: saturating_u32(pool.members.len()),
        buckets,
        away: pool.awaiting_rejoin.iter().map(|(name, entry)| (name.clone(), entry.since_wall_ms)).collect(),
        vacant: buckets.saturating_sub(saturating_u32(pool.led_count())),
        degraded: saturating_u32(degraded),
        moving: saturating_u32(pool.pending_moves().count()),
    }
}
