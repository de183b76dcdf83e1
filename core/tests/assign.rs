//! Golden scripts for the assignment controller, in `assign/`. How they are
//! written and rewritten: `golden/mod.rs`; the commands: [`Script::run`].
//!
//! After every write, `world/safety.rs` asserts that no bucket was taken from a
//! living owner, and that fences and plans only go forward.

#[macro_use]
mod golden;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use golden::Command as Line;
use rota_core::assign::Step;
use rota_core::pool::{
    Affinity, Balance, Bucket, Delta, Handoff, Item, Kind, Labels, Member, Move, Owner, OwnerAction,
    PoolView, Report, RowEntry, Shortage, Spec, Spread, from_json, history, layout,
};
use rota_core::state::{Applied, Node, Op};
use world::World;

scenarios! { "assign", run:
    away_and_back_again
    away_for_too_long
    away_primary_has_a_backup
    away_takes_nothing_more
    away_takes_nothing_more_in_a_range
    backup_leads_without_planning
    bounds_per_member
    bounds_per_zone
    capacity_is_the_most
    claims_end_with_the_labels
    cordoned_and_full_in_a_range
    cordoned_in_other_strategies
    cordoned_keeps_what_it_has
    death_is_granted_at_once
    death_of_all_leaves_rows_vacant
    destined_member_dies_and_another_takes_its_place
    destined_member_dies_before_the_grant
    destined_member_dies_before_the_release
    destined_member_drains_before_the_grant
    destined_member_drains_before_the_release
    drain_empties_in_paced_steps
    drain_of_the_only_one_with_the_labels_waits
    drain_of_two_at_once
    drained_alone_hands_over_to_the_first_to_join
    drained_alone_keeps_its_rows
    fences_of_the_same_owner_differ_by_grant
    first_member_gets_everything
    grace_and_gone_twice
    grace_of_one_after_the_other
    grace_of_two_owners
    grace_promotes_without_planning
    history_tells_what_happened
    item_asks_for_labels
    item_comes_back_after_its_row_went
    item_comes_back_after_the_release
    item_comes_back_before_the_release
    item_removed_while_owned
    item_removed_while_vacant
    items_of_unequal_weight
    join_in_paced_steps
    join_moves_the_lower_bound
    joins_together_share_at_once
    labels_nobody_has
    labels_of_the_pool
    labels_preferred_as_long_as_they_can
    late_grant_is_refused
    late_plan_is_refused
    leave_is_granted_at_once
    load_is_evened_out_a_little_at_a_time
    member_dies_in_the_middle_of_a_handoff
    named_pool_grows
    named_pool_shrinks
    pace_lowered_keeps_what_is_under_way
    paused_moves_nothing
    plan_follows_a_member_that_joins_in_between
    plan_is_not_rewritten_when_nothing_changes
    pool_deleted_with_living_members
    pool_deleted_without_members
    preference_for_a_cordoned_member
    preference_that_nobody_meets
    range_of_partitions
    rejoin_after_others_took_over
    rejoin_of_a_member_that_drained
    rejoin_under_the_same_name_gets_new_fences
    release_after_the_plan_was_taken_back
    release_of_an_old_grant_is_refused
    released_is_granted_without_planning
    replaced_by_a_newcomer
    replicas_backup_dies
    replicas_drain
    replicas_drain_with_too_few_others
    replicas_on_distinct_zones
    replicas_primary_dies
    replicas_raised_and_lowered
    ring_and_back
    stuck_owner_is_left
    stuck_while_preparing
    table_tells_what_changed_since
    two_out_at_once
    undrain_brings_its_share_back
    undrain_takes_back_what_is_not_released
    warm_death_of_the_one_that_prepares
    warm_death_of_the_owner
    warm_move
    warm_range_death_of_the_owner
    warm_rejoin
    warm_replicas
    weights_changed
    weights_make_room_for_labels
    weights_share_in_proportion
    weights_within_the_churn
}

