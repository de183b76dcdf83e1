//! What this server has submitted and not yet seen applied.
//!
//! Commands gather in a unit until the sender takes it. Units leave in order and
//! get a number each; the number is remembered in the replicated state. So a unit
//! may be sent again, to the next leader or to the same one, whenever it is not
//! certain that it arrived: it takes effect once, and none overtakes another.
//! Whoever submitted a command is answered by this server, when this server
//! applies it.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rota_core::batch::{Origin, UnitOutcome, encode_command, seal_unit};
use rota_core::state::{Command, Refusal, Reply, State, Submitted};
use rota_protocol::peer::UNIT_CLOSED_BYTES;
use tokio::sync::{Notify, oneshot};

/// Commands that may be unresolved at once. At the bound, whoever submits waits or
/// is told to try again after a pause. Those who have waited may pass it, by one command
/// each.
const COMMANDS_MAX: usize = 65_536;
/// Bytes of units that may be unresolved at once.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bounds are reached: the cluster is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many writes wait for the leader")]
pub(crate) struct Overloaded;

/// What became of a command.
pub(crate) type Outcome = Result<Reply, Refusal>;

/// Somebody who has several commands under way and hears of each, in their order.
pub(crate) trait CompletionHandler: Send + Sync {
    /// The next of the commands was applied and left the state as it is now.
    fn on_applied(self: Arc<Self>, state: &State, outcome: Outcome);
    /// Nobody will know what became of the next of the commands.
    fn on_lost(self: Arc<Self>);
}

/// Whom to tell what became of a command.
pub(crate) enum Completion {
    /// One who waits for this command alone. To be dropped is to hear that nobody
    /// knows.
    Once(oneshot::Sender<Outcome>),
    /// One who has several under way.
    Each(Arc<dyn CompletionHandler>),
}

impl Completion {
    /// Tells what the command brought about.
    pub(crate) fn resolved(self, state: &State, outcome: Outcome) {
        match self {
            // A client that gave up waiting is not told.
            Self::Once(sender) => drop(sender.send(outcome)),
            Self::Each(listener) => listener.on_applied(state, outcome),
        }
    }

    fn lost(self) {
        match self {
            Self::Once(sender) => drop(sender),
            Self::Each(listener) => listener.on_lost(),
        }
    }
}

/// The units of one start of this server.
pub(crate) struct WriteQueue {
    server: u64,
    boot: u64,
    inner: Mutex<Inner>,
    /// Wakes the sender: there is more to send, or something to send again.
    wake: Notify,
    /// Wakes those who wait for room.
    room: Notify,
}

#[derive(Default)]
struct Inner {
    /// Units that were closed.
    sealed: u64,
    unresolved: VecDeque<Unit>,
    /// The unit that is still being filled.
    payload: Vec<u8>,
    waiters: VecDeque<Completion>,
    /// Commands and bytes of all of them.
    commands: usize,
    bytes: usize,
    /// A unit was skipped: begin again from the first unresolved one.
    resend: bool,
}

struct Unit {
    seq: u64,
    bytes: Bytes,
    /// Of the commands that are not resolved yet.
    waiters: VecDeque<Completion>,
}

impl WriteQueue {
    pub(crate) fn new(server: u64, boot: u64) -> Self {
        Self { server, boot, inner: Mutex::default(), wake: Notify::new(), room: Notify::new() }
    }

    /// Whose it is.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }

    /// Takes in a command. What it brings about is told when this server has applied
    /// it, in the order of submission.
    pub(crate) fn submit(&self, command: &Command, waiter: Completion) -> Result<(), Overloaded> {
        if self.lock().is_full() {
            return Err(Overloaded);
        }
        self.submit_unbounded(command, waiter);
        Ok(())
    }

