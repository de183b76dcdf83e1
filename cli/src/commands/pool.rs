//! `rota pool`: bodies of work.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use http::Method;
use rota_client::{Client, Repeat};
use rota_core::pool::{Handoff, Kind, Strategy, layout};
use rota_protocol::http::{NodeBody, PoolBody, PoolChange, PoolCreate, PoolKind};
use serde::Serialize;

use crate::failure::USAGE;
use crate::operator::{Operator, Reading};
use crate::output::{Body, Table, count, facts, say};

/// Pools: bodies of work, each shared by its members.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool.
    #[command(after_help = "Examples:
  rota pool create mail --buckets 1024
  rota pool create logs --kind named")]
    Create {
        /// Its name.
        name: String,
        /// Where its buckets come from.
        #[arg(long, value_enum, default_value_t = KindArg::Hashed)]
        kind: KindArg,
        /// Buckets of a hashed pool; fixed for its life. Default: 1024.
        #[arg(long, allow_negative_numbers = true)]
        buckets: Option<u32>,
        /// Most planned moves under way at once. Default: 256.
        #[arg(long)]
        max_moving: Option<u32>,
    },
    /// List the pools.
    #[command(after_help = "Example:\n  rota pool list")]
    List(Reading),
    /// Show a pool.
    #[command(after_help = "Example:\n  rota pool show mail")]
    Show {
        /// The pool.
        name: String,
        #[command(flatten)]
        reading: Reading,
    },
    /// Change a pool. What is left out stays as it is.
    #[command(after_help = "Example:\n  rota pool change mail --max-moving 16")]
    Change(ChangeArgs),
    /// Delete a pool, with its members' work and its checkpoints.
    #[command(after_help = "Example:
  rota pool delete mail              shows what would go
  rota pool delete mail --yes mail   deletes it")]
    Delete {
        /// The pool.
        name: String,
        /// The pool's name again: without it, only shows what would go.
        #[arg(long, value_name = "NAME")]
        yes: Option<String>,
    },
}

/// What can be changed.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("changes").args(["max_moving", "buckets"]).multiple(true).required(true))]
pub(crate) struct ChangeArgs {
    /// The pool.
    name: String,
    /// Most planned moves under way at once.
    #[arg(long)]
    max_moving: Option<u32>,
    /// Fixed for a pool's life: refused if it is another number.
    #[arg(long)]
    buckets: Option<u32>,
}

/// Where a pool's buckets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// Keys are hashed to a fixed number of buckets.
    Hashed,
    /// One bucket for each item.
    Named,
}

pub(crate) async fn run(operator: &Operator, command: PoolCommand) -> anyhow::Result<ExitCode> {
    match command {
        PoolCommand::Create { name, kind, buckets, max_moving } => {
            let kind = match kind {
                KindArg::Hashed => PoolKind::Hashed,
                KindArg::Named => PoolKind::Named,
            };
            let (strategy, handoff) = (Strategy::default(), Handoff::default());
            let create = PoolCreate { name, kind, buckets, strategy, handoff, max_moving };
            let body = operator.ask(Method::POST, "/v1/pools", Some(&create), Repeat::Unsafe).await?;
            operator.output.body(&body, describe)?;
        }
        PoolCommand::List(reading) => {
            let path = Client::query("/v1/pools", [reading.param()]);
            operator.show(&path, |pools: &Vec<PoolBody>| pools_table(pools).to_string()).await?;
        }
        PoolCommand::Show { name, reading } => {
            operator.show(&Client::query(&path(&name), [reading.param()]), describe).await?;
        }
        PoolCommand::Change(ChangeArgs { name, max_moving, buckets }) => {
            let change = PoolChange { buckets, max_moving, version: None };
            let body = operator.ask(Method::PUT, &path(&name), Some(&change), Repeat::Safe).await?;
            operator.output.body(&body, describe)?;
        }
        PoolCommand::Delete { name, yes } if yes.as_ref() == Some(&name) => {
            return delete(operator, &name).await;
        }
        PoolCommand::Delete { name, .. } => return show_what_would_go(operator, &name).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn path(pool: &str) -> String {
    Client::path(["v1", "pools", pool])
}

async fn delete(operator: &Operator, name: &str) -> anyhow::Result<ExitCode> {
    let body: Body = operator.ask(Method::DELETE, &path(name), None::<&()>, Repeat::Unsafe).await?;
    let Some(left) = body.parse::<Option<PoolBody>>()? else {
        operator.output.done(&body, &format!("pool {name} is deleted"))?;
        return Ok(ExitCode::SUCCESS);
    };
    operator.output.body(&body, describe)?;
    let (left, held) = (count(left.buckets, "bucket"), left.buckets.saturating_sub(left.vacant));
    say(&format!(
        "pool {name} is being deleted: {left} are left, of which its members have to let go of {held}"
    ));
    Ok(ExitCode::FAILURE)
}

/// What goes with a pool.
#[derive(Debug, Serialize)]
struct WouldGo {
    pool: PoolBody,
    checkpoints: u32,
}

async fn show_what_would_go(operator: &Operator, name: &str) -> anyhow::Result<ExitCode> {
    let pool: PoolBody = operator.client.get(&path(name)).await?;
    let checkpoints = format!("{}/checkpoints", layout::pool(name));
    let checkpoints: NodeBody = operator.client.get(&super::node::endpoint(&checkpoints)).await?;
    let would_go = WouldGo { pool, checkpoints: checkpoints.stat.num_children };
    operator.output.document(&would_go, |gone| {
        facts([
            ("pool", gone.pool.name.clone()),
            ("members that lose their work", gone.pool.members.to_string()),
            ("buckets", gone.pool.buckets.to_string()),
            ("checkpoints lost", gone.checkpoints.to_string()),
        ])
    })?;
    say(&format!("nothing was deleted: to delete all this, run `rota pool delete {name} --yes {name}`"));
    Ok(ExitCode::from(USAGE))
}

fn describe(pool: &PoolBody) -> String {
    let deleting = if pool.spec.deleting { "yes" } else { "no" };
    facts([
        ("name", pool.name.clone()),
        ("kind", kind(pool)),
        ("members", pool.members.to_string()),
        ("buckets", pool.buckets.to_string()),
        ("vacant", pool.vacant.to_string()),
        ("moving", pool.moving.to_string()),
        ("table version", pool.table_version.to_string()),
        ("max moving", pool.spec.max_moving.to_string()),
        ("spec version", pool.version.to_string()),
        ("deleting", deleting.to_owned()),
    ])
}

fn kind(pool: &PoolBody) -> String {
    let kind = match pool.spec.kind {
        Kind::Hashed { .. } => "hashed",
        Kind::Named => "named",
    };
    kind.to_owned()
}

/// Pools, one a line.
pub(crate) fn pools_table(pools: &[PoolBody]) -> Table<7> {
    let row = |pool: &PoolBody| {
        let [members, buckets, vacant, moving] =
            [pool.members, pool.buckets, pool.vacant, pool.moving].map(|n| n.to_string());
        [pool.name.clone(), kind(pool), members, buckets, vacant, moving, pool.table_version.to_string()]
    };
    let names = ["POOL", "KIND", "MEMBERS", "BUCKETS", "VACANT", "MOVING", "TABLE"];
    Table::new(names, pools.iter().map(row))
}
