//! `rota drain`: empties a member, so that it can leave without anybody waiting
//! for it.
//!
//! It says first how many buckets would move, by the planner that the
//! coordinators use, then has the member drained and waits until nothing is its
//! own.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use http::Method;
use rota_client::{Client, Repeat, TableCache};
use rota_core::placement::{Problem, check, solve};
use rota_core::pool::{Bucket, Report};
use rota_protocol::http::{MemberBody, RowBody, TableBody};
use serde::Serialize;
use tokio::time::Instant;

use crate::args::duration;
use crate::operator::Operator;
use crate::output::{count, facts, say};

/// Least time between two lines that say how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// Buckets that are named when they are too many for a line.
const NAMED_MAX: usize = 20;

/// Empty a member: its buckets pass to the others, and it gets no more.
#[derive(Debug, Args)]
#[command(
    after_help = "Says how many buckets will move, drains, and waits until the member has none. Exits with 1 if some
are left at the timeout; the member goes on draining then.

Examples:
  rota drain mail w1 --dry-run
  rota drain mail w1
  rota drain mail w1 --undo"
)]
pub(crate) struct DrainArgs {
    /// The pool.
    pool: String,
    /// The member.
    member: String,
    /// Let a drained member work again.
    #[arg(long, conflicts_with_all = ["no_wait", "timeout"])]
    undo: bool,
    /// Only say how many buckets would move.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until the member has no bucket.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, e.g. 60s.
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
}

#[derive(Debug, Serialize)]
struct Outcome {
    pool: String,
    member: String,
    /// Whether the member is being drained now.
    draining: bool,
    /// What the planner said before.
    report: Report,
    /// The member's buckets now.
    remaining: Vec<Bucket>,
}

