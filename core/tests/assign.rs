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
use rota_core::pool::{Bucket, Delta, Kind, Member, Move, PoolView, Report, Spec, layout};
use rota_core::state::{Applied, Op};
use world::World;

scenarios! { "assign", run:
    death_is_granted_at_once
    death_of_all_leaves_rows_vacant
    destined_member_dies_before_the_grant
    destined_member_dies_before_the_release
    destined_member_dies_and_another_takes_its_place
    destined_member_drains_before_the_grant
    destined_member_drains_before_the_release
    drain_empties_in_paced_steps
    drain_of_two_at_once
    drained_alone_hands_over_to_the_first_to_join
    drained_alone_keeps_its_rows
    fences_of_the_same_owner_differ_by_grant
    first_member_gets_everything
    item_comes_back_after_its_row_went
    item_comes_back_after_the_release
    item_comes_back_before_the_release
    item_removed_while_owned
    item_removed_while_vacant
    join_in_paced_steps
    join_moves_the_lower_bound
    joins_together_share_at_once
    late_grant_is_refused
    late_plan_is_refused
    leave_is_granted_at_once
    member_dies_in_the_middle_of_a_handoff
    named_pool_grows
    named_pool_shrinks
    pace_lowered_keeps_what_is_under_way
    plan_follows_a_member_that_joins_in_between
    plan_is_not_rewritten_when_nothing_changes
    pool_deleted_with_living_members
    pool_deleted_without_members
    rejoin_after_others_took_over
    rejoin_of_a_member_that_drained
    rejoin_under_the_same_name_gets_new_fences
    release_after_the_plan_was_taken_back
    release_of_an_old_grant_is_refused
    table_tells_what_changed_since
    undrain_brings_its_share_back
    undrain_takes_back_what_is_not_released
    weights_changed
    weights_share_in_proportion
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
    /// Operators: `pool NAME hashed buckets=N [max_moving=N]`
    /// · `pool NAME named [max_moving=N]` · `pace N` · `delete-pool`
    /// · `item add NAME` · `item remove NAME`
    ///
    /// Members: `join NAME [weight=N]` · `leave NAME` · `die NAME`
    /// · `drain NAME` · `undrain NAME` · `weight NAME N` · `checkpoint BUCKET`
    /// · `release [OWNER]`: give up all that the plan asks for
    /// · `give-up BUCKET fence=N`: whatever the plan says
    ///
    /// Controller: `step` · `settle`: steps and releases until all is quiet
    /// · `hold`: plan a step, but do not propose it yet · `late`: propose it now
    ///
    /// Reads: `rows` · `fences` · `plan` · `table` · `since VERSION` · `ls`
    fn run(&mut self, line: &mut Line) -> String {
        match line.name.as_str() {
            "step" => {
                let step = self.world.step(&self.pool);
                self.text_of_step(&step)
            }
            "hold" => {
                let step = self.world.plan(&self.pool);
                self.held.clone_from(&step.multis);
                format!("on its way: {} granted, {} moves planned\n", step.grants, step.moves_planned)
            }
            "late" => {
                self.held.split_off(0).iter().map(|multi| outcome(&self.world.propose(multi))).collect()
            }
            "settle" => {
                let settled = self.world.settle(&self.pool, 100);
                format!("settled: {} rounds, {} released\n", settled.rounds, settled.released.len())
            }
            "release" => self.release(line.maybe_word().as_deref()),
            "give-up" => {
                let bucket = line.word();
                outcome(&self.world.give_up(&self.pool, &bucket, line.option("fence").expect("a fence")))
            }
            "rows" | "fences" | "plan" | "table" | "since" | "ls" => self.read(line),
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
            "pace" => world.change_spec(pool, |spec| spec.max_moving = name.parse().expect("a number")),
            "delete-pool" => world.change_spec(pool, |spec| spec.deleting = true),
            "item" if name == "add" => world.add_item(pool, &line.word()),
            "item" if name == "remove" => world.remove_item(pool, &line.word()),
            "join" => {
                let weight = line.option("weight").unwrap_or(1);
                world.join(pool, &name, &Member { weight, ..Member::default() });
            }
            "leave" => world.leave(pool, &name),
            "die" => world.die(pool, &name),
            "drain" => world.change_member(pool, &name, |member| member.draining = true),
            "undrain" => world.change_member(pool, &name, |member| member.draining = false),
            "weight" => {
                let weight = line.word().parse().expect("a weight");
                world.change_member(pool, &name, |member| member.weight = weight);
            }
            "checkpoint" => world.write_checkpoint(pool, &name),
            other => panic!("no command {other}"),
        }
    }

    fn release(&mut self, owner: Option<&str>) -> String {
        let mut text = String::new();
        for the in self.world.pending_moves(&self.pool) {
            if owner.is_none_or(|owner| owner == the.from) {
                let applied = self.world.release(&self.pool, &the);
                write!(text, "{} by {}: {}", the.bucket, the.from, outcome(&applied)).unwrap();
            }
        }
        text
    }

    fn text_of_step(&self, step: &Step) -> String {
        if step.multis.is_empty() {
            return "nothing to do\n".to_owned();
        }
        let mut text = format!("{} granted, {} moves planned\n", step.grants, step.moves_planned);
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
                let fences = view.rows.iter().map(|(bucket, row)| format!("{bucket}={}", row.fence));
                format!("{}\n", fences.collect::<Vec<_>>().join(" "))
            }
            "plan" => plan(view),
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
    spec.max_moving = line.option("max_moving").unwrap_or(spec.max_moving);
    spec
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

fn names(buckets: &[Bucket]) -> String {
    buckets.iter().map(Bucket::as_str).collect::<Vec<_>>().join(" ")
}

fn plan(view: &PoolView) -> String {
    if view.plan_version.is_none() {
        return "no plan\n".to_owned();
    }
    let pending: Vec<&Move> = view.pending_moves().collect();
    let Report { moves, moves_lower_bound: bound, placements, unplaced, .. } = view.plan.report;
    let mut text = format!(
        "plan {} after {}: moves={moves} bound={bound} placements={placements} unplaced={unplaced}\n",
        view.plan.number, view.plan.parent
    );
    for the in &view.plan.moves {
        let to = the.to.as_deref().unwrap_or("nobody");
        let fate = if pending.contains(&the) { "pending" } else { "over" };
        writeln!(text, "  {}: {} to {to}, {fate}", the.bucket, the.from).unwrap();
    }
    text
}
