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

use rota_core::pool::{Bucket, Owner, PoolView, RowEntry};
use rota_core::state::SessionId;
use rota_protocol::http::MemberReport;
use rota_protocol::peer::HeardMember;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Buckets whose progress is remembered for one member.
const PROGRESS_BUCKETS_MAX: usize = 4096;
/// The part of a load that is taken from the newest report (exponential smoothing).
const LOAD_SMOOTHING: f64 = 0.3;
/// Bytes of progress in one answer.
const HEARD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one bucket's progress that are remembered.
const PROGRESS_BYTES_MAX: usize = 256;

/// Which sessions live, for as long as this server leads.
#[derive(Default)]
pub(crate) struct Liveness {
    table: Mutex<Table>,
    sooner: Notify,
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
    /// What members said, by pool.
    heard: BTreeMap<String, BTreeMap<String, HeardMember>>,
    /// Since when the work on buckets stands where it stands, by pool: of those pools that want
    /// to know.
    moved: BTreeMap<String, BTreeMap<Bucket, Moved>>,
    /// When buckets were moved to even out the load, in the last minute, by pool.
    churned: BTreeMap<String, Vec<Instant>>,
}

/// Since when a grant's work stands where its owner said.
#[derive(Debug, Clone)]
struct Moved {
    fence: u64,
    said: Option<String>,
    since: Instant,
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

impl Liveness {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds this")
    }

    /// This server leads, from now on, in `term`: everyone gets a full timeout. The
    /// sessions must be those that are applied, and none be applied meanwhile.
    pub(crate) fn begin(&self, term: u64, sessions: impl Iterator<Item = LiveSession>, now: Instant) {
        self.lock().begin(term, sessions, now);
    }

    /// The term in which this server counts, if it does.
    pub(crate) fn term(&self) -> Option<u64> {
        self.lock().term
    }

    /// This server does not lead any more.
    pub(crate) fn end(&self) {
        *self.lock() = Table::default();
    }

