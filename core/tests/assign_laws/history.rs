//! Random histories of one pool: members come and go, some releases are made and
//! some are not, steps are carried out in part, and proposals arrive late.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;
use rota_core::pool::{
    Affinity, Balance, Bucket, Handoff, Item, Kind, Labels, Member, PoolView, Spec, Strategy as Placing,
};
use rota_core::state::Op;

use crate::world::{Settled, World};

pub const POOL: &str = "p";
pub const MEMBERS: [&str; 4] = ["w1", "w2", "w3", "w4"];
pub const ITEMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Debug, Clone)]
pub enum Intent {
    /// Join, or if it has: die, leave, drain or come back from it, or change.
    Member {
        which: usize,
        choice: u8,
        weight: u32,
    },
    /// Add an item, or remove it if it stands.
    Item(usize),
    Pace(u32),
    /// Do one of the things that the plan asks for, or all.
    Comply(Option<Index>),
    /// Time goes by.
    Later,
    /// A member is asked for labels, has a capacity, is cordoned, or not any more.
    Bar {
        which: usize,
        choice: u8,
    },
    /// An item of some weight, that asks for labels.
    Picky {
        item: usize,
        weight: u32,
        choice: u8,
    },
    /// A bucket keeps its owner so busy.
    Load(u32, u64),
    /// A member says nothing new of a bucket.
    Stuck(u32, usize),
    /// Something may be moved for that, or not.
    Churn(usize),
    /// Nothing moves, or moves again.
    Pause,
    /// Carry out so many multis of the step.
    Step(usize),
    /// Grant what needs no planning.
    Quick,
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
        4 => prop::option::of(any::<Index>()).prop_map(Intent::Comply),
        2 => Just(Intent::Later),
        1 => Just(Intent::Pause),
        6 => (1usize..3).prop_map(Intent::Step),
        3 => Just(Intent::Quick),
        4 => Just(Intent::Hold),
        4 => any::<Index>().prop_map(Intent::Late),
    ];
    prop::collection::vec(intent, 1..=len_max)
}

/// A world with one pool, and what is on its way to it.
pub struct History {
    pub world: World,
    /// Multis of steps that are still on their way.
    pub late: Vec<Vec<Op>>,
    /// Late multis that were accepted, and that were refused.
    pub came_late: (usize, usize),
}

impl History {
    pub fn new(spec: &Spec) -> Self {
        let mut world = World::new();
        world.create_pool(POOL, spec);
        Self { world, late: Vec::new(), came_late: (0, 0) }
    }

    pub fn view(&self) -> &PoolView {
        self.world.view(POOL).unwrap()
    }

