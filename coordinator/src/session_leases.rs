//! The leader's memory of which sessions gave a sign of life, and what their
//! members said.
//!
//! A member's lease ends, on its own clock, a timeout after it *sent* the last
//! keep-alive that was answered. The leader counts from when it *received* it, so
//! the leader's deadline is later. A new leader knows nothing of earlier signs:
//! it gives every session its full timeout, counted from when it began to lead.
//! (Gray and Cheriton, "Leases", 1989.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rota_core::state::SessionId;
use rota_protocol::http::MemberReport;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::member_reports::MemberReports;

/// Which sessions live, for as long as this server leads.
#[derive(Default)]
pub(crate) struct SessionLeases {
    table: Mutex<Table>,
    sooner: Notify,
    /// What their members said.
    pub(crate) member_reports: MemberReports,
}

/// A session that lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveSession {
    pub(crate) session: SessionId,
    pub(crate) timeout_ms: u32,
    /// The number of its last connection.
    pub(crate) connection: u32,
}

#[derive(Default)]
struct Table {
    /// The term in which this server leads and has given everyone a timeout.
    term: Option<u64>,
    leases: BTreeMap<SessionId, Lease>,
    order: BTreeSet<(Instant, SessionId)>,
}

/// What the leader knows of a session.
#[derive(Debug, Clone, Copy)]
struct Lease {
    timeout_ms: u32,
    connection: u32,
    /// When it is over; `None` once that is decided, and not applied yet: too late
    /// for a sign of life.
    deadline: Option<Instant>,
}

/// The session cannot be kept alive here any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiring;

impl SessionLeases {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds this")
    }

    /// This server leads, from now on, in `term`: everyone gets a full timeout. The
    /// sessions must be those that are applied, and none be applied meanwhile.
    pub(crate) fn reset(&self, term: u64, sessions: impl Iterator<Item = LiveSession>, now: Instant) {
        self.lock().begin(term, sessions, now);
        self.member_reports.clear();
    }

    /// The term in which this server counts, if it does.
    pub(crate) fn term(&self) -> Option<u64> {
        self.lock().term
    }

    /// This server does not lead any more.
    pub(crate) fn end(&self) {
        *self.lock() = Table::default();
        self.member_reports.clear();
    }

    /// The sessions are others: if this server counts, each of them gets its full timeout.
    /// None may be applied meanwhile.
    pub(crate) fn restart(&self, sessions: impl Iterator<Item = LiveSession>, now: Instant) {
        let mut table = self.lock();
        if let Some(term) = table.term {
            table.begin(term, sessions, now);
        }
    }

    /// A session was opened, or goes on with another connection: it gets its full
    /// timeout.
    pub(crate) fn opened(&self, session: LiveSession, now: Instant) {
        let mut table = self.lock();
        if table.term.is_none() {
            return;
        }
        let first = table.order.first().map(|(at, _)| *at);
        table.put(session, now);
        if table.order.first().map(|(at, _)| *at) != first {
            self.sooner.notify_one();
        }
    }

    /// A session is gone.
    pub(crate) fn closed(&self, session: SessionId) {
        self.lock().remove(session);
    }

    /// A sign of life that was received at `at`.
    ///
    /// # Errors
    /// When it was decided already that the session is over.
    pub(crate) fn keep_alive(
        &self,
        session: SessionId,
        at: Instant,
        reports: Vec<MemberReport>,
    ) -> Result<(), Expiring> {
        self.lock().touch(session, at)?;
        self.member_reports.take(reports);
        Ok(())
    }

    /// Signs of life that were received at `at`. Returns the sessions for which it is
    /// too late.
    pub(crate) fn record_heartbeats(&self, sessions: &[SessionId], at: Instant) -> Vec<SessionId> {
        let mut table = self.lock();
        sessions.iter().copied().filter(|session| table.touch(*session, at).is_err()).collect()
    }

    /// The sessions whose time is over, with the connection that was not heard of.
    /// From now on they cannot be kept alive.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<(SessionId, u32)> {
        let mut table = self.lock();
        let mut over = Vec::new();
        while let Some((at, session)) = table.order.first().copied()
            && at <= now
        {
            table.order.pop_first();
            if let Some(lease) = table.leases.get_mut(&session) {
                lease.deadline = None;
                over.push((session, lease.connection));
            }
        }
        over
    }

    /// Every session's time is over so much later.
    pub(crate) fn postpone(&self, by: Duration) {
        let mut table = self.lock();
        let later = table.order.iter().map(|(at, session)| (*at + by, *session)).collect();
        table.order = later;
        for lease in table.leases.values_mut() {
            lease.deadline = lease.deadline.map(|at| at + by);
        }
    }

    /// When the next session's time is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lock().order.first().map(|(at, _)| *at)
    }

    /// Returns when that may have become sooner.
    pub(crate) async fn deadline_moved_up(&self) {
        self.sooner.notified().await;
    }
}

