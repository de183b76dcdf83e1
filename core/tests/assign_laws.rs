//! Laws of the assignment controller, over random histories of a pool: members
//! come and go, some releases are made and some are not, steps are carried out
//! in part, and proposals arrive late. That no bucket is taken from a living
//! owner, and that fences grow, is asserted after every write by `world/safety.rs`.

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rota_core::pool::{Bucket, Kind, Member, Move, PoolView, Spec};
use rota_core::state::Op;
use world::{Settled, World};

const POOL: &str = "p";
const MEMBERS: [&str; 4] = ["w1", "w2", "w3", "w4"];
const ITEMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

#[derive(Debug, Clone)]
enum Intent {
    /// Join, or if it has: die, leave, drain or come back from it, or change.
    Member {
        which: usize,
        choice: u8,
        weight: u32,
    },
    /// Add an item, or remove it if it stands.
    Item(usize),
    Pace(u32),
    /// Let go of one of the buckets that the plan asks for, or of all.
    Release(Option<Index>),
    /// Carry out so many multis of the step.
    Step(usize),
    /// Plan a step, whose multis arrive later.
    Hold,
    /// One of them arrives. They may overtake each other.
    Late(Index),
}

fn intents(len_max: usize) -> impl Strategy<Value = Vec<Intent>> {
    let member = (0..MEMBERS.len(), any::<u8>(), 1u32..4)
        .prop_map(|(which, choice, weight)| Intent::Member { which, choice, weight });
    let intent = prop_oneof![
        5 => member,
        3 => (0..ITEMS.len()).prop_map(Intent::Item),
        1 => (1u32..4).prop_map(Intent::Pace),
        4 => prop::option::of(any::<Index>()).prop_map(Intent::Release),
        6 => (1usize..3).prop_map(Intent::Step),
        4 => Just(Intent::Hold),
        4 => any::<Index>().prop_map(Intent::Late),
    ];
    prop::collection::vec(intent, 1..=len_max)
}

/// A world with one pool, and what is on its way to it.
struct History {
    world: World,
    late: Vec<Vec<Op>>,
    /// Late multis that were accepted, and that were refused.
    came_late: (usize, usize),
}

impl History {
    fn new(spec: &Spec) -> Self {
        let mut world = World::new();
        world.create_pool(POOL, spec);
        Self { world, late: Vec::new(), came_late: (0, 0) }
    }

    fn view(&self) -> &PoolView {
        self.world.view(POOL).unwrap()
    }

    fn live(&mut self, intent: &Intent) {
        match intent {
            Intent::Member { which, choice, weight } => self.change_member(MEMBERS[*which], *choice, *weight),
            Intent::Item(which) => {
                let item = ITEMS[*which];
                if self.view().spec.kind != Kind::Named {
                } else if self.view().items.contains_key(item) {
                    self.world.remove_item(POOL, item);
                } else {
                    self.world.add_item(POOL, item);
                }
            }
            Intent::Pace(pace) => self.world.change_spec(POOL, |spec| spec.max_moving = *pace),
            Intent::Release(which) => self.release(which.as_ref()),
            Intent::Step(multis) => {
                for multi in self.world.plan(POOL).multis.iter().take(*multis) {
                    self.world.propose(multi).reply.unwrap();
                }
            }
            Intent::Hold => self.late.extend(self.world.plan(POOL).multis),
            Intent::Late(which) if !self.late.is_empty() => {
                let multi = self.late.swap_remove(which.index(self.late.len()));
                match self.world.propose(&multi).reply {
                    Ok(_) => self.came_late.0 += 1,
                    Err(_) => self.came_late.1 += 1,
                }
            }
            Intent::Late(_) => {}
        }
    }

