//! A collector as a whole: it joins the pool, collects what it owns, and leaves.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use rota_client::{Client, ClientError};
use rota_core::pool::{NameError, check_name};
use rota_protocol::http::{Code, JoinPool};
use rota_worker::{JoinOptions, Worker};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::fetch::Agents;
use super::handler::Collect;
use super::sink::Modes;
use crate::pool;

/// Pause before joining is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A collector's settings.
#[derive(Debug, Clone)]
pub struct CollectorConfig {
    /// The coordinator's client.
    pub client: Client,
    /// Where the outputs go. Collectors of one machine may share it; collectors
    /// of one pool must.
    pub out_dir: PathBuf,
    /// The pool; made if it is not there.
    pub pool: String,
    /// How it joins: its name, weight, zone, labels.
    pub join: JoinPool,
    /// How long the collector's death goes unnoticed.
    pub session_timeout: Duration,
    /// A file to record in when each source was worked on.
    pub history: Option<PathBuf>,
    /// Who may read the outputs.
    pub modes: Modes,
}

/// Why a collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The member has no proper name.
    #[error("member {name:?} is not a name")]
    Name {
        /// Its name.
        name: String,
        /// Why not.
        source: NameError,
    },
    /// The output directory cannot be made.
    #[error("output directory {0}")]
    OutDir(PathBuf, #[source] io::Error),
    /// The coordinator refuses.
    #[error("joining pool {0}")]
    Join(String, #[source] ClientError),
}

/// Collects until `shutdown` is cancelled, then hands everything over and
/// leaves. A collector whose session has ended joins again.
///
/// # Errors
/// When the directory cannot be made, or the coordinator refuses.
pub fn run(
    config: CollectorConfig,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), CollectorError>> {
    // Boxed, so that it is compiled here and not once more by whoever runs it.
    Box::pin(collect(config, shutdown))
}

async fn collect(config: CollectorConfig, shutdown: CancellationToken) -> Result<(), CollectorError> {
    let CollectorConfig { client, out_dir, pool, join, session_timeout, history, modes } = config;
    check_name(&join.name).map_err(|source| CollectorError::Name { name: join.name.clone(), source })?;
    // Relative paths would come to mean another place.
    let out_dir = std::path::absolute(&out_dir).map_err(|e| CollectorError::OutDir(out_dir, e))?;
    modes.create_dir(&out_dir).map_err(|e| CollectorError::OutDir(out_dir.clone(), e))?;
    let agents = Agents::default();
    let options = JoinOptions { join, pool, session_timeout, history };
    let mut has_joined = false;
    while !shutdown.is_cancelled() {
        let collect =
            Collect { agents: agents.clone(), client: client.clone(), out_dir: out_dir.clone(), modes };
        let worker = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            joined = join_pool(&client, &options, collect) => joined,
        };
        let worker = match worker {
            Ok(worker) => worker,
            Err(error) if is_final(&error, has_joined) => {
                return Err(CollectorError::Join(options.pool, error));
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "not joined: tried again");
                sleep(RETRY).await;
                continue;
            }
        };
        has_joined = true;
        info!(pool = %options.pool, member = %options.join.name, "joined");
        tokio::select! {
            () = shutdown.cancelled() => drop(worker.leave().await),
            how = worker.ended() => warn!(?how, "the sources are with others now: the pool is joined again"),
        }
    }
    Ok(())
}

/// Whether trying again is of no use. A name that is taken is somebody else's at
/// the first time, and our own earlier life's later.
fn is_final(error: &ClientError, has_joined: bool) -> bool {
    match error.code() {
        Some(Code::Exists | Code::SessionExpired) => !has_joined,
        Some(code) => code.status() < 500,
        None => matches!(error, ClientError::BadAddress(_) | ClientError::Store { .. }),
    }
}

async fn join_pool(client: &Client, options: &JoinOptions, collect: Collect) -> Result<Worker, ClientError> {
    pool::ensure(client, &options.pool).await?;
    Worker::join(client.clone(), options.clone(), collect).await
}
