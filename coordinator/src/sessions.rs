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
use rota_protocol::peer::HeardMember;
use tokio::time::Instant;

/// Buckets whose progress is remembered for one member.
const PROGRESS_BUCKETS_MAX: usize = 4096;
/// Bytes of progress in one answer.
const HEARD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one bucket's progress that are remembered.
const PROGRESS_BYTES_MAX: usize = 256;

/// Which sessions live, for as long as this server leads.
#[derive(Default)]
pub(crate) struct Liveness {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// The term in which this server leads and has given everyone a timeout.
    term: Option<u64>,
    deadlines: BTreeMap<SessionId, Instant>,
    order: BTreeSet<(Instant, SessionId)>,
    /// Decided to be over, and not applied yet: too late for a sign of life.
    expiring: BTreeSet<SessionId>,
    /// What members said, by pool.
    heard: BTreeMap<String, BTreeMap<String, HeardMember>>,
}

/// The session cannot be kept alive here any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expiring;

impl Liveness {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds this")
    }

    /// This server leads, from now on, in `term`: everyone gets a full timeout.
    pub(crate) fn begin(&self, term: u64, sessions: impl Iterator<Item = (SessionId, u32)>, now: Instant) {
        let mut table = self.lock();
        *table = Table { term: Some(term), ..Table::default() };
        for (session, timeout_ms) in sessions {
            table.put(session, now + ms(timeout_ms));
        }
    }

    /// This server does not lead any more.
    pub(crate) fn end(&self) {
        *self.lock() = Table::default();
    }

    /// The term in which this server counts, if it does.
    pub(crate) fn term(&self) -> Option<u64> {
        self.lock().term
    }

    /// A sign of life that was received at `at`.
    ///
    /// # Errors
    /// When it was decided already that the session is over.
    pub(crate) fn heard(
        &self,
        session: SessionId,
        timeout_ms: u32,
        at: Instant,
        reports: Vec<MemberReport>,
    ) -> Result<(), Expiring> {
        let mut table = self.lock();
        if table.expiring.contains(&session) {
            return Err(Expiring);
        }
        table.put(session, at + ms(timeout_ms));
        for report in reports {
            table.take_report(report);
        }
        Ok(())
    }

    /// Forgets a session that is gone.
    pub(crate) fn forget(&self, session: SessionId) {
        self.lock().remove(session);
    }

    /// Brings the table in step with the sessions that there are: new ones get a
    /// full timeout, those that are gone are forgotten.
    pub(crate) fn follow(&self, sessions: impl Iterator<Item = (SessionId, u32)>, now: Instant) {
        let mut table = self.lock();
        let mut gone: BTreeSet<SessionId> = table.deadlines.keys().copied().collect();
        for (session, timeout_ms) in sessions {
            if !gone.remove(&session) && !table.expiring.contains(&session) {
                table.put(session, now + ms(timeout_ms));
            }
        }
        for session in gone {
            table.remove(session);
            table.expiring.remove(&session);
        }
    }

    /// The sessions whose time is over. From now on they cannot be kept alive.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<SessionId> {
        let mut table = self.lock();
        let over: Vec<SessionId> =
            table.order.iter().take_while(|(at, _)| *at <= now).map(|(_, s)| *s).collect();
        for session in &over {
            if let Some(at) = table.deadlines.get(session).copied() {
                table.order.remove(&(at, *session));
            }
            table.expiring.insert(*session);
        }
        over
    }

    /// When the next session's time is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lock().order.first().map(|(at, _)| *at)
    }

    /// What the members of a pool said; of a pool in which very much is said, not
    /// all.
    pub(crate) fn heard_of(&self, pool: &str) -> BTreeMap<String, HeardMember> {
        let mut heard = self.lock().heard.get(pool).cloned().unwrap_or_default();
        let mut left = HEARD_BYTES_MAX;
        for member in heard.values_mut() {
            member.progress.retain(|bucket, text| {
                let bytes = bucket.len() + text.len();
                let fits = bytes <= left;
                left -= if fits { bytes } else { 0 };
                fits
            });
        }
        heard
    }

    /// Forgets what was said in a pool that is gone.
    pub(crate) fn forget_pool(&self, pool: &str) {
        self.lock().heard.remove(pool);
    }

    /// Forgets what was said by members that are not in the pool.
    pub(crate) fn forget_members(&self, pool: &str, is_member: impl Fn(&str) -> bool) {
        if let Some(members) = self.lock().heard.get_mut(pool) {
            members.retain(|name, _| is_member(name));
        }
    }
}

impl Table {
    fn put(&mut self, session: SessionId, deadline: Instant) {
        if let Some(before) = self.deadlines.insert(session, deadline) {
            self.order.remove(&(before, session));
        }
        self.order.insert((deadline, session));
    }

    fn remove(&mut self, session: SessionId) {
        if let Some(before) = self.deadlines.remove(&session) {
            self.order.remove(&(before, session));
        }
    }

    fn take_report(&mut self, report: MemberReport) {
        let member = self.heard.entry(report.pool).or_default().entry(report.member).or_default();
        member.load = report.load.or(member.load);
        for (bucket, mut text) in report.progress {
            if let Some((end, _)) = text.char_indices().find(|(at, c)| at + c.len_utf8() > PROGRESS_BYTES_MAX)
            {
                text.truncate(end);
            }
            if member.progress.len() < PROGRESS_BUCKETS_MAX || member.progress.contains_key(&bucket) {
                member.progress.insert(bucket, text);
            }
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

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_counts_until_it_is_decided_that_there_was_none() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.begin(1, [(A, 100), (B, 200)].into_iter(), start);
        liveness.heard(A, 100, start + ms(50), vec![]).unwrap();
        assert_eq!(liveness.next_deadline(), Some(start + ms(150)));
        assert_eq!(liveness.take_expired(start + ms(149)), vec![]);
        assert_eq!(liveness.take_expired(start + ms(150)), vec![A]);
        assert_eq!(liveness.heard(A, 100, start + ms(150), vec![]), Err(Expiring));
        assert_eq!(liveness.take_expired(start + ms(200)), vec![B]);
        // B's end is applied; A's is not yet, and it must not come back to life.
        liveness.follow([(A, 100)].into_iter(), start + ms(210));
        assert_eq!(liveness.next_deadline(), None);
        assert_eq!(liveness.heard(A, 100, start + ms(210), vec![]), Err(Expiring));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_come_and_go() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.begin(1, [(A, 100)].into_iter(), start);
        liveness.follow([(B, 100)].into_iter(), start + ms(10));
        assert_eq!(liveness.take_expired(start + ms(500)), vec![B]);
    }
}
