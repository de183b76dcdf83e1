//! What the reaper knows: the sessions with their deadlines, and the process groups that work
//! under them. It decides whom to kill when; [`Effects`] does it.
//!
//! It runs in a process that was forked from one with threads, so nothing here may allocate or
//! panic: the lists are made before the fork, and never grow past that.

use rota_client::BootInstant;

use super::message::{Command, Report};

/// Process groups that are watched at once. A worker that wants to start more commands is refused.
pub(super) const GROUPS_MAX: usize = 32 * 1024;
/// Sessions under which commands run at once, of all workers in one process.
pub(super) const SESSIONS_MAX: usize = 1024;

/// What the list has done.
pub(super) trait Effects {
    /// Kills a process group.
    fn kill(&mut self, group: i32);
    /// Tells the worker.
    fn report(&mut self, report: Report);
}

/// The sessions and their groups.
pub(super) struct Watchlist {
    sessions: Vec<Session>,
    groups: Vec<Group>,
}

struct Session {
    id: u64,
    deadline: Option<BootInstant>,
    /// The deadline has passed, and the groups were killed.
    expired: bool,
}

struct Group {
    key: u64,
    number: i32,
    session: u64,
}

impl Watchlist {
    /// A list with the memory that it will ever need: of these sessions, with their deadlines, and
    /// these groups, by key, number and session. What is past its bound is left out.
    pub(super) fn allocate(
        sessions: impl Iterator<Item = (u64, Option<BootInstant>)>,
        groups: impl Iterator<Item = (u64, i32, u64)>,
    ) -> Self {
        let mut list =
            Self { sessions: Vec::with_capacity(SESSIONS_MAX), groups: Vec::with_capacity(GROUPS_MAX) };
        sessions.for_each(|(session, deadline)| list.renew(session, deadline));
        let groups = groups.map(|(key, number, session)| Group { key, number, session });
        list.groups.extend(groups.take(GROUPS_MAX));
        list
    }

    /// Does what the worker says. A group that is to be watched for a session whose deadline has
    /// passed, or that is not known, is killed at once: the worker was stopped after it decided to
    /// start the command. So is one for which there is no room.
    pub(super) fn apply(&mut self, command: Command, now: BootInstant, effects: &mut impl Effects) {
        match command {
            Command::Renew { session, deadline } => self.renew(session, deadline),
            Command::Close { session } => self.sessions.retain(|known| known.id != session),
            Command::Forget { key } => self.groups.retain(|group| group.key != key),
            Command::Watch { session, key, group } => {
                self.groups.retain(|known| known.key != key);
                let has_room = self.groups.len() < GROUPS_MAX;
                if has_room {
                    self.groups.push(Group { key, number: group, session });
                }
                if !has_room || !self.may_work(session, now) {
                    effects.report(Report { session, killed: 1 });
                    effects.kill(group);
                }
            }
        }
    }

    fn renew(&mut self, id: u64, deadline: Option<BootInstant>) {
        let known = self.sessions.iter_mut().find(|session| session.id == id);
        if let Some(session) = known {
            session.deadline = deadline;
            session.expired = false;
        } else if self.sessions.len() < SESSIONS_MAX {
            // Without room for it, its groups find no session and are killed.
            self.sessions.push(Session { id, deadline, expired: false });
        }
    }

    fn may_work(&self, session: u64, now: BootInstant) -> bool {
        let session = self.sessions.iter().find(|known| known.id == session);
        session.is_some_and(|session| session.deadline.is_none_or(|deadline| now < deadline))
    }

    /// The next deadline that is to be kept.
    pub(super) fn next_deadline(&self) -> Option<BootInstant> {
        self.sessions.iter().filter(|session| !session.expired).filter_map(|session| session.deadline).min()
    }

    /// Kills the groups of every session whose deadline has passed. They stay on the list, since
    /// their numbers are theirs until the worker says that it has waited for them.
    pub(super) fn expire(&mut self, now: BootInstant, effects: &mut impl Effects) {
        let Self { sessions, groups } = self;
        let is_over = |session: &&mut Session| session.deadline.is_some_and(|deadline| deadline <= now);
        for session in sessions.iter_mut().filter(|session| !session.expired).filter(is_over) {
            session.expired = true;
            let groups = groups.iter().filter(|group| group.session == session.id);
            let killed = u32::try_from(groups.clone().count()).unwrap_or(u32::MAX);
            // Before: whoever waits for a command finds the report when it has ended.
            effects.report(Report { session: session.id, killed });
            groups.for_each(|group| effects.kill(group.number));
        }
    }