    fn change_member(&mut self, name: &str, choice: u8, weight: u32) {
        let world = &mut self.world;
        let member = world.view(POOL).and_then(|view| view.members.get(name));
        match (member, choice % 6) {
            (None, _) => world.join(POOL, name, &Member { weight, ..Member::default() }),
            (Some(_), 0 | 1) => world.die(POOL, name),
            (Some(_), 2) => world.leave(POOL, name),
            (Some(_), 3 | 4) => world.change_member(POOL, name, |member| member.draining = !member.draining),
            (Some(_), _) => world.change_member(POOL, name, |member| member.weight = weight),
        }
    }

    fn release(&mut self, which: Option<&Index>) {
        let pending = self.world.pending_moves(POOL);
        let chosen: Vec<Move> = match which {
            Some(which) if !pending.is_empty() => vec![which.get(&pending).clone()],
            _ => pending,
        };
        for the in &chosen {
            self.world.release(POOL, the).reply.unwrap();
        }
    }

    /// Left alone from here on.
    ///
    /// Each round of a look and its releases moves as many buckets as the pace
    /// allows, and none twice; the last moves are granted in one round more.
    fn settle(&mut self) -> Settled {
        let settled = self.world.settle(POOL, 100);
        let pace = self.view().spec.max_moving as usize;
        let rounds_max = settled.released.len().div_ceil(pace) + 1;
        assert!(settled.rounds as usize <= rounds_max, "{settled:?}, at most {rounds_max} rounds expected");
        let moved: BTreeSet<&Bucket> = settled.released.iter().map(|the| &the.bucket).collect();
        assert_eq!(moved.len(), settled.released.len(), "a bucket moved twice: {settled:?}");
        settled
    }
}

/// Every bucket that there should be has a row, and every member that may own
/// buckets has its share of them, to within one.
fn assert_balanced(view: &PoolView) {
    assert!(view.rows.keys().eq(view.wanted_buckets().collect::<BTreeSet<_>>().iter()));
    let able = |name: &str| view.members.get(name).filter(|entry| !entry.member.draining);
    let total: u64 =
        view.members.keys().filter_map(|name| able(name)).map(|m| u64::from(m.member.weight)).sum();
    if total == 0 {
        // Nobody can take them; those that a living member has, it keeps.
        assert!(view.rows.values().all(|row| row.row.primary().is_none_or(|owner| view.is_living(owner))));
        return;
    }
    let mut owned = 0;
    for name in view.members.keys() {
        let owns = |owner: &rota_core::pool::Owner| owner.member == *name && view.is_living(owner);
        let have = view.rows.values().filter(|row| row.row.primary().is_some_and(owns)).count() as u64;
        let share = view.rows.len() as u64 * able(name).map_or(0, |entry| u64::from(entry.member.weight));
        assert!(
            (share / total..=share.div_ceil(total)).contains(&have),
            "{name} has {have} of {share}/{total}"
        );
        owned += have;
    }
    assert_eq!(owned, view.rows.len() as u64);
}

fn hashed() -> impl Strategy<Value = Spec> {
    (1u32..=12, 1u32..=4)
        .prop_map(|(buckets, max_moving)| Spec { max_moving, ..Spec::new(Kind::Hashed { buckets }) })
}

fn named() -> impl Strategy<Value = Spec> {
    (1u32..=4).prop_map(|max_moving| Spec { max_moving, ..Spec::new(Kind::Named) })
}

/// A step's deletion or grant of a row is guarded by the row's version, and in a
/// named pool a row that went and came back has old versions anew: so there,
/// nothing may come late. In a hashed pool, rows never go.
fn on_time(mut intents: Vec<Intent>) -> Vec<Intent> {
    intents.retain(|intent| !matches!(intent, Intent::Hold));
    intents
}

fn histories() -> impl Strategy<Value = (Spec, Vec<Intent>)> {
    prop_oneof![(hashed(), intents(60)), (named(), intents(60).prop_map(on_time))]
}

