//! `rota table`: who owns what.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rota_client::{Client, Source, TableCache};
use rota_protocol::http::{OwnerOfKey, RowBody, TableBody};
use serde::Serialize;

use crate::operator::{Operator, Reading};
use crate::output::{Table, count, facts, say};

/// How long one poll of `--follow` waits. Less than a client waits for an answer.
const POLL: Duration = Duration::from_secs(10);

/// The table: who owns each bucket of a pool.
#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// Show a pool's table, or what changed in it.
    #[command(after_help = "With `--output json`, `--follow` writes one document a line.

Examples:
  rota table show mail
  rota table show mail --since 4711 --follow")]
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
            let path = Client::path(["v1", "pools", &pool, "owner"]);
            let body = operator.get(&Client::query(&path, [("key", Some(key))])).await?;
            operator.output.body(&body, |owner: &OwnerOfKey| describe_owner(owner))?;
            return Ok(verdict(&body.parse()?));
        }
        TableCommand::Owner { pool, key, cache: Some(cache) } => {
            return cached_owner(operator, &pool, &key, &cache).await;
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
    let operator = operator.with_deadline(operator.deadline + POLL);
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
        let owners: Vec<&str> = row.owners.iter().map(|owner| owner.member.as_str()).collect();
        let address = owners.first().and_then(|owner| table.addresses.get(*owner)).cloned();
        let (fence, version) = (row.fence.to_string(), row.version.to_string());
        [row.bucket.clone(), owners.join(","), address.unwrap_or_default(), fence, version]
    });
    let removed = table.removed.iter().map(|bucket| {
        [bucket.clone(), "(removed)".to_owned(), String::new(), String::new(), String::new()]
    });
    Table::new(["BUCKET", "OWNER", "ADDRESS", "FENCE", "VERSION"], owned.chain(removed))
}

fn owner_name(row: &RowBody) -> String {
    row.owners.first().map(|owner| owner.member.clone()).unwrap_or_default()
}

fn describe_row(row: &RowBody) -> String {
    let joined = row.owners.first().map(|owner| owner.joined.to_string()).unwrap_or_default();
    facts([
        ("bucket", row.bucket.clone()),
        ("owner", owner_name(row)),
        ("joined", joined),
        ("fence", row.fence.to_string()),
        ("version", row.version.to_string()),
    ])
}

fn describe_owner(owner: &OwnerOfKey) -> String {
    facts([
        ("key", owner.key.clone()),
        ("bucket", owner.row.bucket.clone()),
        ("owner", owner_name(&owner.row)),
        ("address", owner.address.clone().unwrap_or_default()),
        ("fence", owner.row.fence.to_string()),
        ("table version", owner.version.to_string()),
    ])
}

/// Nobody is an answer, and it is no.
fn verdict(owner: &OwnerOfKey) -> ExitCode {
    if !owner.row.owners.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("nobody owns the key: bucket {} is vacant", owner.row.bucket));
    ExitCode::FAILURE
}

/// The API's body, and where it is from.
#[derive(Debug, Serialize)]
struct CachedOwner {
    #[serde(flatten)]
    owner: OwnerOfKey,
    source: &'static str,
    /// How long ago a coordinator confirmed it.
    age_ms: u64,
}

async fn cached_owner(
    operator: &Operator,
    pool: &str,
    key: &str,
    directory: &std::path::Path,
) -> anyhow::Result<ExitCode> {
    let cache = TableCache::open(operator.client.clone(), pool, Some(directory)).await?;
    let (table, source) = (cache.snapshot(), cache.source());
    let Some(bucket) = table.bucket_of_key(key.as_bytes()) else {
        bail!("pool {pool:?} is named: its buckets are its items, not hashes of keys");
    };
    let row = table.rows.get(&bucket).with_context(|| format!("pool {pool:?} has no bucket {bucket} yet"))?;
    let address = row.owners.first().and_then(|owner| table.addresses.get(&owner.member));
    let owner =
        OwnerOfKey { key: key.to_owned(), version: table.version, row: row.clone(), address: address.cloned() };
    let age_ms = u64::try_from(source.age().as_millis()).unwrap_or(u64::MAX);
    let source = match source {
        Source::Coordinator { .. } => "coordinator",
        Source::Disk { .. } => "disk",
    };
    let cached = CachedOwner { owner, source, age_ms };
    operator.output.document(&cached, |cached| {
        let age = format!("confirmed {} ago", age(cached.age_ms));
        describe_owner(&cached.owner) + &facts([("source", cached.source.to_owned()), ("age", age)])
    })?;
    if source == "disk" {
        let (place, age) = (directory.display(), age(age_ms));
        say(&format!("no coordinator answers: this is from the copy in {place}, confirmed {age} ago"));
    }
    Ok(verdict(&cached.owner))
}

/// A time that has passed, to two places of its unit.
fn age(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::pool::Owner;

    #[test]
    fn owners_vacancies_and_removals_show() {
        let row = |bucket: &str, owner: Option<&str>| RowBody {
            bucket: bucket.into(),
            owners: owner.map(|member| Owner { member: member.into(), joined: 2 }).into_iter().collect(),
            fence: 9,
            version: 1,
        };
        let table = TableBody {
            rows: vec![row("0", Some("w1")), row("1", None)],
            removed: vec!["x".into()],
            addresses: [("w1".to_owned(), "h:1".to_owned())].into(),
            ..TableBody::default()
        };
        let text = rows_of(&table).to_string();
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        let expected = [["0", "w1", "h:1", "9", "1"], ["1", "-", "-", "9", "1"], ["x", "(removed)", "-", "-", "-"]];
        assert_eq!(lines, expected);
    }

    #[test]
    fn ages_for_people() {
        assert_eq!([age(5), age(1540), age(61_000), age(7_260_000)], ["5 ms", "1.5 s", "1 min 1 s", "2 h 1 min"]);
    }
}
