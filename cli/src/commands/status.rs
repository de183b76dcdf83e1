//! `rota status`: the cluster on one screen, and whether it does its work.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use futures::future::join_all;
use rota_client::{Client, ClientError};
use rota_protocol::http::{Cluster, PoolBody, Server, SessionBody};
use serde::Serialize;

use super::failing::{FailingWork, failing_work};
use super::pool::pools_table;
use crate::operator::Operator;
use crate::output::{Table, count, say};

/// How long each server, and the leader, has to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Show the cluster on one screen.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 1 when no leader answers, when a server was emptied, removed, has lost data or belongs
to another cluster, when a pool has vacant buckets although it has members, or when a member reports that its work on a bucket fails.

Example:
  rota status"
)]
pub(crate) struct StatusArgs {}

#[derive(Debug, Serialize)]
struct Status {
    cluster: Cluster,
    /// The servers that the cluster has, by number, as they answered for themselves.
    reached: Vec<Reached>,
    sessions: usize,
    pools: Vec<PoolBody>,
    failing: Vec<FailingWork>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Reached {
    id: u64,
    /// The last write that it has applied, if it answers.
    zxid: Option<u64>,
    /// Why it does not serve, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_serving: Option<String>,
}

pub(crate) async fn run(operator: &Operator, _: StatusArgs) -> anyhow::Result<ExitCode> {
    let (pools, leader_answers) = pools(operator).await?;
    let cluster: Cluster = operator.client.get("/v1/cluster").await?;
    let sessions: Vec<SessionBody> = operator.client.get("/v1/sessions").await?;
    let cluster_id = cluster.cluster_id.as_deref();
    let (reached, of_other_clusters) = tokio::join!(
        join_all(cluster.servers.iter().map(|server| reach(server, cluster_id))),
        servers_of_other_clusters(operator, &cluster),
    );
    let failing = failing_work(&operator.client, &pools).await?;
    let mut problems = problems(leader_answers, &cluster, &reached, &pools);
    problems.extend(failing.iter().map(FailingWork::problem));
    problems.extend(of_other_clusters);
    let status = Status { cluster, reached, sessions: sessions.len(), pools, failing, problems };
    operator.output.document(&status, |status| render(status, leader_answers))?;
    status.problems.iter().for_each(|problem| say(problem));
    Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The pools, and whether a leader vouches for them. Servers name the last
/// leader that they knew, so only one that answers is known to lead.
///
/// All of it takes no longer than `--deadline`, half of which is for finding a leader.
async fn pools(operator: &Operator) -> Result<(Vec<PoolBody>, bool), ClientError> {
    let began = Instant::now();
    let left = || operator.deadline.saturating_sub(began.elapsed());
    // Any of the servers may hang, and what one had passed on to a leader that
    // died just now is lost: so once for each, and once more.
    for _ in 0..=operator.client.servers().len() {
        let patience = PATIENCE.min(left().saturating_sub(operator.deadline / 2));
        if patience.is_zero() {
            break;
        }
        let impatient = operator.client.with_deadline(patience);
        match impatient.get("/v1/pools?consistent=true").await {
            Err(error @ ClientError::Unreachable { all_refused: true, .. }) => return Err(error),
            Err(error) if error.is_unreachable() => {}
            answer => return Ok((answer?, true)),
        }
    }
    Ok((operator.client.with_deadline(left()).get("/v1/pools").await?, false))
}

async fn reach(server: &Server, cluster_id: Option<&str>) -> Reached {
    let seen = match &server.http_address {
        // Another process may have taken over the address.
        Some(address) => ask(address).await.filter(|seen| seen.server == server.id),
        None => None,
    };
    let other =
        seen.as_ref().and_then(|seen| seen.cluster_id.as_deref()).filter(|id| Some(*id) != cluster_id);
    if let Some(other) = other {
        let not_serving = Some(format!("it belongs to another cluster now ({other})"));
        return Reached { id: server.id, zxid: None, not_serving };
    }
    let zxid = seen.as_ref().map(|seen| seen.zxid);
    Reached { id: server.id, zxid, not_serving: seen.and_then(|seen| seen.not_serving) }
}

/// What the server at an address says of its cluster, if it answers.
async fn ask(address: &str) -> Option<Cluster> {
    let client = Client::new([address.to_owned()]).ok()?.with_deadline(PATIENCE);
    client.get("/v1/cluster").await.ok()
}

/// The servers of `--servers` that belong to another cluster than the one that is shown.
async fn servers_of_other_clusters(operator: &Operator, shown: &Cluster) -> Vec<String> {
    let is_shown = |address: &String| shown.servers.iter().any(|s| s.http_address.as_ref() == Some(address));
    let others = operator.client.servers().iter().filter(|address| !is_shown(address));
    let found =
        join_all(others.map(|address| async move { Some((address, ask(address).await?.cluster_id?)) })).await;
    let own = shown.cluster_id.as_deref().unwrap_or("none");
    let is_other = |(_, id): &(&String, String)| id != own;
    let problem = |(address, id)| {
        format!(
            "--servers names two clusters: {address} belongs to {id}, and what is shown is {own}; a server that was emptied may have made a new one"
        )
    };
    found.into_iter().flatten().filter(is_other).map(problem).collect()
}

fn problems(leader_answers: bool, cluster: &Cluster, reached: &[Reached], pools: &[PoolBody]) -> Vec<String> {
    let of_server = |(server, reached): (&Server, &Reached)| {
        let why = server.fault.as_ref().or(reached.not_serving.as_ref())?;
        Some(format!("server {}: {why}", server.id))
    };
    let servers = cluster.servers.iter().zip(reached).filter_map(of_server);
    let no_leader = (!leader_answers).then(|| {
        "no leader answers: is a majority of the servers running? What is shown may be old".to_owned()
    });
    let vacant = pools.iter().filter(|pool| pool.vacant > 0 && pool.members > 0).map(|pool| {
        let members = count(pool.members, "member");
        format!("pool {}: {} of {} are vacant though it has {members}", pool.name, pool.vacant, buckets(pool))
    });
    no_leader.into_iter().chain(servers).chain(vacant).collect()
}

fn buckets(pool: &PoolBody) -> String {
    count(pool.buckets, "bucket")
}

fn render(status: &Status, leader_answers: bool) -> String {
    let cluster = &status.cluster;
    let leader = match cluster.leader.filter(|_| leader_answers) {
        Some(leader) => format!("server {leader} leads"),
        None => "no leader".to_owned(),
    };
    let answering = status.reached.iter().filter(|reached| reached.zxid.is_some()).count();
    let mut text = format!(
        "cluster {}: {leader} in term {}, {answering} of {} answer, zxid {}, {}\n\n",
        cluster.cluster,
        cluster.term,
        count(cluster.servers.len() as u64, "server"),
        cluster.zxid,
        count(status.sessions as u64, "session"),
    );
    let servers = cluster.servers.iter().zip(&status.reached).map(|(server, reached)| {
        let zxid = match reached.zxid {
            Some(_) if server.fault.is_some() || reached.not_serving.is_some() => "out of service".to_owned(),
            Some(zxid) => zxid.to_string(),
            None => "does not answer".to_owned(),
        };
        let address = server.http_address.clone().unwrap_or_default();
        [server.id.to_string(), super::cluster::role(server), address, zxid]
    });
    text += &Table::new(["SERVER", "ROLE", "HTTP", "ZXID"], servers).to_string();
    if !status.pools.is_empty() {
        text += &format!("\n{}", pools_table(&status.pools));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::pool::{Kind, Spec};

    fn pool(members: u32, vacant: u32) -> PoolBody {
        PoolBody {
            name: "mail".into(),
            spec: Spec::new(Kind::Hashed { buckets: 8 }),
            version: 0,
            table_version: 1,
            members,
            away: std::collections::BTreeMap::new(),
            buckets: 8,
            vacant,
            degraded: 0,
            moving: 0,
        }
    }

    #[test]
    fn vacant_buckets_are_a_problem_only_where_somebody_could_have_them() {
        assert!(problems(true, &cluster(None), &[], &[pool(0, 8), pool(2, 0)]).is_empty());
        let found = problems(true, &cluster(None), &[], &[pool(1, 3)]);
        assert_eq!(found, ["pool mail: 3 of 8 buckets are vacant though it has 1 member"]);
    }

    #[test]
    fn no_leader_is_a_problem() {
        assert!(problems(false, &cluster(None), &[], &[])[0].starts_with("no leader answers"));
    }

    #[test]
    fn a_server_that_takes_no_part_is_a_problem() {
        let reached = |not_serving| [Reached { id: 1, zxid: Some(1), not_serving }];
        assert!(problems(true, &cluster(None), &reached(None), &[]).is_empty());
        let emptied = problems(true, &cluster(Some("it was emptied".into())), &reached(None), &[]);
        assert_eq!(emptied, ["server 1: it was emptied"]);
        let removed = problems(true, &cluster(None), &reached(Some("it was removed".into())), &[]);
        assert_eq!(removed, ["server 1: it was removed"]);
    }

    fn cluster(fault: Option<String>) -> Cluster {
        let server = Server {
            id: 1,
            role: rota_protocol::http::Role::Follower,
            peer_address: "h:1".into(),
            http_address: None,
            zookeeper_address: None,
            disk_id: None,
            fault,
        };
        Cluster {
            cluster: "rota".into(),
            cluster_id: None,
            server: 1,
            not_serving: None,
            leader: Some(1),
            term: 1,
            zxid: 1,
            digest: String::new(),
            servers: vec![server],
            version: String::new(),
        }
    }
}
