//! The `rota` binary: servers, workers and the operator's commands.
//!
//! Data goes to standard output, talk to standard error. Exit codes: 0 done, 1
//! it failed or the answer is no, 2 the command line is wrong.

mod args;
mod commands;
mod config;
mod failure;
mod input;
mod operator;
mod output;

use std::process::ExitCode;

use clap::FromArgMatches;

use args::Cli;

fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    start_logging(&cli);
    raise_file_limit();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = cli.command.worker_threads() {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rota: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let format = cli.global.output;
    match runtime.block_on(commands::run(cli)) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error, format),
    }
}

/// Flags, then the environment, then the configuration file, then defaults.
fn parse() -> Result<Cli, ExitCode> {
    let usage = |error: String| {
        eprintln!("rota: {error}");
        ExitCode::from(2)
    };
    let command = config::without_empty_variables(args::command(), &config::is_set_and_empty);
    let command = config::with_file_defaults(command, std::env::args_os());
    let matches = command.map_err(|e| usage(format!("{e:#}")))?.get_matches();
    Cli::from_arg_matches(&matches).map_err(|e| usage(e.to_string()))
}

/// Logs go to standard error, with fields: `ROTA_LOG=debug` shows more.
fn start_logging(cli: &Cli) {
    use tracing_subscriber::EnvFilter;
    let default = match cli.command.is_service() {
        // Raft tells of each failed attempt to reach another server, and of each
        // message that comes after it was stopped; what is worth knowing of that is
        // told by ourselves, once.
        true => "info,openraft=error,openraft::raft::raft_inner=off,raft_log=warn,chunked_wal=warn,sled=warn",
        // `rota table owner` says itself that a table is from the disk.
        false => "warn,rota_client::table=error",
    };
    // One that is empty would have nothing logged but errors.
    let wanted = std::env::var("ROTA_LOG").ok().filter(|wanted| !wanted.is_empty());
    let wanted = wanted.and_then(|wanted| EnvFilter::try_new(wanted).ok());
    let filter = wanted.unwrap_or_else(|| EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
}

/// Lets the process have as many files and connections open as it may: the limit
/// that shells begin with is for programs that use `select`.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Whoever read our output has read enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
