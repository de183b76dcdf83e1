//! Pulls one source for as long as a grant lasts.
//!
//! What is written where, and in which order, is what makes a crash at any
//! point harmless:
//!
//! 1. The output is cut back to what the checkpoint vouches for.
//! 2. Bytes are appended to the output.
//! 3. The output is brought to the disk, then the checkpoint is written.
//! 4. The next incarnation is asked for only after a checkpoint that is in it:
//!    asking tells the agent that the earlier ones are not needed any more.
//!
//! Waiting is separate from acting: only the wait for an agent's answer is ever
//! given up in the middle, and nothing has happened then.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::checkpoint::{Checkpoint, CheckpointError, Checkpoints};
use super::fetch::{Agents, Ask, FetchError, Fetched};
use super::gaps::{self, GapRecord};
use super::lines::Lines;
use super::sink::{Place, Sink, SinkError};
use crate::clock::unix_ms;
use crate::wire::GapReason;

/// Longest time that one request waits for data.
const WAIT: Duration = Duration::from_secs(20);
/// A checkpoint is written at most this long after bytes were appended, and not
/// more often,
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// unless there are more than this many of them. What is not in a checkpoint is
/// pulled again after a crash.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// How long the last checkpoint may take when the work has to stop.
const LAST_CHECKPOINT: Duration = Duration::from_secs(5);
/// Pauses after a failure, doubled each time from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
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
    /// It was told to stop before it had begun.
    #[error("stopped")]
    Stopped,
}

/// Pulls until `stop` is cancelled; then writes a last checkpoint, if it may.
/// `progress` is told where the work is.
///
/// # Errors
/// When the output or the checkpoint refuses, or the agent is away.
pub async fn pull<C: Checkpoints>(
    job: &Job<C>,
    stop: &CancellationToken,
    progress: impl Fn(Progress),
) -> Result<(), PullError> {
    let mut puller = Puller::claim(job, stop).await?;
    let outcome = puller.run(stop, &progress).await;
    if stop.is_cancelled() && outcome.is_ok() {
        // If it is not written, the next owner pulls a little again.
        let _ = timeout(LAST_CHECKPOINT, puller.finish()).await;
    }
    outcome
}

/// Where the work on a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last checkpoint.
    pub checkpoint: Checkpoint,
    /// How many bytes of the incarnation were not yet collected then.
    pub behind: u64,
}

struct Puller<'a, C> {
    job: &'a Job<C>,
    /// `None` only while a thread has it.
    sink: Option<Sink>,
    /// What the output holds; `None`: nothing was ever read.
    at: Option<Checkpoint>,
    /// The last checkpoint that was written.
    saved: Option<Checkpoint>,
    saved_at: Instant,
    /// What was read and is not in the output yet.
    lines: Lines,
    /// How long the incarnation was when last heard of.
    size: u64,
}

impl<'a, C: Checkpoints> Puller<'a, C> {
    async fn claim(job: &'a Job<C>, stop: &CancellationToken) -> Result<Self, PullError> {
        let data = until_ok(stop, "checkpoint not read", || job.checkpoints.read()).await?;
        let saved = match data {
            None => None,
            Some(data) => match Checkpoint::decode(&data) {
                Ok(checkpoint) => Some(checkpoint),
                Err(source) => return Err(PullError::Checkpoint { data, source }),
            },
        };
        let (place, fence, lock_wait) = (job.place.clone(), job.fence, job.lock_wait);
        let claim = move || Sink::claim(place, fence, saved.map(|saved| saved.out_len), lock_wait);
        let sink = spawn_blocking(claim).await.map_err(|error| died(&job.place.output, error))??;
        Ok(Self {
            job,
            sink: Some(sink),
            at: saved,
            saved,
            saved_at: Instant::now(),
            lines: Lines::default(),
            size: 0,
        })
    }