fn run(name: &str) {
    let mut script = Script { world: World::new(), pool: String::new(), held: Vec::new() };
    golden::run("assign", name, |line| script.run(line));
}

struct Script {
    world: World,
    pool: String,
    /// Multis of a step that are still on their way.
    held: Vec<Vec<Op>>,
}

impl Script {
    /// Operators: `pool NAME hashed buckets=N [SPEC]` · `pool NAME named [SPEC]` · `pace N`
    /// · `ask [AFFINITY]` · `change SPEC` · `load BUCKET N` · `churn-left N` · `stuck BUCKET MEMBER`
    /// · `moves-on BUCKET MEMBER`; SPEC is `by-load`, `strategy=NAME`,
    /// `replicas=N`, `warm`, `paused`, `max_concurrent_moves=N`,
    /// `max_concurrent_moves_per_member=N`, `max_concurrent_moves_per_zone=N`, `max_unavailable=N`, `rejoin_grace_ms=N`, `churn=N`, `anywhere`
    /// and AFFINITY
    /// · `delete-pool` · `item add NAME [AFFINITY]` · `item remove NAME`; AFFINITY is
    /// `require=KEY=VALUE,…` and `prefer=KEY=VALUE,…`
    ///
    /// Members: `join NAME [cordoned] [weight=N] [capacity=N] [zone=Z] [labels=KEY=VALUE,…]`
    /// · `leave NAME` · `die NAME` · `drain NAME` · `undrain NAME` · `replace NAME BY` · `cordon NAME`
    /// · `uncordon NAME` · `weight NAME N` · `capacity NAME N` · `labels NAME to=KEY=VALUE,…` · `checkpoint BUCKET`
    /// · `release [OWNER]`, `ready [MEMBER]`, `step-down [OWNER]`: do all that the plan asks for
    /// · `give-up BUCKET fence=N`: whatever the plan says
    ///
    /// Controller: `step` · `settle`: steps and releases until all is quiet
    /// · `quick`: grant what needs no planning · `hold`: plan a step, but do not propose it yet · `late`: propose it now
    ///
    /// Reads: `short`: why buckets lack owners · `rows`: the primaries' buckets · `owners`: each
    /// bucket's · `fences` · `plan` · `waiting` · `table` · `since VERSION` · `ls` · `history BUCKET`
    ///
    /// Time: `at MS`: milliseconds since the beginning
    fn run(&mut self, line: &mut Line) -> String {
        match line.name.as_str() {
            "step" => {
                let step = self.world.step(&self.pool);
                self.text_of_step(&step)
            }
            "quick" => {
                self.world.grant_quickly(&self.pool);
                String::new()
            }
            "short" => {
                let report = self.world.plan(&self.pool).report;
                let short = report.short.iter();
                let line = |s: &Shortage| format!("{} buckets: {:?} {:?}\n", s.buckets, s.reason, s.require);
                let lines: String = short.map(line).collect();
                if lines.is_empty() { "nothing is short\n".to_owned() } else { lines }
            }
            "hold" => {
                let step = self.world.plan(&self.pool);
                self.held.clone_from(&step.multis);
                format!("on its way: {} granted, {} moves planned\n", step.grants, step.moves_planned())
            }
            "late" => {
                self.held.split_off(0).iter().map(|multi| outcome(&self.world.propose(multi))).collect()
            }
            "settle" => {
                let settled = self.world.settle(&self.pool, 100);
                format!("settled: {} rounds, {} released\n", settled.rounds, settled.released.len())
            }
            "release" => self.comply(OwnerAction::Release, line.maybe_word().as_deref()),
            "ready" => self.comply(OwnerAction::Ready, line.maybe_word().as_deref()),
            "step-down" => self.comply(OwnerAction::StepDown, line.maybe_word().as_deref()),
            "give-up" => {
                let bucket = line.word();
                outcome(&self.world.give_up(&self.pool, &bucket, line.option("fence").expect("a fence")))
            }
            "rows" | "owners" | "fences" | "plan" | "waiting" | "table" | "since" | "ls" | "history" => {
                self.read(line)
            }
            _ => {
                self.change(line);
                String::new()
            }
        }
    }

