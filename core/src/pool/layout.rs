//! Where things stand below `/rota/pools`, and which names they may have.

use bytes::Bytes;

use crate::pool::Bucket;
use crate::state::{Acl, CreateMode, Op, perms};

/// Rota's own part of the tree.
pub const ROTA: &str = "/rota";
/// The parent of all pools.
pub const POOLS: &str = "/rota/pools";
/// The data directories of removed servers, one node each, named by the disk id. A cluster does not
/// take them back; the server's number is free for a new directory.
pub const REMOVED: &str = "/rota/removed";
/// Longest name of a pool, member, item or bucket, in bytes.
pub const NAME_LEN_MAX: usize = 255;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("a name has at least one character")]
    Empty,
    /// It is too long.
    #[error("a name has at most {NAME_LEN_MAX} bytes")]
    TooLong,
    /// It would mean another place.
    #[error("the names '.' and '..' are not allowed")]
    Relative,
    /// A slash, a control character, or one that a path cannot hold.
    #[error("character {0:?} is not allowed in a name")]
    Character(char),
}

/// Checks the name of a pool, member, item or bucket: 1 to [`NAME_LEN_MAX`]
/// bytes that can stand as one name in a path.
///
/// # Errors
/// [`NameError`] names the first rule that `name` breaks.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong);
    }
    if let Some(c) = name.chars().find(|&c| c == '/') {
        return Err(NameError::Character(c));
    }
    match crate::path::check_path(&format!("/{name}")) {
        Ok(()) => Ok(()),
        Err(crate::path::PathError::Character(c)) => Err(NameError::Character(c)),
        Err(_) => Err(NameError::Relative),
    }
}

/// `/rota/removed/<disk>`
#[must_use]
pub fn removed_disk(disk: impl std::fmt::Display) -> String {
    format!("{REMOVED}/{disk}")
}

/// `/rota/pools/<pool>`
#[must_use]
pub fn pool(pool: &str) -> String {
    format!("{POOLS}/{pool}")
}

/// `/rota/pools/<pool>/members/<member>`
#[must_use]
pub fn member(pool: &str, member: &str) -> String {
    format!("{POOLS}/{pool}/members/{member}")
}

/// `/rota/pools/<pool>/items/<item>`
#[must_use]
pub fn item(pool: &str, item: &str) -> String {
    format!("{POOLS}/{pool}/items/{item}")
}

/// `/rota/pools/<pool>/buckets/<bucket>`
#[must_use]
pub fn row(pool: &str, bucket: &str) -> String {
    format!("{POOLS}/{pool}/buckets/{bucket}")
}

/// `/rota/pools/<pool>/plan`
#[must_use]
pub fn plan(pool: &str) -> String {
    format!("{POOLS}/{pool}/plan")
}

/// `/rota/pools/<pool>/away/<member>`
#[must_use]
pub fn awaiting_rejoin(pool: &str, member: &str) -> String {
    format!("{POOLS}/{pool}/away/{member}")
}

/// `/rota/pools/<pool>/history`
#[must_use]
pub fn history(pool: &str) -> String {
    format!("{POOLS}/{pool}/history")
}

/// `/rota/pools/<pool>/checkpoints/<bucket>`
#[must_use]
pub fn checkpoint(pool: &str, bucket: &str) -> String {
    format!("{POOLS}/{pool}/checkpoints/{bucket}")
}

/// Makes one of Rota's own nodes, which clients may do `perms` with.
#[must_use]
pub fn create(path: String, data: Bytes, perms: i32) -> Op {
    let acl = Some(Acl::for_anyone(perms).entries());
    Op::Create { path, data: Some(data), mode: CreateMode::Persistent, acl }
}

