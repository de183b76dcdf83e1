//! `rota why`: who owned a bucket since when, and the reason of each change.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use rota_client::Client;
use rota_core::pool::history::Event;
use rota_protocol::http::{HistoryBody, PlanBody};

use super::change::why_short;
use super::pool::word;
use super::table::owner_names;
use crate::operator::{Operator, Reading};
use crate::output::{Table, facts, say};

/// Show who owned a bucket since when, and the reason of each change: as much as is remembered.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rota why mail 17
  rota why mail 17 --at 2026-11-28T16:00:00Z")]
pub(crate) struct WhyArgs {
    /// The pool.
    pool: String,
    /// The bucket.
    bucket: String,
    /// Who owned it then: a time as in RFC 3339, or milliseconds since 1970.
    #[arg(long, value_parser = moment, value_name = "TIME")]
    at: Option<u64>,
    #[command(flatten)]
    reading: Reading,
}

pub(crate) async fn run(operator: &Operator, args: WhyArgs) -> anyhow::Result<ExitCode> {
    let path = Client::path(["v1", "pools", &args.pool, "buckets", &args.bucket, "history"]);
    let at = args.at.map(|at| at.to_string());
    let asked = args.at.is_some();
    let path = Client::query(&path, [("at", at), args.reading.param()]);
    let body = operator.get(&path).await?;
    operator.output.body(&body, |told: &HistoryBody| if asked { then(told) } else { describe(told) })?;
    let told: HistoryBody = body.parse()?;
    if !asked && told.row.is_some_and(|row| row.owners.is_empty() || row.degraded) {
        let plan: PlanBody = operator.client.get(&Client::path(["v1", "pools", &args.pool, "plan"])).await?;
        why_short(&plan.report).iter().for_each(|why| say(&format!("in pool {}, {why}", args.pool)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A time as in RFC 3339, or milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    if let Ok(ms) = text.parse() {
        return Ok(ms);
    }
    let time = humantime::parse_rfc3339_weak(text);
    let since_1970 = time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let since_1970 =
        since_1970.ok_or("expected a time like 2026-11-28T16:00:00Z, or milliseconds since 1970")?;
    u64::try_from(since_1970.as_millis()).map_err(|_| "that is too late".to_owned())
}

fn time(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

fn names(event: &Event) -> String {
    let preparing = event.preparing.iter().map(|name| format!("+{name}"));
    let names: Vec<String> = event.owners.iter().cloned().chain(preparing).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(",") }
}

fn then(told: &HistoryBody) -> String {
    match &told.at {
        Some(event) => facts([
            ("bucket", told.bucket.clone()),
            ("owners", names(event)),
            ("since", time(event.at_ms)),
            ("reason", word(&event.reason)),
        ]),
        None => format!("bucket {}: that is not remembered\n", told.bucket),
    }
}

fn describe(told: &HistoryBody) -> String {
    let now = told.row.as_ref().map_or_else(|| "(the bucket is gone)".to_owned(), owner_names);
    let text = facts([("bucket", told.bucket.clone()), ("owners now", now)]);
    let rows = told.events.iter().map(|event| [time(event.at_ms), names(event), word(&event.reason)]);
    format!("{text}\n{}", Table::new(["SINCE", "OWNERS", "REASON"], rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::pool::Reason;

    #[test]
    fn moments() {
        assert_eq!(moment("1000"), Ok(1000));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1000));
        assert!(moment("yesterday").is_err() && moment("1960-01-01T00:00:01Z").is_err());
    }

    #[test]
    fn what_happened_reads_as_a_table() {
        let event = |at_ms, owners: &[&str]| Event {
            at_ms,
            owners: owners.iter().map(ToString::to_string).collect(),
            preparing: Vec::new(),
            reason: Reason::Drained,
        };
        let told = HistoryBody {
            bucket: "7".to_owned(),
            row: None,
            events: vec![event(0, &["w1", "w2"]), event(1500, &[])],
            at: None,
        };
        let text = describe(&told);
        assert!(text.contains("1970-01-01T00:00:00.000Z  w1,w2   drained"), "{text}");
        assert!(text.contains("1970-01-01T00:00:01.500Z  nobody  drained"), "{text}");
    }
}
