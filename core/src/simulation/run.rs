//! The simulation itself: a queue of what is due, by time.

use std::collections::{BTreeMap, BTreeSet};

use super::metrics::{Metrics, Phase, Sample};
use super::{Act, Change, Scenario};
use crate::assign::{InvalidPlan, PlannerInputs, Step, reconcile_step};
use crate::pool::{
    Bucket, DecodedWrites, Delta, Member, MemberEntry, Move, Owner, OwnerAction, PoolView, Pools, SpecError,
    layout, to_json,
};
use crate::state::{Actor, Command, CreateMode, Op, Password, SessionId, State, Timestamp};

const POOL: &str = "simulated";
/// Looks of the controller without an end in sight: two that undo each other, a bug.
const ITERATIONS_MAX: u64 = 1_000_000;
/// What churn is counted by.
const MINUTE_MS: u64 = 60_000;

/// Why a simulation has no end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The pool cannot be.
    #[error("the pool's spec: {0}")]
    Spec(#[from] SpecError),
    /// Something cannot happen.
    #[error("at {at_ms} ms: {what}")]
    Act {
        /// When.
        at_ms: u64,
        /// What, and why.
        what: String,
    },
    /// A bug.
    #[error(transparent)]
    Plan(#[from] InvalidPlan),
    /// A bug, too.
    #[error("it does not come to rest: {ITERATIONS_MAX} looks")]
    Restless,
}

/// Plays a scenario through, until nothing happens any more.
///
/// # Errors
/// When something in the scenario cannot be, or the planner is at fault.
pub fn simulate(scenario: &Scenario) -> Result<Metrics, Fault> {
    scenario.spec.check()?;
    let mut world = World::new(scenario);
    world.write("the pool", layout::create_pool(POOL, to_json(&scenario.spec)), None)?;
    for (at, (at_ms, _)) in scenario.events.iter().enumerate() {
        world.due(*at_ms, Due::Event(at));
    }
    world.reconcile_soon();
    while let Some(((now_ms, _), due)) = world.queue.pop_first() {
        world.now_ms = now_ms;
        match due {
            Due::Event(at) => world.event(&scenario.events[at].1)?,
            Due::SessionEnds(session) => {
                world.command(&Command::CloseSession { session })?;
                world.reconcile_soon();
            }
            Due::Look => world.look()?,
            Due::Action(bucket, who, action) => world.action(&bucket, &who, action)?,
        }
    }
    Ok(world.account)
}

enum Due {
    /// By its place in the scenario.
    Event(usize),
    SessionEnds(SessionId),
    Look,
    Action(Bucket, Owner, OwnerAction),
}

struct World<'a> {
    scenario: &'a Scenario,
    state: State,
    pools: Pools,
    now_ms: u64,
    /// By time, and of one time in the order in which it was said.
    queue: BTreeMap<(u64, u64), Due>,
    said: u64,
    sessions: u64,
    /// When the controller is to look.
    looks: BTreeSet<u64>,
    looked: u64,
    /// Members that are dead, though their sessions go on: name, and when they had joined.
    dead: BTreeSet<(String, u64)>,
    /// What members are at: by which grant, of which bucket.
    begun: BTreeSet<(Bucket, String, u64)>,
    known: PlannerInputs,
    /// When moves were planned that count as churn, in the last minute.
    churned: Vec<u64>,
    moved: u64,
    account: Metrics,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let state = State::new();
        Self {
            scenario,
            pools: Pools::load(&state),
            state,
            now_ms: 0,
            queue: BTreeMap::new(),
            said: 0,
            sessions: 0,
            looks: BTreeSet::new(),
            looked: 0,
            dead: BTreeSet::new(),
            begun: BTreeSet::new(),
            known: PlannerInputs::default(),
            churned: Vec::new(),
            moved: 0,
            account: Metrics::default(),
        }
    }

    fn view(&self) -> &PoolView {
        self.pools.get(POOL).expect("nobody deletes it")
    }

    fn due(&mut self, at_ms: u64, due: Due) {
        self.said += 1;
        self.queue.insert((at_ms.max(self.now_ms), self.said), due);
    }

    fn reconcile_soon(&mut self) {
        self.reconcile_at(self.now_ms + self.scenario.timing.look_ms);
    }

    fn reconcile_at(&mut self, at_ms: u64) {
        if self.looks.insert(at_ms) {
            self.due(at_ms, Due::Look);
        }
    }

    fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::Act { at_ms: self.now_ms, what: what.into() }
    }

    /// Applies a command, and sees who leads what then.
    fn command(&mut self, command: &Command) -> Result<(), Fault> {
        let before = self.pools.get(POOL).map_or(0, PoolView::table_version);
        let applied = self.state.apply(self.state.zxid() + 1, Timestamp::at(self.now_ms), command.clone());
        self.pools.apply_events(&self.state, &applied.events, &DecodedWrites::default());
        applied.reply.map_err(|refusal| self.fault(refusal.to_string()))?;
        if let Some(Delta::Rows { changed, removed }) = self.pools.get(POOL).map(|p| p.table_since(before)) {
            removed.iter().for_each(|bucket| self.account.forget(bucket));
            self.see(&changed);
        }
        Ok(())
    }

    fn write(&mut self, what: &str, ops: Vec<Op>, session: Option<SessionId>) -> Result<(), Fault> {
        let command = Command::Multi { by: Actor::rota(session), ops };
        self.command(&command).map_err(|fault| match fault {
            Fault::Act { at_ms, what: why } => Fault::Act { at_ms, what: format!("{what}: {why}") },
            other => other,
        })
    }

    fn is_working(&self, owner: &Owner) -> bool {
        self.view().is_living(owner) && !self.dead.contains(&(owner.member.clone(), owner.joined))
    }

    /// Whether these buckets have somebody who leads them.
    fn see(&mut self, buckets: &[Bucket]) {
        for bucket in buckets {
            let primary = self.view().rows.get(bucket).and_then(|entry| entry.row.primary());
            let is_led = primary.is_some_and(|primary| self.is_working(primary));
            self.account.note(bucket, is_led, self.now_ms);
        }
    }

    fn event(&mut self, acts: &[Act]) -> Result<(), Fault> {
        self.account.phases.push(Phase { at_ms: self.now_ms, settled_ms: self.now_ms, ..Phase::default() });
        acts.iter().try_for_each(|act| self.act(act))?;
        self.sample();
        self.reconcile_soon();
        Ok(())
    }

    fn act(&mut self, act: &Act) -> Result<(), Fault> {
        match act {
            Act::Join(name, member) => self.join(name, member),
            Act::Die(name) => {
                let MemberEntry { joined, session, .. } = self.member(name)?;
                if !self.dead.insert((name.clone(), joined)) {
                    return Err(self.fault(format!("member {name:?} is dead already")));
                }
                let held: Vec<Bucket> = self.view().held_by(name).map(|(bucket, _)| bucket.clone()).collect();
                self.see(&held);
                let ends_ms = self.now_ms + self.scenario.timing.session_timeout_ms;
                if let Some(session) = session {
                    self.due(ends_ms, Due::SessionEnds(session));
                }
                Ok(())
            }
            Act::Leave(name) => {
                let session = self.member(name)?.session;
                let held: Vec<Bucket> = self.view().held_by(name).map(|(bucket, _)| bucket.clone()).collect();
                session.map_or(Ok(()), |session| self.command(&Command::CloseSession { session }))?;
                // Its rows may wait for it.
                self.see(&held);
                Ok(())
            }
            Act::Change { member, change } => {
                let mut changed = self.member(member)?.member;
                match change {
                    Change::Draining(draining) => (changed.draining, changed.successor) = (*draining, None),
                    Change::Cordoned(cordoned) => changed.cordoned = *cordoned,
                    Change::Weight(weight) => changed.weight = *weight,
                    Change::Capacity(capacity) => changed.capacity = *capacity,
                    Change::Successor(by) => {
                        (changed.draining, changed.successor) = (true, Some(by.clone()));
                        let takes = Member { draining: false, cordoned: false, ..self.member(by)?.member };
                        self.change_member(by, &takes)?;
                    }
                }
                self.change_member(member, &changed)
            }
            Act::Spec(spec) => {
                self.view().spec.check_change(spec)?;
                self.write("the pool", vec![Op::set(layout::pool(POOL), to_json(spec), None)], None)
            }
            Act::AddItem(name, item) => {
                let op = Op::create(layout::item(POOL, name), to_json(item), CreateMode::Persistent);
                self.write(name, vec![op], None)
            }
            Act::RemoveItem(name) => {
                let op = Op::Delete { path: layout::item(POOL, name), version: None };
                self.write(name, vec![op], None)
            }
            Act::Load(bucket, _) if !self.view().is_wanted(bucket) => {
                Err(self.fault(format!("there is no bucket {:?} to have a load", bucket.as_str())))
            }
            Act::Load(bucket, load) => {
                self.known.loads.insert(bucket.clone(), *load);
                Ok(())
            }
        }
    }

    fn join(&mut self, name: &str, member: &Member) -> Result<(), Fault> {
        member.check().map_err(|fault| self.fault(format!("member {name:?}: {fault}")))?;
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.command(&Command::OpenSession { session, password: Password([0; 16]), timeout_ms: 1000 })?;
        let op = Op::create(layout::member(POOL, name), to_json(member), CreateMode::Ephemeral);
        self.write(name, vec![op], Some(session))
    }

    fn member(&self, name: &str) -> Result<MemberEntry, Fault> {
        let found = self.view().members.get(name).cloned();
        found.ok_or_else(|| self.fault(format!("there is no member {name:?}")))
    }

    fn change_member(&mut self, name: &str, member: &Member) -> Result<(), Fault> {
        member.check().map_err(|fault| self.fault(format!("member {name:?}: {fault}")))?;
        self.write(name, vec![Op::set(layout::member(POOL, name), to_json(member), None)], None)
    }

    /// The controller looks, and what it decides is written at once.
    fn look(&mut self) -> Result<(), Fault> {
        self.looks.remove(&self.now_ms);
        self.looked += 1;
        if self.looked > ITERATIONS_MAX {
            return Err(Fault::Restless);
        }
        self.known.now_ms = self.now_ms;
        let now_ms = self.now_ms;
        self.churned.retain(|at_ms| now_ms < at_ms + MINUTE_MS);
        let churn = self.view().spec.churn_per_minute() as usize;
        self.known.churn_left = Some(churn.saturating_sub(self.churned.len()));
        let step = reconcile_step(self.state.tree(), self.view(), &self.known)?;
        for ops in &step.multis {
            self.write("the controller", ops.clone(), None)?;
        }
        self.record_report(&step);
        self.ask();
        self.sample();
        if !step.multis.is_empty() {
            self.reconcile_soon();
        }
        // Churn is paced by the minute: when it is over there may be more.
        self.churned.extend(std::iter::repeat_n(now_ms, step.churned as usize));
        if let Some(oldest) = self.churned.first().filter(|_| step.churned > 0) {
            self.reconcile_at(oldest + MINUTE_MS);
        }
        if let Some(at_ms) = step.recheck_after_ms {
            self.reconcile_at(at_ms);
        }
        Ok(())
    }

    fn record_report(&mut self, step: &Step) {
        let now_ms = self.now_ms;
        let phase = self.account.phase();
        phase.moves_lower_bound = phase.moves_lower_bound.max(step.report.moves_lower_bound);
        phase.report = step.report.clone();
        if !step.multis.is_empty() {
            phase.settled_ms = now_ms;
        }
    }

    /// Members are asked to let go, to step down, and to prepare, and begin with it.
    fn ask(&mut self) {
        let timing = self.scenario.timing;
        let view = self.view();
        let mut asked: Vec<(Bucket, Owner, OwnerAction, u64)> = Vec::new();
        for mv in view.pending_moves().filter(|mv| view.is_due(mv)) {
            let owners = &view.rows[&mv.bucket].row.owners;
            let from = owners.iter().find(|owner| Some(&owner.member) == mv.from.as_ref());
            let action = stop_of(mv);
            asked.extend(from.map(|from| (mv.bucket.clone(), from.clone(), action, timing.stop_ms)));
        }
        let destined = view.pending_moves().filter_map(|mv| Some((mv, mv.to.as_ref()?)));
        for (mv, to) in destined {
            let preparing = &view.rows[&mv.bucket].row.preparing;
            let who = preparing.iter().find(|owner| owner.member == *to);
            asked.extend(who.map(|who| (mv.bucket.clone(), who.clone(), OwnerAction::Ready, timing.copy_ms)));
        }
        for (bucket, who, action, takes_ms) in asked {
            if self.is_working(&who) && self.begun.insert((bucket.clone(), who.member.clone(), who.fence)) {
                self.due(self.now_ms + takes_ms, Due::Action(bucket, who, action));
            }
        }
    }

    /// A member has done what it was asked for, if that is still wanted.
    fn action(&mut self, bucket: &Bucket, who: &Owner, action: OwnerAction) -> Result<(), Fault> {
        self.begun.remove(&(bucket.clone(), who.member.clone(), who.fence));
        let view = self.view();
        let Some(entry) = view.rows.get(bucket) else { return Ok(()) };
        let role = entry.row.role_of(&who.member, who.joined);
        if !self.is_working(who) || role.is_none_or(|(_, grant)| grant.fence != who.fence) {
            return Ok(());
        }
        // A worker that has stopped does what it is asked for by then; if nothing, it works on.
        let asked =
            if action == OwnerAction::Ready { Some(action) } else { asked_of(view, bucket, &who.member) };
        let Some(action) = asked else { return Ok(()) };
        let Some(row) = entry.row.apply_action(who, action, view.spec.replicas as usize) else {
            return Ok(());
        };
        let path = layout::row(POOL, bucket.as_str());
        let ops = vec![
            Op::CheckFence { path: path.clone(), fence: entry.zxid },
            Op::set(path, to_json(&row), None),
        ];
        self.write("a member", ops, None)?;
        let phase = self.account.phase();
        match action {
            OwnerAction::Release => phase.moves += 1,
            OwnerAction::StepDown => phase.promotions += 1,
            OwnerAction::Ready => phase.copies += 1,
        }
        phase.settled_ms = self.now_ms;
        self.moved += u64::from(action == OwnerAction::Release);
        self.reconcile_soon();
        Ok(())
    }

    fn sample(&mut self) {
        let view = self.view();
        let able = view.members.keys().filter(|name| !view.members[*name].member.draining);
        let counts: Vec<u64> = able.map(|name| view.held_count(name)).collect();
        let sample = Sample {
            at_ms: self.now_ms,
            unowned: self.account.unowned(),
            moving: view.pending_moves().count() as u64,
            moved: self.moved,
            most: counts.iter().copied().max().unwrap_or(0),
            least: counts.iter().copied().min().unwrap_or(0),
        };
        match self.account.samples.last_mut() {
            Some(last) if last.at_ms == sample.at_ms => *last = sample,
            _ => self.account.samples.push(sample),
        }
    }
}

/// How an owner ends its part in a move.
fn stop_of(mv: &Move) -> OwnerAction {
    if mv.promote { OwnerAction::StepDown } else { OwnerAction::Release }
}

/// How an owner is asked now to end its part, if it is.
fn asked_of(view: &PoolView, bucket: &Bucket, member: &str) -> Option<OwnerAction> {
    // Plans are in order of their buckets.
    let first = view.plan.moves.partition_point(|mv| mv.bucket < *bucket);
    let mut moves = view.plan.moves[first..].iter().take_while(|mv| mv.bucket == *bucket);
    let asked = moves.find(|mv| mv.from.as_deref() == Some(member) && view.is_pending(mv) && view.is_due(mv));
    asked.map(stop_of)
}
