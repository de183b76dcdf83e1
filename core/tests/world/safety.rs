//! What must hold across every single write, read off the tree itself and not
//! off the views that the controller decides by.

use std::collections::BTreeMap;

use rota_core::Zxid;
use rota_core::pool::layout::{self, POOLS};
use rota_core::pool::{Owner, Plan, Row, from_json};
use rota_core::state::{Node, State};

use super::By;

/// No owner that lives is taken out of a row: it gives it up itself, or goes. While one lives
/// the row has a primary, and whoever leads goes on leading until it steps down itself.
pub fn assert_rows_pass_on_safely(before: &State, after: &State, by: By) {
    for (pool, path, node) in rows(before) {
        let (row, Some(next)) = (row(node), after.tree().get(path)) else {
            let lives = |owner: &Owner| is_member(after, pool, owner);
            assert!(!row(node).owners.iter().any(lives), "{path} was removed from an owner that lives");
            continue;
        };
        let (next, changed) = (self::row(next), next.stamps.mzxid != node.stamps.mzxid);
        assert!(next.owners.iter().all(|a| next.owners.iter().filter(|b| b.member == a.member).count() == 1));
        let living = row.owners.iter().filter(|owner| is_member(after, pool, owner));
        let gone: Vec<&Owner> =
            living.filter(|owner| !next.owners.iter().any(|n| n.is_same(owner))).collect();
        assert!(gone.len() <= usize::from(by == By::Owner), "{path} was taken from {gone:?}, who live");
        let Some(primary) = row.primary().filter(|owner| is_member(after, pool, owner)) else {
            // Whoever was a backup, and lives, leads before anybody else does.
            let backup = row.owners.iter().find(|owner| is_member(after, pool, owner));
            let leads = next.primary();
            assert!(
                !changed
                    || backup.is_none()
                    || leads.is_some_and(|leads| row.owners.iter().any(|o| o.is_same(leads)))
            );
            continue;
        };
        let leads = next.primary().is_some_and(|leads| leads.is_same(primary));
        assert!(leads || by == By::Owner, "{path}: the lead was taken from {primary:?}, who lives: {next:?}");
    }
}

/// Whoever leads a bucket does so by a grant whose fence is larger than those of all who led it
/// before: also when the row is removed and made anew. Nobody says a fence of its own choice.
pub fn assert_fences_grow(state: &State, last: &mut BTreeMap<String, (Zxid, String)>) {
    for (_, path, node) in rows(state) {
        let mzxid = node.stamps.mzxid;
        let row = row(node).resolve_fences(mzxid);
        assert!(row.owners.iter().chain(&row.preparing).all(|owner| owner.fence <= mzxid));
        let Some(primary) = row.primary() else { continue };
        let who = format!("{} {}", primary.member, primary.joined);
        let (before, led) = last.insert(path.to_owned(), (primary.fence, who.clone())).unwrap_or_default();
        assert!(primary.fence >= before, "{path}: fence {} after {before}", primary.fence);
        assert!(primary.fence > before || who == led, "{path}: {who} leads by the grant of {led}");
    }
}

/// Each plan follows the one it replaces, and has each move once.
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
        let key = |mv: &rota_core::pool::Move| (mv.bucket.clone(), mv.from.clone(), mv.to.clone());
        assert!(new.moves.is_sorted_by(|a, b| key(a) < key(b)));
    }
}

fn rows(state: &State) -> impl Iterator<Item = (&str, &str, &Node)> {
    state.tree().iter().filter_map(|(path, node)| {
        let (pool, rest) = path.as_str().strip_prefix(POOLS)?.strip_prefix('/')?.split_once('/')?;
        rest.strip_prefix("buckets/").map(|_| (pool, path.as_str(), node))
    })
}

fn row(node: &Node) -> Row {
    from_json(node.bytes()).unwrap()
}

fn is_member(state: &State, pool: &str, owner: &Owner) -> bool {
    let node = state.tree().get(&layout::member(pool, &owner.member));
    node.is_some_and(|node| node.stamps.czxid == owner.joined)
}
