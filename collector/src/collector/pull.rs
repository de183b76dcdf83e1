//! Pulls one source for as long as a grant lasts: asks the agent, passes on what
//! it answers, and asks again.
//!
//! Waiting is separate from acting: only the wait for an agent's answer is ever
//! given up in the middle, and nothing has happened then.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use super::delivery::Delivery;
use super::fetch::{Agents, Ask, FetchError, Fetched};
use super::sink::{Place, SinkError};
use crate::wire::GapReason;

/// Longest time that one request waits for data.
const WAIT: Duration = Duration::from_secs(20);
/// How long the last checkpoint may take when the work has to stop.
const LAST_CHECKPOINT: Duration = Duration::from_secs(5);
/// Pauses after a failure, doubled each time from the first to the second.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long an agent may be away before the job ends with that error. Whoever
/// starts it again should ask for the agent's address, which may be a new one.
const AWAY: Duration = Duration::from_secs(10);

/// What is to be pulled, by what right, from where to where.
#[derive(Debug)]
pub struct Job<C> {
    /// Where the output is.
    pub place: Place,
    /// The agent's host and port.
    pub address: String,
    /// The fence of the grant.
    pub fence: u64,
    /// The grant's checkpoint.
    pub checkpoints: C,
    /// Who asks agents.
    pub agents: Agents,
    /// How long to wait for an output's lock: [`super::sink::LOCK_WAIT`].
    pub lock_wait: Duration,
}

/// Why pulling ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The output refuses.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The checkpoint is not understood.
    #[error("checkpoint {data:?}")]
    Checkpoint {
        /// What it says.
        data: String,
        /// Why not.
        source: CheckpointError,
    },
    /// The agent was away for too long.
    #[error("no data from the agent")]
    Agent(#[from] FetchError),
    /// It was told to stop while it waited for a checkpoint to be read or
    /// written.
    #[error("stopped")]
    Stopped,
}

/// Where the work on a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last checkpoint.
    pub checkpoint: Checkpoint,
    /// How many bytes of the incarnation were not yet collected then.
    pub behind: u64,
}

/// Pulls until `stop` is cancelled; then writes a last checkpoint, if it may.
/// `progress` is told where the work is, after each checkpoint.
///
/// # Errors
/// When the output or the checkpoint refuses, or the agent is away.
pub async fn pull<C: Checkpoints>(
    job: &Job<C>,
    stop: &CancellationToken,
    progress: impl Fn(Progress),
) -> Result<(), PullError> {
    let mut delivery = Delivery::claim(job, stop).await?;
    run(job, &mut delivery, stop, progress).await?;
    // If it is not written, the next owner pulls a little again.
    let _ = timeout(LAST_CHECKPOINT, delivery.finish()).await;
    Ok(())
}

async fn run<C: Checkpoints>(
    job: &Job<C>,
    delivery: &mut Delivery<'_, C>,
    stop: &CancellationToken,
    progress: impl Fn(Progress),
) -> Result<(), PullError> {
    let mut pause = BACKOFF.0;
    let mut heard = Instant::now();
    let mut size = 0;
    loop {
        let wait = delivery.due().map_or(WAIT, |due| due.saturating_duration_since(Instant::now()).min(WAIT));
        let (incarnation, offset) = delivery.next();
        let collected = delivery.saved().map(|saved| (saved.incarnation, saved.offset));
        let ask = Ask { address: &job.address, item: &job.place.item, incarnation, offset, wait, collected };
        let fetched = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            fetched = job.agents.fetch(&ask) => fetched,
        };
        let is_usable = match fetched {
            Ok(fetched) => {
                heard = Instant::now();
                if let Fetched::Data { size: now, .. } = &fetched {
                    size = *now;
                }
                take(delivery, fetched, stop).await?
            }
            Err(error) => {
                debug!(source = %job.place.item, error = &error as &dyn std::error::Error, "no answer");
                if heard.elapsed() >= AWAY {
                    // Its failure is not the one to be told.
                    let _ = delivery.finish().await;
                    return Err(error.into());
                }
                false
            }
        };
        if is_usable {
            pause = BACKOFF.0;
        } else {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
            }
        }
        if delivery.tend(stop).await?
            && let Some(checkpoint) = delivery.saved()
        {
            progress(Progress { checkpoint, behind: size.saturating_sub(checkpoint.offset) });
        }
    }
}

/// Acts on an agent's answer. Returns whether it was of use.
async fn take<C: Checkpoints>(
    delivery: &mut Delivery<'_, C>,
    fetched: Fetched,
    stop: &CancellationToken,
) -> Result<bool, PullError> {
    match fetched {
        Fetched::Nothing => {}
        Fetched::Data { incarnation, bytes, .. } => {
            delivery.begin(incarnation, stop).await?;
            delivery.deliver(&bytes).await?;
        }
        Fetched::Ended { incarnation, next, gap } => {
            delivery.begin(incarnation, stop).await?;
            let gap = gap.map(|(from, to, reason)| (from, Some(to), reason));
            delivery.go_on(next, gap, stop).await?;
        }
        Fetched::Unknown { oldest } => {
            let (incarnation, offset) = delivery.next();
            // An agent that does not know what it has just said: ask again later.
            if incarnation.is_none_or(|incarnation| incarnation == oldest) {
                return Ok(false);
            }
            delivery.go_on(oldest, Some((offset, None, GapReason::Unknown)), stop).await?;
        }
    }
    Ok(true)
}