/// Makes a pool, which has this spec.
#[must_use]
pub fn create_pool(name: &str, spec: Bytes) -> Vec<Op> {
    let root = pool(name);
    let readable = Some(Acl::for_anyone(perms::READ).entries());
    let above = [ROTA, POOLS].map(|path| Op::Ensure { path: path.to_owned(), acl: readable.clone() });
    let folders = FOLDERS.map(|folder| {
        // What clients write there is looked at: see `guard`.
        let open = if matches!(folder, "buckets" | "away" | "history") {
            perms::READ
        } else {
            perms::READ | perms::CREATE | perms::DELETE
        };
        create(format!("{root}/{folder}"), Bytes::new(), open)
    });
    let own = create(root, spec, perms::READ);
    above.into_iter().chain([own]).chain(folders).collect()
}

/// The folders that every pool has from its creation on.
pub const FOLDERS: [&str; 6] = ["members", "items", "buckets", "checkpoints", "away", "history"];

/// What a node below [`POOLS`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathKind<'a> {
    /// A pool's spec.
    Spec,
    /// A member.
    Member(&'a str),
    /// An item.
    Item(&'a str),
    /// The parent of the rows.
    Buckets,
    /// A row.
    Row(Bucket),
    /// A member that has gone and may come back.
    Away(&'a str),
    /// A part of the history.
    HistorySegment(&'a str),
    /// The plan.
    Plan,
    /// How far the work on a bucket has come.
    Checkpoint(Bucket),
    /// Anything else: a folder.
    Other,
}

/// The pool that `path` belongs to, and what it is there. `None` for a path
/// that is not below [`POOLS`].
#[must_use]
pub fn path_kind(path: &str) -> Option<(&str, PathKind<'_>)> {
    let below = path.strip_prefix(POOLS)?.strip_prefix('/')?;
    let Some((pool, rest)) = below.split_once('/') else { return Some((below, PathKind::Spec)) };
    let kind = match rest.split_once('/') {
        // A node below one of ours means nothing to us.
        Some((_, name)) if name.contains('/') => PathKind::Other,
        Some(("members", name)) => PathKind::Member(name),
        Some(("items", name)) => PathKind::Item(name),
        Some(("buckets", name)) => PathKind::Row(Bucket::new(name)),
        Some(("away", name)) => PathKind::Away(name),
        Some(("history", name)) => PathKind::HistorySegment(name),
        Some(("checkpoints", name)) => PathKind::Checkpoint(Bucket::new(name)),
        None if rest == "plan" => PathKind::Plan,
        None if rest == "buckets" => PathKind::Buckets,
        _ => PathKind::Other,
    };
    Some((pool, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(check_name("mail-7.eu_west:b@x"), Ok(()));
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(check_name(".."), Err(NameError::Relative));
        assert_eq!(check_name("a/b"), Err(NameError::Character('/')));
        assert_eq!(check_name("a\nb"), Err(NameError::Character('\n')));
        assert_eq!(check_name(&"x".repeat(256)), Err(NameError::TooLong));
    }

    #[test]
    fn every_place_is_found_again() {
        assert_eq!(path_kind(&pool("p")), Some(("p", PathKind::Spec)));
        assert_eq!(path_kind(&member("p", "m")), Some(("p", PathKind::Member("m"))));
        assert_eq!(path_kind(&item("p", "i")), Some(("p", PathKind::Item("i"))));
        assert_eq!(path_kind(&row("p", "3")), Some(("p", PathKind::Row(Bucket::number(3)))));
        assert_eq!(path_kind(&plan("p")), Some(("p", PathKind::Plan)));
        assert_eq!(path_kind(&awaiting_rejoin("p", "m")), Some(("p", PathKind::Away("m"))));
        assert_eq!(path_kind("/rota/pools/p/buckets"), Some(("p", PathKind::Buckets)));
        assert_eq!(path_kind(&checkpoint("p", "3")), Some(("p", PathKind::Checkpoint(Bucket::number(3)))));
        assert_eq!(path_kind("/rota/pools/p/checkpoints"), Some(("p", PathKind::Other)));
        assert_eq!(path_kind("/rota/pools/p/items/i/x"), Some(("p", PathKind::Other)));
        assert_eq!(path_kind("/rota/pools"), None);
        assert_eq!(path_kind("/rota/poolsx/p"), None);
    }
}
