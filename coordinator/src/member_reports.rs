//! What members said of their work, as the leader remembers it, and what it made of that. A new
//! leader knows nothing of it, and hears it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rota_core::assign::PlannerInputs;
use rota_core::pool::{Balance, Bucket, Owner, PoolView, WhenStuck};
use rota_protocol::http::{FAILED, MemberReport};
use rota_protocol::peer::{LatestReport, PoolReports};
use tokio::time::Instant;

/// Buckets of which something is remembered for one member.
const BUCKETS_MAX: usize = 16 * 1024;
/// The part of a load that is taken from the newest report (exponential smoothing).
const LOAD_SMOOTHING: f64 = 0.3;
/// Bytes of progress in one answer.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of one bucket's progress that are remembered.
const PROGRESS_BYTES_MAX: usize = 256;
/// What churn is counted by.
const MINUTE: Duration = Duration::from_secs(60);

/// What members said, by pool.
#[derive(Debug, Default)]
pub(crate) struct MemberReports {
    pools: Mutex<BTreeMap<String, Pool>>,
}

#[derive(Debug, Default)]
struct Pool {
    said: PoolReports,
    /// When moves were planned that count as churn, in the last minute.
    churned: Vec<Instant>,
}

impl MemberReports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Pool>> {
        self.pools.lock().expect("no code panics while it holds this")
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    pub(crate) fn take(&self, reports: Vec<MemberReport>) {
        let mut pools = self.lock();
        for report in reports {
            let pool = pools.entry(report.pool.clone()).or_default();
            let member = pool.said.members.entry(report.member.clone()).or_default();
            record_report(Arc::make_mut(member), report);
        }
    }

    /// What was said in a pool. It costs O(members).
    pub(crate) fn pool_reports(&self, pool: &str, now: Instant) -> PoolReports {
        let mut pools = self.lock();
        let Some(pool) = pools.get_mut(pool) else { return PoolReports::default() };
        pool.churned.retain(|at| now.duration_since(*at) < MINUTE);
        PoolReports { churned: u32::try_from(pool.churned.len()).unwrap_or(u32::MAX), ..pool.said.clone() }
    }

    /// So many moves were planned that count as churn.
    pub(crate) fn churned(&self, pool: &str, moves: u32, now: Instant) {
        if moves > 0 {
            let mut pools = self.lock();
            let churned = &mut pools.entry(pool.to_owned()).or_default().churned;
            churned.extend(std::iter::repeat_n(now, moves as usize));
        }
    }

    /// What the controller made of what was said: who is stuck, and how busy buckets keep their
    /// primaries.
    pub(crate) fn found(&self, pool: &str, found: &PoolReports) {
        let is_nothing = found.stuck.is_empty() && found.loads.is_empty();
        let mut pools = self.lock();
        if !is_nothing || pools.contains_key(pool) {
            let said = &mut pools.entry(pool.to_owned()).or_default().said;
            said.stuck.clone_from(&found.stuck);
            said.stuck_anywhere.clone_from(&found.stuck_anywhere);
            said.loads = Arc::clone(&found.loads);
            said.loads_known = found.loads_known;
        }
    }

    /// How many buckets of a pool have owners that were seen to be stuck; none where nobody counts.
    pub(crate) fn stuck_count(&self, pool: &str) -> usize {
        self.lock().get(pool).map_or(0, |pool| pool.said.stuck.values().map(Vec::len).sum())
    }

    /// Forgets what was said in a pool that is gone.
    pub(crate) fn remove_pool(&self, pool: &str) {
        self.lock().remove(pool);
    }

    /// Forgets, of what was said before a pool was looked at, what those said who are no members,
    /// and what was said of buckets whose rows do not name who said it.
    pub(crate) fn drop_outdated(&self, view: &PoolView, said: &PoolReports) {
        let names = |bucket: &str, member: &str| {
            let entry = view.rows.get(&Bucket::new(bucket));
            entry.is_some_and(|entry| entry.row.mentions(member))
        };
        let mut old: Vec<(&str, Vec<&str>)> = Vec::new();
        for (member, said) in &said.members {
            let held = usize::try_from(view.held_count(member)).unwrap_or(usize::MAX);
            if [said.progress.len(), said.loads.len(), said.lags.len()].into_iter().all(|n| n <= held) {
                continue;
            }
            let buckets = said.loads.keys().chain(said.lags.keys()).chain(said.progress.keys());
            let gone: BTreeSet<&str> =
                buckets.map(String::as_str).filter(|bucket| !names(bucket, member)).collect();
            old.push((member, gone.into_iter().collect()));
        }
        let mut pools = self.lock();
        let Some(pool) = pools.get_mut(&view.name) else { return };
        // Whoever has joined since is not known here.
        for name in said.members.keys().filter(|name| !view.members.contains_key(*name)) {
            pool.said.members.remove(name);
        }
        for (member, buckets) in old {
            let Some(said) = pool.said.members.get_mut(member) else { continue };
            let said = Arc::make_mut(said);
            for bucket in buckets {
                said.loads.remove(bucket);
                said.lags.remove(bucket);
                said.progress.remove(bucket);
            }
        }
    }
}

