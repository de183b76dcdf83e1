//! What of a source is in the output, and what the checkpoint says of it.
//!
//! What is written where, and in which order, is what makes a crash at any
//! point harmless:
//!
//! 1. The output is cut back to what the checkpoint vouches for.
//! 2. Bytes are appended to the output.
//! 3. The output is brought to the disk, then the checkpoint is written.
//! 4. The agent is told what the last checkpoint says, along with the next
//!    request, and lets go of nothing else.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::fetch::Missing;
use super::gaps::{self, GapRecord, OutputRecord};
use super::lines::Lines;
use super::pull::{BACKOFF, Job, PullError};
use super::sink::{Sink, SinkError};
use crate::clock::unix_ms;

/// A checkpoint is written at most this long after bytes were appended, and not
/// more often,
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);
/// unless there are more than this many of them. What is not in a checkpoint is
/// pulled again after a crash.
const CHECKPOINT_BYTES: u64 = 4 << 20;

/// The delivery of one source under one grant.
pub(super) struct Delivery<'a, C> {
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
}

impl<'a, C: Checkpoints> Delivery<'a, C> {
    /// Reads the checkpoint and takes over the output.
    pub(super) async fn claim(job: &'a Job<C>, stop: &CancellationToken) -> Result<Self, PullError> {
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
        let (found, lines) = (sink.len(), Lines::default());
        let mut delivery = Self { job, sink: Some(sink), at: saved, saved, saved_at: Instant::now(), lines };
        if let Some(saved) = saved.filter(|saved| saved.out_len != found) {
            delivery.note_replaced(saved.out_len, stop).await?;
        }
        Ok(delivery)
    }

    /// The next byte that is needed: of which incarnation (`None`: the oldest),
    /// at which offset.
    pub(super) fn next(&self) -> (Option<u64>, u64) {
        let offset = self.at.map_or(0, |at| at.offset + self.lines.held_len());
        (self.at.map(|at| at.incarnation), offset)
    }

    /// The last checkpoint that was written.
    pub(super) fn saved(&self) -> Option<Checkpoint> {
        self.saved
    }

    /// When [`Self::write_due`] has something to do, if nothing comes until then.
    pub(super) fn due(&self) -> Option<Instant> {
        let held = self.lines.due().map(Instant::from_std);
        let unsaved = self.is_dirty().then(|| self.saved_at + CHECKPOINT_EVERY);
        held.into_iter().chain(unsaved).min()
    }

    /// The first answer of all says with which incarnation it begins. That is
    /// written down before anything else: an output that is not empty always has
    /// a checkpoint.
    pub(super) async fn begin(
        &mut self,
        incarnation: u64,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        if self.at.is_some() {
            return Ok(());
        }
        self.at = Some(Checkpoint { incarnation, ..Checkpoint::default() });
        self.save(stop).await
    }

    /// Delivers the next bytes, as far as they are whole lines.
    pub(super) async fn deliver(&mut self, bytes: &Bytes, stop: &CancellationToken) -> Result<(), PullError> {
        let ready = self.lines.push(bytes, std::time::Instant::now());
        self.append(ready, stop).await
    }

    /// The number of the last gap in the agent's list that is recorded; `None`
    /// before anything was read.
    pub(super) fn gaps(&self) -> Option<u64> {
        self.at.map(|at| at.gaps)
    }

    /// From which byte on an incarnation is not read; `None` if reading on comes to it.
    pub(super) fn unread_from(&self, incarnation: u64) -> Option<u64> {
        self.at.and_then(|at| at.unread_from(incarnation))
    }

    /// Writes a checkpoint of all that is in the output.
    pub(super) async fn save_all(&mut self, stop: &CancellationToken) -> Result<(), PullError> {
        if self.is_dirty() { self.save(stop).await } else { Ok(()) }
    }

    /// The gaps of the agent's list are recorded or delivered, up to number `last`.
    pub(super) async fn note_gaps(&mut self, last: u64, stop: &CancellationToken) -> Result<(), PullError> {
        let out_len = self.sink.as_ref().map_or(0, Sink::len);
        if let Some(at) = &mut self.at {
            (at.gaps, at.out_len) = (last, out_len);
        }
        self.save(stop).await
    }

    /// Appends bytes of an earlier incarnation. They are in the checkpoint when
    /// [`Self::note_gaps`] says so: after a crash before that they are cut off and fetched again.
    pub(super) async fn append_late(
        &mut self,
        bytes: Bytes,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        self.write(vec![bytes], stop).await
    }

    /// Ends the line in the output, if it has no end.
    pub(super) async fn end_line(&mut self, stop: &CancellationToken) -> Result<(), PullError> {
        if self.sink.as_ref().is_some_and(|sink| !sink.ends_line()) {
            self.write(vec![Bytes::from_static(b"\n")], stop).await?;
        }
        Ok(())
    }

    /// Goes on from `resume` in the same incarnation: what was before is lost.
    pub(super) async fn skip(
        &mut self,
        resume: u64,
        gap: Missing,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        let held = self.lines.take();
        self.append(held.into_iter().collect(), stop).await?;
        // So that whoever has to repeat this finds the same gap.
        self.save(stop).await?;
        let Some(at) = self.at else { return Ok(()) };
        self.record_gap(at.incarnation, gap).await?;
        self.at = Some(Checkpoint { offset: resume.max(at.offset), ..at });
        self.save(stop).await
    }

