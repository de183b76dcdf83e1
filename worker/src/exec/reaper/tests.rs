//! The reaper as a real process, with real commands: that it kills them at their deadline, no
//! later and no earlier, and what happens when it is itself killed or stopped.

use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

use super::*;

/// How long anything may take that happens at once on an idle machine.
const LIVENESS: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

/// All tests of this process share its reaper, and some of them stop it.
async fn turn() -> AsyncMutexGuard<'static, ()> {
    static TURN: AsyncMutex<()> = AsyncMutex::const_new(());
    TURN.lock().await
}

/// A session that no other test has. Those of workers are small numbers.
fn session() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn command() -> Command {
    let mut command = Command::new("sh");
    // The command itself is not all that is to be killed.
    command.args(["-c", "sleep 1000 & wait"]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn ended(child: &mut Child) -> ExitStatus {
    tokio::time::timeout(LIVENESS, child.wait()).await.expect("the command is killed").unwrap()
}

/// Returns when nobody writes to the command's output any more: all that it started has ended.
async fn output_ended(child: &mut Child) {
    let mut output = child.stdout.take().unwrap();
    let mut read = Vec::new();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut output, &mut read);
    tokio::time::timeout(LIVENESS, end).await.expect("all that it started is killed").unwrap();
}

/// Ends a command with all that it started. Says whether the reaper has.
async fn end(mut child: Child, watch: Watch) -> bool {
    let group = i32::try_from(child.id().expect("it was not waited for")).unwrap();
    killpg(Pid::from_raw(group), Signal::SIGKILL).unwrap();
    ended(&mut child).await;
    watch.end()
}

fn reaper_pid() -> Pid {
    lock().process.as_ref().expect("a command runs").pid()
}

#[tokio::test]
async fn a_command_is_killed_with_all_it_started_at_the_deadline_and_not_before() {
    let _turn = turn().await;
    let (short, long) = (session(), session());
    let deadline = BootInstant::now() + Duration::from_secs(1);
    renew(short, Some(deadline));
    renew(long, Some(BootInstant::now() + HOUR));
    let (mut child, watch) = spawn(short, command).unwrap();
    let (mut other, other_watch) = spawn(long, command).unwrap();
    let status = ended(&mut child).await;
    assert!(deadline.is_past(), "it was killed too early");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    output_ended(&mut child).await;
    assert!(watch.end(), "whoever waited is told by whom it was killed");
    assert!(other.try_wait().unwrap().is_none(), "the other session's goes on");
    assert!(!end(other, other_watch).await);
}

#[tokio::test]
async fn renewals_put_the_deadline_off() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now() + HOUR));
    let (mut child, watch) = spawn(session, command).unwrap();
    let first = BootInstant::now() + Duration::from_millis(300);
    renew(session, Some(first));
    renew(session, None);
    renew(session, Some(first + HOUR));
    (first + Duration::from_millis(200)).reached().await;
    assert!(child.try_wait().unwrap().is_none(), "it was killed at a deadline that had been put off");
    close(session);
    ended(&mut child).await;
    watch.end();
    assert!(!lock().sessions.contains_key(&session), "a session that is closed is forgotten");
}

#[tokio::test]
async fn a_command_that_begins_after_the_deadline_does_not_go_on() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now()));
    let (mut child, watch) = spawn(session, command).unwrap();
    ended(&mut child).await;
    assert!(watch.end());
}

#[tokio::test]
async fn a_reaper_that_was_killed_is_replaced_and_knows_what_runs() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now() + HOUR));
    let (mut child, watch) = spawn(session, command).unwrap();
    let first = reaper_pid();
    kill(first, Signal::SIGKILL).unwrap();
    // It may take a while to die, and to be told things until then.
    let (mut second, second_watch) = spawn(session, command).unwrap();
    let deadline = BootInstant::now() + Duration::from_millis(100);
    let began = std::time::Instant::now();
    while reaper_pid() == first {
        renew(session, Some(deadline));
        assert!(began.elapsed() < LIVENESS, "nobody finds that it is gone");
    }
    renew(session, Some(deadline));
    ended(&mut child).await;
    ended(&mut second).await;
    assert!(watch.end() && second_watch.end());
    assert_ne!(reaper_pid(), first);
}

#[tokio::test]
async fn a_reaper_that_could_not_be_replaced_is_replaced_with_the_next_renewal() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now() + HOUR));
    let (mut child, watch) = spawn(session, command).unwrap();
    // As after a fork that failed.
    let gone = lock().process.take().map(ReaperProcess::kill);
    lock().replaced.extend(gone);
    renew(session, Some(BootInstant::now() + Duration::from_millis(100)));
    ended(&mut child).await;
    watch.end();
}

#[tokio::test]
async fn a_reaper_that_does_not_read_delays_nobody_and_is_replaced() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now() + HOUR));
    let (mut child, watch) = spawn(session, command).unwrap();
    let stopped = reaper_pid();
    kill(stopped, Signal::SIGSTOP).unwrap();
    let began = std::time::Instant::now();
    // More than a socket holds.
    let mut renewals = 0_u64;
    while reaper_pid() == stopped {
        renewals += 1;
        renew(session, Some(BootInstant::now() + HOUR));
        assert!(began.elapsed() < LIVENESS, "renewals wait for the reaper");
    }
    assert!(renewals > 1);
    renew(session, Some(BootInstant::now() + Duration::from_millis(100)));
    ended(&mut child).await;
    assert!(watch.end());
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_not_watched() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now() + HOUR));
    spawn(session, || Command::new("/nonexistent/program")).unwrap_err();
    assert!(lock().groups.is_empty(), "a number would stay listed that may soon be another's");
    assert_eq!(lock().sessions[&session].watched, 0);
    close(session);
}

#[tokio::test]
async fn the_reaper_holds_none_of_the_workers_files() {
    let _turn = turn().await;
    let session = session();
    renew(session, Some(BootInstant::now() + HOUR));
    let held = tempfile::NamedTempFile::new().unwrap();
    // Another begins while the file is open.
    if let Some(process) = lock().process.as_ref() {
        kill(process.pid(), Signal::SIGKILL).unwrap();
    }
    lock().replace();
    let (child, watch) = spawn(session, command).unwrap();
    let began = std::time::Instant::now();
    loop {
        let files = std::fs::read_dir(format!("/proc/{}/fd", reaper_pid())).unwrap();
        let open: Vec<_> = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()).collect();
        // A socket and a timer.
        if open.len() == 2 && !open.iter().any(|path| path == held.path()) {
            break;
        }
        assert!(began.elapsed() < LIVENESS, "{open:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    end(child, watch).await;
}