    /// The sessions are others: if this server counts, each of them gets its full timeout.
    /// None may be applied meanwhile.
    pub(crate) fn begin_again(&self, sessions: impl Iterator<Item = LiveSession>, now: Instant) {
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
    pub(crate) fn heard(
        &self,
        session: SessionId,
        at: Instant,
        reports: Vec<MemberReport>,
    ) -> Result<(), Expiring> {
        let mut table = self.lock();
        table.touch(session, at)?;
        for report in reports {
            table.take_report(report);
        }
        Ok(())
    }

    /// Signs of life that were received at `at`. Returns the sessions for which it is
    /// too late.
    pub(crate) fn touch(&self, sessions: &[SessionId], at: Instant) -> Vec<SessionId> {
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

    /// When the next session's time is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lock().order.first().map(|(at, _)| *at)
    }

    /// When each session's time is over, the next first; empty where nobody counts.
    pub(crate) fn deadlines(&self) -> Vec<(Instant, SessionId)> {
        self.lock().order.iter().copied().collect()
    }

    /// Returns when that may have become sooner.
    pub(crate) async fn sooner(&self) {
        self.sooner.notified().await;
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

    /// How busy buckets keep their owners, as the members of a pool said. What they said of
    /// buckets that the pool's rows do not name them in is forgotten.
    pub(crate) fn loads(&self, view: &PoolView) -> BTreeMap<Bucket, u64> {
        let heard = self.lock().heard.get(&view.name).cloned().unwrap_or_default();
        let names = |bucket: &str, member: &str| {
            let entry = view.rows.get(&Bucket::new(bucket));
            let named =
                entry.into_iter().flat_map(|entry| entry.row.owners.iter().chain(&entry.row.preparing));
            named.into_iter().any(|owner| owner.member == member)
        };
        let mut old: Vec<(&str, &str)> = Vec::new();
        for (member, said) in &heard {
            let buckets = said.loads.keys().chain(said.lags.keys()).chain(said.progress.keys());
            old.extend(
                buckets.filter(|bucket| !names(bucket, member)).map(|b| (member.as_str(), b.as_str())),
            );
        }
        if let Some(members) = self.lock().heard.get_mut(&view.name).filter(|_| !old.is_empty()) {
            for (member, bucket) in old {
                let Some(said) = members.get_mut(member) else { continue };
                said.loads.remove(bucket);
                said.lags.remove(bucket);
                said.progress.remove(bucket);
            }
        }
        loads_of(view, &heard)
    }

    /// Takes note of who leads which bucket by which grant, and returns the buckets of which
    /// their owners have said nothing new for `after`.
    pub(crate) fn stuck<'a>(
        &self,
        pool: &str,
        led: impl Iterator<Item = (&'a Bucket, &'a Owner)>,
        after: Duration,
        now: Instant,
    ) -> BTreeSet<Bucket> {
        let table = &mut *self.lock();
        let heard = table.heard.entry(pool.to_owned()).or_default();
        let moved = table.moved.entry(pool.to_owned()).or_default();
        let mut kept = BTreeMap::new();
        let mut stuck: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (bucket, owner) in led {
            let said = heard.get(&owner.member).and_then(|heard| heard.progress.get(bucket.as_str()));
            let before = moved.remove(bucket).filter(|before: &Moved| before.fence == owner.fence);
            let since = match before {
                Some(before) if before.said.as_ref() == said => before.since,
                _ => now,
            };
            if now.duration_since(since) >= after {
                stuck.entry(owner.member.as_str()).or_default().push(bucket.to_string());
            }
            kept.insert(bucket.clone(), Moved { fence: owner.fence, said: said.cloned(), since });
        }
        *moved = kept;
        for (name, heard) in heard.iter_mut() {
            heard.stuck = stuck.remove(name.as_str()).unwrap_or_default();
        }
        let silent = stuck.into_iter().map(|(name, buckets)| {
            (name.to_owned(), HeardMember { stuck: buckets, ..HeardMember::default() })
        });
        heard.extend(silent);
        heard.values().flat_map(|heard| &heard.stuck).map(|bucket| Bucket::new(bucket)).collect()
    }

    /// How many buckets of a pool have owners that were seen to be stuck; none where nobody counts.
    pub(crate) fn stuck_count(&self, pool: &str) -> usize {
        let table = self.lock();
        table.heard.get(pool).into_iter().flat_map(BTreeMap::values).map(|heard| heard.stuck.len()).sum()
    }

    /// Nobody looks for stuck owners in a pool any more.
    pub(crate) fn forget_stuck(&self, pool: &str) {
        let mut table = self.lock();
        if table.moved.remove(pool).is_some()
            && let Some(members) = table.heard.get_mut(pool)
        {
            members.values_mut().for_each(|heard| heard.stuck.clear());
        }
    }

    /// How many buckets of a pool may be moved now to even out the load, of so many in a minute;
    /// `planned` more are.
    pub(crate) fn churn(&self, pool: &str, per_minute: u32, planned: usize, now: Instant) -> usize {
        let table = &mut *self.lock();
        let churned = table.churned.entry(pool.to_owned()).or_default();
        churned.extend(std::iter::repeat_n(now, planned));
        churned.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
        (per_minute as usize).saturating_sub(churned.len())
    }

    /// Forgets what was said in a pool that is gone.
    pub(crate) fn forget_pool(&self, pool: &str) {
        let mut table = self.lock();
        table.heard.remove(pool);
        table.moved.remove(pool);
        table.churned.remove(pool);
    }

    /// Forgets what was said by members that are not in the pool.
    pub(crate) fn forget_members(&self, pool: &str, is_member: impl Fn(&str) -> bool) {
        if let Some(members) = self.lock().heard.get_mut(pool) {
            members.retain(|name, _| is_member(name));
        }
    }
}

/// How busy buckets keep those who lead them, in thousandths of the members' unit: plans are made
/// of whole numbers.
pub(crate) fn loads_of(view: &PoolView, heard: &BTreeMap<String, HeardMember>) -> BTreeMap<Bucket, u64> {
    let load = |(bucket, entry): (&Bucket, &RowEntry)| {
        let said = heard.get(&entry.row.primary()?.member)?;
        let load = said.loads.get(bucket.as_str())?;
        Some((bucket.clone(), (load * 1000.0).round() as u64))
    };
    view.rows.iter().filter_map(load).collect()
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

    fn take_report(&mut self, report: MemberReport) {
        let member = self.heard.entry(report.pool).or_default().entry(report.member).or_default();
        member.load = report.load.or(member.load);
        for (bucket, load) in report.loads {
            let is_known = member.loads.contains_key(&bucket);
            if is_known || member.loads.len() < PROGRESS_BUCKETS_MAX {
                // What came lately counts the most, but a single peak little.
                let smooth = |before: &f64| before + (load - before) * LOAD_SMOOTHING;
                let smoothed = member.loads.get(&bucket).map_or(load, smooth);
                member.loads.insert(bucket, smoothed);
            }
        }
        for (bucket, lag) in report.lags {
            if member.lags.len() < PROGRESS_BUCKETS_MAX || member.lags.contains_key(&bucket) {
                member.lags.insert(bucket, lag);
            }
        }
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

    fn live(session: SessionId, timeout_ms: u32) -> LiveSession {
        LiveSession { session, timeout_ms, connection: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_counts_until_it_is_decided_that_there_was_none() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.begin(1, [live(A, 100), live(B, 200)].into_iter(), start);
        liveness.heard(A, start + ms(50), vec![]).unwrap();
        assert_eq!(liveness.touch(&[A, SessionId(9)], start + ms(40)), [SessionId(9)]);
        assert_eq!(liveness.next_deadline(), Some(start + ms(150)));
        assert_eq!(liveness.take_expired(start + ms(149)), []);
        assert_eq!(liveness.take_expired(start + ms(150)), [(A, 0)]);
        assert_eq!(liveness.heard(A, start + ms(150), vec![]), Err(Expiring));
        assert_eq!(liveness.take_expired(start + ms(200)), [(B, 0)]);
        liveness.closed(B);
        // A's end is not applied, and it must not come back to life by a sign of it.
        assert_eq!(liveness.next_deadline(), None);
        assert_eq!(liveness.touch(&[A], start + ms(210)), [A]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_goes_on_elsewhere_before_its_end_is_applied_lives() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.begin(1, [live(A, 100)].into_iter(), start);
        assert_eq!(liveness.take_expired(start + ms(100)), [(A, 0)]);
        liveness.opened(LiveSession { connection: 1, ..live(A, 300) }, start + ms(110));
        assert_eq!(liveness.take_expired(start + ms(409)), []);
        assert_eq!(liveness.take_expired(start + ms(410)), [(A, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_says_nothing_new_is_stuck_until_it_does_or_another_has_the_grant() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.begin(1, [live(A, 100_000)].into_iter(), start);
        let bucket = Bucket::number(0);
        let says = |text: &str| {
            let progress = [("0".to_owned(), text.to_owned())].into();
            let (pool, member) = ("p".to_owned(), "m".to_owned());
            liveness.heard(A, start, vec![MemberReport { pool, member, progress, ..MemberReport::default() }])
        };
        let owner = |fence| Owner { fence, ..Owner::new("m", 1) };
        let stuck = |fence, at_ms| {
            let owner = owner(fence);
            liveness.stuck("p", [(&bucket, &owner)].into_iter(), ms(1000), start + ms(at_ms)).len()
        };
        assert_eq!((stuck(5, 0), stuck(5, 999), stuck(5, 1000)), (0, 0, 1));
        assert_eq!(liveness.heard_of("p")["m"].stuck, ["0"]);
        says("10 %").unwrap();
        assert_eq!((stuck(5, 1100), stuck(5, 2000)), (0, 0));
        says("10 %").unwrap();
        assert_eq!((stuck(5, 2100), stuck(6, 2200), stuck(6, 3200)), (1, 0, 1));
        says("20 %").unwrap();
        assert_eq!(stuck(6, 3300), 0);
        assert_eq!(liveness.heard_of("p")["m"].stuck, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn loads_are_smoothed_and_churn_has_a_bound_in_a_minute() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.begin(1, [live(A, 100_000)].into_iter(), start);
        for load in [10.0, 20.0] {
            let loads = [("7".to_owned(), load)].into();
            let (pool, member) = ("p".to_owned(), "m".to_owned());
            let report = MemberReport { pool, member, loads, ..MemberReport::default() };
            liveness.heard(A, start, vec![report]).unwrap();
        }
        assert_eq!(liveness.heard_of("p")["m"].loads, [("7".to_owned(), 13.0)].into());
        let churn = |planned, at_ms| liveness.churn("p", 3, planned, start + ms(at_ms));
        assert_eq!((churn(0, 0), churn(2, 0), churn(1, 30_000)), (3, 1, 0));
        assert_eq!((churn(0, 59_999), churn(0, 60_000), churn(0, 90_000)), (0, 2, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_come_and_go_where_somebody_counts() {
        let liveness = Liveness::default();
        let start = Instant::now();
        liveness.opened(live(A, 100), start);
        assert_eq!(liveness.next_deadline(), None);
        liveness.begin(1, [live(A, 100)].into_iter(), start);
        liveness.closed(A);
        liveness.opened(live(B, 100), start + ms(10));
        liveness.sooner().await;
        assert_eq!(liveness.take_expired(start + ms(500)), [(B, 0)]);
    }
}
