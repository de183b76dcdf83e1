//! `rota table`: who owns what.

mod owner;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use rota_client::Client;
use rota_protocol::http::{RowBody, TableBody};

use crate::operator::{Operator, Reading};
use crate::output::{Table, count, facts, say};

/// How long one poll of `--follow` waits. Less than a client waits for an answer.
const POLL: Duration = Duration::from_secs(10);

/// The table: who owns each bucket of a pool.
#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// Show a pool's table, or what changed in it.
    #[command(
        after_help = "Owners are in order, the primary first; +NAME prepares to be one. VERSION is that of the row's node, which
clients of ZooKeeper check; --since takes the version of the table. With `--output json`, `--follow`
writes one document a line.

Examples:
  rota table show mail
  rota table show mail --since 4711 --follow"
    )]
    Show(ShowArgs),
    /// Show who owns a key. Exits with 1 when nobody does.
    #[command(after_help = "Example:
  rota table owner mail alice@example.org
  rota table owner mail alice@example.org --cache /var/cache/rota")]
    Owner {
        /// The pool: a hashed one.
        pool: String,
        /// The key.
        key: String,
        /// Keep a copy of the table here, and answer from it when no coordinator does.
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
    },
    /// Show one bucket's row.
    #[command(after_help = "Example:\n  rota table row mail 17")]
    Row {
        /// The pool.
        pool: String,
        /// The bucket.
        bucket: String,
        #[command(flatten)]
        reading: Reading,
    },
}

/// Which part of the table.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The pool.
    pool: String,
    /// Only what changed after this version of the table.
    #[arg(long, value_name = "VERSION")]
    since: Option<u64>,
    /// Go on with what changes, until no coordinator answers for `--deadline`.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    reading: Reading,
}

pub(crate) async fn run(operator: &Operator, command: TableCommand) -> anyhow::Result<ExitCode> {
    match command {
        TableCommand::Show(args) if args.follow => follow(operator, args).await?,
        TableCommand::Show(args) => {
            let body = operator.get(&table_path(&args, args.since, Duration::ZERO)).await?;
            operator.output.body(&body, |table: &TableBody| rows_of(table).to_string())?;
            let table: TableBody = body.parse()?;
            let rows = count(table.rows.len() as u64, "row");
            say(&format!("the table of pool {} is at version {}: {rows} shown", args.pool, table.version));
        }
        TableCommand::Owner { pool, key, cache: None } => {
            return owner::from_coordinator(operator, &pool, key).await;
        }
        TableCommand::Owner { pool, key, cache: Some(cache) } => {
            return owner::from_cache(operator, &pool, &key, &cache).await;
        }
        TableCommand::Row { pool, bucket, reading } => {
            let path = Client::path(["v1", "pools", &pool, "buckets", &bucket]);
            operator.show(&Client::query(&path, [reading.param()]), describe_row).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table_path(args: &ShowArgs, since: Option<u64>, wait: Duration) -> String {
    let path = Client::path(["v1", "pools", &args.pool, "table"]);
    let since = since.map(|version| version.to_string());
    let params = [("since", since), ("wait_ms", Some(wait.as_millis().to_string())), args.reading.param()];
    Client::query(&path, params)
}

async fn follow(operator: &Operator, args: ShowArgs) -> anyhow::Result<()> {
    let operator = operator.patient(POLL);
    let mut widths = None;
    let mut since = args.since;
    loop {
        // With no version to wait for something newer than, there is an answer at once.
        let body = operator.get(&table_path(&args, since, POLL)).await?;
        let table: TableBody = body.parse()?;
        if since.is_none_or(|since| table.version > since) {
            operator.output.body(&body, |table| {
                let rows = rows_of(table);
                let known = rows.widths(widths.unwrap_or_default());
                let header = if widths.is_none() { rows.header(known) } else { String::new() };
                widths = Some(known);
                header + &rows.lines(known)
            })?;
        }
        since = Some(table.version);
    }
}

fn rows_of(table: &TableBody) -> Table<5> {
    let owned = table.rows.iter().map(|row| {
        let address = row.owners.first().and_then(|owner| table.addresses.get(&owner.member)).cloned();
        let (fence, version) = (row.fence.to_string(), row.version.to_string());
        [row.bucket.clone(), owner_names(row), address.unwrap_or_default(), fence, version]
    });
    let removed = table
        .removed
        .iter()
        .map(|bucket| [bucket.clone(), "(removed)".to_owned(), String::new(), String::new(), String::new()]);
    Table::new(["BUCKET", "OWNER", "ADDRESS", "FENCE", "VERSION"], owned.chain(removed))
}

/// The owners in order, then with a `+` those who prepare; and whether they are too few.
pub(crate) fn owner_names(row: &RowBody) -> String {
    let owners = row.owners.iter().map(|owner| owner.member.clone());
    let preparing = row.preparing.iter().map(|owner| format!("+{}", owner.member));
    let names = owners.chain(preparing).collect::<Vec<_>>().join(",");
    if row.degraded { format!("{names} (degraded)") } else { names }
}

fn describe_row(row: &RowBody) -> String {
    let joined = row.owners.first().map(|owner| owner.joined.to_string()).unwrap_or_default();
    facts([
        ("bucket", row.bucket.clone()),
        ("owner", owner_names(row)),
        ("joined", joined),
        ("fence", row.fence.to_string()),
        ("version", row.version.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::pool::Owner;

    #[test]
    fn owners_vacancies_and_removals_show() {
        let row = |bucket: &str, owner: Option<&str>| RowBody {
            bucket: bucket.into(),
            owners: owner.map(|member| Owner::new(member, 2)).into_iter().collect(),
            fence: 9,
            version: 1,
            ..RowBody::default()
        };
        let table = TableBody {
            rows: vec![row("0", Some("w1")), row("1", None)],
            removed: vec!["x".into()],
            addresses: [("w1".to_owned(), "h:1".to_owned())].into(),
            ..TableBody::default()
        };
        let text = rows_of(&table).to_string();
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        let expected =
            [["0", "w1", "h:1", "9", "1"], ["1", "-", "-", "9", "1"], ["x", "(removed)", "-", "-", "-"]];
        assert_eq!(lines, expected);
    }
}
