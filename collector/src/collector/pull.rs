//! Pulls one source for as long as a grant lasts: asks the agent, passes on what
//! it answers, and asks again.
//!
//! Waiting is separate from acting: only the wait for an agent's answer is ever
//! given up in the middle, and nothing has happened then.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use super::delivery::Delivery;
use super::fetch::{Agents, Ask, FetchError, Fetched};
use super::late;
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
pub(super) const AWAY: Duration = Duration::from_secs(10);

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
    /// The position is beyond all that the agent has seen of the incarnation.
    #[error("the agent has {size} bytes, and {offset} were read: starting again from the checkpoint")]
    BeyondEnd {
        /// How far it was read.
        offset: u64,
        /// How much there is.
        size: u64,
    },
    /// It was told to stop while it waited for a checkpoint to be read or
    /// written.
    #[error("stopped")]
    Stopped,
}

/// Where the work on a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last checkpoint; `None` if nothing was ever there to be read.
    pub checkpoint: Option<Checkpoint>,
    /// How many bytes of the incarnation were not yet collected then.
    pub behind: u64,
}

/// Pulls until `stop` is cancelled; then writes a last checkpoint, if it may.
/// `progress` is told where the work is, when the agent has answered for the first
/// time and after each checkpoint.
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
    let mut is_told = false;
    let mut is_listing_failing = false;
    loop {
        let wait = delivery.due().map_or(WAIT, |due| due.saturating_duration_since(Instant::now()).min(WAIT));
        let (incarnation, offset) = delivery.next();
        let collected = delivery.saved();
        let ask = Ask { address: &job.address, item: &job.place.item, incarnation, offset, wait, collected };
        let fetched = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            fetched = job.agents.fetch_with_last_gap(&ask) => fetched,
        };
        let is_usable = match fetched {
            Ok((fetched, last_gap)) => {
                heard = Instant::now();
                if let Fetched::Data { size: now, .. } = &fetched {
                    size = *now;
                }
                let is_usable = take(delivery, fetched, stop).await?;
                is_usable
                    && deliver_or_record_gaps(job, delivery, last_gap, &mut is_listing_failing, stop).await?
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
        if delivery.write_due(stop).await? || (is_usable && !is_told) {
            is_told = true;
            let checkpoint = delivery.saved();
            let behind = size.saturating_sub(checkpoint.map_or(0, |checkpoint| checkpoint.offset));
            progress(Progress { checkpoint, behind });
        }
    }
}

/// Fetches the gaps that the agent lists and the checkpoint does not count, and delivers or
/// records them. If the agent cannot be asked, its next answer says so again. Returns false then.
async fn deliver_or_record_gaps<C: Checkpoints>(
    job: &Job<C>,
    delivery: &mut Delivery<'_, C>,
    last: u64,
    is_failing: &mut bool,
    stop: &CancellationToken,
) -> Result<bool, PullError> {
    let Some(recorded) = delivery.gaps().filter(|recorded| *recorded < last) else { return Ok(true) };
    let listed = tokio::select! {
        () = stop.cancelled() => return Ok(false),
        listed = job.agents.gaps(&job.address, &job.place.item, recorded) => listed,
    };
    match listed {
        Ok(gaps) => {
            *is_failing = false;
            // So that an output that is replaced now costs nothing that is in no checkpoint.
            delivery.save_all(stop).await?;
            for gap in &gaps {
                late::deliver_or_record_gap(job, delivery, gap, stop).await?;
                delivery.note_gaps(gap.number, stop).await?;
            }
            if gaps.last().is_none_or(|gap| gap.number < last) {
                delivery.note_gaps(last, stop).await?;
            }
            Ok(true)
        }
        Err(error) => {
            // It is asked with each answer: only the first failure is logged.
            if !std::mem::replace(is_failing, true) {
                let error: &dyn std::error::Error = &error;
                warn!(source = %job.place.item, error, "listing gaps failed; will retry");
            }
            Ok(false)
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
            delivery.deliver(&bytes, stop).await?;
        }
        Fetched::Ended { incarnation, next, gap } => {
            delivery.begin(incarnation, stop).await?;
            delivery.next_incarnation(next, gap, stop).await?;
        }
        Fetched::Skipped { incarnation, resume, gap } => {
            delivery.begin(incarnation, stop).await?;
            delivery.skip(resume, gap, stop).await?;
        }
        Fetched::BeyondEnd { size } => {
            let (_, offset) = delivery.next();
            return Err(PullError::BeyondEnd { offset, size });
        }
        Fetched::Unknown { oldest } => {
            let (incarnation, offset) = delivery.next();
            // An agent that does not know what it has just said: ask again later.
            if incarnation.is_none_or(|incarnation| incarnation == oldest) {
                return Ok(false);
            }
            delivery.next_incarnation(oldest, Some((offset, None, GapReason::Unknown)), stop).await?;
        }
    }
    Ok(true)
}