    /// Records what is missing of an incarnation.
    pub(super) async fn record_gap(
        &mut self,
        incarnation: u64,
        (from, to, reason): Missing,
    ) -> Result<(), PullError> {
        let source = self.job.place.item.clone();
        warn!(%source, incarnation, from, to, reason = reason.as_str(), "bytes are missing");
        let record = GapRecord { source, incarnation, from, to, reason, time_ms: unix_ms() };
        let (dir, modes) = (self.job.place.dir.clone(), self.job.place.modes);
        self.with_sink(move |sink| sink.as_owner(|| gaps::record(&dir, &record, modes))).await
    }

    /// Goes on with another incarnation.
    pub(super) async fn next_incarnation(
        &mut self,
        next: u64,
        gap: Option<Missing>,
        stop: &CancellationToken,
    ) -> Result<(), PullError> {
        let held = self.lines.take();
        self.append(held.into_iter().collect(), stop).await?;
        let Some(at) = self.at else { return Ok(()) };
        // What is missing is recorded, as far as its end is known.
        let read_to = gap.map_or(at.offset, |(_, to, _)| to.unwrap_or(u64::MAX));
        if let Some(gap) = gap {
            // So that whoever has to repeat this finds the same gap.
            self.save(stop).await?;
            self.record_gap(at.incarnation, gap).await?;
        }
        self.end_line(stop).await?;
        let out_len = self.sink.as_ref().map_or(0, Sink::len);
        info!(source = %self.job.place.item, from = at.incarnation, to = next, "next incarnation");
        self.at = Some(Checkpoint { out_len, ..at.advance(next, read_to) });
        self.save(stop).await
    }

    /// Writes what is due: a line that has been held back for long enough, and
    /// the checkpoint. Returns whether a checkpoint was written.
    pub(super) async fn write_due(&mut self, stop: &CancellationToken) -> Result<bool, PullError> {
        if self.lines.due().is_some_and(|due| due <= std::time::Instant::now()) {
            let held = self.lines.take();
            self.append(held.into_iter().collect(), stop).await?;
        }
        let unsaved =
            self.at.map_or(0, |at| at.out_len).abs_diff(self.saved.map_or(0, |saved| saved.out_len));
        let due = self.saved_at.elapsed() >= CHECKPOINT_EVERY || unsaved >= CHECKPOINT_BYTES;
        if due && self.is_dirty() {
            self.save(stop).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Tries to write a last checkpoint. If that fails, the next owner pulls a
    /// little again; what is held back is left to it anyway.
    pub(super) async fn finish(&mut self) -> Result<(), PullError> {
        if self.is_dirty() {
            let once = CancellationToken::new();
            once.cancel();
            self.save(&once).await?;
        }
        Ok(())
    }

    fn is_dirty(&self) -> bool {
        self.at != self.saved
    }

    async fn append(&mut self, parts: Vec<Bytes>, stop: &CancellationToken) -> Result<(), PullError> {
        if self.at.is_none() || parts.is_empty() {
            return Ok(());
        }
        let written: u64 = parts.iter().map(|part| part.len() as u64).sum();
        self.write(parts, stop).await?;
        let out_len = self.sink.as_ref().map_or(0, Sink::len);
        if let Some(at) = &mut self.at {
            (at.offset, at.out_len) = (at.offset + written, out_len);
        }
        Ok(())
    }

    /// Appends to the output, which another process may have replaced.
    async fn write(&mut self, parts: Vec<Bytes>, stop: &CancellationToken) -> Result<(), PullError> {
        let again = parts.clone();
        match self.with_sink(move |sink| sink.append(&parts)).await {
            Err(PullError::Sink(SinkError::Replaced { .. })) => {
                let expected = self.sink.as_ref().map_or(0, Sink::len);
                self.with_sink(Sink::reopen).await?;
                self.note_replaced(expected, stop).await?;
                self.with_sink(move |sink| sink.append(&again)).await
            }
            appended => appended,
        }
    }

    /// Somebody else has rotated, removed or emptied the output, which had
    /// `expected` bytes. The checkpoint counts those of the new one, before there
    /// are any.
    async fn note_replaced(&mut self, expected: u64, stop: &CancellationToken) -> Result<(), PullError> {
        let (Some(at), Some(sink)) = (&mut self.at, &self.sink) else { return Ok(()) };
        at.out_len = sink.len();
        let record = OutputRecord {
            source: self.job.place.item.clone(),
            incarnation: at.incarnation,
            offset: at.offset,
            expected,
            found: at.out_len,
            time_ms: unix_ms(),
        };
        warn!(
            source = %record.source, expected, found = record.found,
            "output rotated, removed or emptied by somebody else; continuing"
        );
        // Before the checkpoint, which would hide the difference.
        let (dir, modes) = (self.job.place.dir.clone(), self.job.place.modes);
        self.with_sink(move |sink| sink.as_owner(|| gaps::record_output(&dir, &record, modes))).await?;
        self.save(stop).await
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

/// Tries once, and then until it succeeds or has to stop.
async fn until_ok<T, E, F>(
    stop: &CancellationToken,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, PullError>
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

fn died(output: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PullError {
    PullError::Sink(SinkError::Io { path: output.to_owned(), source: std::io::Error::other(error) })
}
