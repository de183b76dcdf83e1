//! What pools look like as a whole. That costs a look at every row, so it is kept until the pool
//! changes, and computed without holding up writes and other readers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use rota_core::Zxid;
use rota_core::pool::{Kind, PoolView};
use rota_protocol::http::PoolBody;

use super::error::{ApiError, ApiResult};
use crate::service::{Service, ServiceError};

/// Pools with at most so many rows and members are looked at where they are asked for.
const SMALL_MAX: usize = 1024;

/// Summaries of pools as they were when they were asked for last, with the pool's last change.
#[derive(Debug, Default)]
pub(crate) struct Summaries {
    known: Mutex<BTreeMap<String, (Zxid, Arc<PoolBody>)>>,
}

impl Summaries {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Zxid, Arc<PoolBody>)>> {
        self.known.lock().expect("no code panics while it holds this")
    }
}

/// A pool's summary, or why it has none.
pub(super) async fn summary(service: &Service, pool: &str) -> ApiResult<PoolBody> {
    let found = summarize(service, Some(pool)).await?.pop().ok_or_else(|| ApiError::no_pool(pool))?;
    Ok(PoolBody::clone(&found))
}

/// The summaries of all pools, by name.
pub(super) async fn all_summaries(service: &Service) -> Result<Vec<Arc<PoolBody>>, ServiceError> {
    summarize(service, None).await
}

async fn summarize(service: &Service, only: Option<&str>) -> Result<Vec<Arc<PoolBody>>, ServiceError> {
    let mut bodies: BTreeMap<String, Arc<PoolBody>> = BTreeMap::new();
    let mut large: Vec<PoolView> = Vec::new();
    {
        let applied = service.replica.read();
        let mut known = service.summaries.lock();
        if only.is_none() {
            known.retain(|name, _| applied.pools.get(name).is_some());
        }
        let pools: Vec<&PoolView> = match only {
            Some(name) => applied.pools.get(name).into_iter().collect(),
            None => applied.pools.iter().collect(),
        };
        for pool in pools {
            match known.get(&pool.name) {
                Some((changed, body)) if *changed == pool.changed => {
                    bodies.insert(pool.name.clone(), Arc::clone(body));
                }
                _ if pool.rows.len() + pool.members.len() <= SMALL_MAX => {
                    let body = Arc::new(describe(pool));
                    known.insert(pool.name.clone(), (pool.changed, Arc::clone(&body)));
                    bodies.insert(pool.name.clone(), body);
                }
                _ => large.push(pool.clone()),
            }
        }
    }
    if !large.is_empty() {
        let described = service.compute(move || {
            let describe = |pool: PoolView| (pool.changed, Arc::new(describe(&pool)));
            large.into_iter().map(describe).collect::<Vec<_>>()
        });
        for (changed, body) in described.await? {
            service.summaries.lock().insert(body.name.clone(), (changed, Arc::clone(&body)));
            bodies.insert(body.name.clone(), body);
        }
    }
    Ok(bodies.into_values().collect())
}

fn describe(pool: &PoolView) -> PoolBody {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let degraded = pool.rows.values().filter(|entry| entry.row.degraded).count();
    // A pool that was just made has no rows yet.
    let buckets = match pool.spec.kind {
        Kind::Hashed { buckets } if !pool.spec.deleting => buckets,
        _ => small(pool.rows.len()),
    };
    PoolBody {
        name: pool.name.clone(),
        spec: pool.spec.clone(),
        version: pool.spec_version,
        table_version: pool.table_version(),
        members: small(pool.members.len()),
        buckets,
        away: pool.away.iter().map(|(name, entry)| (name.clone(), entry.since_ms)).collect(),
        vacant: buckets.saturating_sub(small(pool.led())),
        degraded: small(degraded),
        moving: small(pool.pending_moves().count()),
    }
}
