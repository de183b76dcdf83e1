//! A process beside the worker that kills commands when the worker cannot: because it is gone, or
//! because it is stopped (SIGSTOP, a debugger, a freezer, swapping) while its lease runs out. Work
//! would go on for buckets that are others' by then (docs/decisions/0009-commands-end-with-their-worker.md).
//!
//! There is one for each process that runs commands. Each command has it told its process group
//! before it starts; each renewal of a session's lease has it told the new deadline, in one packet
//! for all commands of the session. Nothing here waits for it: one that does not read is replaced.

mod message;
mod process;
mod watchlist;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::unistd::Pid;
use rota_client::BootInstant;
use tokio::process::{Child, Command};

use message::Command as Message;
use process::ReaperProcess;
use watchlist::Watchlist;

/// What this process has its reaper do.
static REAPER: Mutex<Reaper> = Mutex::new(Reaper::new());

/// The state is kept here as well as in the reaper, so that another can be told everything.
struct Reaper {
    /// `None` before the first command, and while one that is gone cannot be replaced.
    process: Option<ReaperProcess>,
    /// Counts the processes.
    generation: u64,
    /// Those that were replaced, until they are waited for.
    replaced: Vec<Pid>,
    /// By [`crate::deadline::WorkDeadline`].
    sessions: BTreeMap<u64, Session>,
    /// By key.
    groups: BTreeMap<u64, Group>,
    last_key: u64,
}

struct Session {
    deadline: Option<BootInstant>,
    /// Groups that are watched for it. The reaper knows the session while there are any.
    watched: usize,
    /// When the reaper was last heard to have killed groups of it.
    killed_at: Option<BootInstant>,
    /// It is forgotten with its last group.
    is_closed: bool,
}

impl Default for Session {
    /// Nothing may run before the first renewal.
    fn default() -> Self {
        Self { deadline: Some(BootInstant::BOOT), watched: 0, killed_at: None, is_closed: false }
    }
}

struct Group {
    session: u64,
    /// `None` while the command is being started.
    number: Option<i32>,
}

/// A command that is watched until [`Watch::end`].
#[derive(Debug)]
pub(super) struct Watch {
    key: u64,
    started_at: BootInstant,
}

/// Until when commands of a session may run; for ever if `None`.
pub(crate) fn renew(session: u64, deadline: Option<BootInstant>) {
    let mut reaper = lock();
    let known = reaper.sessions.entry(session).or_default();
    known.deadline = deadline;
    if known.watched > 0 {
        match reaper.process {
            Some(_) => reaper.tell(Message::Renew { session, deadline }),
            // It could not be replaced when it was found gone: each renewal tries again.
            None => reaper.replace(),
        }
    }
    reaper.take_reports();
    reaper.wait_for_replaced();
}

/// The session is not renewed any more: what still runs of it is killed.
pub(crate) fn close(session: u64) {
    renew(session, Some(BootInstant::BOOT));
    let mut reaper = lock();
    if let Some(known) = reaper.sessions.get_mut(&session) {
        known.is_closed = true;
    }
    reaper.sessions.retain(|_, known| !known.is_closed || known.watched > 0);
}

/// Starts a command, in a process group of its own, that is killed at the session's deadline, or
/// when this process is gone. The reaper knows of it before its program runs, even when this
/// process is stopped meanwhile.
///
/// # Errors
/// When the command cannot be started, or no reaper can.
pub(super) fn spawn(session: u64, command: impl Fn() -> Command) -> io::Result<(Child, Watch)> {
    let mut is_first = true;
    loop {
        let (watch, socket, generation) = lock().begin(session)?;
        let mut command = command();
        watch_before_exec(&mut command, socket, session, watch.key);
        match command.spawn() {
            Ok(child) => {
                lock().started(watch.key, child.id(), generation);
                return Ok((child, watch));
            }
            Err(error) => {
                watch.end();
                // The child could not tell the reaper, which is replaced now.
                let was_replaced = lock().generation != generation;
                if !was_replaced || !is_first {
                    return Err(error);
                }
                is_first = false;
            }
        }
    }
}

/// Has the child make itself known to the reaper before it runs the program.
#[allow(unsafe_code)]
fn watch_before_exec(command: &mut Command, socket: Arc<OwnedFd>, session: u64, key: u64) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; setpgid(2),
    // getpid(2) and send(2) are bare system calls, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            let group = nix::unistd::getpid().as_raw();
            process::send(socket.as_fd(), Message::Watch { session, key, group })
        });
    }
}