pub(crate) async fn run(operator: &Operator, args: DrainArgs) -> anyhow::Result<ExitCode> {
    let mut outcome = preview(operator, &args).await?;
    let before = summary(&outcome, args.undo);
    if args.dry_run {
        operator.output.document(&outcome, render)?;
        say(&format!("nothing was changed: {before}"));
        return Ok(ExitCode::SUCCESS);
    }
    say(&before);
    let path = Client::path(["v1", "pools", &args.pool, "members", &args.member, "drain"]);
    let method = if args.undo { Method::DELETE } else { Method::POST };
    let changed: MemberBody = operator.ask(method, &path, None::<&()>, Repeat::Safe).await?.parse()?;
    outcome.draining = changed.member.draining;
    let waits = !(args.undo || args.no_wait);
    if waits {
        outcome.remaining = wait_until_empty(operator, &args, outcome.remaining).await?;
    }
    operator.output.document(&outcome, render)?;
    if waits && !outcome.remaining.is_empty() {
        let (member, buckets) = (&args.member, name_some(&outcome.remaining));
        say(&format!("after {:?} member {member} still has {buckets}; it goes on draining", args.timeout));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn preview(operator: &Operator, args: &DrainArgs) -> anyhow::Result<Outcome> {
    let path = |last| Client::path(["v1", "pools", &args.pool, last]);
    let member = Client::path(["v1", "pools", &args.pool, "members", &args.member]);
    let member: MemberBody = operator.client.get(&member).await?;
    let mut members: Vec<MemberBody> = operator.client.get(&path("members")).await?;
    let table: TableBody = operator.client.get(&path("table")).await?;
    for found in members.iter_mut().filter(|found| found.name == args.member) {
        found.member.draining = !args.undo;
    }
    let problem = problem(&members, &table.rows);
    let report = check::check(&problem, &solve(&problem));
    Ok(Outcome {
        pool: args.pool.clone(),
        member: args.member.clone(),
        draining: member.member.draining,
        report: report.map_err(|fault| anyhow!("the planner's answer is wrong: {fault}"))?,
        remaining: owned_by(&args.member, &table.rows),
    })
}

/// The pool as a problem in numbers, posed as the coordinators pose it.
fn problem(members: &[MemberBody], rows: &[RowBody]) -> Problem {
    let weight = |m: &MemberBody| if m.member.draining { 0 } else { m.member.weight };
    let owner = |row: &RowBody| {
        let owner = row.owners.first()?;
        members.iter().position(|member| member.name == owner.member)
    };
    Problem { weights: members.iter().map(weight).collect(), owners: rows.iter().map(owner).collect() }
}

fn owned_by<'a>(member: &str, rows: impl IntoIterator<Item = &'a RowBody>) -> Vec<Bucket> {
    let owned = |row: &&RowBody| row.owners.first().is_some_and(|owner| owner.member == member);
    rows.into_iter().filter(owned).map(|row| Bucket::new(&row.bucket)).collect()
}

fn summary(outcome: &Outcome, undo: bool) -> String {
    let Outcome { pool, member, report, remaining, .. } = outcome;
    let has = count(remaining.len() as u64, "bucket");
    if report.members == 0 {
        return format!("member {member} has {has}, and no other member of pool {pool} can take them");
    }
    let moves = count(report.moves, "move");
    let then = if undo { "with it" } else { "without it" };
    let least = report.moves_lower_bound;
    format!(
        "member {member} has {has}; pool {pool} is balanced {then} after {moves} (at least {least} needed)"
    )
}

/// Waits until the member has no bucket and each that it had is another's.
/// Returns the buckets that are left at the timeout.
async fn wait_until_empty(
    operator: &Operator,
    args: &DrainArgs,
    had: Vec<Bucket>,
) -> anyhow::Result<Vec<Bucket>> {
    let deadline = Instant::now() + args.timeout;
    let mut table = TableCache::open(operator.client.clone(), &args.pool, None).await?;
    let mut said = None;
    let mut had: BTreeSet<Bucket> = had.into_iter().collect();
    loop {
        let now = table.snapshot();
        had.extend(owned_by(&args.member, now.rows.values()));
        let is_left = |bucket: &&Bucket| {
            let row = now.rows.get(*bucket);
            row.is_some_and(|row| row.owners.first().is_none_or(|owner| owner.member == args.member))
        };
        let left: Vec<Bucket> = had.iter().filter(is_left).cloned().collect();
        if left.is_empty() {
            say(&format!("member {} has no bucket", args.member));
            return Ok(left);
        }
        if said.is_none_or(|said: Instant| said.elapsed() >= SAY_EVERY) {
            say(&format!("waiting until member {} has handed over {}", args.member, name_some(&left)));
            said = Some(Instant::now());
        }
        if tokio::time::timeout_at(deadline, table.changed()).await.is_err() {
            return Ok(left);
        }
    }
}

fn name_some(buckets: &[Bucket]) -> String {
    let names: Vec<&str> = buckets.iter().take(NAMED_MAX).map(Bucket::as_str).collect();
    let more = if buckets.len() > NAMED_MAX { ", …" } else { "" };
    format!("{} ({}{more})", count(buckets.len() as u64, "bucket"), names.join(", "))
}

fn render(outcome: &Outcome) -> String {
    facts([
        ("pool", outcome.pool.clone()),
        ("member", outcome.member.clone()),
        ("draining", if outcome.draining { "yes" } else { "no" }.to_owned()),
        ("buckets", outcome.remaining.len().to_string()),
        ("moves to balance", outcome.report.moves.to_string()),
        ("fewest possible", outcome.report.moves_lower_bound.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::pool::{Member, Owner};

    fn member(name: &str, draining: bool) -> MemberBody {
        let member = Member { draining, ..Member::default() };
        MemberBody {
            name: name.into(),
            member,
            joined: 1,
            session: None,
            buckets: 0,
            load: None,
            progress: Default::default(),
        }
    }

    fn rows(owners: &[&str]) -> Vec<RowBody> {
        let row = |(bucket, owner): (usize, &&str)| RowBody {
            bucket: bucket.to_string(),
            owners: vec![Owner { member: (*owner).to_owned(), joined: 1 }],
            fence: 1,
            version: 0,
        };
        owners.iter().enumerate().map(row).collect()
    }

    #[test]
    fn a_drained_members_buckets_all_move_and_no_others() {
        let rows = rows(&["a", "a", "b", "b"]);
        let problem = problem(&[member("a", true), member("b", false), member("c", false)], &rows);
        let report = check::check(&problem, &solve(&problem)).unwrap();
        assert_eq!((report.moves, report.moves_lower_bound), (2, 2));
        assert_eq!(owned_by("a", &rows), [Bucket::number(0), Bucket::number(1)]);
    }

    #[test]
    fn nobody_else_moves_nothing() {
        let problem = problem(&[member("a", true)], &rows(&["a", "a"]));
        let report = check::check(&problem, &solve(&problem)).unwrap();
        assert_eq!((report.moves, report.members), (0, 0));
    }

    #[test]
    fn many_buckets_are_not_all_named() {
        let many: Vec<Bucket> = (0..30).map(Bucket::number).collect();
        let text = name_some(&many);
        assert!(text.starts_with("30 buckets (0, 1, ") && text.ends_with("19, …)"), "{text}");
    }
}
