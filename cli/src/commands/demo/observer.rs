//! Looks at the cluster as any client can: who leads, who owns what, what moved.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use rota_client::Client;
use rota_core::placement::{Problem, Quotas, check::lower_bound};
use rota_protocol::http::{Cluster, MemberBody, PoolBody, TableBody};
use tokio::time::Instant;

use super::processes::{LOGS, MAIL};

/// How long a pool may take to come to rest.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);
/// A pool is at rest when nothing has changed for this long.
const REST: Duration = Duration::from_millis(400);

/// A look at everything.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    pub(super) leader: Option<u64>,
    pub(super) term: u64,
    pub(super) pools: Vec<PoolSight>,
}

/// A look at one pool.
#[derive(Debug, Clone)]
pub(super) struct PoolSight {
    pub(super) name: String,
    pub(super) table: TableBody,
    pub(super) members: Vec<MemberBody>,
    pub(super) moving: u32,
}

/// What an event did to a pool: how many buckets changed hands, and how few
/// could have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) moves: u64,
    pub(super) lower_bound: u64,
}

pub(super) struct Observer {
    client: Client,
}

impl Observer {
    pub(super) fn new(client: &Client) -> Self {
        Self { client: client.with_deadline(Duration::from_secs(3)) }
    }

    pub(super) async fn look(&self) -> anyhow::Result<Sight> {
        let cluster: Cluster = self.client.get("/v1/cluster").await?;
        let mut pools = Vec::new();
        for name in [MAIL, LOGS] {
            pools.push(self.look_at(name).await?);
        }
        Ok(Sight { leader: cluster.leader, term: cluster.term, pools })
    }

    pub(super) async fn look_at(&self, pool: &str) -> anyhow::Result<PoolSight> {
        let path = Client::path(["v1", "pools", pool]);
        let body: PoolBody = self.client.get(&path).await?;
        let table: TableBody = self.client.get(&format!("{path}/table")).await?;
        let members: Vec<MemberBody> = self.client.get(&format!("{path}/members")).await?;
        Ok(PoolSight { name: pool.to_owned(), table, members, moving: body.moving })
    }

    /// Waits until the pool has these members, every bucket an owner, and
    /// nothing moves any more.
    pub(super) async fn settled(&self, pool: &str, members: &[&str]) -> anyhow::Result<PoolSight> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut at_rest_since: Option<(u64, Instant)> = None;
        loop {
            if let Ok(sight) = self.look_at(pool).await
                && sight.is_as_wanted(members)
            {
                let version = sight.table.version;
                match at_rest_since {
                    Some((same, since)) if same == version && since.elapsed() >= REST => return Ok(sight),
                    Some((same, _)) if same == version => {}
                    _ => at_rest_since = Some((version, Instant::now())),
                }
            } else {
                at_rest_since = None;
            }
            if Instant::now() > deadline {
                bail!("pool {pool} did not come to rest within {} s", SETTLE_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl PoolSight {
    fn is_as_wanted(&self, members: &[&str]) -> bool {
        let working: Vec<&str> =
            self.members.iter().filter(|m| !m.member.draining).map(|m| m.name.as_str()).collect();
        let owned = self
            .table
            .rows
            .iter()
            .all(|row| row.owners.first().is_some_and(|owner| working.contains(&owner.member.as_str())));
        working == members && owned && self.moving == 0
    }

    pub(super) fn owners(&self) -> BTreeMap<&str, &str> {
        self.table
            .rows
            .iter()
            .filter_map(|row| Some((row.bucket.as_str(), row.owners.first()?.member.as_str())))
            .collect()
    }

    /// What it took to get from the sight before to this one.
    pub(super) fn cost_since(&self, before: &PoolSight) -> Cost {
        let (then, now) = (before.owners(), self.owners());
        let moves =
            then.iter().filter(|(bucket, owner)| now.get(*bucket).is_some_and(|o| o != *owner)).count();
        let working: Vec<&MemberBody> = self.members.iter().filter(|m| !m.member.draining).collect();
        // Buckets of a member that is being drained must move; it has no weight.
        let draining: Vec<&MemberBody> = self.members.iter().filter(|m| m.member.draining).collect();
        let index: BTreeMap<&str, usize> =
            working.iter().chain(&draining).enumerate().map(|(i, m)| (m.name.as_str(), i)).collect();
        let weights: Vec<u32> =
            working.iter().map(|m| m.member.weight).chain(draining.iter().map(|_| 0)).collect();
        let stayed: Vec<_> = then.iter().filter(|(bucket, _)| now.contains_key(*bucket)).collect();
        let mut problem = Problem::simple(&weights, stayed.len());
        for (bucket, (_, owner)) in problem.buckets.iter_mut().zip(stayed) {
            bucket.owners = index.get(owner).copied().into_iter().collect();
        }
        let orphans = problem.buckets.iter().filter(|bucket| bucket.owners.is_empty()).count();
        let bound = lower_bound(&problem, &Quotas::of(&problem));
        Cost { moves: moves as u64, lower_bound: bound + orphans as u64 }
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.moves += other.moves;
        self.lower_bound += other.lower_bound;
    }
}
