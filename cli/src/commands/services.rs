//! What the commands have in common that run until they are told to stop.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Listens on `address`.
pub(crate) async fn listen(address: &str, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({flag}): is another process there? Port 0 picks a free one")
    })?;
    let local = listener.local_addr().context("cannot tell the port")?;
    Ok((listener, local))
}

/// Returns at the first TERM or Ctrl-C.
pub(crate) async fn told_to_stop() -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    tokio::select! {
        _ = term.recv() => Ok(()),
        stopped = tokio::signal::ctrl_c() => stopped.context("cannot wait for signals"),
    }
}