    /// Kills every group: the worker is gone.
    pub(super) fn kill_all(&self, effects: &mut impl Effects) {
        self.groups.iter().for_each(|group| effects.kill(group.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Recorded {
        killed: Vec<i32>,
        reports: Vec<(u64, u32)>,
    }

    impl Effects for Recorded {
        fn kill(&mut self, group: i32) {
            self.killed.push(group);
        }

        fn report(&mut self, report: Report) {
            self.reports.push((report.session, report.killed));
        }
    }

    const fn at(nanos: u64) -> BootInstant {
        BootInstant::from_nanos(nanos)
    }

    fn renew(session: u64, deadline: Option<u64>) -> Command {
        Command::Renew { session, deadline: deadline.map(at) }
    }

    /// The group of a key is a hundred times that.
    fn watch(session: u64, key: u64) -> Command {
        Command::Watch { session, key, group: i32::try_from(key * 100).unwrap() }
    }

    fn told(commands: &[Command], now: BootInstant) -> (Watchlist, Recorded) {
        let mut list = Watchlist::allocate(std::iter::empty(), std::iter::empty());
        let mut recorded = Recorded::default();
        commands.iter().for_each(|command| list.apply(*command, now, &mut recorded));
        (list, recorded)
    }

    fn expired(list: &mut Watchlist, now: BootInstant) -> Recorded {
        let mut recorded = Recorded::default();
        list.expire(now, &mut recorded);
        recorded
    }

    #[test]
    fn at_its_deadline_the_groups_of_a_session_are_killed_and_no_others() {
        let commands = [renew(1, Some(10)), renew(2, Some(20)), watch(1, 1), watch(2, 2), watch(1, 3)];
        let (mut list, recorded) = told(&commands, at(5));
        assert_eq!(recorded, Recorded::default());
        assert_eq!(list.next_deadline(), Some(at(10)));
        assert_eq!(expired(&mut list, at(9)), Recorded::default());
        assert_eq!(expired(&mut list, at(10)), Recorded { killed: vec![100, 300], reports: vec![(1, 2)] });
        // Once is enough.
        assert_eq!(expired(&mut list, at(11)), Recorded::default());
        assert_eq!(list.next_deadline(), Some(at(20)));
    }

    #[test]
    fn a_renewal_puts_the_deadline_off() {
        let (mut list, _) = told(&[renew(1, Some(10)), watch(1, 1), renew(1, Some(30))], at(5));
        assert_eq!(expired(&mut list, at(20)), Recorded::default());
        assert_eq!(expired(&mut list, at(30)).killed, [100]);
        // The session lives after all, and its next command has a deadline again.
        list.apply(renew(1, Some(50)), at(31), &mut Recorded::default());
        list.apply(watch(1, 2), at(32), &mut Recorded::default());
        list.apply(Command::Forget { key: 1 }, at(32), &mut Recorded::default());
        assert_eq!(expired(&mut list, at(50)).killed, [200]);
    }

    #[test]
    fn work_that_outlives_its_lease_ends_only_with_the_worker() {
        let (mut list, _) = told(&[renew(1, None), watch(1, 1)], at(5));
        assert_eq!(list.next_deadline(), None);
        assert_eq!(expired(&mut list, at(u64::MAX - 1)), Recorded::default());
        let mut recorded = Recorded::default();
        list.kill_all(&mut recorded);
        assert_eq!(recorded.killed, [100]);
    }

    #[test]
    fn a_command_that_starts_too_late_is_killed_at_once() {
        let (_, recorded) = told(&[renew(1, Some(10)), watch(1, 1)], at(10));
        assert_eq!(recorded, Recorded { killed: vec![100], reports: vec![(1, 1)] });
        let (_, recorded) = told(&[watch(1, 1)], at(5));
        assert_eq!(recorded.killed, [100], "no such session");
        let (_, recorded) = told(&[renew(1, Some(10)), Command::Close { session: 1 }, watch(1, 1)], at(5));
        assert_eq!(recorded.killed, [100], "the session is closed");
    }

    #[test]
    fn a_group_that_has_ended_is_never_killed() {
        let (mut list, _) = told(&[renew(1, Some(10)), watch(1, 1), Command::Forget { key: 1 }], at(5));
        let mut recorded = expired(&mut list, at(10));
        list.kill_all(&mut recorded);
        assert_eq!(recorded.killed, Vec::<i32>::new());
    }

    #[test]
    fn a_list_begins_with_what_is_known() {
        let sessions = [(1, Some(at(10))), (2, None)];
        let groups = [(1, 100, 1), (2, 200, 2)];
        let mut list = Watchlist::allocate(sessions.into_iter(), groups.into_iter());
        assert_eq!(expired(&mut list, at(10)), Recorded { killed: vec![100], reports: vec![(1, 1)] });
    }

    #[test]
    fn neither_list_grows_past_its_bound() {
        let keys = 1..=GROUPS_MAX as u64 + 1;
        let mut list = Watchlist::allocate([(0, None)].into_iter(), keys.map(|key| (key, 100, 0)));
        let mut recorded = Recorded::default();
        list.apply(watch(0, 0), at(5), &mut recorded);
        assert_eq!(recorded.reports, [(0, 1)], "there was no room for it, and it was killed");
        for session in 0..=SESSIONS_MAX as u64 {
            list.apply(renew(session, None), at(5), &mut recorded);
        }
        assert_eq!((list.groups.capacity(), list.groups.len()), (GROUPS_MAX, GROUPS_MAX));
        assert_eq!((list.sessions.capacity(), list.sessions.len()), (SESSIONS_MAX, SESSIONS_MAX));
    }
}
