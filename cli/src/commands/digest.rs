//! `rota digest`: the name of a user with a password.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use crate::output;

/// Print the digest of a user and password, as access control lists and
/// `--super-digest` name them.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  rota coordinator --id 1 --data /var/lib/rota --super-digest \"$(rota digest super:secret)\"")]
pub(crate) struct DigestArgs {
    /// The user and the password.
    #[arg(value_name = "USER:PASSWORD")]
    user_password: String,
}

pub(crate) fn run(args: &DigestArgs) -> anyhow::Result<ExitCode> {
    let is_pair = args.user_password.split_once(':').is_some_and(|(user, _)| !user.is_empty());
    if !is_pair {
        bail!("expected USER:PASSWORD");
    }
    output::data(format!("{}\n", rota_coordinator::digest(args.user_password.as_bytes())).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