    fn change(&mut self, line: &mut Line) {
        let Self { world, pool, .. } = self;
        let name = line.maybe_word().unwrap_or_default();
        match line.name.as_str() {
            "pool" => {
                pool.clone_from(&name);
                world.create_pool(pool, &spec(line));
            }
            "pace" => {
                world.change_spec(pool, |spec| spec.max_concurrent_moves = name.parse().expect("a number"));
            }
            "ask" => {
                let affinity = affinity(line);
                world.change_spec(pool, |spec| spec.affinity = affinity);
            }
            "change" => world.change_spec(pool, |spec| change_spec(spec, &name, line)),
            "at" => world.known.now_ms = name.parse().expect("milliseconds"),
            // What members say of their work.
            "load" => {
                let load = line.word().parse().expect("a load");
                world.known.loads.insert(Bucket::new(&name), load);
            }
            "churn-left" => world.known.churn_left = Some(name.parse().expect("a number")),
            "stuck" => assert!(world.known.stuck.insert((Bucket::new(&name), line.word()))),
            "moves-on" => assert!(world.known.stuck.remove(&(Bucket::new(&name), line.word()))),
            "delete-pool" => world.change_spec(pool, |spec| spec.deleting = true),
            "item" if name == "add" => {
                let name = line.word();
                let weight = line.option("weight").unwrap_or(1);
                world.add_item(pool, &name, &Item { weight, affinity: affinity(line), ..Item::default() });
            }
            "item" if name == "remove" => world.remove_item(pool, &line.word()),
            "join" => {
                let member = Member {
                    weight: line.option("weight").unwrap_or(1),
                    capacity: line.option("capacity"),
                    zone: line.option("zone").unwrap_or_default(),
                    cordoned: line.flag("cordoned"),
                    labels: labels(line, "labels"),
                    ..Member::default()
                };
                world.join(pool, &name, &member);
            }
            "leave" => world.leave(pool, &name),
            "die" => world.die(pool, &name),
            "drain" => world.change_member(pool, &name, |member| member.draining = true),
            "undrain" => world.change_member(pool, &name, |member| member.draining = false),
            "replace" => {
                let by = line.word();
                world.change_member(pool, &name, |member| {
                    (member.draining, member.successor) = (true, Some(by.clone()));
                });
                world.change_member(pool, &by, |member| (member.draining, member.cordoned) = (false, false));
            }
            "cordon" => world.change_member(pool, &name, |member| member.cordoned = true),
            "uncordon" => world.change_member(pool, &name, |member| member.cordoned = false),
            "labels" => {
                let labels = labels(line, "to");
                world.change_member(pool, &name, |member| member.labels = labels);
            }
            "capacity" => {
                let capacity = line.word().parse().expect("a capacity");
                world.change_member(pool, &name, |member| member.capacity = Some(capacity));
            }
            "weight" => {
                let weight = line.word().parse().expect("a weight");
                world.change_member(pool, &name, |member| member.weight = weight);
            }
            "checkpoint" => world.write_checkpoint(pool, &name),
            other => panic!("no command {other}"),
        }
    }

    /// Those who are asked to do it, do it.
    fn comply(&mut self, action: OwnerAction, who: Option<&str>) -> String {
        let mut text = String::new();
        for (mv, owner, asked) in self.world.asked(&self.pool) {
            if asked == action && who.is_none_or(|who| who == owner.member) {
                let applied = self.world.comply(&self.pool, &mv, &owner, action);
                write!(text, "{} by {}: {}", mv.bucket, owner.member, outcome(&applied)).unwrap();
            }
        }
        text
    }

