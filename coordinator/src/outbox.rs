//! What this server has submitted and not yet seen applied.
//!
//! Units leave in order and get a number each; the number is remembered in the
//! replicated state. So a unit may be sent again, to the next leader or to the
//! same one, whenever it is not certain that it arrived: it takes effect once,
//! and none overtakes another. Whoever submitted it is answered by this server,
//! when this server applies it.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use rota_core::batch::{AppliedUnit, Origin, encode_unit};
use rota_core::state::{Applied, Command, Submitted};
use tokio::sync::{Notify, oneshot};

/// Units that may be unresolved at once. At the bound, clients are told to try
/// again after a pause.
const UNITS_MAX: usize = 65_536;
/// Bytes of units that may be unresolved at once.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The bounds are reached: the cluster is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many writes wait for the leader")]
pub(crate) struct Overloaded;

/// The units of one start of this server.
pub(crate) struct Outbox {
    server: u64,
    boot: u64,
    inner: Mutex<Inner>,
    /// Wakes the sender: there is more to send, or something to send again.
    wake: Notify,
}

struct Inner {
    next_seq: u64,
    unresolved: VecDeque<Unit>,
    bytes: usize,
    /// A unit was skipped: begin again from the first unresolved one.
    resend: bool,
}

struct Unit {
    seq: u64,
    bytes: Bytes,
    reply: oneshot::Sender<Vec<Applied>>,
}

impl Outbox {
    pub(crate) fn new(server: u64, boot: u64) -> Self {
        let inner = Inner { next_seq: 1, unresolved: VecDeque::new(), bytes: 0, resend: false };
        Self { server, boot, inner: Mutex::new(inner), wake: Notify::new() }
    }