impl Watch {
    /// The command has ended: its group is not killed any more. Says whether the reaper has killed
    /// it.
    pub(super) fn end(&self) -> bool {
        lock().forget(self)
    }
}

fn lock() -> MutexGuard<'static, Reaper> {
    REAPER.lock().expect("no code panics while it holds this")
}

impl Reaper {
    const fn new() -> Self {
        Self {
            process: None,
            generation: 0,
            replaced: Vec::new(),
            sessions: BTreeMap::new(),
            groups: BTreeMap::new(),
            last_key: 0,
        }
    }

    /// A command of the session is about to be started.
    fn begin(&mut self, session: u64) -> io::Result<(Watch, Arc<OwnedFd>, u64)> {
        let is_known = self.sessions.get(&session).is_some_and(|session| session.watched > 0);
        let sessions = self.sessions.values().filter(|session| session.watched > 0).count();
        if self.groups.len() >= watchlist::GROUPS_MAX || !is_known && sessions >= watchlist::SESSIONS_MAX {
            return Err(io::Error::other("too many commands run"));
        }
        self.last_key += 1;
        let key = self.last_key;
        self.groups.insert(key, Group { session, number: None });
        let known = self.sessions.entry(session).or_default();
        known.watched += 1;
        let deadline = known.deadline;
        let watch = Watch { key, started_at: BootInstant::now() };
        if self.process.is_none() {
            self.replace();
        } else if !is_known {
            self.tell(Message::Renew { session, deadline });
        }
        match &self.process {
            Some(process) => Ok((watch, process.socket(), self.generation)),
            None => {
                self.forget(&watch);
                Err(io::Error::other("no process to watch over the command could be started"))
            }
        }
    }

    /// The command of a key runs.
    fn started(&mut self, key: u64, id: Option<u32>, generation: u64) {
        let Some(group) = self.groups.get_mut(&key) else { return };
        group.number = id.and_then(|id| i32::try_from(id).ok());
        let (session, number) = (group.session, group.number);
        // The child told another than there is now.
        if let Some(group) = number.filter(|_| generation != self.generation) {
            self.tell(Message::Watch { session, key, group });
        }
    }

    fn forget(&mut self, watch: &Watch) -> bool {
        let Some(group) = self.groups.remove(&watch.key) else { return false };
        self.tell(Message::Forget { key: watch.key });
        self.take_reports();
        let Some(session) = self.sessions.get_mut(&group.session) else { return false };
        session.watched -= 1;
        let was_killed = session.killed_at.is_some_and(|at| at >= watch.started_at);
        if session.watched == 0 {
            if session.is_closed {
                self.sessions.remove(&group.session);
            }
            self.tell(Message::Close { session: group.session });
        }
        was_killed
    }

    /// Never waits. A reaper that is gone, or has stopped reading, is replaced.
    fn tell(&mut self, message: Message) {
        let Some(process) = &self.process else { return };
        if let Err(error) = process::send(process.socket().as_fd(), message) {
            tracing::warn!(%error, "the process that watches over the commands is replaced");
            self.replace();
        }
    }

    /// Starts another reaper, which knows everything from the beginning.
    fn replace(&mut self) {
        self.take_reports();
        self.replaced.extend(self.process.take().map(ReaperProcess::kill));
        self.wait_for_replaced();
        self.generation += 1;
        let watched = self.sessions.iter().filter(|(_, known)| known.watched > 0);
        let sessions = watched.map(|(session, known)| (*session, known.deadline));
        let groups = self.groups.iter().filter_map(|(key, group)| Some((*key, group.number?, group.session)));
        match ReaperProcess::start(Watchlist::allocate(sessions, groups)) {
            Ok(process) => self.process = Some(process),
            Err(error) => {
                tracing::error!(%error, "nothing watches over the commands: they may outlive their lease");
            }
        }
    }

    fn wait_for_replaced(&mut self) {
        self.replaced.retain(|pid| process::is_running(*pid));
    }

    /// What the reaper has done meanwhile.
    fn take_reports(&mut self) {
        let Some(process) = &self.process else { return };
        while let Some(report) = process.report() {
            let Some(session) = self.sessions.get_mut(&report.session) else { continue };
            if report.killed > 0 {
                session.killed_at = Some(BootInstant::now());
                tracing::warn!(
                    commands = report.killed,
                    "commands were killed at the lease's deadline, before this process ended them"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
