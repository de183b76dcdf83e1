//! `rota cluster`: the servers, and who leads them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{AddServer, Cluster, Role, Server, SnapshotTaken, TransferLeader};

use crate::failure::USAGE;
use crate::operator::Operator;
use crate::output::{Table, count, facts, say};

/// Longer than a leader waits for a change of the membership.
const CHANGE_PATIENCE: Duration = Duration::from_secs(35);
/// Longer than a server waits for its snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(65);

/// The cluster: its servers, and who leads them.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the servers, as the answering one sees them.
    #[command(after_help = "Example:\n  rota cluster show")]
    Show,
    /// Add a server, as a learner: it is given the log and has no vote.
    #[command(after_help = "Start it first: `rota coordinator --id 4 --join …`.

Example:
  rota cluster add 4 10.0.0.4:7720")]
    Add {
        /// Its number. That of a removed server needs a new, empty --data.
        id: u64,
        /// Where other servers reach it: HOST:PORT.
        address: String,
        /// Add it although nobody, or another server, is at that address.
        #[arg(long)]
        force: bool,
    },
    /// Give a learner a vote.
    #[command(after_help = "Example:\n  rota cluster promote 4")]
    Promote {
        /// The learner.
        id: u64,
    },
    /// Take a server out of the cluster.
    #[command(after_help = "Example:
  rota cluster remove 2           shows what would be left
  rota cluster remove 2 --yes 2   removes it")]
    Remove {
        /// The server.
        id: u64,
        /// The server's number again: without it, only shows what would be left.
        #[arg(long, value_name = "ID")]
        yes: Option<u64>,
    },
    /// Move the leadership to a server.
    #[command(after_help = "Example:\n  rota cluster transfer-leader 2")]
    TransferLeader {
        /// The server: a voter.
        id: u64,
    },
    /// Have the answering server take a snapshot of its state.
    #[command(after_help = "Example:\n  rota --servers 10.0.0.2:7710 cluster snapshot")]
    Snapshot,
}

pub(crate) async fn run(operator: &Operator, command: ClusterCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClusterCommand::Show => operator.show("/v1/cluster", describe).await?,
        ClusterCommand::Add { id, address, force } => {
            let add = AddServer { id, peer_address: address, force };
            let body = operator
                .patient(CHANGE_PATIENCE)
                .ask(Method::POST, "/v1/cluster/servers", Some(&add), Idempotency::Unsafe)
                .await?;
            operator.output.body(&body, describe)?;
        }
        ClusterCommand::Promote { id } => {
            let path = format!("{}/promote", path(id));
            let body = operator
                .patient(CHANGE_PATIENCE)
                .ask(Method::POST, &path, None::<&()>, Idempotency::Unsafe)
                .await?;
            operator.output.body(&body, describe)?;
        }
        ClusterCommand::Remove { id, yes: Some(yes) } if yes != id => {
            bail!("--yes {yes} is not server {id}: nothing was changed");
        }
        ClusterCommand::Remove { id, yes: Some(_) } => {
            let body = operator
                .patient(CHANGE_PATIENCE)
                .ask(Method::DELETE, &path(id), None::<&()>, Idempotency::Unsafe)
                .await?;
            operator.output.done(&body, &format!("server {id} is removed: it can be stopped now"))?;
        }
        ClusterCommand::Remove { id, .. } => return show_what_would_be_left(operator, id).await,
        ClusterCommand::TransferLeader { id } => {
            let lead = TransferLeader { server: id };
            let body =
                operator.ask(Method::POST, "/v1/cluster/leader", Some(&lead), Idempotency::Safe).await?;
            operator.output.body(&body, describe)?;
        }
        ClusterCommand::Snapshot => {
            let path = "/v1/cluster/snapshot";
            let body = operator
                .patient(SNAPSHOT_PATIENCE)
                .ask(Method::POST, path, None::<&()>, Idempotency::Safe)
                .await?;
            operator.output.body(&body, |taken: &SnapshotTaken| {
                facts([("server", taken.server.to_string()), ("index", taken.index.to_string())])
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(server: u64) -> String {
    Client::path(["v1", "cluster", "servers", &server.to_string()])
}

async fn show_what_would_be_left(operator: &Operator, id: u64) -> anyhow::Result<ExitCode> {
    let body = operator.get("/v1/cluster").await?;
    let mut cluster: Cluster = body.parse()?;
    let removed = cluster.servers.extract_if(.., |server| server.id == id).next();
    let Some(removed) = removed else { anyhow::bail!("the cluster has no server {id}") };
    operator.output.document(&cluster, describe)?;
    say(&format!(
        "nothing was changed: without server {id}, a {}, {} would be left, {}; to remove it, run `rota cluster remove {id} --yes {id}`",
        role(&removed),
        count(cluster.servers.len() as u64, "server"),
        spare(&cluster.servers),
    ));
    Ok(ExitCode::from(USAGE))
}

/// How many of the servers with a vote may fail.
fn spare(servers: &[Server]) -> String {
    let voters = servers.iter().filter(|server| server.role != Role::Learner).count() as u64;
    match voters.saturating_sub(1) / 2 {
        0 => "none of which may fail".to_owned(),
        spare => format!("of which {spare} may fail"),
    }
}

/// A server's role in the vocabulary's word.
pub(crate) fn role(server: &Server) -> String {
    match server.role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Learner => "learner",
    }
    .to_owned()
}

fn describe(cluster: &Cluster) -> String {
    let text = facts([
        ("cluster", cluster.cluster.clone()),
        ("cluster id", cluster.cluster_id.clone().unwrap_or_default()),
        ("answering server", cluster.server.to_string()),
        ("leader", cluster.leader.map(|leader| leader.to_string()).unwrap_or_default()),
        ("term", cluster.term.to_string()),
        ("zxid", cluster.zxid.to_string()),
        ("digest", cluster.digest.clone()),
        ("version", cluster.version.clone()),
    ]);
    let row = |server: &Server| {
        let http = server.http_address.clone().unwrap_or_default();
        let zookeeper = server.zookeeper_address.clone().unwrap_or_default();
        [server.id.to_string(), role(server), http, zookeeper, server.peer_address.clone()]
    };
    let servers =
        Table::new(["SERVER", "ROLE", "HTTP", "ZOOKEEPER", "PEER"], cluster.servers.iter().map(row));
    format!("{text}\n{servers}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_votes_count_for_what_may_fail() {
        let server = |id, role| Server {
            id,
            role,
            peer_address: "h:1".into(),
            http_address: None,
            zookeeper_address: None,
            disk_id: None,
            fault: None,
        };
        let three = [server(1, Role::Leader), server(2, Role::Follower), server(3, Role::Follower)];
        assert_eq!(spare(&three), "of which 1 may fail");
        let learner = [server(1, Role::Leader), server(2, Role::Follower), server(3, Role::Learner)];
        assert_eq!(spare(&learner), "none of which may fail");
    }
}
