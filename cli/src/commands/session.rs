//! `rota session`: who is considered alive.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{OpenSession, SessionBody, SessionOpened};

use crate::args::duration;
use crate::operator::Operator;
use crate::output::{Table, facts, printable, say};

/// Sessions: the leases by which clients are considered alive.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List the sessions that live.
    #[command(after_help = "Example:\n  rota session list")]
    List,
    /// Show a session, and the ephemeral nodes that it keeps.
    #[command(after_help = "Example:\n  rota session show 5f2c9a0b1d3e4f67")]
    Show {
        /// The session.
        id: String,
    },
    /// Open a session, and show its id and password. It is not kept alive.
    #[command(
        after_help = "Whatever is done in the session's name (`--session ID:PASSWORD`) counts as a sign of life.

Example:
  rota session open --timeout 30s"
    )]
    Open {
        /// How long it outlives the last sign of its client, e.g. 30s.
        #[arg(long, value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Close a session: its ephemeral nodes go with it.
    #[command(
        after_help = "Example:\n  rota session close 5f2c9a0b1d3e4f67 --password 00112233445566778899aabbccddeeff"
    )]
    Close {
        /// The session.
        id: String,
        /// Its password.
        #[arg(long, env = "ROTA_SESSION_PASSWORD", hide_env_values = true)]
        password: String,
    },
}

pub(crate) async fn run(operator: &Operator, command: SessionCommand) -> anyhow::Result<ExitCode> {
    match command {
        SessionCommand::List => {
            operator.show("/v1/sessions", |sessions: &Vec<SessionBody>| list(sessions)).await?;
        }
        SessionCommand::Show { id } => operator.show(&path(&id), describe).await?,
        SessionCommand::Open { timeout } => open(operator, timeout).await?,
        SessionCommand::Close { id, password } => {
            let operator = operator.in_session(Some(format!("{id}:{password}")));
            let body = operator.ask(Method::DELETE, &path(&id), None::<&()>, Idempotency::Unsafe).await?;
            operator.output.done(&body, &format!("session {id} is closed"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(session: &str) -> String {
    Client::path(["v1", "sessions", session])
}

async fn open(operator: &Operator, timeout: Option<Duration>) -> anyhow::Result<()> {
    let timeout_ms = timeout.map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
    // Opened twice, one of them ends by itself.
    let body = OpenSession { timeout_ms };
    let body = operator.ask(Method::POST, "/v1/sessions", Some(&body), Idempotency::Safe).await?;
    operator.output.body(&body, |opened: &SessionOpened| {
        facts([
            ("session", opened.session.clone()),
            ("password", opened.password.clone()),
            ("timeout ms", opened.timeout_ms.to_string()),
        ])
    })?;
    let timeout_ms = body.parse::<SessionOpened>()?.timeout_ms;
    say(&format!("nothing keeps the session alive: it ends {timeout_ms} ms after it was last used"));
    Ok(())
}

fn list(sessions: &[SessionBody]) -> String {
    let row = |s: &SessionBody| {
        [s.session.clone(), s.timeout_ms.to_string(), s.opened.to_string(), s.ephemerals.len().to_string()]
    };
    Table::new(["SESSION", "TIMEOUT MS", "OPENED", "EPHEMERALS"], sessions.iter().map(row)).to_string()
}

fn describe(session: &SessionBody) -> String {
    let text = facts([
        ("session", session.session.clone()),
        ("timeout ms", session.timeout_ms.to_string()),
        ("opened", session.opened.to_string()),
        ("ephemerals", session.ephemerals.len().to_string()),
    ]);
    let paths: String = session.ephemerals.iter().map(|path| format!("{}\n", printable(path))).collect();
    if paths.is_empty() { text } else { format!("{text}\n{paths}") }
}