    /// The same for those who have waited for [room](Self::room).
    pub(crate) fn submit_unbounded(&self, command: &Command, waiter: Completion) {
        let mut inner = self.lock();
        let before = inner.payload.len();
        inner.payload = encode_command(command, mem::take(&mut inner.payload));
        inner.bytes += inner.payload.len() - before;
        inner.commands += 1;
        inner.waiters.push_back(waiter);
        if inner.payload.len() >= UNIT_CLOSED_BYTES {
            self.close_batch(&mut inner);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Whether it takes no more.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Returns when there may be room for a command.
    pub(crate) async fn capacity(&self) {
        loop {
            let freed = self.room.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if !self.lock().is_full() {
                return;
            }
            freed.await;
        }
    }

    fn close_batch(&self, inner: &mut Inner) {
        if inner.waiters.is_empty() {
            return;
        }
        inner.sealed += 1;
        let seq = inner.sealed;
        let origin = Origin { server: self.server, unit: Submitted { boot: self.boot, seq } };
        let bytes = seal_unit(origin, &inner.payload);
        inner.bytes += bytes.len() - inner.payload.len();
        // Kept for the next one, unless a large command has made it large.
        inner.payload.clear();
        inner.payload.shrink_to(2 * UNIT_CLOSED_BYTES);
        let waiters = mem::take(&mut inner.waiters);
        inner.unresolved.push_back(Unit { seq, bytes, waiters });
    }

    /// Takes note of what became of a part of a batch, if it is one of ours.
    pub(crate) fn resolve(&self, state: &State, origin: Origin, fate: UnitOutcome) {
        if origin.server != self.server || origin.unit.boot != self.boot {
            return;
        }
        let seq = origin.unit.seq;
        match fate {
            UnitOutcome::Applied(_, applied) => {
                let (lost, waiter, is_freed) = {
                    let mut inner = self.lock();
                    let was_full = inner.is_full();
                    let (lost, waiter) = (inner.forget_below(seq), inner.resolve_next(seq));
                    (lost, waiter, was_full && !inner.is_full())
                };
                // Not under the lock: they may submit.
                lost.into_iter().for_each(Completion::lost);
                if let Some(waiter) = waiter {
                    waiter.resolved(state, applied.reply);
                }
                if is_freed {
                    self.room.notify_waiters();
                }
            }
            // It was damaged on its way to the leader, or is of a newer version than this one.
            UnitOutcome::Undecodable => self.drop_through(seq),
            UnitOutcome::Skipped => {
                let mut inner = self.lock();
                if inner.unresolved.front().is_some_and(|first| seq > first.seq) {
                    inner.resend = true;
                    self.wake.notify_one();
                }
            }
        }
    }

    /// Takes note that this server's state came from a snapshot, which has units
    /// of this server up to `last`: they were applied, and nobody here saw what
    /// they brought about.
    pub(crate) fn restored(&self, last: Option<Submitted>) {
        let Some(last) = last.filter(|last| last.boot == self.boot) else { return };
        self.drop_through(last.seq);
        self.wake.notify_one();
    }

    /// Drops the units through `seq`; their callers get an unknown outcome.
    fn drop_through(&self, seq: u64) {
        let lost = self.lock().forget_below(seq + 1);
        lost.into_iter().for_each(Completion::lost);
        self.room.notify_waiters();
    }

    /// The first unit that is not resolved.
    pub(crate) fn front(&self) -> Option<u64> {
        self.lock().unresolved.front().map(|unit| unit.seq)
    }

    /// Units after `cursor`, in order, at most `bytes_max` of them (and at least
    /// one, if there is any), and the new cursor.
    pub(crate) fn after(&self, cursor: u64, bytes_max: usize) -> (Vec<Bytes>, u64) {
        let mut inner = self.lock();
        self.close_batch(&mut inner);
        let first = inner.unresolved.front().map_or(inner.sealed + 1, |u| u.seq);
        let skip = usize::try_from((cursor + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let units: Vec<Bytes> = inner
            .unresolved
            .iter()
            .skip(skip)
            .take_while(|unit| {
                let take = bytes == 0 || bytes + unit.bytes.len() <= bytes_max;
                bytes += unit.bytes.len();
                take
            })
            .map(|unit| unit.bytes.clone())
            .collect();
        let start = cursor.max(first.saturating_sub(1));
        let end = start + units.len() as u64;
        (units, end)
    }

    /// How many commands are unresolved.
    pub(crate) fn len(&self) -> usize {
        self.lock().commands
    }

    /// Whether sending must begin again; asking clears it.
    pub(crate) fn next_to_resend(&self) -> bool {
        mem::take(&mut self.lock().resend)
    }

    /// Returns when there may be something to send.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Inner {
    fn is_full(&self) -> bool {
        self.commands >= COMMANDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Who waits for the next command of the unit `seq`, if it is the first one that
    /// is not resolved.
    fn resolve_next(&mut self, seq: u64) -> Option<Completion> {
        let unit = self.unresolved.front_mut().filter(|unit| unit.seq == seq)?;
        let waiter = unit.waiters.pop_front()?;
        self.commands -= 1;
        if unit.waiters.is_empty() {
            self.bytes -= unit.bytes.len();
            self.unresolved.pop_front();
        }
        Some(waiter)
    }

    /// Drops the units before `seq`, and says who waits for them.
    fn forget_below(&mut self, seq: u64) -> Vec<Completion> {
        let mut lost = Vec::new();
        while self.unresolved.front().is_some_and(|unit| unit.seq < seq) {
            let Some(unit) = self.unresolved.pop_front() else { break };
            self.bytes -= unit.bytes.len();
            self.commands -= unit.waiters.len();
            lost.extend(unit.waiters);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::state::{Applied, SessionId};

    /// A command, sealed in a unit of its own.
    fn submit(write_queue: &WriteQueue, n: u64) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        write_queue
            .submit(&Command::CloseSession { session: SessionId(n) }, Completion::Once(sender))
            .unwrap();
        write_queue.close_batch(&mut write_queue.lock());
        receiver
    }

    fn fate(write_queue: &WriteQueue, seq: u64, applied: bool) {
        let origin = Origin { server: write_queue.server, unit: Submitted { boot: write_queue.boot, seq } };
        let fate = match applied {
            true => {
                let reply = Ok(Reply::SessionClosed { session: SessionId(seq) });
                UnitOutcome::Applied(0, Applied { reply, events: vec![] })
            }
            false => UnitOutcome::Skipped,
        };
        write_queue.resolve(&State::new(), origin, fate);
    }

    #[tokio::test]
    async fn units_leave_in_order_and_again_from_the_first_unresolved() {
        let write_queue = WriteQueue::new(1, 7);
        let replies: Vec<_> = (1..=3).map(|n| submit(&write_queue, n)).collect();
        let (units, cursor) = write_queue.after(0, usize::MAX);
        assert_eq!((units.len(), cursor), (3, 3));
        fate(&write_queue, 1, true);
        assert_eq!(write_queue.after(3, usize::MAX), (vec![], 3));
        assert_eq!(write_queue.after(0, usize::MAX).0, units[1..]);
        fate(&write_queue, 3, false);
        assert!(write_queue.next_to_resend() && !write_queue.next_to_resend());
        fate(&write_queue, 1, false);
        assert!(!write_queue.next_to_resend(), "a repeat of what is done needs nothing");
        fate(&write_queue, 2, true);
        fate(&write_queue, 3, true);
        for reply in replies {
            assert!(reply.await.is_ok());
        }
        assert_eq!((write_queue.len(), write_queue.lock().bytes), (0, 0));
    }

    #[tokio::test]
    async fn commands_gather_in_a_unit_until_it_is_sent() {
        let write_queue = WriteQueue::new(1, 7);
        let replies: Vec<_> = (1..=3u64)
            .map(|n| {
                let (sender, receiver) = oneshot::channel();
                let command = Command::CloseSession { session: SessionId(n) };
                write_queue.submit(&command, Completion::Once(sender)).unwrap();
                receiver
            })
            .collect();
        assert_eq!(write_queue.after(0, usize::MAX).0.len(), 1);
        assert_eq!(write_queue.len(), 3);
        for _ in 0..3 {
            assert_eq!(write_queue.front(), Some(1));
            fate(&write_queue, 1, true);
        }
        assert_eq!(write_queue.front(), None);
        for reply in replies {
            assert!(reply.await.is_ok());
        }
    }

    #[tokio::test]
    async fn what_a_snapshot_has_is_not_waited_for() {
        let write_queue = WriteQueue::new(1, 7);
        let [first, second, third] = [1, 2, 3].map(|n| submit(&write_queue, n));
        write_queue.restored(Some(Submitted { boot: 6, seq: 9 }));
        assert_eq!(write_queue.len(), 3, "that was another start of this server");
        write_queue.restored(Some(Submitted { boot: 7, seq: 2 }));
        assert!(first.await.is_err() && second.await.is_err(), "nobody knows what they brought about");
        assert_eq!(write_queue.front(), Some(3));
        fate(&write_queue, 3, true);
        assert!(third.await.is_ok());
        let fourth = submit(&write_queue, 4);
        let fifth = submit(&write_queue, 5);
        fate(&write_queue, 5, true);
        assert!(fourth.await.is_err() && fifth.await.is_ok());
        assert_eq!((write_queue.len(), write_queue.lock().bytes), (0, 0));
    }

    #[tokio::test]
    async fn undecodable_unit_is_dropped_and_frees_capacity() {
        let write_queue = WriteQueue::new(1, 7);
        let [first, second] = [1, 2].map(|n| submit(&write_queue, n));
        let origin = Origin { server: 1, unit: Submitted { boot: 7, seq: 1 } };
        write_queue.resolve(&State::new(), origin, UnitOutcome::Undecodable);
        assert!(first.await.is_err(), "nobody knows what it would have brought about");
        assert_eq!(write_queue.front(), Some(2));
        fate(&write_queue, 2, true);
        assert!(second.await.is_ok());
        assert_eq!((write_queue.len(), write_queue.lock().bytes), (0, 0));
    }

    #[tokio::test]
    async fn a_full_outbox_takes_nothing_until_something_is_resolved() {
        let write_queue = WriteQueue::new(1, 7);
        write_queue.lock().commands = COMMANDS_MAX;
        let (sender, _receiver) = oneshot::channel();
        let command = Command::CloseSession { session: SessionId(1) };
        assert_eq!(write_queue.submit(&command, Completion::Once(sender)), Err(Overloaded));
        write_queue.lock().commands = 0;
        write_queue.capacity().await;
        let reply = submit(&write_queue, 1);
        fate(&write_queue, 1, true);
        assert!(reply.await.is_ok());
    }

    #[test]
    fn a_portion_has_a_bound_and_at_least_one_unit() {
        let write_queue = WriteQueue::new(1, 7);
        let _replies: Vec<_> = (1..=3).map(|n| submit(&write_queue, n)).collect();
        let (units, cursor) = write_queue.after(0, 1);
        assert_eq!((units.len(), cursor), (1, 1));
        let (units, cursor) = write_queue.after(cursor, usize::MAX);
        assert_eq!((units.len(), cursor), (2, 3));
    }
}