    fn text_of_step(&self, step: &Step) -> String {
        if step.multis.is_empty() {
            return "nothing to do\n".to_owned();
        }
        let mut text = format!("{} granted, {} moves planned\n", step.grants, step.moves_planned());
        // The plan, if there is one, comes last.
        let is_plan = |op: &Op| match op {
            Op::Create { path, .. } | Op::SetData { path, .. } => *path == layout::plan(&self.pool),
            _ => false,
        };
        if step.multis.iter().flatten().any(is_plan) {
            text += &self.world.view(&self.pool).map(plan).unwrap_or_default();
        }
        text
    }

    fn read(&self, line: &mut Line) -> String {
        let Some(view) = self.world.view(&self.pool) else { return "no such pool\n".to_owned() };
        match line.name.as_str() {
            "rows" => rows(view),
            "fences" => {
                let fences = view.rows.iter().map(|(bucket, row)| format!("{bucket}={}", row.fence()));
                format!("{}\n", fences.collect::<Vec<_>>().join(" "))
            }
            "plan" => plan(view),
            "owners" => owners(view),
            "waiting" => {
                let waits = view.plan.report.waiting.iter();
                waits.map(|(wait, moves)| format!("{moves} moves wait: {wait:?}\n")).collect()
            }
            "history" => {
                let bucket = Bucket::new(&line.word());
                let folder = layout::history(&self.pool);
                let nodes = self.world.state.tree().children(&folder);
                let segment = |node: &Node| (node.stamps.ctime_ms, from_json(node.bytes()).unwrap());
                let mut nodes: Vec<_> = nodes.collect();
                nodes.sort_by_key(|(path, _)| path.name().to_owned());
                let events = history::events_of(&bucket, nodes.iter().map(|(_, node)| segment(node)));
                let line = |event: &history::Event| {
                    format!("{} {:?}: [{}]\n", event.at_ms, event.reason, event.owners.join(" "))
                };
                events.iter().map(line).collect()
            }
            "table" => format!("version {}\n", view.table_version()),
            "since" => match view.table_since(line.word().parse().expect("a version")) {
                Delta::Whole => "the whole table\n".to_owned(),
                Delta::Rows { changed, removed } => {
                    format!("changed: [{}] removed: [{}]\n", names(&changed), names(&removed))
                }
            },
            _ => {
                let folder = format!("{}/{}", layout::pool(&self.pool), line.word());
                let children = self.world.state.tree().children(&folder);
                format!("[{}]\n", children.map(|(path, _)| path.name()).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

fn spec(line: &mut Line) -> Spec {
    let kind = match (line.flag("hashed"), line.flag("named")) {
        (true, false) => Kind::Hashed { buckets: line.option("buckets").expect("buckets") },
        (false, true) => Kind::Named,
        _ => panic!("hashed or named: {line:?}"),
    };
    let mut spec = Spec::new(kind);
    change_spec(&mut spec, "", line);
    spec.affinity = affinity(line);
    spec
}

fn change_spec(spec: &mut Spec, flag: &str, line: &mut Line) {
    let mut has = |name: &str| flag == name || line.flag(name);
    spec.handoff = if has("warm") { Handoff::Warm } else { spec.handoff };
    spec.spread = if has("anywhere") { Spread::None } else { spec.spread };
    spec.balance = if has("by-load") { Balance::Load } else { spec.balance };
    spec.paused = has("paused") || (spec.paused && !has("resumed"));
    if let Some(strategy) = line.option::<String>("strategy") {
        spec.strategy = serde_json::from_value(strategy.into()).expect("a strategy");
    }
    spec.replicas = line.option("replicas").unwrap_or(spec.replicas);
    spec.max_concurrent_moves = line.option("max_concurrent_moves").unwrap_or(spec.max_concurrent_moves);
    spec.max_concurrent_moves_per_member =
        line.option("max_concurrent_moves_per_member").or(spec.max_concurrent_moves_per_member);
    spec.max_concurrent_moves_per_zone =
        line.option("max_concurrent_moves_per_zone").or(spec.max_concurrent_moves_per_zone);
    spec.max_unavailable = line.option("max_unavailable").or(spec.max_unavailable);
    spec.rejoin_grace_ms = line.option("rejoin_grace_ms").unwrap_or(spec.rejoin_grace_ms);
    spec.max_rebalances_per_minute = line.option("churn").or(spec.max_rebalances_per_minute);
}

fn affinity(line: &mut Line) -> Affinity {
    Affinity { require: labels(line, "require"), prefer: labels(line, "prefer") }
}

fn labels(line: &mut Line, option: &str) -> Labels {
    let text: String = line.option(option).unwrap_or_default();
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').expect("KEY=VALUE")).map(|(k, v)| (k.into(), v.into())).collect()
}

fn outcome(applied: &Applied) -> String {
    match &applied.reply {
        Ok(_) => "done\n".to_owned(),
        Err(refusal) => format!("refused: {refusal}\n"),
    }
}

/// Each owner's buckets; of an owner that is gone, as such.
fn rows(view: &PoolView) -> String {
    let mut owned: BTreeMap<String, Vec<Bucket>> =
        view.members.keys().map(|member| (member.clone(), Vec::new())).collect();
    for (bucket, entry) in &view.rows {
        let owner = match entry.row.primary() {
            None => "nobody".to_owned(),
            Some(owner) if view.is_living(owner) => owner.member.clone(),
            Some(owner) => format!("{} (gone)", owner.member),
        };
        owned.entry(owner).or_default().push(bucket.clone());
    }
    owned
        .iter()
        .map(|(owner, buckets)| format!("{owner}: {}\n", names(buckets)).replace(" \n", "\n"))
        .collect()
}

/// Each bucket's owners, in order, and those who prepare.
fn owners(view: &PoolView) -> String {
    let name = |owner: &Owner| match view.is_living(owner) {
        true => owner.member.clone(),
        false => format!("{}(gone)", owner.member),
    };
    let line = |(bucket, entry): (&Bucket, &RowEntry)| {
        let names: Vec<String> = entry.row.owners.iter().map(name).collect();
        let prepares = entry.row.preparing.iter().map(|owner| format!("+{}", name(owner)));
        let degraded = if entry.row.degraded { " degraded" } else { "" };
        format!("{bucket}: {}{degraded}\n", names.into_iter().chain(prepares).collect::<Vec<_>>().join(" "))
    };
    view.rows.iter().map(line).collect()
}

fn names(buckets: &[Bucket]) -> String {
    buckets.iter().map(Bucket::as_str).collect::<Vec<_>>().join(" ")
}

fn plan(view: &PoolView) -> String {
    if view.plan_version.is_none() {
        return "no plan\n".to_owned();
    }
    let pending: Vec<&Move> = view.pending_moves().collect();
    let Report {
        moves,
        moves_lower_bound: bound,
        placements,
        unplaced,
        busiest_milli,
        busiest_bound_milli,
        ..
    } = view.plan.report;
    let mut text = format!(
        "plan {} after {}: moves={moves} bound={bound} placements={placements} unplaced={unplaced}\n",
        view.plan.number, view.plan.parent
    );
    if let (Some(busiest), Some(bound)) = (busiest_milli, busiest_bound_milli) {
        writeln!(text, "  the busiest has {busiest}, at least {bound}").unwrap();
    }
    for short in &view.plan.report.short {
        writeln!(text, "  {} short: {:?} {:?}", short.buckets, short.reason, short.require).unwrap();
    }
    for mv in &view.plan.moves {
        let to = mv.to.as_deref().unwrap_or("nobody");
        let fate = if pending.contains(&mv) { "pending" } else { "over" };
        let from = mv.from.as_deref().unwrap_or("nobody");
        let how = if mv.promote { " leads" } else { "" };
        writeln!(text, "  {}: {from} to {to}{how}, {fate}", mv.bucket).unwrap();
    }
    text
}
