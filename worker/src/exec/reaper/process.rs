//! The reaper's process: how it is forked, and what it does until the worker is gone.
//!
//! It is forked and runs no other program, so that whoever uses this crate has it, not only the
//! `rota` binary. A child of a process with threads may only do what is async-signal-safe until
//! it runs another program: below [`run`] nothing allocates, panics or takes a lock.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use rota_client::BootInstant;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Command, PACKET_BYTES, Report};
use super::watchlist::{Effects, Watchlist};

/// What ps(1) calls it.
const NAME: &std::ffi::CStr = c"rota-reaper";
/// Packets that are taken between two looks at the deadlines.
const PACKETS_PER_LOOK: usize = 64;
/// On a kernel before 5.9, which has no close_range(2): inherited files past this number stay open
/// in the reaper.
const CLOSED_ONE_BY_ONE_MAX: u64 = 65_536;

/// A reaper that runs.
#[derive(Debug)]
pub(super) struct ReaperProcess {
    pid: Pid,
    socket: Arc<OwnedFd>,
}

impl ReaperProcess {
    /// Forks one that begins with this list.
    ///
    /// # Errors
    /// When the system has no process, socket or memory left.
    #[allow(unsafe_code)]
    pub(super) fn start(watchlist: Watchlist) -> io::Result<Self> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Blocked before the fork: our handlers must never run in the reaper.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        // SAFETY: the child only calls `run`, which does what is async-signal-safe and never
        // returns.
        let forked = unsafe { fork() };
        if matches!(forked, Ok(ForkResult::Child)) {
            run(&theirs, watchlist);
        }
        mask.thread_set_mask()?;
        match forked? {
            ForkResult::Parent { child } => Ok(Self { pid: child, socket: Arc::new(ours) }),
            ForkResult::Child => unreachable!("the child does not return"),
        }
    }

    /// Our end of the socket. It is closed by exec(2).
    pub(super) fn socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket)
    }

    /// The next report, if there is one.
    pub(super) fn report(&self) -> Option<Report> {
        let mut packet = [0; PACKET_BYTES];
        let (len, _) = rustix::net::recv(&self.socket, &mut packet[..], RecvFlags::DONTWAIT).ok()?;
        Report::decode(packet.get(..len)?)
    }

    /// Kills it. Returns its number, which is to be waited for.
    pub(super) fn kill(self) -> Pid {
        // One that is gone already is as good.
        let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        self.pid
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }
}

/// Whether a child runs. One that does not is waited for by this.
pub(super) fn is_running(pid: Pid) -> bool {
    matches!(waitpid(pid, Some(WaitPidFlag::WNOHANG)), Ok(nix::sys::wait::WaitStatus::StillAlive))
}

/// Tells a reaper something, and never waits: async-signal-safe.
///
/// # Errors
/// When the reaper is gone, or does not read.
pub(super) fn send(socket: BorrowedFd<'_>, command: Command) -> io::Result<()> {
    send_packet(socket, &command.encode())
}

fn send_packet(socket: BorrowedFd<'_>, packet: &[u8]) -> io::Result<()> {
    rustix::net::send(socket, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The life of the reaper.
fn run(socket: &OwnedFd, mut watchlist: Watchlist) -> ! {
    let mut system = System { socket: socket.as_fd() };
    // A group of its own, so that it does not end, or stop, with the worker's.
    let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let _ = nix::sys::prctl::set_name(NAME);
    let _ = nix::unistd::chdir(c"/");
    // The worker's files would stay open, and locked, for as long as the reaper lives.
    close_all_but(socket.as_raw_fd());
    // Without a timer it is of no use. The worker finds it gone.
    let Ok(timer) = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK) else { exit() };
    loop {
        watchlist.expire(BootInstant::now(), &mut system);
        wait(socket, &timer, watchlist.next_deadline());
        if let Worker::Gone = take_commands(&mut watchlist, &mut system) {
            watchlist.kill_all(&mut system);
            exit();
        }
    }
}

/// Returns when there is something to read, or at the deadline. The timer counts suspend, and one
/// that is due fires when the machine wakes.
fn wait(socket: &OwnedFd, timer: &TimerFd, deadline: Option<BootInstant>) {
    // To arm it anew forgets that it has fired.
    let _ = match deadline {
        Some(deadline) => {
            let since_boot = Duration::from_nanos(deadline.as_nanos());
            timer.set(Expiration::OneShot(since_boot.into()), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
        }
        None => timer.unset(),
    };
    let mut files =
        [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
    // A failure is as good as a wake-up.
    let _ = poll(&mut files, PollTimeout::NONE);
}

enum Worker {
    Lives,
    Gone,
}

fn take_commands(watchlist: &mut Watchlist, system: &mut System<'_>) -> Worker {
    for _ in 0..PACKETS_PER_LOOK {
        let mut packet = [0; PACKET_BYTES];
        match rustix::net::recv(system.socket, &mut packet[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Worker::Gone,
            Ok((len, _)) => {
                if let Some(command) = packet.get(..len).and_then(Command::decode) {
                    watchlist.apply(command, BootInstant::now(), system);
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Worker::Lives,
            Err(_) => return Worker::Gone,
        }
    }
    Worker::Lives
}

/// What the watchlist has done, done.
struct System<'a> {
    socket: BorrowedFd<'a>,
}

impl Effects for System<'_> {
    fn kill(&mut self, group: i32) {
        // A group that is gone already is as good.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }

    fn report(&mut self, report: Report) {
        // A worker that does not read has more than enough reports of the same.
        let _ = send_packet(self.socket, &report.encode());
    }
}

/// Closes every file but one.
#[allow(unsafe_code)]
fn close_all_but(kept: i32) {
    let close = |first: i64, last: i64| -> Result<(), Errno> {
        if first > last {
            return Ok(());
        }
        // SAFETY: a bare system call with numbers for arguments. None of the files that it closes
        // is used by the only thread that there is.
        Errno::result(unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, last, 0) }).map(drop)
    };
    let kept = i64::from(kept);
    if close(0, kept - 1).and_then(|()| close(kept + 1, i64::from(u32::MAX))).is_err() {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(CLOSED_ONE_BY_ONE_MAX, |(soft, _)| soft);
        let limit = i32::try_from(limit.min(CLOSED_ONE_BY_ONE_MAX)).unwrap_or(0);
        for file in (0..limit).filter(|file| i64::from(*file) != kept) {
            // Most numbers are no file's.
            let _ = nix::unistd::close(file);
        }
    }
}

/// Ends the process without running what a worker would at its end.
#[allow(unsafe_code)]
fn exit() -> ! {
    // SAFETY: _exit(2) is async-signal-safe, and takes any number.
    unsafe { nix::libc::_exit(0) }
}
