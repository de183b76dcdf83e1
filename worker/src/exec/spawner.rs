//! A thread that starts commands. Starting one blocks until its program runs, which takes long on
//! a busy machine, and there may be hundreds at once: signs of life do not wait for that. It lives
//! as long as this process: commands end with the thread that started them (`PR_SET_PDEATHSIG`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

static SPAWNER: Mutex<Option<Sender<Job>>> = Mutex::new(None);

/// Runs `start` on the thread, in the caller's runtime; not if the caller is gone before it begins.
/// If the caller is gone when it returns, its result is dropped.
///
/// # Errors
/// When there can be no such thread, or `start` panics.
pub(super) async fn run<T: Send + 'static>(start: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (result, started) = oneshot::channel();
    let runtime = Handle::current();
    let job = move || {
        if !result.is_closed() {
            let _runtime = runtime.enter();
            drop(result.send(start()));
        }
    };
    send(Box::new(job))?;
    started.await.map_err(|_| io::Error::other("starting a command panicked"))
}

fn send(job: Job) -> io::Result<()> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    let jobs = match &*spawner {
        Some(jobs) => jobs,
        None => spawner.insert(start_thread()?),
    };
    jobs.send(job).map_err(|_| io::Error::other("the thread that starts commands has ended"))
}

fn start_thread() -> io::Result<Sender<Job>> {
    let (jobs, queue) = channel::<Job>();
    let work = move || {
        for job in queue {
            // The caller is told, and the thread serves the others.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    };
    std::thread::Builder::new().name("spawner".to_owned()).spawn(work)?;
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_runtime_goes_on_while_a_command_starts() {
        let (go_on, wait) = channel();
        let started = run(move || wait.recv());
        let (started, ()) = tokio::join!(started, async { go_on.send(()).unwrap() });
        started.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_ends_nothing() {
        assert!(run(|| panic!("of a test")).await.map(|(): ()| ()).is_err());
        assert_eq!(run(|| 7).await.unwrap(), 7);
    }
}
