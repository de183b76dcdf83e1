//! What the commands have in common that run until they are told to stop.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How often a service says that it still waits for a coordinator.
const REMINDER_INTERVAL: Duration = Duration::from_secs(30);

/// Says when it is time to say once more that something is still so: at once, then rarely.
#[derive(Debug)]
pub(crate) struct Reminder {
    began: Instant,
    last: Option<Instant>,
}

impl Reminder {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), last: None }
    }

    /// For how long it has been so, when it is to be said.
    pub(crate) fn due(&mut self) -> Option<Duration> {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= REMINDER_INTERVAL);
        is_due.then(|| {
            self.last = Some(Instant::now());
            self.began.elapsed()
        })
    }
}

/// Listens on `address`.
pub(crate) async fn listen(address: &str, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::AddrInUse => "another process is there; port 0 picks a free one",
            ErrorKind::AddrNotAvailable => "that is no address of this machine",
            ErrorKind::PermissionDenied => "ports below 1024 are for the superuser",
            _ => "expected HOST:PORT, with a host that is this machine",
        };
        anyhow::Error::new(error).context(format!("cannot listen on {address} ({flag}): {hint}"))
    })?;
    let local = listener.local_addr().context("cannot tell the port")?;
    Ok((listener, local))
}

/// How others reach what listens at `address`: as `advertise` says, or there.
///
/// # Errors
/// When that is no address that others can reach.
pub(crate) fn reachable_at(
    address: SocketAddr,
    advertise: Option<String>,
    flag: &str,
) -> anyhow::Result<String> {
    match advertise {
        Some(given) => {
            let port = given.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
            if port.is_none_or(|port| port.parse::<u16>().is_err()) {
                bail!("{flag} {given:?} is no address: expected HOST:PORT");
            }
            Ok(given)
        }
        None if address.ip().is_unspecified() => {
            let form = if flag.contains('=') { "" } else { " HOST:PORT" };
            bail!("it listens on every address ({address}): say with {flag}{form} how others reach it")
        }
        None => Ok(address.to_string()),
    }
}

/// Runs `service` to its end. At the first TERM, Ctrl-C or hang-up it is asked to
/// end, by the token that it was given.
///
/// # Errors
/// What it fails with.
pub(crate) async fn run_until_told<E: Into<anyhow::Error>>(
    service: impl FnOnce(CancellationToken) -> BoxFuture<'static, Result<(), E>>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut service = service(stop.clone());
    tokio::select! {
        ended = &mut service => return ended.map_err(Into::into),
        told = told_to_stop() => told?,
    }
    tracing::info!("stopping");
    stop.cancel();
    service.await.map_err(Into::into)
}

/// Returns at the first TERM, Ctrl-C, or hang-up of the terminal.
pub(crate) async fn told_to_stop() -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
        stopped = tokio::signal::ctrl_c() => stopped.context("cannot wait for signals"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reminder_is_due_at_once_and_then_not_for_a_while() {
        let mut reminder = Reminder::new();
        assert!(reminder.due().is_some());
        assert!(reminder.due().is_none());
        reminder.last = Some(Instant::now() - REMINDER_INTERVAL);
        assert!(reminder.due().is_some());
    }
}
