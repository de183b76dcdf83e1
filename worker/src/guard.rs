//! A side effect of an owner, from its beginning to its end, under a lease.
//!
//! Between a look at the lease and what is done then, a process may be stopped or a machine
//! suspended for any time. No look can rule that out; a guard tells afterwards whether it has
//! happened, and an effect that must not happen twice carries the fence as well.

use std::time::Duration;

use rota_client::BootInstant;

use crate::lease::Lease;

/// Proof that the lease was held when a side effect began, and a witness of whether it was until
/// the end. [`LeaseGuard::finish`] says so; a guard that is dropped past the deadline without that
/// logs an error.
///
/// ```no_run
/// # use rota_worker::{HandlerError, Lease};
/// # async fn append(line: &str, fence: u64) -> Result<(), HandlerError> { Ok(()) }
/// async fn deliver(lease: &Lease, lines: &[String]) -> Result<(), HandlerError> {
///     for line in lines {
///         // Refused when the bucket may be another's.
///         let guard = lease.guard()?;
///         append(line, lease.fence()).await?;
///         // An error if the bucket may have become another's meanwhile: the process was stopped,
///         // say. What was done may have been done beside its next owner.
///         guard.finish()?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "a guard that is dropped at once guards nothing"]
pub struct LeaseGuard {
    lease: Lease,
    is_finished: bool,
}

/// The lease is not held any more: the bucket may be another's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lease of bucket {bucket} ended {} ms ago", .since.as_millis())]
pub struct LeaseOver {
    /// The bucket.
    pub bucket: String,
    /// How long ago it ended.
    pub since: Duration,
}

/// A side effect went on past the deadline of the lease under which it began: another may have
/// owned the bucket meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("work on bucket {bucket} with fence {fence} went on for {} ms past its lease", .by.as_millis())]
pub struct HeldPastDeadline {
    /// The bucket.
    pub bucket: String,
    /// The fence of the grant.
    pub fence: u64,
    /// For how long.
    pub by: Duration,
}

impl LeaseGuard {
    pub(crate) fn begin(lease: Lease) -> Result<Self, LeaseOver> {
        let guard = Self { lease, is_finished: false };
        if guard.lease.is_held() { Ok(guard) } else { Err(guard.into_lease_over()) }
    }

    /// Until when the effect may go on, as far as is known now: a renewal puts it off.
    #[must_use]
    pub fn deadline(&self) -> BootInstant {
        self.lease.deadline()
    }

    /// How long the effect may go on: a bound for requests, for instance. Zero if it may not.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline().remaining()
    }

    /// Whether all that was done until now was done under the lease. For effects of several steps.
    ///
    /// # Errors
    /// When the deadline is past.
    pub fn check(&self) -> Result<(), HeldPastDeadline> {
        let (now, deadline) = (BootInstant::now(), self.deadline());
        if now < deadline {
            return Ok(());
        }
        Err(HeldPastDeadline {
            bucket: self.lease.bucket().to_owned(),
            fence: self.lease.fence(),
            by: now.saturating_duration_since(deadline),
        })
    }

    /// The effect is done: says whether all of it was done under the lease.
    ///
    /// # Errors
    /// When the deadline is past.
    pub fn finish(mut self) -> Result<(), HeldPastDeadline> {
        self.is_finished = true;
        self.check()
    }

    /// Finishes with the error that the lease is over.
    pub(crate) fn into_lease_over(mut self) -> LeaseOver {
        self.is_finished = true;
        let since = BootInstant::now().saturating_duration_since(self.deadline());
        LeaseOver { bucket: self.lease.bucket().to_owned(), since }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = self.check()
        {
            tracing::error!(
                pool = self.lease.pool(),
                bucket = error.bucket,
                fence = error.fence,
                past_deadline_ms = error.by.as_millis(),
                "work went on past its lease: another may have owned the bucket meanwhile"
            );
        }
    }
}

#[cfg(test)]
mod tests;
