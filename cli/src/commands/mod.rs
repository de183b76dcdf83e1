//! One file for each command, or family of them: what it takes, and what it does.

pub(crate) mod agent;
mod change;
pub(crate) mod checkpoint;
pub(crate) mod cluster;
pub(crate) mod collector;
pub(crate) mod completions;
pub(crate) mod coordinator;
pub(crate) mod demo;
pub(crate) mod digest;
pub(crate) mod drain;
mod failing;
pub(crate) mod import;
pub(crate) mod item;
pub(crate) mod member;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod replace;
mod services;
pub(crate) mod session;
mod settings;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod watch;
pub(crate) mod why;
pub(crate) mod worker;

use std::process::ExitCode;

use rota_client::Client;

use crate::args::{Cli, Command, Global};
use crate::operator::Operator;

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    let operator = || Operator::new(&global);
    match cli.command {
        Command::Coordinator(args) => coordinator::run(*args).await,
        Command::Worker(args) => worker::run(&global, args).await,
        Command::Agent(args) => agent::run(&global, args).await,
        Command::Collector(args) => collector::run(&global, args).await,
        Command::Demo(args) => demo::run(&global, args).await,
        Command::Status(args) => status::run(&operator()?, args).await,
        Command::Pool(command) => pool::run(&operator()?, command).await,
        Command::Member(command) => member::run(&operator()?, command).await,
        Command::Item(command) => item::run(&operator()?, command).await,
        Command::Table(command) => table::run(&operator()?, command).await,
        Command::Plan(command) => plan::run(&operator()?, command).await,
        Command::Why(args) => why::run(&operator()?, args).await,
        Command::Drain(args) => drain::run(&operator()?, args).await,
        Command::Replace(args) => replace::run(&operator()?, args).await,
        Command::Cordon(args) => drain::cordon(&operator()?, args).await,
        Command::Checkpoint(command) => checkpoint::run(&operator()?, command).await,
        Command::Node(command) => node::run(&operator()?, command).await,
        Command::Watch(args) => watch::run(&operator()?, args).await,
        Command::Session(command) => session::run(&operator()?, command).await,
        Command::Cluster(command) => cluster::run(&operator()?, command).await,
        Command::Import(command) => import::run(&operator()?, command).await,
        Command::Digest(args) => digest::run(&args),
        Command::Simulate(args) => simulate::run(&global, &args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// A client of the cluster that the command line names.
pub(crate) fn client(global: &Global) -> anyhow::Result<Client> {
    Ok(Client::new(global.servers.iter().cloned())?.with_deadline(global.deadline()))
}
