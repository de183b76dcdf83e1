//! `rota completions`: what a shell needs to complete command lines.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::args;
use crate::output::bytes;

/// Write the completions for a shell to standard output.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rota completions bash > /etc/bash_completion.d/rota")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: ShellArg,
}

/// The shells that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShellArg {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let shell = match args.shell {
        ShellArg::Bash => Shell::Bash,
        ShellArg::Zsh => Shell::Zsh,
        ShellArg::Fish => Shell::Fish,
    };
    // Not straight to standard output: there, a reader that has gone is a panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "rota", &mut script);
    bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
