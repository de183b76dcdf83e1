//! The command line, and nothing of what it does.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands;

/// Rota hands out work: it decides which machine does which part of it, proves
/// that no two do the same, and moves the parts when machines come and go.
#[derive(Debug, Parser)]
#[command(name = "rota", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Example:\n  rota demo\n  rota --servers 10.0.0.1:7710,10.0.0.2:7710 status")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line's definition.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The coordinators' HTTP addresses, HOST:PORT, separated by commas.
    #[arg(
        long,
        global = true,
        env = "ROTA_SERVERS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7710"
    )]
    pub(crate) servers: Vec<String>,
    /// How answers are written. JSON is the API's own; one document, or one a line.
    #[arg(long, global = true, env = "ROTA_OUTPUT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// A TOML file with defaults for the flags: one table for each command.
    #[arg(long, global = true, env = "ROTA_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long to keep trying to reach a coordinator, e.g. 500ms, 5s, 1m. Default: 15s, or 1s if
    /// every address refuses the connection. Workers, agents and collectors try again after that,
    /// until they are stopped.
    #[arg(long, global = true, env = "ROTA_DEADLINE", value_parser = duration)]
    deadline: Option<Duration>,
}

/// How long a coordinator is looked for unless `--deadline` says so.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(15);
/// And when every address refuses the connection: no server runs, and a person is waiting. A
/// server that is being restarted is back within that, or a little later.
pub(crate) const REFUSED_DEADLINE: Duration = Duration::from_secs(1);

impl Global {
    /// How long a coordinator is looked for.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline.unwrap_or(DEADLINE_DEFAULT)
    }

    /// How long a command of an operator looks for one while every address refuses the connection.
    pub(crate) fn refused_deadline(&self) -> Duration {
        self.deadline.unwrap_or(REFUSED_DEADLINE)
    }
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, for people.
    Table,
    /// JSON, for programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Coordinator(Box<commands::coordinator::CoordinatorArgs>),
    Worker(commands::worker::WorkerArgs),
    Agent(commands::agent::AgentArgs),
    Collector(commands::collector::CollectorArgs),
    Demo(commands::demo::DemoArgs),
    Status(commands::status::StatusArgs),
    #[command(subcommand)]
    Pool(commands::pool::PoolCommand),
    #[command(subcommand)]
    Member(commands::member::MemberCommand),
    #[command(subcommand)]
    Item(commands::item::ItemCommand),
    #[command(subcommand)]
    Table(commands::table::TableCommand),
    #[command(subcommand)]
    Plan(commands::plan::PlanCommand),
    Why(commands::why::WhyArgs),
    Drain(commands::drain::DrainArgs),
    Cordon(commands::drain::CordonArgs),
    Replace(commands::replace::ReplaceArgs),
    #[command(subcommand)]
    Checkpoint(commands::checkpoint::CheckpointCommand),
    #[command(subcommand)]
    Node(commands::node::NodeCommand),
    Watch(commands::watch::WatchArgs),
    #[command(subcommand)]
    Session(commands::session::SessionCommand),
    #[command(subcommand)]
    Cluster(commands::cluster::ClusterCommand),
    #[command(subcommand)]
    Import(commands::import::ImportCommand),
    Simulate(commands::simulate::SimulateArgs),
    Digest(commands::digest::DigestArgs),
    Completions(commands::completions::CompletionsArgs),
}

impl Command {
    /// Whether it runs until it is told to stop.
    pub(crate) fn is_service(&self) -> bool {
        matches!(self, Self::Coordinator(_) | Self::Worker(_) | Self::Agent(_) | Self::Collector(_))
    }

    /// How many threads it wants, if it is not one for each processor.
    pub(crate) fn worker_threads(&self) -> Option<usize> {
        match self {
            Self::Coordinator(args) => Some(args.worker_threads()),
            _ => None,
        }
    }
}

/// A duration such as `500ms`, `5s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let bad = || format!("{text:?} is not a duration: expected a number and ms, s, m or h");
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert!(duration("x").is_err() && duration("5d").is_err() && duration("").is_err());
    }

    /// Every command shows how it is used.
    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "no example in the help of{path}");
            }
            command.get_subcommands().for_each(|sub| check(sub, &path));
        }
        check(&command(), "");
    }
}
