//! `rota drain`: empties members, so that they can leave without anybody waiting
//! for them. `rota cordon`: gives them no more than they have.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rota_client::{Client, TableCache};
use rota_core::pool::{Bucket, Report};
use rota_protocol::http::{MemberBody, MembersChange, PlanPreview, RowBody, TableBody};
use serde::Serialize;
use tokio::time::Instant;

use super::change::{Selection, carry_out, moves, preview, shortages, why_short, why_waiting};
use crate::args::duration;
use crate::operator::Operator;
use crate::output::{count, facts, say};

/// Least time between two lines that say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// Buckets that are named when they are too many for a line.
const NAMED_MAX: usize = 20;

/// Empty members: their buckets pass to the others, and they get no more.
#[derive(Debug, Args)]
#[command(
    after_help = "Says how many buckets will move, drains, and waits until the members have none. Exits with 1 if some
are left at the timeout, and says what they wait for; the members go on draining then.

Examples:
  rota drain mail w1 --dry-run
  rota drain mail w1
  rota drain mail --label rack=7
  rota drain mail w1 --undo"
)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    selection: Selection,
    /// Let drained members work again.
    #[arg(long, conflicts_with_all = ["no_wait", "timeout"])]
    undo: bool,
    #[command(flatten)]
    how: How,
}

/// How members are emptied.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Only show the plan that would run.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not wait until the members have no bucket.
    #[arg(long)]
    pub(super) no_wait: bool,
    /// How long to wait, e.g. 60s.
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

/// Give members no more buckets than they have.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rota cordon mail w1 w2
  rota cordon mail --label zone=east --dry-run
  rota cordon mail w1 --undo")]
pub(crate) struct CordonArgs {
    #[command(flatten)]
    selection: Selection,
    /// Let them have more again.
    #[arg(long)]
    undo: bool,
    /// Only show the plan that would run.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    pool: String,
    members: Vec<String>,
    /// Whether the members are being drained now.
    draining: bool,
    /// What the planner said before.
    report: Report,
    /// The members' buckets now.
    remaining: Vec<Bucket>,
}

