//! One handler at work on one bucket: started again when it fails, ended when its time is over,
//! its times put down.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use rota_core::pool::Role;
use rota_protocol::http::FAILED;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::history::{History, HistoryEvent, monotonic_ns};
use crate::lease::Lease;
use crate::worker::{Handler, HandlerError};

/// Pauses before a handler that failed is started again: doubled each time, from
/// the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A handler that was started again and has run for so long has recovered: its
/// failure is no longer what is reported, even if it never reports progress.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// What is reported of it then.
const RECOVERED: &str = "running again";

/// So much of why a handler failed is told.
const FAULT_CHARS_MAX: usize = 200;

/// How the work under a grant has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Returned {
    pub(crate) bucket: String,
    pub(crate) fence: u64,
    /// It was preparing, and has what it takes.
    pub(crate) is_ready: bool,
}

/// Works under a lease until it is over; `kill` ends it at once.
pub(crate) async fn supervise<H: Handler>(
    handler: Arc<H>,
    lease: Lease,
    kill: CancellationToken,
    history: Option<Arc<History>>,
) -> Returned {
    let stop = expiring(lease.token(), handler.stop_timeout());
    // Of a bucket's owners only the primary works on it.
    let history = history.filter(|_| lease.role() == Role::Primary);
    let event = HistoryEvent {
        pool: lease.pool().to_owned(),
        bucket: lease.bucket().to_owned(),
        member: lease.member().to_owned(),
        fence: lease.fence(),
        began: true,
        at_ns: 0,
    };
    record(history.as_deref(), &event, true);
    let is_ready = tokio::select! {
        is_done = work(&*handler, &lease) => is_done && lease.role() == Role::Preparing,
        () = kill.cancelled() => false,
        () = stop => false,
    };
    // Whoever kept a clone must not take the bucket for its own: it is given back now.
    lease.end();
    record(history.as_deref(), &event, false);
    Returned { bucket: event.bucket, fence: event.fence, is_ready }
}

/// Returns when a handler that was asked to stop has had its time for that.
async fn expiring(asked: CancellationToken, time: Duration) {
    asked.cancelled().await;
    tokio::time::sleep(time).await;
}

fn record(history: Option<&History>, event: &HistoryEvent, began: bool) {
    if let Some(history) = history {
        history.put(&HistoryEvent { began, at_ns: monotonic_ns(), ..event.clone() });
    }
}

/// Does what the role takes, again after a pause when it fails. True if it was done to its end.
async fn work<H: Handler>(handler: &H, lease: &Lease) -> bool {
    let mut pause = BACKOFF.0;
    loop {
        // A process that was stopped, or a machine that was suspended, may find its lease over.
        tokio::select! {
            () = lease.work().allows_work() => {}
            () = lease.cancelled() => return false,
        }
        let began = Instant::now();
        // A panic is that bucket's failure alone.
        let ran = AssertUnwindSafe(turn(handler, lease.clone())).catch_unwind();
        let ran = report_recovery(lease, ran).await;
        let Err(error) = ran.unwrap_or_else(|_| Err("the handler panicked".into())) else {
            if lease.role() != Role::Preparing {
                // Nothing more to do: the bucket stays with us until it is wanted.
                lease.cancelled().await;
            }
            return !lease.is_cancelled();
        };
        if lease.is_cancelled() {
            return false;
        }
        if lease.work().is_past() {
            // It is no failure of the handler's to be ended at the end of its lease.
            tracing::info!(pool = lease.pool(), bucket = lease.bucket(), %error, "ended with the lease");
            continue;
        }
        if began.elapsed() > BACKOFF.1 {
            pause = BACKOFF.0;
        }
        log_failure(lease, &error, pause);
        // Whoever looks sees why the work does not go on. It counts as no progress.
        lease.progress(format!("{FAILED}{error}").chars().take(FAULT_CHARS_MAX).collect::<String>());
        lease.sleep(pause).await;
        if lease.is_cancelled() {
            return false;
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Logs why a handler failed, with all causes.
fn log_failure(lease: &Lease, error: &HandlerError, pause: Duration) {
    let cause: &(dyn std::error::Error + 'static) = &**error;
    let pause_ms = pause.as_millis();
    tracing::warn!(pool = lease.pool(), bucket = lease.bucket(), error = cause, pause_ms, "a handler failed");
}

/// Runs `work`; if it follows a failure and goes on, that is reported.
async fn report_recovery<T>(lease: &Lease, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(RECOVERED_AFTER), if lease.has_reported_failure() => {}
    }
    // Its own progress is worth more.
    if lease.has_reported_failure() {
        lease.progress(RECOVERED);
    }
    work.await
}

async fn turn<H: Handler>(handler: &H, lease: Lease) -> Result<(), HandlerError> {
    match lease.role() {
        Role::Primary => handler.run(lease).await,
        Role::Backup => handler.follow(lease).await,
        Role::Preparing => handler.prepare(lease).await,
    }
}
