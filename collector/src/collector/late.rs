//! Late bytes: written to a rotated file after its reader advanced to the next one. They are
//! appended to the output on lines of their own.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::checkpoint::Checkpoints;
use super::delivery::Delivery;
use super::fetch::{Ask, FetchError, Fetched};
use super::pull::{AWAY, BACKOFF, Job, PullError};
use crate::wire::{Gap, GapReason};

/// How long the agent has to find out what became of a file, or to read one that it cannot. The
/// source waits meanwhile.
const UNREADABLE: Duration = Duration::from_secs(2);

/// Delivers the bytes of a gap that can still be read, and records the rest.
pub(super) async fn deliver_or_record_gap<C: Checkpoints>(
    job: &Job<C>,
    delivery: &mut Delivery<'_, C>,
    gap: &Gap,
    stop: &CancellationToken,
) -> Result<(), PullError> {
    let Gap { incarnation, from, to: Some(to), reason: GapReason::Late, .. } = *gap else {
        return delivery.record_gap(gap.incarnation, (gap.from, gap.to, gap.reason)).await;
    };
    // A reader that was sent back reads again what was late before.
    let Some(read_to) = delivery.unread_from(incarnation) else { return Ok(()) };
    let from = from.max(read_to);
    let mut offset = from;
    while offset < to {
        let Some(mut bytes) = fetch(job, incarnation, offset, stop).await? else {
            delivery.end_line(stop).await?;
            return delivery.record_gap(incarnation, (offset, Some(to), gap.reason)).await;
        };
        // Later bytes are in the next gap.
        bytes.truncate(usize::try_from(to - offset).unwrap_or(usize::MAX));
        if offset == from {
            delivery.end_line(stop).await?;
        }
        offset += bytes.len() as u64;
        delivery.append_late(bytes, stop).await?;
    }
    if from >= to {
        return Ok(());
    }
    info!(source = %job.place.item, incarnation, from, to, "late bytes delivered");
    delivery.end_line(stop).await
}

/// Bytes of an incarnation from `offset` on; `None` if they cannot be had.
async fn fetch<C: Checkpoints>(
    job: &Job<C>,
    incarnation: u64,
    offset: u64,
    stop: &CancellationToken,
) -> Result<Option<Bytes>, PullError> {
    let began = Instant::now();
    let mut pause = BACKOFF.0;
    loop {
        let (address, item) = (&*job.address, &*job.place.item);
        let wait = Duration::ZERO;
        let ask = Ask { address, item, incarnation: Some(incarnation), offset, wait, collected: None };
        let fetched = tokio::select! {
            () = stop.cancelled() => return Err(PullError::Stopped),
            fetched = job.agents.fetch(&ask) => fetched,
        };
        match fetched {
            Ok(Fetched::Data { bytes, .. }) => return Ok(Some(bytes)),
            Ok(Fetched::Nothing) if began.elapsed() < UNREADABLE => {}
            Ok(_) => return Ok(None),
            Err(FetchError::Refused { .. }) if began.elapsed() >= UNREADABLE => return Ok(None),
            Err(error) if began.elapsed() >= AWAY => return Err(error.into()),
            Err(error) => {
                debug!(
                    source = item,
                    error = &error as &dyn std::error::Error,
                    "fetch of late bytes failed; will retry"
                );
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Err(PullError::Stopped),
            () = sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
        }
    }
}