fn record_report(member: &mut LatestReport, report: MemberReport) {
    fn has_room<T>(known: &BTreeMap<String, T>, bucket: &str) -> bool {
        known.len() < BUCKETS_MAX || known.contains_key(bucket)
    }
    member.load = report.load.or(member.load);
    for (bucket, load) in report.loads {
        if has_room(&member.loads, &bucket) {
            // What came lately counts the most, but a single peak little.
            let smooth = |before: &f64| before + (load - before) * LOAD_SMOOTHING;
            let smoothed = member.loads.get(&bucket).map_or(load, smooth);
            member.loads.insert(bucket, smoothed);
        }
    }
    for (bucket, lag) in report.lags {
        if has_room(&member.lags, &bucket) {
            member.lags.insert(bucket, lag);
        }
    }
    for (bucket, mut text) in report.progress {
        if let Some((end, _)) = text.char_indices().find(|(at, c)| at + c.len_utf8() > PROGRESS_BYTES_MAX) {
            text.truncate(end);
        }
        if has_room(&member.progress, &bucket) {
            member.progress.insert(bucket, text);
        }
    }
}

/// As much of it as one answer holds.
pub(crate) fn truncate_to_frame(mut said: PoolReports) -> PoolReports {
    let mut left = ANSWER_BYTES_MAX;
    for member in said.members.values_mut() {
        let bytes: usize = member.progress.iter().map(|(bucket, text)| bucket.len() + text.len()).sum();
        if bytes <= left {
            left -= bytes;
            continue;
        }
        Arc::make_mut(member).progress.retain(|bucket, text| {
            let bytes = bucket.len() + text.len();
            let fits = bytes <= left;
            left -= if fits { bytes } else { 0 };
            fits
        });
    }
    said
}

/// What a plan is made of besides the tree.
pub(crate) fn planner_inputs(view: &PoolView, said: &PoolReports, now_ms: u64) -> PlannerInputs {
    let spec = &view.spec;
    let churn_left = spec.churn_per_minute().saturating_sub(said.churned);
    let mut known =
        PlannerInputs { now_ms, churn_left: Some(churn_left as usize), ..PlannerInputs::default() };
    if spec.balance == Balance::Load {
        known.loads = said.loads.iter().map(|(bucket, load)| (Bucket::new(bucket), *load)).collect();
        // What is not known yet would be evened out for nothing.
        known.churn_left = known.churn_left.filter(|_| said.loads_known).or(Some(0));
    }
    if spec.when_stuck == WhenStuck::Move && spec.stuck_ms.is_some() {
        for (name, buckets) in &said.stuck {
            let leave = buckets.iter().filter(|bucket| !said.stuck_anywhere.contains(*bucket));
            known.stuck.extend(leave.map(|bucket| (Bucket::new(bucket), name.clone())));
        }
    }
    known
}

/// Takes note of how busy buckets keep those who lead them. What an earlier primary said counts
/// until the next says something. `waited`: since this server began to listen.
pub(crate) fn gather_loads(view: &PoolView, said: &mut PoolReports, waited: Duration) {
    if view.spec.balance != Balance::Load {
        (said.loads, said.loads_known) = (Arc::default(), false);
        return;
    }
    let loads = Arc::make_mut(&mut said.loads);
    loads.retain(|bucket, _| view.rows.contains_key(&Bucket::new(bucket)));
    let mut is_known = true;
    for (bucket, entry) in &view.rows {
        let Some(primary) = entry.row.primary() else { continue };
        let said = said.members.get(&primary.member).and_then(|said| said.loads.get(bucket.as_str()));
        match said {
            // Plans are made of whole numbers.
            Some(load) => drop(loads.insert(bucket.to_string(), (load * 1000.0).round() as u64)),
            None => is_known &= loads.contains_key(bucket.as_str()),
        }
    }
    said.loads_known = is_known || waited >= MINUTE;
}

/// Watches whether the work of a pool's buckets goes on: that of those who lead them, and of those
/// who prepare to.
#[derive(Debug, Default)]
pub(crate) struct StuckDetector {
    works: BTreeMap<(Bucket, String), Work>,
    /// With which primaries buckets were stuck since their work went on last.
    stuck_with: BTreeMap<Bucket, BTreeSet<String>>,
    rounds: u64,
}

/// Since when a grant's work stands where its holder said.
#[derive(Debug)]
struct Work {
    fence: u64,
    said: Option<String>,
    since: Instant,
    /// When it was looked at last.
    round: u64,
}

