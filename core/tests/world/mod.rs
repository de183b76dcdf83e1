//! A state with pools in it, and what the controller, the members and the
//! operators do to them. Every write goes through [`State::apply`], is followed
//! by [`Pools`], and is watched by [`safety`].

#![allow(dead_code, reason = "the scripts and the laws each use their part of it")]

mod safety;

use std::collections::BTreeMap;

use bytes::Bytes;
use rota_core::Zxid;
use rota_core::assign::{PlannerInputs, Step, fast_path_step, reconcile_step};
use rota_core::pool::history::HistorySegment;
use rota_core::pool::{
    Bucket, DecodedWrites, Item, Member, Move, Owner, OwnerAction, PoolView, Pools, Row, Spec, from_json,
    layout, to_json,
};
use rota_core::state::check::check;
use rota_core::state::{Actor, Applied, Command, CreateMode, Op, Password, SessionId, State, Timestamp};

/// Who writes. Only the owner of a row may give it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Owner,
    Anyone,
}

pub struct World {
    pub state: State,
    pub pools: Pools,
    /// What is known besides the state.
    pub known: PlannerInputs,
    sessions: u64,
    fences: BTreeMap<String, (Zxid, String)>,
}

impl World {
    pub fn new() -> Self {
        let state = State::new();
        Self {
            pools: Pools::load(&state),
            state,
            known: PlannerInputs::default(),
            sessions: 0,
            fences: BTreeMap::new(),
        }
    }

    pub fn apply(&mut self, by: By, command: &Command) -> Applied {
        let before = self.state.clone();
        let applied = self.state.apply(before.zxid() + 1, Timestamp::at(self.known.now_ms), command.clone());
        self.pools.apply_events(&self.state, &applied.events, &DecodedWrites::default());
        assert_eq!(check(&self.state), [""; 0], "after {command:?}");
        safety::assert_rows_pass_on_safely(&before, &self.state, by);
        safety::assert_fences_grow(&self.state, &mut self.fences);
        safety::assert_plans_follow_each_other(&before, &self.state);
        applied
    }

    fn must(&mut self, by: By, session: Option<SessionId>, ops: Vec<Op>) {
        let applied = self.apply(by, &Command::Multi { by: Actor::rota(session), ops });
        applied.reply.unwrap();
    }

    /// What a pool's history tells.
    pub fn segments(&self, pool: &str) -> Vec<HistorySegment> {
        let folder = layout::history(pool);
        let nodes = self.state.tree().children(&folder);
        nodes.map(|(_, node)| from_json(node.bytes()).unwrap()).collect()
    }

    pub fn view(&self, pool: &str) -> Option<&PoolView> {
        self.pools.get(pool)
    }

    pub fn create_pool(&mut self, pool: &str, spec: &Spec) {
        self.must(By::Anyone, None, layout::create_pool(pool, to_json(spec)));
    }

    pub fn change_spec(&mut self, pool: &str, change: impl FnOnce(&mut Spec)) {
        let mut spec = self.view(pool).expect("the pool").spec.clone();
        change(&mut spec);
        self.must(By::Anyone, None, vec![set(layout::pool(pool), to_json(&spec))]);
    }

