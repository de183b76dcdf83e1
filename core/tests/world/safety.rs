//! What must hold across every single write, read off the tree itself and not
//! off the views that the controller decides by.

use std::collections::BTreeMap;

use rota_core::Zxid;
use rota_core::pool::layout::{self, POOLS};
use rota_core::pool::{Owner, Plan, Row, from_json};
use rota_core::state::{Node, State};

use super::By;

/// No row is taken from an owner that lives: it gives it up itself, or goes.
pub fn assert_rows_pass_on_safely(before: &State, after: &State, by: By) {
    for (pool, path, node) in rows(before) {
        let Some(owner) = owner(node).filter(|owner| is_member(after, pool, owner)) else { continue };
        let now = after.tree().get(path).map(self::owner);
        let given_up = by == By::Owner && now == Some(None);
        let kept = now == Some(Some(owner.clone()));
        assert!(kept || given_up, "{path} was taken from {owner:?}, which lives: {now:?}");
    }
}

/// No two grants of a bucket have the same fence, and later ones have larger
/// fences: also when the row is removed and made anew.
pub fn assert_fences_grow(state: &State, last: &mut BTreeMap<String, Zxid>) {
    for (_, path, node) in rows(state) {
        let before = last.insert(path.to_owned(), node.stamps.mzxid).unwrap_or(0);
        assert!(node.stamps.mzxid >= before, "{path}: fence {} after {before}", node.stamps.mzxid);
        assert!(node.stamps.mzxid == before || node.stamps.mzxid == state.zxid());
    }
}

/// Each plan follows the one it replaces, and has a bucket once.
pub fn assert_plans_follow_each_other(before: &State, after: &State) {
    for (pool, _) in after.tree().children(POOLS) {
        let plan_of = |state: &State| -> Option<Plan> {
            state.tree().get(&layout::plan(pool.name())).map(|node| from_json(node.bytes()).unwrap())
        };
        let (old, Some(new)) = (plan_of(before).unwrap_or_default(), plan_of(after)) else { continue };
        if old == new {
            continue;
        }
        assert_eq!((new.number, new.parent), (old.number + 1, old.number));
        assert!(new.moves.is_sorted_by(|a, b| a.bucket < b.bucket));
    }
}

fn rows(state: &State) -> impl Iterator<Item = (&str, &str, &Node)> {
    state.tree().iter().filter_map(|(path, node)| {
        let (pool, rest) = path.as_str().strip_prefix(POOLS)?.strip_prefix('/')?.split_once('/')?;
        rest.strip_prefix("buckets/").map(|_| (pool, path.as_str(), node))
    })
}

fn owner(node: &Node) -> Option<Owner> {
    let row: Row = from_json(node.bytes()).unwrap();
    row.owners.into_iter().next()
}

fn is_member(state: &State, pool: &str, owner: &Owner) -> bool {
    let node = state.tree().get(&layout::member(pool, &owner.member));
    node.is_some_and(|node| node.stamps.czxid == owner.joined)
}
