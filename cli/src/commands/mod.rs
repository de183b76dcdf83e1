//! One file for each command, or family of them: what it takes, and what it does.

pub(crate) mod coordinator;
pub(crate) mod demo;
mod services;
pub(crate) mod worker;

use std::process::ExitCode;

use rota_client::Client;

use crate::args::{Cli, Command, Global};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    match cli.command {
        Command::Coordinator(args) => coordinator::run(args).await,
        Command::Worker(args) => worker::run(&global, args).await,
        Command::Demo(args) => demo::run(&global, args).await,
    }
}

/// A client of the cluster that the command line names.
pub(crate) fn client(global: &Global) -> anyhow::Result<Client> {
    Ok(Client::new(global.servers.iter().cloned())?.with_deadline(global.deadline))
}