    /// A member joins with a session of its own.
    pub fn join(&mut self, pool: &str, name: &str, member: &Member) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let open = Command::OpenSession { session, password: Password([0; 16]), timeout_ms: 1000 };
        self.apply(By::Anyone, &open).reply.unwrap();
        let op = Op::create(layout::member(pool, name), to_json(member), CreateMode::Ephemeral);
        self.must(By::Anyone, Some(session), vec![op]);
    }

    /// A member's session ends.
    pub fn die(&mut self, pool: &str, name: &str) {
        let session = self.view(pool).and_then(|view| view.members[name].session).expect("a session");
        self.apply(By::Anyone, &Command::CloseSession { session }).reply.unwrap();
    }

    /// A member takes its node away; its session lives on.
    pub fn leave(&mut self, pool: &str, name: &str) {
        self.must(By::Anyone, None, vec![delete(layout::member(pool, name))]);
    }

    pub fn change_member(&mut self, pool: &str, name: &str, change: impl FnOnce(&mut Member)) {
        let path = layout::member(pool, name);
        let mut member: Member =
            from_json(self.state.tree().get(&path).expect("the member").bytes()).unwrap();
        change(&mut member);
        self.must(By::Anyone, None, vec![set(path, to_json(&member))]);
    }

    pub fn add_item(&mut self, pool: &str, name: &str, item: &Item) {
        self.must(By::Anyone, None, vec![create(layout::item(pool, name), to_json(item))]);
    }

    pub fn remove_item(&mut self, pool: &str, item: &str) {
        self.must(By::Anyone, None, vec![delete(layout::item(pool, item))]);
    }

    pub fn write_checkpoint(&mut self, pool: &str, bucket: &str) {
        self.must(By::Anyone, None, vec![create(layout::checkpoint(pool, bucket), Bytes::from("12"))]);
    }

    pub fn pending_moves(&self, pool: &str) -> Vec<Move> {
        self.view(pool).map(|view| view.pending_moves().cloned().collect()).unwrap_or_default()
    }

    /// Those who are asked to do something about a move: who, and what.
    pub fn asked(&self, pool: &str) -> Vec<(Move, Owner, OwnerAction)> {
        let Some(view) = self.view(pool) else { return Vec::new() };
        let mut asked = Vec::new();
        for mv in view.pending_moves() {
            let row = &view.rows[&mv.bucket].row;
            let of = |name: &Option<String>, owners: &[Owner]| {
                let name = name.as_ref()?;
                owners.iter().find(|owner| owner.member == *name && view.is_living(owner)).cloned()
            };
            if view.is_due(mv)
                && let Some(from) = of(&mv.from, &row.owners)
            {
                asked.push((
                    mv.clone(),
                    from,
                    if mv.promote { OwnerAction::StepDown } else { OwnerAction::Release },
                ));
            }
            if let Some(to) = of(&mv.to, &row.preparing) {
                asked.push((mv.clone(), to, OwnerAction::Ready));
            }
        }
        asked
    }

    /// A member does what a move asks of it.
    pub fn comply(&mut self, pool: &str, mv: &Move, who: &Owner, action: OwnerAction) -> Applied {
        self.action(pool, mv.bucket.as_str(), who, action)
    }

    /// A member does something about a row that names it.
    pub fn action(&mut self, pool: &str, bucket: &str, who: &Owner, action: OwnerAction) -> Applied {
        let view = self.view(pool).expect("the pool");
        let entry = &view.rows[&Bucket::new(bucket)];
        let replicas = view.spec.replicas as usize;
        let row = entry.row.apply_action(who, action, replicas).expect("it can do that");
        let path = layout::row(pool, bucket);
        let ops = vec![Op::CheckFence { path: path.clone(), fence: entry.zxid }, set(path, to_json(&row))];
        self.apply(By::Owner, &Command::Multi { by: Actor::rota(None), ops })
    }

    /// The only owner empties a row. It says which grant it means, so that it cannot
    /// give away one that it does not know of.
    pub fn give_up(&mut self, pool: &str, bucket: &str, fence: Zxid) -> Applied {
        let path = layout::row(pool, bucket);
        let ops = vec![Op::CheckFence { path: path.clone(), fence }, set(path, to_json(&Row::vacant()))];
        self.apply(By::Owner, &Command::Multi { by: Actor::rota(None), ops })
    }

    /// What the controller would do now. Nothing, once the pool is gone.
    pub fn plan(&self, pool: &str) -> Step {
        self.view(pool)
            .map(|view| reconcile_step(self.state.tree(), view, &self.known).unwrap())
            .unwrap_or_default()
    }

    /// What the controller grants without planning.
    pub fn grant_quickly(&mut self, pool: &str) {
        for multi in self.view(pool).map(fast_path_step).unwrap_or_default().multis {
            self.propose(&multi).reply.unwrap();
        }
    }

    /// Proposes one multi of a step, now or later.
    pub fn propose(&mut self, multi: &[Op]) -> Applied {
        self.apply(By::Anyone, &Command::Multi { by: Actor::rota(None), ops: multi.to_vec() })
    }

    /// One look of the controller, all of it carried out. It keeps to the pace:
    /// no more moves are under way than that, but for those that were already.
    pub fn step(&mut self, pool: &str) -> Step {
        let step = self.plan(pool);
        let under_way = self.pending_moves(pool).len();
        for multi in &step.multis {
            self.propose(multi).reply.unwrap();
        }
        let pace = self.view(pool).map_or(0, |view| view.spec.max_concurrent_moves as usize);
        assert!(self.pending_moves(pool).len() <= pace.max(under_way));
        step
    }

    /// Steps and releases, each of all there is, until neither has anything to
    /// do. Panics if they go on for too long.
    pub fn settle(&mut self, pool: &str, rounds_max: u32) -> Settled {
        let mut settled = Settled::default();
        loop {
            let step = self.step(pool);
            let asked = self.asked(pool);
            if step.multis.is_empty() && asked.is_empty() {
                return settled;
            }
            settled.rounds += 1;
            assert!(settled.rounds <= rounds_max, "not settled after {rounds_max} rounds");
            for (mv, who, action) in &asked {
                self.comply(pool, mv, who, *action).reply.unwrap();
                if *action == OwnerAction::Release {
                    settled.released.push(mv.clone());
                }
            }
        }
    }
}

/// How it came to rest.
#[derive(Debug, Default)]
pub struct Settled {
    /// Looks of the controller that found something to do.
    pub rounds: u32,
    pub released: Vec<Move>,
}

fn create(path: String, data: Bytes) -> Op {
    Op::create(path, data, CreateMode::Persistent)
}

fn set(path: String, data: Bytes) -> Op {
    Op::set(path, data, None)
}

fn delete(path: String) -> Op {
    Op::Delete { path, version: None }
}