    pub fn live(&mut self, intent: &Intent) {
        match intent {
            Intent::Member { which, choice, weight } => self.change_member(MEMBERS[*which], *choice, *weight),
            Intent::Item(which) => {
                let item = ITEMS[*which];
                if self.view().spec.kind != Kind::Named {
                } else if self.view().items.contains_key(item) {
                    self.world.remove_item(POOL, item);
                } else {
                    self.world.add_item(POOL, item, &Item::default());
                }
            }
            Intent::Pace(pace) => self.world.change_spec(POOL, |spec| spec.max_concurrent_moves = *pace),
            Intent::Comply(which) => self.comply(which.as_ref()),
            Intent::Later => self.world.known.now_ms += 1,
            Intent::Pause => self.world.change_spec(POOL, |spec| spec.paused = !spec.paused),
            Intent::Step(multis) => {
                for multi in self.world.plan(POOL).multis.iter().take(*multis) {
                    self.world.propose(multi).reply.unwrap();
                }
            }
            Intent::Quick => self.world.grant_quickly(POOL),
            Intent::Hold => self.late.extend(self.world.plan(POOL).multis),
            Intent::Late(which) if !self.late.is_empty() => {
                let multi = self.late.swap_remove(which.index(self.late.len()));
                match self.world.propose(&multi).reply {
                    Ok(_) => self.came_late.0 += 1,
                    Err(_) => self.came_late.1 += 1,
                }
            }
            Intent::Late(_) => {}
            Intent::Bar { which, choice } if self.view().members.contains_key(MEMBERS[*which]) => {
                self.world.change_member(POOL, MEMBERS[*which], |member| match choice % 3 {
                    0 => member.cordoned = !member.cordoned,
                    1 => member.capacity = Some(u32::from(choice % 5)).filter(|most| *most > 0),
                    _ => drop(member.labels.insert("x".to_owned(), (choice % 2).to_string())),
                });
            }
            Intent::Bar { .. } => {}
            Intent::Picky { item, weight, choice } => {
                let item = ITEMS[*item];
                if self.view().spec.kind == Kind::Named && !self.view().items.contains_key(item) {
                    let asked = Labels::from([("x".to_owned(), (choice % 2).to_string())]);
                    let mut affinity = Affinity::default();
                    match choice % 3 {
                        0 => affinity.require = asked,
                        1 => affinity.prefer = asked,
                        _ => {}
                    }
                    let item_is = Item { weight: *weight, affinity, ..Item::default() };
                    self.world.add_item(POOL, item, &item_is);
                }
            }
            Intent::Load(bucket, load) => {
                self.world.known.loads.insert(Bucket::number(*bucket), *load);
            }
            Intent::Stuck(bucket, who) => {
                self.world.known.stuck.insert((Bucket::number(*bucket), MEMBERS[*who].to_owned()));
            }
            Intent::Churn(left) => self.world.known.churn_left = Some(*left),
        }
    }

    fn change_member(&mut self, name: &str, choice: u8, weight: u32) {
        let world = &mut self.world;
        let member = world.view(POOL).and_then(|view| view.members.get(name));
        match (member, choice % 6) {
            (None, _) => {
                // Two zones.
                let zone = (name.len() + usize::from(name.ends_with('3'))).to_string();
                world.join(POOL, name, &Member { weight, zone, ..Member::default() });
            }
            (Some(_), 0 | 1) => world.die(POOL, name),
            (Some(_), 2) => world.leave(POOL, name),
            (Some(_), 3 | 4) => world.change_member(POOL, name, |member| member.draining = !member.draining),
            (Some(_), _) => world.change_member(POOL, name, |member| member.weight = weight),
        }
    }

    fn comply(&mut self, which: Option<&Index>) {
        let asked = self.world.asked(POOL);
        let chosen = match which {
            Some(which) if !asked.is_empty() => vec![which.get(&asked).clone()],
            _ => asked,
        };
        for (mv, who, action) in &chosen {
            // Another has done something about the same bucket a moment ago.
            let still = self.world.asked(POOL).iter().any(|(a, b, c)| (a, b, c) == (mv, who, action));
            if still {
                self.world.comply(POOL, mv, who, *action).reply.unwrap();
            }
        }
    }

    /// Left alone, until nothing happens any more.
    pub fn come_to_rest(&mut self) {
        self.world.change_spec(POOL, |spec| spec.paused = false);
        self.world.known.churn_left = None;
        self.world.known.stuck.clear();
        for _ in 0..2 {
            self.world.settle(POOL, 200);
            // Nobody is waited for any more.
            self.world.known.now_ms += 10;
        }
        self.world.settle(POOL, 200);
    }

    /// Left alone from here on.
    ///
    /// Each round of a look and its releases moves as many buckets as the pace
    /// allows, and none twice; the last moves are granted in one round more.
    pub fn settle(&mut self) -> Settled {
        self.world.change_spec(POOL, |spec| spec.paused = false);
        if self.view().spec.rejoin_grace_ms > 0 {
            // Until nobody is waited for any more.
            self.world.settle(POOL, 100);
            self.world.known.now_ms += 10;
        }
        let settled = self.world.settle(POOL, 100);
        let pace = self.view().spec.max_concurrent_moves as usize;
        let spec = &self.view().spec;
        let bounds =
            [spec.max_concurrent_moves_per_member, spec.max_concurrent_moves_per_zone, spec.max_unavailable];
        if spec.replicas > 1 || spec.handoff == Handoff::Warm || bounds != [None; 3] {
            // What is copied first, only passes the lead on, or waits takes more looks.
            return settled;
        }
        let rounds_max = settled.released.len().div_ceil(pace) + 1;
        assert!(settled.rounds as usize <= rounds_max, "{settled:?}, at most {rounds_max} rounds expected");
        let moved: BTreeSet<&Bucket> = settled.released.iter().map(|mv| &mv.bucket).collect();
        assert_eq!(moved.len(), settled.released.len(), "a bucket moved twice: {settled:?}");
        settled
    }
}