/// What is held against what was said before.
struct Expected<'a> {
    said: Option<&'a String>,
    leads: bool,
    after: Duration,
    now: Instant,
}

impl StuckDetector {
    /// Finds the buckets of which members have said nothing new for `after`.
    pub(crate) fn observe(
        &mut self,
        view: &PoolView,
        member_reports: &mut PoolReports,
        after: Duration,
        now: Instant,
    ) {
        self.rounds += 1;
        let mut stuck: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (bucket, entry) in &view.rows {
            let at_work = entry.row.primary().into_iter().chain(&entry.row.preparing);
            // Whoever is gone says nothing; that is not for here.
            for owner in at_work.filter(|owner| view.is_living(owner)) {
                let said = member_reports.members.get(&owner.member);
                // Of whom not all is remembered, nothing can be told.
                let is_known = said.is_none_or(|said| said.progress.len() < BUCKETS_MAX);
                let said = said.and_then(|said| said.progress.get(bucket.as_str()));
                let leads = entry.row.primary() == Some(owner);
                let expected = Expected { said, leads, after, now };
                if is_known && self.is_stuck(bucket, owner, &expected) {
                    stuck.entry(owner.member.clone()).or_default().push(bucket.to_string());
                }
            }
        }
        let rounds = self.rounds;
        self.works.retain(|_, work| work.round == rounds);
        self.stuck_with.retain(|bucket, _| view.rows.contains_key(bucket));
        let anywhere = self.stuck_with.iter().filter(|(_, members)| members.len() > 1);
        member_reports.stuck_anywhere = anywhere.map(|(bucket, _)| bucket.to_string()).collect();
        member_reports.stuck = stuck;
    }

    fn is_stuck(
        &mut self,
        bucket: &Bucket,
        owner: &Owner,
        &Expected { said, leads, after, now }: &Expected<'_>,
    ) -> bool {
        // That it fails is no progress, nor that it begins anew after that.
        let is_failure = said.is_some_and(|said| said.starts_with(FAILED));
        let new = || Work { fence: owner.fence, said: said.cloned(), since: now, round: 0 };
        let work = self.works.entry((bucket.clone(), owner.member.clone())).or_insert_with(new);
        if work.fence != owner.fence || work.said.as_ref() != said && !is_failure {
            // What is said first is no progress yet.
            if work.fence == owner.fence && work.said.as_ref().is_some_and(|said| !said.starts_with(FAILED)) {
                self.stuck_with.remove(bucket);
            }
            *work = new();
        }
        work.round = self.rounds;
        let is_stuck = now.duration_since(work.since) >= after;
        if is_stuck && leads {
            self.stuck_with.entry(bucket.clone()).or_default().insert(owner.member.clone());
        }
        is_stuck
    }
}

#[cfg(test)]
mod tests {
    use rota_core::pool::{Member, Pools, Row, layout, to_json};
    use rota_core::state::{Actor, Command, CreateMode, Op, Password, SessionId, State, Timestamp};

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn report(loads: &[(&str, f64)], progress: &[(&str, &str)]) -> Vec<MemberReport> {
        let (pool, member) = ("p".to_owned(), "m".to_owned());
        let loads = loads.iter().map(|(bucket, load)| ((*bucket).to_owned(), *load)).collect();
        let progress = progress.iter().map(|(b, text)| ((*b).to_owned(), (*text).to_owned())).collect();
        vec![MemberReport { pool, member, loads, progress, ..MemberReport::default() }]
    }

    /// A pool whose only bucket a member leads, another prepares to have.
    struct World {
        state: State,
        row: Row,
    }

    impl World {
        fn new() -> Self {
            let state = State::new();
            let mut world = Self { state, row: Row::default() };
            let (session, password) = (SessionId(1), Password([0; 16]));
            world.apply(Command::OpenSession { session, password, timeout_ms: 1000 });
            let spec = br#"{"kind":"hashed","buckets":1,"handoff":"warm","balance":"load"}"#;
            world.write(layout::create_pool("p", spec.to_vec().into()));
            for name in ["m", "n"] {
                let op =
                    Op::create(layout::member("p", name), to_json(&Member::default()), CreateMode::Ephemeral);
                world.write(vec![op]);
            }
            let view = world.view();
            let owner = |name: &str| Owner::new(name, view.members[name].joined);
            world.row = Row { owners: vec![owner("m")], preparing: vec![owner("n")], degraded: false };
            world.write(vec![layout::create(layout::row("p", "0"), to_json(&world.row), 1)]);
            world
        }

        fn apply(&mut self, command: Command) {
            self.state.apply(self.state.zxid() + 1, Timestamp::at(0), command).reply.unwrap();
        }

        fn write(&mut self, ops: Vec<Op>) {
            self.apply(Command::Multi { by: Actor::rota(Some(SessionId(1))), ops });
        }