proptest! {
    #![proptest_config(cases(384))]

    #[test]
    fn left_alone_it_settles_in_balance((spec, intents) in histories()) {
        let mut history = History::new(&spec);
        for intent in &intents {
            history.live(intent);
        }
        history.settle();
        assert_balanced(history.view());
        // What was still on its way can disturb that, but not for long.
        for multi in std::mem::take(&mut history.late) {
            history.world.propose(&multi);
        }
        history.settle();
        assert_balanced(history.view());
    }

    #[test]
    fn one_change_of_a_settled_pool_moves_the_fewest_buckets(
        spec in prop_oneof![hashed(), named()],
        weights in prop::collection::vec(1u32..4, 1..=3),
        choice in any::<u8>(),
        weight in 1u32..4,
    ) {
        let mut history = History::new(&spec);
        (0..ITEMS.len()).for_each(|item| history.live(&Intent::Item(item)));
        for (name, weight) in MEMBERS.iter().zip(&weights) {
            history.world.join(POOL, name, &Member { weight: *weight, ..Member::default() });
        }
        history.settle();
        // The last of the members does something, or one more joins.
        let which = weights.len() - usize::from(choice % 2 == 0);
        history.live(&Intent::Member { which, choice, weight });
        let report = history.world.plan(POOL).report;
        let settled = history.settle();
        assert_balanced(history.view());
        prop_assert_eq!(settled.released.len(), report.moves_lower_bound as usize);
        prop_assert_eq!(report.moves, report.moves_lower_bound);
    }

}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn an_equal_member_more_or_less_moves_its_share(
        buckets in 1u32..40,
        members in 1usize..=3,
        max_moving in 1u32..6,
    ) {
        let mut history = History::new(&Spec { max_moving, ..Spec::new(Kind::Hashed { buckets }) });
        for name in &MEMBERS[..members] {
            history.world.join(POOL, name, &Member::default());
        }
        history.settle();
        let joined = MEMBERS[members];
        history.world.join(POOL, joined, &Member::default());
        let share = buckets as usize / (members + 1);
        prop_assert_eq!(history.settle().released.len(), share);
        history.world.change_member(POOL, joined, |member| member.draining = true);
        let settled = history.settle();
        prop_assert_eq!(settled.released.len(), share);
        prop_assert!(settled.released.iter().all(|the| the.from == joined));
        history.world.die(POOL, joined);
        prop_assert!(history.world.plan(POOL).multis.is_empty());
    }
}

/// The laws say little about pools in which nothing moves, or nothing is late.
#[test]
fn much_happens_in_the_histories() {
    let mut runner = TestRunner::deterministic();
    let (mut moves, mut granted, mut late) = (0, 0, (0, 0));
    for _ in 0..100 {
        let (spec, intents) = histories().new_tree(&mut runner).unwrap().current();
        let mut history = History::new(&spec);
        for intent in &intents {
            if let Intent::Step(_) = intent {
                let step = history.world.plan(POOL);
                (moves, granted) = (moves + step.moves_planned, granted + step.grants);
            }
            history.live(intent);
        }
        late = (late.0 + history.came_late.0, late.1 + history.came_late.1);
    }
    println!("{moves} moves planned, {granted} granted, late: {} done, {} refused", late.0, late.1);
    assert!(moves > 100 && granted > 300 && late.0 > 20 && late.1 > 20);
}

/// More rows than one multi holds: each multi is sound on its own.
#[test]
fn a_large_pool_in_several_multis() {
    let mut history = History::new(&Spec { max_moving: 400, ..Spec::new(Kind::Hashed { buckets: 1100 }) });
    history.world.join(POOL, "w1", &Member::default());
    let multis = history.world.plan(POOL).multis;
    assert_eq!(multis.iter().map(Vec::len).collect::<Vec<_>>(), [512, 512, 76]);
    // Only the one in the middle arrives; the next look makes up for the others.
    history.world.propose(&multis[1]).reply.unwrap();
    history.world.join(POOL, "w2", &Member::default());
    assert_eq!(history.settle().released.len(), 0);
    assert!(history.world.propose(&multis[0]).reply.is_err());
    assert_balanced(history.view());
    history.world.change_member(POOL, "w1", |member| member.draining = true);
    assert_eq!(history.world.step(POOL).moves_planned, 400);
}
