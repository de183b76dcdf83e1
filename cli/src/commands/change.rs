//! Changes of members, and what would come of them: what `rota drain`, `rota cordon` and
//! `rota member set` have in common.

use anyhow::bail;
use clap::Args;
use http::Method;
use rota_client::{Client, Idempotency};
use rota_core::pool::{Blocked, Move, Report, Shortage, ShortageReason};
use rota_protocol::http::{MembersChange, PlanPreview, Previewed};

use super::pool::word;
use super::worker::label;
use crate::operator::Operator;
use crate::output::{Table, count, facts, labels, say};

/// Which members are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Selection {
    /// The pool.
    pub(crate) pool: String,
    /// The members, by name.
    #[arg(required_unless_present = "labels")]
    pub(crate) members: Vec<String>,
    /// Those with this label: KEY=VALUE, more than once. The zone counts as a label "zone".
    #[arg(long = "label", value_parser = label, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
}

impl Selection {
    /// A change of these members, of nothing yet.
    pub(crate) fn change(&self) -> MembersChange {
        MembersChange {
            members: self.members.clone(),
            labels: self.labels.iter().cloned().collect(),
            ..MembersChange::default()
        }
    }
}

/// `none`, or a number.
pub(crate) fn number_or_none(text: &str) -> Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        text => {
            text.parse().map(|number| Limit(Some(number))).map_err(|_| "expected a number or none".to_owned())
        }
    }
}

/// A number of buckets, or no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(pub(crate) Option<u32>);

/// What would come of changes.
pub(crate) async fn preview(
    operator: &Operator,
    pool: &str,
    asked: &PlanPreview,
) -> anyhow::Result<Previewed> {
    let path = Client::path(["v1", "pools", pool, "plan"]);
    Ok(operator.ask(Method::POST, &path, Some(asked), Idempotency::Safe).await?.parse()?)
}

/// Prints what would come of changes, which are not made.
pub(crate) async fn show_preview(operator: &Operator, pool: &str, asked: &PlanPreview) -> anyhow::Result<()> {
    let previewed = preview(operator, pool, asked).await?;
    operator.output.document(&previewed, describe)?;
    say(&format!("nothing was changed; it would take {}", moves(&previewed)));
    Ok(())
}

/// How many moves it takes.
pub(crate) fn moves(previewed: &Previewed) -> String {
    let report = &previewed.plan.report;
    let mut text = format!("{} (at least {} needed)", count(report.moves, "move"), report.moves_lower_bound);
    if report.promotions > 0 {
        let buckets = count(report.promotions, "bucket");
        text += &format!(", and another of their owners leads in {buckets}");
    }
    let fewer = previewed.plan.pending.iter().filter(|the| the.to.is_none()).count();
    if fewer > 0 {
        text += &format!(", and {} let go without another", count(fewer as u64, "owner"));
    }
    text
}

fn describe(previewed: &Previewed) -> String {
    let (plan, report) = (&previewed.plan, &previewed.plan.report);
    let text = facts([
        ("plan", plan.number.to_string()),
        ("moves to balance", report.moves.to_string()),
        ("fewest possible", report.moves_lower_bound.to_string()),
        ("placements", report.placements.to_string()),
        ("unplaced", report.unplaced.to_string()),
    ]);
    let shares = previewed.shares.iter().map(|(member, buckets)| {
        let primaries = previewed.primaries.get(member).copied().unwrap_or(0);
        [member.clone(), buckets.to_string(), primaries.to_string()]
    });
    let shares = Table::new(["MEMBER", "BUCKETS THEN", "PRIMARY OF"], shares);
    let moves = match plan.pending.as_slice() {
        [] => String::new(),
        pending => format!("\n{}", first_moves(pending)),
    };
    format!("{text}\n{shares}{}{moves}", shortages(report))
}

/// The moves of a plan.
pub(crate) fn first_moves(pending: &[Move]) -> Table<6> {
    let row = |m: &Move| {
        let how = if m.promote { "lead" } else { "" };
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        [
            m.bucket.to_string(),
            name(&m.from),
            name(&m.to),
            how.to_owned(),
            word(&m.reason),
            m.fence.to_string(),
        ]
    };
    Table::new(["BUCKET", "FROM", "TO", "HOW", "REASON", "FENCE"], pending.iter().map(row))
}

/// Why buckets lack owners, and what moves wait for, as a paragraph of its own.
pub(crate) fn shortages(report: &Report) -> String {
    let lines = why_short(report).into_iter().chain(why_waiting(report));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

/// Why buckets lack owners, if any do.
pub(crate) fn why_short(report: &Report) -> Vec<String> {
    let line = |short: &Shortage| {
        let labels = labels(&short.require);
        let reason = match short.reason {
            ShortageReason::NoMembers => "no member that is not drained".to_owned(),
            ShortageReason::NoMemberWithLabels => {
                format!("no member that is not drained has the labels {labels}")
            }
            ShortageReason::FewMembers => "fewer members than owners are wanted".to_owned(),
            ShortageReason::Capacity => {
                "all who could take them have as many as they take (capacity, cordon)".to_owned()
            }
        };
        let verb = if short.buckets == 1 { "lacks" } else { "lack" };
        format!("{} {verb} owners that may have it: {reason}", count(short.buckets, "bucket"))
    };
    report.short.iter().map(line).collect()
}

/// What moves wait for, if any do.
pub(crate) fn why_waiting(report: &Report) -> Vec<String> {
    let line = |(wait, moves): (&Blocked, &u32)| {
        let what = match wait {
            Blocked::Paused => "the pool is paused (`rota pool resume`)",
            Blocked::MaxUnavailable => {
                "as many members are being emptied or are away as may be at once (max unavailable)"
            }
            Blocked::Moving => "as many moves are under way as may be at once (max concurrent moves)",
            Blocked::Member => {
                "as many are under way from or to one member as may be (max concurrent moves per member)"
            }
            Blocked::Zone => {
                "as many are under way from or to one zone as may be (max concurrent moves per zone)"
            }
        };
        format!("{} more wait: {what}", count(*moves, "move"))
    };
    report.waiting.iter().map(line).collect()
}

/// Carries a change out, or shows what would come of it.
pub(crate) async fn carry_out(
    operator: &Operator,
    pool: &str,
    change: MembersChange,
    dry_run: bool,
) -> anyhow::Result<Option<crate::output::Body>> {
    if change.is_empty() {
        bail!("nothing is to be changed: see --help");
    }
    if dry_run {
        let asked = PlanPreview { change: vec![change], ..PlanPreview::default() };
        show_preview(operator, pool, &asked).await?;
        return Ok(None);
    }
    let path = Client::path(["v1", "pools", pool, "members"]);
    Ok(Some(operator.ask(Method::PUT, &path, Some(&change), Idempotency::Safe).await?))
}
