//! `rota watch`: what happens in the tree.

use std::process::ExitCode;

use clap::Args;
use rota_client::{Client, WatchItem};
use rota_protocol::http::{EventBody, Missed};

use super::node::absolute;
use crate::operator::Operator;
use crate::output::say;

/// Show what happens to a node, one event a line.
#[derive(Debug, Args)]
#[command(
    after_help = "When the servers no longer remember every event since, it says so and goes on: read the nodes anew.
With `--output json` that is the line {\"missed\":true}.

Examples:
  rota watch /app/config
  rota watch /rota/pools/mail --recursive --since 4711 --count 10"
)]
pub(crate) struct WatchArgs {
    /// The node. It need not exist.
    #[arg(value_parser = absolute)]
    path: String,
    /// Everything below it too.
    #[arg(long)]
    recursive: bool,
    /// From after this write on. Default: from now.
    #[arg(long, value_name = "ZXID")]
    since: Option<u64>,
    /// End after so many events.
    #[arg(long)]
    count: Option<u64>,
}

pub(crate) async fn run(operator: &Operator, args: WatchArgs) -> anyhow::Result<ExitCode> {
    let since = match args.since {
        Some(since) => since,
        None => now(operator, &args.path).await?,
    };
    say(&format!("watching {} for what happens after zxid {since}", args.path));
    let mut stream = operator.client.watch(&args.path, args.recursive, Some(since));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let events = match stream.next().await? {
            WatchItem::Events(events) => events,
            WatchItem::Missed => {
                operator.output.document(&serde_json::json!({"missed": true}), |_| String::new())?;
                say("events may be missing here: read the nodes anew");
                continue;
            }
        };
        for event in events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            operator.output.document(event, render)?;
            left -= 1;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The last write that the server has applied.
async fn now(operator: &Operator, path: &str) -> anyhow::Result<u64> {
    let path = Client::query("/v1/watch", [("path", Some(path.to_owned()))]);
    let missed: Missed = operator.client.get(&path).await?;
    Ok(missed.through)
}

fn render(event: &EventBody) -> String {
    let kind = serde_json::to_value(event.kind).unwrap_or_default();
    format!("{}  {:<16}  {}\n", event.zxid, kind.as_str().unwrap_or_default(), event.path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_protocol::http::EventKindBody;

    #[test]
    fn an_event_is_a_line() {
        let event = EventBody { zxid: 7, kind: EventKindBody::DataChanged, path: "/a".into() };
        assert_eq!(render(&event), "7  data_changed      /a\n");
    }
}
