//! An agent as a whole: its parts are made, run side by side, and stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rota_core::pool::{NameError, check_name};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::confirm::{CheckpointSource, Coordinator, confirm};
use super::follow::{Follower, Owner};
use super::glob::{GlobError, Patterns};
use super::index::{Index, IndexError};
use super::listen::BoundedListener;
use super::register::{Registration, register};
use super::rooted_fs::{Links, RootedFs};
use super::scan::Scope;
use super::serve::{Server, router};
use super::shared::Shared;
use super::watch::DirWatcher;

/// How often everything is looked at, unless configured otherwise.
pub const SCAN_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
/// How long hints are gathered before they are followed. A file that is
/// written ten thousand times a second is looked at two hundred times.
const GATHER: Duration = Duration::from_millis(5);

/// What an agent follows.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The application whose files they are. A name, as of a pool.
    pub app: String,
    /// This machine. A name, as of a pool.
    pub host: String,
    /// Absolute globs.
    pub globs: Vec<String>,
    /// Globs of what is left out: of whole paths, or of names if they have no
    /// slash.
    pub exclude: Vec<String>,
    /// Where the index is; of this agent alone.
    pub state_dir: PathBuf,
    /// How often everything is looked at, events or not.
    pub scan_interval: Duration,
    /// Which symbolic links are followed.
    pub links: Links,
    /// Most files that are kept open so that they can still be read when they
    /// were renamed and deleted.
    pub open_files_max: usize,
    /// Most connections of collectors; each source has one.
    pub connections_max: usize,
}

/// An agent's settings.
#[derive(Debug)]
pub struct AgentConfig {
    /// What it follows.
    pub options: AgentOptions,
    /// Where it serves.
    pub listener: TcpListener,
    /// Where it registers.
    pub registration: Registration,
}

/// Follows, serves and registers until `shutdown` is cancelled. The coordinator
/// need not be there.
///
/// # Errors
/// When an option is refused, the index cannot be had or the listener fails.
pub fn run(config: AgentConfig, shutdown: CancellationToken) -> BoxFuture<'static, Result<(), AgentError>> {
    // Boxed, so that it is compiled here and not once more by whoever runs it.
    Box::pin(serve_all(config, shutdown))
}

async fn serve_all(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    let AgentConfig { options, listener, registration } = config;
    let owner = Owner { app: options.app.clone(), host: options.host.clone() };
    let opened = spawn_blocking(move || Agent::open(options)).await;
    let agent = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let checkpoints =
        Arc::new(Coordinator { client: registration.client.clone(), pool: registration.pool.clone() });
    let register = register(registration, owner, agent.shared(), shutdown.clone());
    let ((), ran) = tokio::join!(register, agent.run(listener, checkpoints, shutdown.clone()));
    ran
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The application or the host has no proper name.
    #[error("{what} {name:?} is not a name")]
    Name {
        /// Which of the two.
        what: &'static str,
        /// Its name.
        name: String,
        /// Why not.
        source: NameError,
    },
    /// A glob is refused.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// The index cannot be had.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The HTTP server ended.
    #[error("http server")]
    Serve(#[source] std::io::Error),
}

/// An agent whose sources are known, as far as its index knows them.
#[derive(Debug)]
pub struct Agent {
    follower: Follower,
    shared: Arc<Shared>,
    scan_interval: Duration,
    connections_max: usize,
}

impl Agent {
    /// Opens the index and looks at everything once. Blocks.
    ///
    /// # Errors
    /// When an option is refused or the index cannot be had.
    pub fn open(options: AgentOptions) -> Result<Self, AgentError> {
        let AgentOptions { app, host, globs, exclude, state_dir, scan_interval, .. } = options;
        let AgentOptions { links, open_files_max, connections_max, .. } = options;
        for (what, name) in [("app", &app), ("host", &host)] {
            check_name(name).map_err(|source| AgentError::Name { what, name: name.clone(), source })?;
        }
        let patterns = Patterns::new(&globs, &exclude)?;
        let bases = patterns.roots().map(|root| root.base.clone()).collect();
        let shared = Arc::new(Shared::new(RootedFs::new(bases, links), open_files_max));
        let index = Index::open(&state_dir)?;
        let mut follower = Follower::new(Owner { app, host }, patterns, index, Arc::clone(&shared));
        follower.scan(&Scope::All);
        Ok(Self { follower, shared, scan_interval, connections_max })
    }

    /// What the agent's parts share.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Follows and serves until `shutdown` is cancelled. What is collected for good
    /// is read from `checkpoints`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(
        self,
        listener: TcpListener,
        checkpoints: Arc<dyn CheckpointSource>,
        shutdown: CancellationToken,
    ) -> Result<(), AgentError> {
        let server = Server::new(self.shared(), shutdown.clone());
        let listener = BoundedListener::new(listener, self.connections_max);
        let serve =
            axum::serve(listener, router(server)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        let confirm = confirm(checkpoints, self.shared(), shutdown.clone());
        let follow = follow(self.follower, self.shared, self.scan_interval, shutdown.clone());
        let serve = async {
            let served = serve.await;
            shutdown.cancel();
            served.map_err(AgentError::Serve)
        };
        let ((), (), served) = tokio::join!(follow, confirm, serve);
        served
    }
}

/// Looks at hints as they come and at everything once per interval.
async fn follow(
    mut follower: Follower,
    shared: Arc<Shared>,
    interval: Duration,
    shutdown: CancellationToken,
) {
    let mut watcher = DirWatcher::new(Arc::clone(&shared));
    let mut next_scan = Instant::now();
    loop {
        tokio::select! {
            () = shared.hints.given() => sleep(GATHER).await,
            () = sleep_until(next_scan) => {}
            () = shutdown.cancelled() => return,
        }
        let is_due = Instant::now() >= next_scan;
        let scope = match shared.hints.take() {
            _ if is_due => Scope::All,
            Some(hinted) => hinted,
            None => continue,
        };
        if scope == Scope::All {
            next_scan = Instant::now() + interval;
        }
        let hints = Arc::clone(&shared);
        let looked = spawn_blocking(move || {
            follower.scan(&scope);
            // What happened in a directory before it was watched is looked for.
            watcher
                .set(follower.dirs(), std::time::Instant::now())
                .into_iter()
                .for_each(|dir| hints.hints.dir(dir));
            (follower, watcher)
        });
        (follower, watcher) = match looked.await {
            Ok(parts) => parts,
            Err(error) => {
                error!(%error, "the follower is dead: the agent stops");
                return shutdown.cancel();
            }
        };
    }
}
