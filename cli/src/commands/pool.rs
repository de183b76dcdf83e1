//! `rota pool`: bodies of work.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use http::Method;
use rota_client::{Client, Idempotency};
use rota_core::pool::{Kind, Labels, Spec, layout};
use rota_protocol::http::{NodeBody, PlanPreview, PoolBody, PoolChange, PoolCreate, PoolKind};
use serde::Serialize;

use super::change::show_preview;
use super::settings::{self, Settings};
use super::worker::label;
use crate::failure::USAGE;
use crate::operator::{Operator, Reading};
use crate::output::{Body, Table, count, facts, labels, say};

/// Pools: bodies of work, each shared by its members.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Create a pool.
    #[command(after_help = "Examples:
  rota pool create mail --buckets 1024
  rota pool create logs --kind named
  rota pool create send --buckets 64 --require exit=telecom-b --prefer zone=east
  rota pool create data --buckets 1023 --replicas 3 --handoff warm
  rota pool create topic --kind named --strategy range")]
    Create {
        /// Its name.
        name: String,
        /// Where its buckets come from.
        #[arg(long, value_enum, default_value_t = KindArg::Hashed)]
        kind: KindArg,
        #[command(flatten)]
        settings: Settings,
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
    #[command(after_help = "Examples:
  rota pool change mail --max-concurrent-moves 16
  rota pool change send --require exit=telecom-a --prefer none")]
    Change(ChangeArgs),
    /// Have no planned move begin: living members keep what they have. What has no owner gets
    /// one all the same, and what is under way is finished.
    #[command(after_help = "Example:\n  rota pool pause mail")]
    Pause {
        /// The pool.
        name: String,
    },
    /// Let planned moves begin again.
    #[command(after_help = "Example:\n  rota pool resume mail --dry-run")]
    Resume {
        /// The pool.
        name: String,
        /// Only show the plan that would run.
        #[arg(long)]
        dry_run: bool,
    },
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
#[command(group = ArgGroup::new("changes").args(settings::ALL).multiple(true).required(true))]
pub(crate) struct ChangeArgs {
    /// The pool.
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Only show the plan that would run.
    #[arg(long)]
    dry_run: bool,
}

/// What is asked of members.
#[derive(Debug, Args)]
pub(crate) struct AffinityArgs {
    /// Only members with this label: KEY=VALUE, more than once. The zone counts as a
    /// label "zone".
    #[arg(long, value_parser = label, value_name = "KEY=VALUE")]
    require: Vec<(String, String)>,
    /// Of those, only members with this label too, as long as they can take all: KEY=VALUE,
    /// more than once.
    #[arg(long, value_parser = label, value_name = "KEY=VALUE")]
    prefer: Vec<(String, String)>,
}

impl AffinityArgs {
    pub(crate) fn labels(self) -> (Labels, Labels) {
        (self.require.into_iter().collect(), self.prefer.into_iter().collect())
    }
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
        PoolCommand::Create { name, kind, settings } => {
            let kind = match kind {
                KindArg::Hashed => PoolKind::Hashed,
                KindArg::Named => PoolKind::Named,
            };
            let create = PoolCreate { name, kind, settings: settings.into_change()? };
            let body = operator.ask(Method::POST, "/v1/pools", Some(&create), Idempotency::Unsafe).await?;
            operator.output.body(&body, describe)?;
        }
        PoolCommand::List(reading) => {
            let path = Client::query("/v1/pools", [reading.param()]);
            operator.show(&path, |pools: &Vec<PoolBody>| pools_table(pools).to_string()).await?;
        }
        PoolCommand::Show { name, reading } => {
            operator.show(&Client::query(&path(&name), [reading.param()]), describe).await?;
        }
        PoolCommand::Change(ChangeArgs { name, settings, dry_run }) => {
            change(operator, &name, settings.into_change()?, dry_run).await?;
        }
        PoolCommand::Pause { name } => {
            let paused = PoolChange { paused: Some(true), ..PoolChange::default() };
            change(operator, &name, paused, false).await?;
        }
        PoolCommand::Resume { name, dry_run } => {
            let resumed = PoolChange { paused: Some(false), ..PoolChange::default() };
            change(operator, &name, resumed, dry_run).await?;
        }
        PoolCommand::Delete { name, yes } if yes.as_ref() == Some(&name) => {
            return delete(operator, &name).await;
        }
        PoolCommand::Delete { name, .. } => return show_what_would_go(operator, &name).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(operator: &Operator, name: &str, change: PoolChange, dry_run: bool) -> anyhow::Result<()> {
    if dry_run {
        let asked = PlanPreview { pool: Some(change), ..PlanPreview::default() };
        return show_preview(operator, name, &asked).await;
    }
    let body = operator.ask(Method::PUT, &path(name), Some(&change), Idempotency::Safe).await?;
    operator.output.body(&body, describe)
}

fn path(pool: &str) -> String {
    Client::path(["v1", "pools", pool])
}

async fn delete(operator: &Operator, name: &str) -> anyhow::Result<ExitCode> {
    let body: Body = operator.ask(Method::DELETE, &path(name), None::<&()>, Idempotency::Unsafe).await?;
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
    let spec = &pool.spec;
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let bound = |bound: Option<u32>| bound.map_or("none".to_owned(), |bound| bound.to_string());
    facts([
        ("name", pool.name.clone()),
        ("kind", kind(pool)),
        ("strategy", word(&spec.strategy)),
        ("handoff", word(&spec.handoff)),
        ("replicas", spec.replicas.to_string()),
        ("spread", word(&spec.spread)),
        ("members", pool.members.to_string()),
        ("away", pool.away.keys().cloned().collect::<Vec<String>>().join(", ")),
        ("buckets", pool.buckets.to_string()),
        ("vacant", pool.vacant.to_string()),
        ("degraded", pool.degraded.to_string()),
        ("moving", pool.moving.to_string()),
        ("paused", yes(spec.paused)),
        ("table version", pool.table_version.to_string()),
        ("max concurrent moves", spec.max_concurrent_moves.to_string()),
        ("max concurrent moves per member", bound(spec.max_concurrent_moves_per_member)),
        ("max concurrent moves per zone", bound(spec.max_concurrent_moves_per_zone)),
        ("max unavailable", bound(spec.max_unavailable)),
        ("rejoin grace", format!("{} ms", spec.rejoin_grace_ms)),
        ("on lease expiry", word(&spec.on_lease_expiry)),
        ("balance", word(&spec.balance)),
        ("imbalance threshold", format!("{} %", spec.imbalance_threshold_percent)),
        ("max rebalances per minute", churn(spec)),
        ("stuck after", spec.stuck_ms.map_or("never".to_owned(), |ms| format!("{ms} ms"))),
        ("when stuck", word(&spec.when_stuck)),
        ("require", labels(&spec.affinity.require)),
        ("prefer", labels(&spec.affinity.prefer)),
        ("spec version", pool.version.to_string()),
        ("deleting", yes(spec.deleting)),
    ])
}

/// The bound of churn, and what it bounds if the pool does not say.
fn churn(spec: &Spec) -> String {
    let churn = spec.churn_per_minute();
    if spec.max_rebalances_per_minute.is_some() {
        churn.to_string()
    } else {
        format!("{churn}, but not of weights")
    }
}

/// A choice, as it is written in JSON.
pub(crate) fn word(choice: &impl Serialize) -> String {
    let json = serde_json::to_value(choice).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

fn kind(pool: &PoolBody) -> String {
    let kind = match pool.spec.kind {
        Kind::Hashed { .. } => "hashed",
        Kind::Named => "named",
    };
    kind.to_owned()
}

/// Pools, one a line.
pub(crate) fn pools_table(pools: &[PoolBody]) -> Table<8> {
    let row = |pool: &PoolBody| {
        let numbers = [pool.members, pool.buckets, pool.vacant, pool.degraded, pool.moving];
        let [members, buckets, vacant, degraded, moving] = numbers.map(|n| n.to_string());
        let version = pool.table_version.to_string();
        [pool.name.clone(), kind(pool), members, buckets, vacant, degraded, moving, version]
    };
    let names = ["POOL", "KIND", "MEMBERS", "BUCKETS", "VACANT", "DEGRADED", "MOVING", "TABLE"];
    Table::new(names, pools.iter().map(row))
}
