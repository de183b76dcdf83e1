//! `rota member`: who shares a pool's work, and how far they are.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use rota_client::Client;
use rota_core::pool::OwnerAction;
use rota_protocol::http::{Assignment, Grant, MemberBody, MembersChange};

use super::change::{Limit, Selection, carry_out, number_or_none};
use super::pool::word;
use crate::args::Format;
use crate::operator::{Operator, Reading};
use crate::output::{Table, facts, labels};

/// Members: the workers that joined a pool.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List a pool's members.
    #[command(after_help = "Example:\n  rota member list mail")]
    List {
        /// The pool.
        pool: String,
        #[command(flatten)]
        reading: Reading,
    },
    /// Show a member: its buckets, its load and its progress.
    #[command(after_help = "Example:\n  rota member show mail w1")]
    Show {
        /// The pool.
        pool: String,
        /// The member.
        member: String,
        #[command(flatten)]
        reading: Reading,
    },
    /// Change members' weights or capacities.
    #[command(after_help = "Examples:
  rota member set mail w1 --weight 2
  rota member set mail --label zone=east --capacity 100 --dry-run
  rota member set mail w1 --capacity none")]
    Set {
        #[command(flatten)]
        selection: Selection,
        /// Their share of the work, relative to the others'.
        #[arg(long, allow_negative_numbers = true)]
        weight: Option<u32>,
        /// Most buckets that they take; "none" for as many as are their share.
        #[arg(long, value_parser = number_or_none, value_name = "N")]
        capacity: Option<Limit>,
        /// Only show the plan that would run.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(operator: &Operator, command: MemberCommand) -> anyhow::Result<ExitCode> {
    match command {
        MemberCommand::List { pool, reading } => {
            let path = Client::query(&Client::path(["v1", "pools", &pool, "members"]), [reading.param()]);
            operator.show(&path, |members: &Vec<MemberBody>| list(members)).await?;
        }
        MemberCommand::Show { pool, member, reading } => {
            let path = Client::path(["v1", "pools", &pool, "members", &member]);
            let body = operator.get(&Client::query(&path, [reading.param()])).await?;
            let assignment = match operator.output.format {
                Format::Json => None,
                Format::Table => Some(operator.client.get(&format!("{path}/assignment")).await?),
            };
            operator.output.body(&body, |member| describe(member, assignment.as_ref()))?;
        }
        MemberCommand::Set { selection, weight, capacity, dry_run } => {
            let capacity = capacity.map(|limit| limit.0);
            let change = MembersChange { weight, capacity, ..selection.change() };
            if let Some(body) = carry_out(operator, &selection.pool, change, dry_run).await? {
                operator.output.body(&body, |members: &Vec<MemberBody>| list(members))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn list(members: &[MemberBody]) -> String {
    let row = |m: &MemberBody| {
        [
            m.name.clone(),
            m.member.address.clone(),
            m.member.weight.to_string(),
            m.member.zone.clone(),
            m.buckets.to_string(),
            m.primaries.to_string(),
            load(m),
            m.stuck.len().to_string(),
            state(m).to_owned(),
        ]
    };
    let names = ["MEMBER", "ADDRESS", "WEIGHT", "ZONE", "BUCKETS", "PRIMARY OF", "LOAD", "STUCK", "STATE"];
    Table::new(names, members.iter().map(row)).to_string()
}

fn state(member: &MemberBody) -> &'static str {
    match (member.member.draining, member.member.cordoned) {
        (true, _) => "draining",
        (false, true) => "cordoned",
        (false, false) => "working",
    }
}

fn load(member: &MemberBody) -> String {
    // What it says of its buckets, if it says nothing of itself.
    let buckets = || (!member.loads.is_empty()).then(|| member.loads.values().sum::<f64>());
    let load = member.load.map(f64::from).or_else(buckets);
    load.map(|load| format!("{load:.2}")).unwrap_or_default()
}

fn describe(member: &MemberBody, assignment: Option<&Assignment>) -> String {
    let text = facts([
        ("name", member.name.clone()),
        ("address", member.member.address.clone()),
        ("weight", member.member.weight.to_string()),
        ("zone", member.member.zone.clone()),
        ("labels", labels(&member.member.labels)),
        ("capacity", member.member.capacity.map(|most| most.to_string()).unwrap_or_default()),
        ("state", state(member).to_owned()),
        ("load", load(member)),
        ("joined", member.joined.to_string()),
        ("session", member.session.clone().unwrap_or_default()),
        ("buckets", member.buckets.to_string()),
        ("primary of", member.primaries.to_string()),
        ("successor", member.member.successor.clone().unwrap_or_default()),
    ]);
    let Some(assignment) = assignment.filter(|assignment| !assignment.grants.is_empty()) else { return text };
    let row = |grant: &Grant| {
        let asked = match assignment.asked(&grant.bucket) {
            Some(OwnerAction::Release) => "to release",
            Some(OwnerAction::StepDown) => "to step down",
            Some(OwnerAction::Ready) | None => "",
        };
        let number = |of: &BTreeMap<String, f64>| of.get(&grant.bucket).map_or(String::new(), f64::to_string);
        let stuck = if member.stuck.contains(&grant.bucket) { "stuck" } else { "" };
        let progress = member.progress.get(&grant.bucket).cloned().unwrap_or_default();
        let state = [asked, stuck].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
        let (load, lag) = (number(&member.loads), number(&member.lags));
        [grant.bucket.clone(), word(&grant.role), grant.fence.to_string(), state, load, lag, progress]
    };
    let grants = assignment.grants.iter().map(row);
    let names = ["BUCKET", "ROLE", "FENCE", "STATE", "LOAD", "LAG", "PROGRESS"];
    format!("{text}\n{}", Table::new(names, grants))
}