    /// Whose it is.
    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this")
    }

    /// Takes in commands. What they bring about is told when this server has
    /// applied them, in the order of submission.
    pub(crate) fn submit(&self, commands: &[Command]) -> Result<oneshot::Receiver<Vec<Applied>>, Overloaded> {
        let (reply, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if inner.unresolved.len() >= UNITS_MAX || inner.bytes >= BYTES_MAX {
            return Err(Overloaded);
        }
        let seq = inner.next_seq;
        let origin = Origin { server: self.server, unit: Submitted { boot: self.boot, seq } };
        let bytes = encode_unit(origin, commands);
        inner.next_seq += 1;
        inner.bytes += bytes.len();
        inner.unresolved.push_back(Unit { seq, bytes, reply });
        drop(inner);
        self.wake.notify_one();
        Ok(receiver)
    }

    /// Takes note of a unit's fate, if it is one of ours.
    pub(crate) fn resolve(&self, unit: AppliedUnit) {
        if unit.origin.server != self.server || unit.origin.unit.boot != self.boot {
            return;
        }
        let mut inner = self.lock();
        let seq = unit.origin.unit.seq;
        match unit.applied {
            Some(applied) => {
                inner.forget_below(seq);
                if inner.unresolved.front().is_some_and(|u| u.seq == seq)
                    && let Some(resolved) = inner.pop()
                {
                    // A client that gave up waiting is not told.
                    drop(resolved.reply.send(applied));
                }
            }
            None if inner.unresolved.front().is_some_and(|first| seq > first.seq) => {
                inner.resend = true;
                self.wake.notify_one();
            }
            None => {}
        }
    }

    /// Takes note that this server's state came from a snapshot, which has units
    /// of this server up to `last`: they were applied, and nobody here saw what
    /// they brought about.
    pub(crate) fn restored(&self, last: Option<Submitted>) {
        let Some(last) = last.filter(|last| last.boot == self.boot) else { return };
        self.lock().forget_below(last.seq + 1);
        self.wake.notify_one();
    }

    /// The first unit that is not resolved.
    pub(crate) fn front(&self) -> Option<u64> {
        self.lock().unresolved.front().map(|unit| unit.seq)
    }

    /// Units after `cursor`, in order, at most `bytes_max` of them (and at least
    /// one, if there is any), and the new cursor.
    pub(crate) fn after(&self, cursor: u64, bytes_max: usize) -> (Vec<Bytes>, u64) {
        let inner = self.lock();
        let first = inner.unresolved.front().map_or(inner.next_seq, |u| u.seq);
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

    /// How many units are unresolved.
    pub(crate) fn len(&self) -> usize {
        self.lock().unresolved.len()
    }

    /// Whether sending must begin again; asking clears it.
    pub(crate) fn take_resend(&self) -> bool {
        std::mem::take(&mut self.lock().resend)
    }

    /// Returns when there may be something to send.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Inner {
    fn pop(&mut self) -> Option<Unit> {
        let unit = self.unresolved.pop_front()?;
        self.bytes -= unit.bytes.len();
        Some(unit)
    }

    /// Drops the units before `seq`: whoever waits hears that the outcome is not
    /// known.
    fn forget_below(&mut self, seq: u64) {
        while self.unresolved.front().is_some_and(|unit| unit.seq < seq) {
            drop(self.pop());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::state::SessionId;

    fn close(n: u64) -> Command {
        Command::CloseSession { session: SessionId(n) }
    }

    fn fate(outbox: &Outbox, seq: u64, applied: bool) {
        let origin = Origin { server: outbox.server, unit: Submitted { boot: outbox.boot, seq } };
        outbox.resolve(AppliedUnit { origin, applied: applied.then(Vec::new) });
    }

    #[tokio::test]
    async fn units_leave_in_order_and_again_from_the_first_unresolved() {
        let outbox = Outbox::new(1, 7);
        let replies: Vec<_> = (1..=3).map(|n| outbox.submit(&[close(n)]).unwrap()).collect();
        let (units, cursor) = outbox.after(0, usize::MAX);
        assert_eq!((units.len(), cursor), (3, 3));
        fate(&outbox, 1, true);
        assert_eq!(outbox.after(3, usize::MAX), (vec![], 3));
        assert_eq!(outbox.after(0, usize::MAX).0, units[1..]);
        fate(&outbox, 3, false);
        assert!(outbox.take_resend() && !outbox.take_resend());
        fate(&outbox, 1, false);
        assert!(!outbox.take_resend(), "a repeat of what is done needs nothing");
        fate(&outbox, 2, true);
        fate(&outbox, 3, true);
        for reply in replies {
            assert!(reply.await.unwrap().is_empty());
        }
        assert_eq!(outbox.len(), 0);
    }

    #[tokio::test]
    async fn what_a_snapshot_has_is_not_waited_for() {
        let outbox = Outbox::new(1, 7);
        let [first, second, third] = [1, 2, 3].map(|n| outbox.submit(&[close(n)]).unwrap());
        outbox.restored(Some(Submitted { boot: 6, seq: 9 }));
        assert_eq!(outbox.len(), 3, "that was another start of this server");
        outbox.restored(Some(Submitted { boot: 7, seq: 2 }));
        assert!(first.await.is_err() && second.await.is_err(), "nobody knows what they brought about");
        assert_eq!(outbox.front(), Some(3));
        fate(&outbox, 3, true);
        assert!(third.await.is_ok());
        let fourth = outbox.submit(&[close(4)]).unwrap();
        let fifth = outbox.submit(&[close(5)]).unwrap();
        fate(&outbox, 5, true);
        assert!(fourth.await.is_err() && fifth.await.is_ok());
        assert_eq!((outbox.len(), outbox.lock().bytes), (0, 0));
    }

    #[test]
    fn a_portion_has_a_bound_and_at_least_one_unit() {
        let outbox = Outbox::new(1, 7);
        let _replies: Vec<_> = (1..=3).map(|n| outbox.submit(&[close(n)]).unwrap()).collect();
        let (units, cursor) = outbox.after(0, 1);
        assert_eq!((units.len(), cursor), (1, 1));
        let (units, cursor) = outbox.after(cursor, usize::MAX);
        assert_eq!((units.len(), cursor), (2, 3));
    }
}