impl Table {
    fn begin(&mut self, term: u64, sessions: impl Iterator<Item = LiveSession>, now: Instant) {
        *self = Self { term: Some(term), ..Self::default() };
        for session in sessions {
            self.put(session, now);
        }
    }

    fn put(&mut self, session: LiveSession, now: Instant) {
        let LiveSession { session, timeout_ms, connection } = session;
        self.remove(session);
        let deadline = now + ms(timeout_ms);
        self.leases.insert(session, Lease { timeout_ms, connection, deadline: Some(deadline) });
        self.order.insert((deadline, session));
    }

    fn touch(&mut self, session: SessionId, at: Instant) -> Result<(), Expiring> {
        let lease = self.leases.get_mut(&session).ok_or(Expiring)?;
        let before = lease.deadline.ok_or(Expiring)?;
        // Signs of life may overtake each other.
        let deadline = before.max(at + ms(lease.timeout_ms));
        lease.deadline = Some(deadline);
        self.order.remove(&(before, session));
        self.order.insert((deadline, session));
        Ok(())
    }

    fn remove(&mut self, session: SessionId) {
        if let Some(Lease { deadline: Some(before), .. }) = self.leases.remove(&session) {
            self.order.remove(&(before, session));
        }
    }
}

fn ms(timeout_ms: u32) -> Duration {
    Duration::from_millis(u64::from(timeout_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);

    fn live(session: SessionId, timeout_ms: u32) -> LiveSession {
        LiveSession { session, timeout_ms, connection: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_counts_until_it_is_decided_that_there_was_none() {
        let session_leases = SessionLeases::default();
        let start = Instant::now();
        session_leases.reset(1, [live(A, 100), live(B, 200)].into_iter(), start);
        session_leases.keep_alive(A, start + ms(50), vec![]).unwrap();
        assert_eq!(session_leases.record_heartbeats(&[A, SessionId(9)], start + ms(40)), [SessionId(9)]);
        assert_eq!(session_leases.next_deadline(), Some(start + ms(150)));
        assert_eq!(session_leases.take_expired(start + ms(149)), []);
        assert_eq!(session_leases.take_expired(start + ms(150)), [(A, 0)]);
        assert_eq!(session_leases.keep_alive(A, start + ms(150), vec![]), Err(Expiring));
        assert_eq!(session_leases.take_expired(start + ms(200)), [(B, 0)]);
        session_leases.closed(B);
        // A's end is not applied, and it must not come back to life by a sign of it.
        assert_eq!(session_leases.next_deadline(), None);
        assert_eq!(session_leases.record_heartbeats(&[A], start + ms(210)), [A]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_goes_on_elsewhere_before_its_end_is_applied_lives() {
        let session_leases = SessionLeases::default();
        let start = Instant::now();
        session_leases.reset(1, [live(A, 100)].into_iter(), start);
        assert_eq!(session_leases.take_expired(start + ms(100)), [(A, 0)]);
        session_leases.opened(LiveSession { connection: 1, ..live(A, 300) }, start + ms(110));
        assert_eq!(session_leases.take_expired(start + ms(409)), []);
        assert_eq!(session_leases.take_expired(start + ms(410)), [(A, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_put_off_together() {
        let session_leases = SessionLeases::default();
        let start = Instant::now();
        session_leases.reset(1, [live(A, 100), live(B, 200)].into_iter(), start);
        session_leases.postpone(ms(1000));
        assert_eq!(session_leases.take_expired(start + ms(1099)), []);
        session_leases.keep_alive(B, start + ms(1150), vec![]).unwrap();
        assert_eq!(session_leases.take_expired(start + ms(1349)), [(A, 0)]);
        assert_eq!(session_leases.take_expired(start + ms(1350)), [(B, 0)]);
        session_leases.postpone(ms(1000));
        assert_eq!(session_leases.next_deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_come_and_go_where_somebody_counts() {
        let session_leases = SessionLeases::default();
        let start = Instant::now();
        session_leases.opened(live(A, 100), start);
        assert_eq!(session_leases.next_deadline(), None);
        session_leases.reset(1, [live(A, 100)].into_iter(), start);
        session_leases.closed(A);
        session_leases.opened(live(B, 100), start + ms(10));
        session_leases.deadline_moved_up().await;
        assert_eq!(session_leases.take_expired(start + ms(500)), [(B, 0)]);
    }
}
