//! Work that may take its time: on threads that get little processor time where others
//! want it, a tenth of what they get, so that it ends all the same.

use std::io;

/// Of -20 to 19 (`man 2 setpriority`, `man 7 sched`).
const NICE: i32 = 10;

/// Does some work on a thread of its own, and returns what comes of it.
///
/// # Errors
/// When no thread can be made, or the work panics.
pub(crate) async fn run_at_low_priority<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    // Whoever asked may have gone.
    spawn(move || drop(done.send(work())))?;
    outcome.await.map_err(io::Error::other)
}

/// Has some work done on a thread of its own.
///
/// # Errors
/// When no thread can be made.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("behind".to_owned());
    thread.spawn(move || {
        // Linux keeps this for each thread. Without it, the work is done as well.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "this thread has the priority of all others");
        }
        work();
    })?;
    Ok(())
}