        /// All that the row names are granted anew.
        fn grant_anew(&mut self) {
            self.write(vec![Op::set(layout::row("p", "0"), to_json(&self.row), None)]);
        }

        fn view(&self) -> PoolView {
            Pools::load(&self.state).get("p").unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_new_is_stuck_until_it_does_or_there_is_another_grant() {
        let (mut world, member_reports, start) = (World::new(), MemberReports::default(), Instant::now());
        let mut watch = StuckDetector::default();
        let mut look = |world: &World, at_ms| {
            let mut said = member_reports.pool_reports("p", start);
            watch.observe(&world.view(), &mut said, ms(1000), start + ms(at_ms));
            let stuck = said.stuck.into_keys().collect::<Vec<String>>().concat();
            if said.stuck_anywhere.is_empty() { stuck } else { stuck + " anywhere" }
        };
        assert_eq!([look(&world, 0), look(&world, 999), look(&world, 1000)], ["", "", "mn"]);
        member_reports.take(report(&[], &[("0", "10 %")]));
        assert_eq!([look(&world, 1100), look(&world, 2000)], ["n", "n"]);
        member_reports.take(report(&[], &[("0", "10 %")]));
        assert_eq!(look(&world, 2100), "mn");
        world.grant_anew();
        assert_eq!([look(&world, 2200), look(&world, 3200)], ["", "mn"]);
        member_reports.take(report(&[], &[("0", "20 %")]));
        assert_eq!(look(&world, 3300), "n");
        // Another is stuck with it as well: it is not they.
        world.row.owners = std::mem::take(&mut world.row.preparing);
        world.grant_anew();
        assert_eq!([look(&world, 4000), look(&world, 5000)], ["", "n"]);
        world.row.owners = vec![Owner::new("m", world.view().members["m"].joined)];
        world.grant_anew();
        assert_eq!([look(&world, 5100), look(&world, 6100)], ["", "m anywhere"]);
        member_reports.take(report(&[], &[("0", "30 %")]));
        assert_eq!(look(&world, 6200), "");
    }

    #[tokio::test(start_paused = true)]
    async fn loads_are_smoothed_and_churn_is_that_of_the_last_minute() {
        let (member_reports, start) = (MemberReports::default(), Instant::now());
        member_reports.take(report(&[("7", 10.0)], &[]));
        member_reports.take(report(&[("7", 20.0)], &[]));
        assert_eq!(
            member_reports.pool_reports("p", start).members["m"].loads,
            [("7".to_owned(), 13.0)].into()
        );
        member_reports.churned("p", 2, start);
        member_reports.churned("p", 1, start + ms(30_000));
        let churned = |at_ms| member_reports.pool_reports("p", start + ms(at_ms)).churned;
        assert_eq!((churned(30_000), churned(59_999), churned(60_000), churned(90_000)), (3, 3, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_buckets_load_outlives_its_primary_and_is_waited_for() {
        let (mut world, member_reports, now) = (World::new(), MemberReports::default(), Instant::now());
        let gather = |world: &World, waited_ms| {
            let mut said = member_reports.pool_reports("p", now);
            gather_loads(&world.view(), &mut said, ms(waited_ms));
            member_reports.found("p", &said);
            let known = planner_inputs(&world.view(), &said, 0);
            (known.loads.into_values().collect::<Vec<u64>>(), known.churn_left)
        };
        assert_eq!(gather(&world, 0), (vec![], Some(0)));
        assert_eq!(gather(&world, 60_000), (vec![], Some(10)));
        member_reports.take(report(&[("0", 2.5), ("7", 9.0)], &[]));
        assert_eq!(gather(&world, 0), (vec![2500], Some(10)));
        world.row.owners = std::mem::take(&mut world.row.preparing);
        world.grant_anew();
        assert_eq!(gather(&world, 0), (vec![2500], Some(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_of_buckets_that_others_have_is_forgotten() {
        let (world, member_reports, now) = (World::new(), MemberReports::default(), Instant::now());
        member_reports.take(report(&[("0", 1.0), ("7", 2.0)], &[("7", "half"), ("8", "done")]));
        let before = member_reports.pool_reports("p", now);
        let newcomer = MemberReport { member: "late".to_owned(), ..report(&[("0", 3.0)], &[]).remove(0) };
        member_reports.take(vec![newcomer]);
        member_reports.drop_outdated(&world.view(), &before);
        let said = member_reports.pool_reports("p", now);
        assert!(said.members.contains_key("late"), "it has joined since");
        member_reports.drop_outdated(&world.view(), &said);
        let said = member_reports.pool_reports("p", now);
        assert!(!said.members.contains_key("late"));
        assert_eq!(said.members["m"].loads, [("0".to_owned(), 1.0)].into());
        assert!(said.members["m"].progress.is_empty());
    }
}