pub(crate) async fn cordon(operator: &Operator, args: CordonArgs) -> anyhow::Result<ExitCode> {
    let change = MembersChange { cordoned: Some(!args.undo), ..args.selection.change() };
    if let Some(body) = carry_out(operator, &args.selection.pool, change, args.dry_run).await? {
        operator.output.body(&body, |members: &Vec<MemberBody>| super::member::list(members))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn run(operator: &Operator, args: DrainArgs) -> anyhow::Result<ExitCode> {
    let pool = &args.selection.pool;
    let draining = Some(!args.undo);
    let change = MembersChange { draining, successor: Some(None), ..args.selection.change() };
    if args.how.dry_run {
        carry_out(operator, pool, change, true).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let asked = PlanPreview { change: vec![change.clone()], ..PlanPreview::default() };
    let previewed = preview(operator, pool, &asked).await?;
    let verb = if args.undo { "balanced with them" } else { "balanced without them" };
    say(&format!("pool {pool} is {verb} after {}", moves(&previewed)));
    why_short(&previewed.plan.report).iter().for_each(|why| say(why));
    let Some(body) = carry_out(operator, pool, change, false).await? else { return Ok(ExitCode::SUCCESS) };
    let changed: Vec<MemberBody> = body.parse()?;
    let table: TableBody = operator.client.get(&Client::path(["v1", "pools", pool, "table"])).await?;
    let members: Vec<String> = changed.into_iter().map(|member| member.name).collect();
    let mut outcome = Outcome {
        pool: pool.clone(),
        remaining: owned_by(&members, &table.rows),
        members,
        draining: !args.undo,
        report: previewed.plan.report,
    };
    let waits = !(args.undo || args.how.no_wait);
    if waits {
        outcome.remaining =
            wait_until_empty(operator, pool, &args.how, &outcome.members, outcome.remaining).await?;
    }
    operator.output.document(&outcome, render)?;
    match waits {
        true => tell_what_is_left(operator, pool, &args.how, &outcome.members, &outcome.remaining).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Says what members still have, and why.
pub(super) async fn tell_what_is_left(
    operator: &Operator,
    pool: &str,
    how: &How,
    members: &[String],
    left: &[Bucket],
) -> anyhow::Result<ExitCode> {
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let (timeout, buckets) = (how.timeout, name_some(left));
    say(&format!("after {timeout:?} {} still {buckets}; draining goes on", has(members)));
    let now = preview(operator, pool, &PlanPreview::default()).await?;
    let report = &now.plan.report;
    why_short(report).iter().chain(&why_waiting(report)).for_each(|why| say(why));
    Ok(ExitCode::FAILURE)
}

pub(super) fn owned_by<'a>(members: &[String], rows: impl IntoIterator<Item = &'a RowBody>) -> Vec<Bucket> {
    let owned = |row: &&RowBody| row.owners.iter().any(|owner| members.contains(&owner.member));
    rows.into_iter().filter(owned).map(|row| Bucket::new(&row.bucket)).collect()
}

/// Waits until the members have no bucket and each that they had is another's.
/// Returns the buckets that are left at the timeout.
pub(super) async fn wait_until_empty(
    operator: &Operator,
    pool: &str,
    how: &How,
    members: &[String],
    had: Vec<Bucket>,
) -> anyhow::Result<Vec<Bucket>> {
    let deadline = Instant::now() + how.timeout;
    let mut table = TableCache::open(operator.client.clone(), pool, None).await?;
    let mut said = None;
    let mut had: BTreeSet<Bucket> = had.into_iter().collect();
    let names = members.join(", ");
    loop {
        let now = table.snapshot();
        had.extend(owned_by(members, now.rows.values()));
        let is_left = |bucket: &&Bucket| {
            let row = now.rows.get(*bucket);
            let has = |row: &RowBody| row.owners.iter().any(|owner| members.contains(&owner.member));
            row.is_some_and(|row| row.owners.is_empty() || has(row))
        };
        let left: Vec<Bucket> = had.iter().filter(is_left).cloned().collect();
        if left.is_empty() {
            say(&format!("drained: {names}"));
            // They are drained, whether that can be told or not.
            if let Err(error) = say_who_has_gone(operator, pool, members).await {
                say(&format!("it could not be seen whether they are still there: {error}"));
            }
            return Ok(left);
        }
        if said.is_none_or(|said: Instant| said.elapsed() >= SAY_EVERY) {
            say(&format!("waiting until {} handed over {}", has(members), name_some(&left)));
            said = Some(Instant::now());
        }
        if tokio::time::timeout_at(deadline, table.changed()).await.is_err() {
            return Ok(left);
        }
    }
}

/// Whoever dies while it is emptied has handed nothing over.
async fn say_who_has_gone(operator: &Operator, pool: &str, members: &[String]) -> anyhow::Result<()> {
    let there: Vec<MemberBody> = operator.client.get(&Client::path(["v1", "pools", pool, "members"])).await?;
    for name in members.iter().filter(|name| there.iter().all(|member| member.name != **name)) {
        say(&format!("{name} has left or died meanwhile: what it still had then was granted to others"));
    }
    Ok(())
}

fn has(members: &[String]) -> String {
    match members {
        [member] => format!("{member} has"),
        members => format!("{} have", members.join(", ")),
    }
}

fn name_some(buckets: &[Bucket]) -> String {
    let names: Vec<&str> = buckets.iter().take(NAMED_MAX).map(Bucket::as_str).collect();
    let more = if buckets.len() > NAMED_MAX { ", …" } else { "" };
    format!("{} ({}{more})", count(buckets.len() as u64, "bucket"), names.join(", "))
}

fn render(outcome: &Outcome) -> String {
    let text = facts([
        ("pool", outcome.pool.clone()),
        ("members", outcome.members.join(", ")),
        ("draining", if outcome.draining { "yes" } else { "no" }.to_owned()),
        ("buckets", outcome.remaining.len().to_string()),
        ("moves to balance", outcome.report.moves.to_string()),
        ("fewest possible", outcome.report.moves_lower_bound.to_string()),
    ]);
    format!("{text}{}", shortages(&outcome.report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_buckets_are_not_all_named() {
        let many: Vec<Bucket> = (0..30).map(Bucket::number).collect();
        let text = name_some(&many);
        assert!(text.starts_with("30 buckets (0, 1, ") && text.ends_with("19, …)"), "{text}");
    }
}
