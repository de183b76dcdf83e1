//! `rota agent`: serves an application's log files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use nix::sys::resource::{Resource, getrlimit};
use rota_collector::POOL_DEFAULT;
use rota_collector::agent::register::Registration;
use rota_collector::agent::rooted_fs::Links;
use rota_collector::agent::{self, AgentConfig, AgentOptions};

use super::services::{listen, reachable_at, run_until_told};
use super::worker::host_name;
use crate::args::{Global, duration};

/// Serve an application's log files to collectors, following rotation.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  rota agent --app nginx --path '/var/log/nginx/*.log' --listen 0.0.0.0:7730 --advertise 10.0.0.9:7730")]
pub(crate) struct AgentArgs {
    /// The application whose files they are.
    #[arg(long, env = "ROTA_APP")]
    app: String,
    /// Which files: a glob, more than once. `**` matches any directories.
    #[arg(long = "path", required = true, value_name = "GLOB")]
    paths: Vec<String>,
    /// Which of them are left out: a glob of whole paths, or of names if it has
    /// no slash; more than once.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Follow symbolic links that lead to a file below a directory of --path or of
    /// --root. Without it, links are not followed: the agent may read files that
    /// the applications which write there may not.
    #[arg(long, env = "ROTA_FOLLOW_SYMLINKS")]
    follow_symlinks: bool,
    /// With --follow-symlinks: a directory that links may lead to, besides those of
    /// --path; more than once.
    #[arg(long = "root", value_name = "DIR", requires = "follow_symlinks")]
    roots: Vec<PathBuf>,
    /// This machine, as the collected files are called. Default: the host name.
    #[arg(long, env = "ROTA_HOST")]
    host: Option<String>,
    /// Where the agent remembers which file is which; of this agent alone.
    /// Default: rota/agent-APP in the user's state directory.
    #[arg(long, env = "ROTA_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to listen for collectors.
    #[arg(long, env = "ROTA_LISTEN", default_value = "127.0.0.1:0", value_name = "HOST:PORT")]
    listen: String,
    /// How collectors reach this agent, if not at the address it listens on.
    #[arg(long, env = "ROTA_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The pool that the sources belong to.
    #[arg(long, env = "ROTA_POOL", default_value = POOL_DEFAULT)]
    pool: String,
    /// How long the agent's death goes unnoticed, e.g. 10s.
    #[arg(long, env = "ROTA_SESSION_TIMEOUT", default_value = "10s", value_parser = duration)]
    session_timeout: Duration,
    /// How often every file is looked at, besides the system's hints.
    #[arg(long, env = "ROTA_SCAN_INTERVAL", default_value = "1s", value_parser = scan_interval)]
    scan_interval: Duration,
}

pub(crate) async fn run(global: &Global, args: AgentArgs) -> anyhow::Result<ExitCode> {
    let (listener, address) = listen(&args.listen, "--listen").await?;
    let state_dir = match args.state {
        Some(state) => state,
        None => default_state(&args.app).context("there is no state directory: give --state DIR")?,
    };
    let globs = args.paths.iter().map(|glob| absolute(glob)).collect::<anyhow::Result<_>>()?;
    let descriptors = descriptors_max();
    let roots = args.roots.iter().map(std::path::absolute).collect::<Result<_, _>>();
    let roots = roots.context("--root is not a path")?;
    let config = AgentConfig {
        options: AgentOptions {
            app: args.app,
            host: args.host.unwrap_or_else(host_name),
            globs,
            exclude: args.exclude,
            state_dir,
            scan_interval: args.scan_interval,
            links: if args.follow_symlinks { Links::Followed(roots) } else { Links::Refused },
            open_files_max: descriptors / 2,
            connections_max: (descriptors / 2).saturating_sub(OTHER_DESCRIPTORS),
        },
        listener,
        registration: Registration {
            client: super::client(global)?,
            pool: args.pool,
            advertise: reachable_at(address, args.advertise, "--advertise")?,
            session_timeout: args.session_timeout,
        },
    };
    if address.ip().is_loopback() && config.registration.advertise == address.to_string() {
        tracing::warn!(%address, "only collectors on this machine reach this agent: see --listen and --advertise");
    }
    tracing::info!(%address, "serving");
    run_until_told(|stop| agent::run(config, stop)).await?;
    Ok(ExitCode::SUCCESS)
}

fn scan_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(10) { Err("at least 10ms".to_owned()) } else { Ok(interval) }
}

/// Descriptors for what is neither a log file nor a collector's connection.
const OTHER_DESCRIPTORS: usize = 64;

/// How many descriptors the process may have.
fn descriptors_max() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(limit, _)| limit);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// A glob that is relative means one below the present directory.
fn absolute(glob: &str) -> anyhow::Result<String> {
    let path = std::path::absolute(glob).with_context(|| format!("{glob:?} is not a path"))?;
    path.into_os_string().into_string().map_err(|_| anyhow::anyhow!("{glob:?} is not UTF-8"))
}

fn default_state(app: &str) -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = of("XDG_STATE_HOME").or_else(|| Some(of("HOME")?.join(".local/state")))?;
    Some(state.join("rota").join(format!("agent-{app}")))
}