    async fn run(&mut self, stop: &CancellationToken, progress: &impl Fn(Progress)) -> Result<(), PullError> {
        let mut pause = BACKOFF.0;
        let mut heard = Instant::now();
        loop {
            let agents = self.job.agents.clone();
            let ask = self.ask();
            let fetched = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                fetched = agents.fetch(&ask) => fetched,
            };
            match fetched {
                Ok(fetched) => {
                    (pause, heard) = (BACKOFF.0, Instant::now());
                    self.take(fetched, stop).await?;
                }
                Err(error) => {
                    debug!(source = %self.job.place.item, error = &error as &dyn std::error::Error, "no answer");
                    if heard.elapsed() >= AWAY {
                        self.tend(stop, true).await?;
                        return Err(error.into());
                    }
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
                    }
                }
            }
            if self.tend(stop, false).await?
                && let Some(checkpoint) = self.saved
            {
                progress(Progress { checkpoint, behind: self.size.saturating_sub(checkpoint.offset) });
            }
        }
    }

    fn ask(&self) -> Ask<'a> {
        let held = self.lines.due().map(|due| Instant::from_std(due));
        let unsaved = self.is_dirty().then(|| self.saved_at + CHECKPOINT_EVERY);
        let until = [held, unsaved].into_iter().flatten().min();
        let wait = until.map_or(WAIT, |until| until.saturating_duration_since(Instant::now()).min(WAIT));
        Ask {
            address: &self.job.address,
            item: &self.job.place.item,
            incarnation: self.at.map(|at| at.incarnation),
            offset: self.at.map_or(0, |at| at.offset + self.lines.held_len()),
            wait,
        }
    }

    /// Acts on an agent's answer.
    async fn take(&mut self, fetched: Fetched, stop: &CancellationToken) -> Result<(), PullError> {
        match fetched {
            Fetched::Nothing => Ok(()),
            Fetched::Data { incarnation, bytes, size } => {
                self.begin(incarnation, stop).await?;
                self.size = size;
                let ready = self.lines.push(bytes, std::time::Instant::now());
                self.append(ready).await
            }
            Fetched::Ended { incarnation, next, gap } => {
                self.begin(incarnation, stop).await?;
                let gap = gap.map(|(from, to, reason)| (from, Some(to), reason));
                self.go_on(next, gap, stop).await
            }
            Fetched::Unknown { oldest } => {
                let from = self.at.map_or(0, |at| at.offset + self.lines.held_len());
                if self.at.is_none_or(|at| at.incarnation == oldest) {
                    // An agent that does not know its own answer: ask again later.
                    sleep(BACKOFF.1).await;
                    return Ok(());
                }
                self.go_on(oldest, Some((from, None, GapReason::Unknown)), stop).await
            }
        }
    }

    /// The first answer of all says with which incarnation it begins. That is
    /// written down before anything else: an output that is not empty always has
    /// a checkpoint.
    async fn begin(&mut self, incarnation: u64, stop: &CancellationToken) -> Result<(), PullError> {
        if self.at.is_some() {
            return Ok(());
        }
        self.at = Some(Checkpoint { incarnation, offset: 0, out_len: 0 });
        self.save(stop).await
    }

    /// Goes on with another incarnation.
    async fn go_on(
        &mut self,
        next: u64,
        gap: Option<(u64, Option<u64>, GapReason)>,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        let Some(at) = self.at else { return Ok(()) };
        let held = self.lines.take();
        self.append(held.into_iter().collect()).await?;
        if let Some((from, to, reason)) = gap {
            // So that whoever has to repeat this finds the same gap.
            self.save(stop).await?;
            let source = self.job.place.item.clone();
            warn!(%source, incarnation = at.incarnation, from, to, reason = reason.as_str(), "bytes are missing");
            let record = GapRecord { source, incarnation: at.incarnation, from, to, reason, time_ms: unix_ms() };
            let dir: PathBuf = self.job.place.dir.clone();
            self.with_sink(move |sink| sink.as_owner(|| gaps::record(&dir, &record))).await?;
        }
        if self.sink.as_ref().is_some_and(|sink| !sink.ends_line()) {
            self.with_sink(|sink| sink.append(&[Bytes::from_static(b"\n")])).await?;
        }
        let out_len = self.sink.as_ref().map_or(0, Sink::len);
        info!(source = %self.job.place.item, from = at.incarnation, to = next, "next incarnation");
        self.at = Some(Checkpoint { incarnation: next, offset: 0, out_len });
        self.size = 0;
        self.save(stop).await
    }

    /// Writes what is due: a line that has been held back for long enough, and
    /// the checkpoint. Returns whether a checkpoint was written.
    async fn tend(&mut self, stop: &CancellationToken, now: bool) -> Result<bool, PullError> {
        if self.lines.due().is_some_and(|due| now || due <= std::time::Instant::now()) {
            let held = self.lines.take();
            self.append(held.into_iter().collect()).await?;
        }
        let unsaved = self.at.map_or(0, |at| at.out_len) - self.saved.map_or(0, |saved| saved.out_len);
        let due = now || self.saved_at.elapsed() >= CHECKPOINT_EVERY || unsaved >= CHECKPOINT_BYTES;
        if due && self.is_dirty() {
            self.save(stop).await?;
            return Ok(true);
        }
        Ok(false)
    }

    fn is_dirty(&self) -> bool {
        self.at != self.saved
    }

    async fn append(&mut self, parts: Vec<Bytes>) -> Result<(), PullError> {
        let Some(at) = self.at.as_mut().filter(|_| !parts.is_empty()) else { return Ok(()) };
        let written: u64 = parts.iter().map(|part| part.len() as u64).sum();
        at.offset += written;
        at.out_len += written;
        self.with_sink(move |sink| sink.append(&parts)).await
    }

    /// Brings the output to the disk and then writes the checkpoint, for as long
    /// as it takes.
    async fn save(&mut self, stop: &CancellationToken) -> Result<(), PullError> {
        let Some(at) = self.at else { return Ok(()) };
        if self.saved.is_none_or(|saved| saved.out_len != at.out_len) {
            self.with_sink(Sink::sync).await?;
        }
        let data = at.encode();
        until_ok(stop, "checkpoint not written", || self.job.checkpoints.write(data.clone())).await?;
        (self.saved, self.saved_at) = (Some(at), Instant::now());
        Ok(())
    }

    /// The last checkpoint. What is held back is left to the next owner.
    async fn finish(&mut self) -> Result<(), PullError> {
        if self.is_dirty() { self.save(&CancellationToken::new()).await } else { Ok(()) }
    }

    /// Lets a thread act on the sink. If this is given up, the thread still
    /// finishes: it is a zombie then, which the sink is made for.
    async fn with_sink<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Sink) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, PullError> {
        let output = &self.job.place.output;
        let Some(mut sink) = self.sink.take() else { return Err(died(output, "the output is in use")) };
        let acted = spawn_blocking(move || {
            let acted = act(&mut sink);
            (sink, acted)
        });
        let (sink, acted) = acted.await.map_err(|error| died(output, error))?;
        self.sink = Some(sink);
        Ok(acted?)
    }
}

/// Tries until it succeeds or has to stop.
async fn until_ok<T, E, F>(stop: &CancellationToken, what: &str, attempt: impl Fn() -> F) -> Result<T, PullError>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    let mut pause = BACKOFF.0;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "{what}"),
        }
        tokio::select! {
            () = stop.cancelled() => return Err(PullError::Stopped),
            () = sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
        }
    }
}

fn died(output: &std::path::Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PullError {
    PullError::Sink(SinkError::Io { path: output.to_owned(), source: std::io::Error::other(error) })
}
