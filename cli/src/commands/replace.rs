//! `rota replace`: one member takes another's place.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{MemberBody, MembersChange, PlanPreview, Replace, TableBody};

use super::change::{moves, preview, show_preview};
use super::drain::{How, owned_by, tell_what_is_left, wait_until_empty};
use crate::operator::Operator;
use crate::output::say;

/// Have a member take another's place: that one is emptied, and what it has passes on to its
/// successor, as far as that is its fair share.
#[derive(Debug, Args)]
#[command(
    after_help = "A successor that joins with --cordoned gets nothing before, so that nothing moves twice. Waits until
the other has no bucket; exits with 1 if some are left at the timeout, and says what they wait for.

Examples:
  rota worker --pool mail --name w9 --cordoned --exec …
  rota replace mail w1 --by w9 --dry-run
  rota replace mail w1 --by w9"
)]
pub(crate) struct ReplaceArgs {
    /// The pool.
    pool: String,
    /// The member whose place is taken.
    member: String,
    /// The member that takes it.
    #[arg(long, value_name = "MEMBER")]
    by: String,
    #[command(flatten)]
    how: How,
}

pub(crate) async fn run(operator: &Operator, args: ReplaceArgs) -> anyhow::Result<ExitCode> {
    let ReplaceArgs { pool, member, by, .. } = &args;
    if member == by {
        bail!("{member} cannot take its own place: name another with --by");
    }
    let change = MembersChange::replacing(member, by).to_vec();
    let asked = PlanPreview { change, ..PlanPreview::default() };
    if args.how.dry_run {
        show_preview(operator, pool, &asked).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let previewed = preview(operator, pool, &asked).await?;
    say(&format!("{by} has {member}'s place after {}", moves(&previewed)));
    let path = Client::path(["v1", "pools", pool, "members", member, "replace"]);
    let body =
        operator.ask(Method::POST, &path, Some(&Replace { by: by.clone() }), Idempotency::Safe).await?;
    operator.output.body(&body, |members: &Vec<MemberBody>| super::member::list(members))?;
    if args.how.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let table: TableBody = operator.client.get(&Client::path(["v1", "pools", pool, "table"])).await?;
    let members = [member.clone()];
    let had = owned_by(&members, &table.rows);
    let left = wait_until_empty(operator, pool, &args.how, &members, had).await?;
    tell_what_is_left(operator, pool, &args.how, &members, &left).await
}