pub fn hashed() -> impl Strategy<Value = Spec> {
    (1u32..=12, 1u32..=4).prop_map(|(buckets, max_concurrent_moves)| Spec {
        max_concurrent_moves,
        ..Spec::new(Kind::Hashed { buckets })
    })
}

pub fn named() -> impl Strategy<Value = Spec> {
    (1u32..=4).prop_map(|max_concurrent_moves| Spec { max_concurrent_moves, ..Spec::new(Kind::Named) })
}

/// With every choice that a pool has.
pub fn any_spec() -> impl Strategy<Value = Spec> {
    let handoff = prop_oneof![Just(Handoff::Exclusive), Just(Handoff::Warm)];
    let rejoin_grace_ms = prop_oneof![3 => Just(0), 1 => 1u64..4];
    let bound = || prop::option::weighted(0.2, 1u32..3);
    (prop_oneof![hashed(), named()], 1u32..=3, handoff, rejoin_grace_ms, (bound(), bound(), bound()))
        .prop_map(|(spec, replicas, handoff, rejoin_grace_ms, (per_member, per_zone, max_unavailable))| {
            Spec {
                replicas,
                handoff,
                rejoin_grace_ms,
                max_concurrent_moves_per_member: per_member,
                max_concurrent_moves_per_zone: per_zone,
                max_unavailable,
                ..spec
            }
        })
}

/// With every strategy, and what makes members and buckets unlike.
pub fn uneven_spec() -> impl Strategy<Value = Spec> {
    let strategies = [Placing::Balanced, Placing::Range, Placing::Ring];
    let strategy = prop_oneof![4 => Just(Placing::Balanced), 2 => prop::sample::select(strategies.to_vec())];
    (any_spec(), strategy, any::<bool>(), prop::option::weighted(0.3, 1u32..4)).prop_map(
        |(spec, strategy, by_load, churn)| Spec {
            strategy,
            balance: if by_load && strategy == Placing::Balanced { Balance::Load } else { Balance::Weight },
            max_rebalances_per_minute: churn,
            ..spec
        },
    )
}

fn uneven_intents() -> impl Strategy<Value = Vec<Intent>> {
    let bar = (0..MEMBERS.len(), any::<u8>()).prop_map(|(which, choice)| Intent::Bar { which, choice });
    let picky = (0..ITEMS.len(), 1u32..20, any::<u8>());
    let picky = picky.prop_map(|(item, weight, choice)| Intent::Picky { item, weight, choice });
    let more = prop_oneof![
        2 => bar,
        3 => picky,
        2 => (0u32..12, 0u64..100).prop_map(|(bucket, load)| Intent::Load(bucket, load)),
        1 => (0u32..12, 0..MEMBERS.len()).prop_map(|(bucket, who)| Intent::Stuck(bucket, who)),
        1 => (0usize..4).prop_map(Intent::Churn),
    ];
    (intents(40), prop::collection::vec((any::<Index>(), more), 0..30)).prop_map(|(mut all, more)| {
        for (at, intent) in more {
            let at = at.index(all.len() + 1);
            all.insert(at, intent);
        }
        all
    })
}

pub fn uneven_histories() -> impl Strategy<Value = (Spec, Vec<Intent>)> {
    (uneven_spec(), uneven_intents())
}

pub fn histories() -> impl Strategy<Value = (Spec, Vec<Intent>)> {
    (any_spec(), intents(60))
}
