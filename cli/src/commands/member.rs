//! `rota member`: who shares a pool's work, and how far they are.

use std::process::ExitCode;

use clap::Subcommand;
use rota_client::Client;
use rota_protocol::http::{Assignment, Grant, MemberBody};

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
    }
    Ok(ExitCode::SUCCESS)
}

fn list(members: &[MemberBody]) -> String {
    let row = |m: &MemberBody| {
        [
            m.name.clone(),
            m.member.address.clone(),
            m.member.weight.to_string(),
            m.member.zone.clone(),
            m.buckets.to_string(),
            load(m),
            if m.member.draining { "draining" } else { "working" }.to_owned(),
        ]
    };
    let names = ["MEMBER", "ADDRESS", "WEIGHT", "ZONE", "BUCKETS", "LOAD", "STATE"];
    Table::new(names, members.iter().map(row)).to_string()
}

fn load(member: &MemberBody) -> String {
    member.load.map(|load| format!("{load:.2}")).unwrap_or_default()
}

fn describe(member: &MemberBody, assignment: Option<&Assignment>) -> String {
    let text = facts([
        ("name", member.name.clone()),
        ("address", member.member.address.clone()),
        ("weight", member.member.weight.to_string()),
        ("zone", member.member.zone.clone()),
        ("labels", labels(&member.member.labels)),
        ("state", if member.member.draining { "draining" } else { "working" }.to_owned()),
        ("load", load(member)),
        ("joined", member.joined.to_string()),
        ("session", member.session.clone().unwrap_or_default()),
        ("buckets", member.buckets.to_string()),
    ]);
    let Some(assignment) = assignment.filter(|assignment| !assignment.grants.is_empty()) else { return text };
    let row = |grant: &Grant| {
        let state = if assignment.release.contains(&grant.bucket) { "to release" } else { "owned" };
        let progress = member.progress.get(&grant.bucket).cloned().unwrap_or_default();
        [grant.bucket.clone(), grant.fence.to_string(), state.to_owned(), progress]
    };
    let grants = assignment.grants.iter().map(row);
    format!("{text}\n{}", Table::new(["BUCKET", "FENCE", "STATE", "PROGRESS"], grants))
}
