//! What a client may write into Rota's own part of the tree: members, items,
//! checkpoints, and what a member does with a row that names it, each as the HTTP API would
//! write it.
//! Everything else below `/rota` is written by Rota alone.
//!
//! It is checked where it takes effect, so that it holds whatever face the write
//! came through and whatever was written a moment before.

use std::collections::{BTreeMap, BTreeSet};

use super::layout::{self, PathKind, ROTA, check_name};
use super::{Bucket, Item, Kind, Member, Owner, OwnerAction, Row, Spec, from_json, to_json};
use crate::path::is_at_or_below;
use crate::state::{Acl, AclEntry, Actor, CreateMode, Op, Privilege, Refusal, State};

/// Refuses the first of `ops` that a client may not do, and says which one it is.
pub(crate) fn check(state: &State, by: &Actor, ops: &[Op]) -> Result<(), (usize, Refusal)> {
    let is_under_rota = |op: &Op| written_path(op).is_some_and(|path| is_at_or_below(path, ROTA));
    if by.privilege == Privilege::Rota || !ops.iter().any(is_under_rota) {
        return Ok(());
    }
    let (mut versioned, mut fenced) = (BTreeMap::new(), BTreeSet::new());
    for op in ops {
        match op {
            Op::Check { path, version: Some(version) } => drop(versioned.insert(path.as_str(), *version)),
            Op::CheckFence { path, .. } => drop(fenced.insert(path.as_str())),
            _ => {}
        }
    }
    let written = ops.iter().filter_map(|op| match op {
        Op::SetData { path, .. } => Some(path.as_str()),
        _ => None,
    });
    let write = Write { state, by, versioned, fenced, written: written.collect() };
    let mut rows = BTreeSet::new();
    ops.iter().enumerate().try_for_each(|(index, op)| {
        write.check(op).map_err(|refusal| (index, refusal))?;
        match op {
            // A row's version must not grow faster than the numbers of writes: a later row
            // there begins with one of those (`first_version`).
            Op::SetData { path, .. } if is_row(path) && !rows.insert(path.as_str()) => {
                let hint = "a row is written once in a multi".to_owned();
                Err((index, Refusal::Reserved { path: path.clone(), hint }))
            }
            _ => Ok(()),
        }
    })
}

/// Whether a bucket's row stands at `path`. Rows come and go, and clients of
/// ZooKeeper can check nothing but a version.
pub(crate) fn is_row(path: &str) -> bool {
    matches!(layout::path_kind(path), Some((_, PathKind::Row(_))))
}

/// The path that an operation writes; `None` for a check.
fn written_path(op: &Op) -> Option<&String> {
    match op {
        Op::Create { path, .. }
        | Op::Delete { path, .. }
        | Op::SetData { path, .. }
        | Op::SetAcl { path, .. }
        | Op::Ensure { path, .. }
        | Op::Reap { path } => Some(path),
        Op::Check { .. } | Op::CheckFence { .. } => None,
    }
}

struct Write<'a> {
    state: &'a State,
    by: &'a Actor,
    /// What the same multi checks the version of.
    versioned: BTreeMap<&'a str, i32>,
    /// What it checks the fence of.
    fenced: BTreeSet<&'a str>,
    /// What it writes.
    written: BTreeSet<&'a str>,
}

/// Why something may not be written.
enum No {
    /// Not in this way.
    Reserved(String),
    /// Not these bytes.
    Content(String),
}

fn reserved(hint: impl Into<String>) -> No {
    No::Reserved(hint.into())
}

fn content(fault: &impl ToString) -> No {
    No::Content(fault.to_string())
}

impl Write<'_> {
    fn check(&self, op: &Op) -> Result<(), Refusal> {
        let Some(path) = written_path(op).filter(|path| is_at_or_below(path, ROTA)) else { return Ok(()) };
        self.allowed(op, path).map_err(|no| match no {
            No::Reserved(hint) => Refusal::Reserved { path: path.clone(), hint },
            No::Content(fault) => Refusal::BadContent { path: path.clone(), fault },
        })
    }

    fn allowed(&self, op: &Op, path: &str) -> Result<(), No> {
        match (op, layout::path_kind(path)) {
            (_, Some((_, PathKind::Member(name)))) => self.member(op, path, name),
            (_, Some((pool, PathKind::Item(name)))) => self.item(op, path, pool, name),
            (_, Some((pool, PathKind::Checkpoint(bucket)))) => self.checkpoint(op, pool, &bucket),
            (Op::SetData { data, version, .. }, Some((pool, PathKind::Row(_)))) => {
                self.owner_action(path, pool, data.as_deref(), *version)
            }
            (_, Some(_)) => Err(reserved("change it through /v1/pools")),
            (_, None) => Err(reserved("pools are made through /v1/pools")),
        }
    }

    /// Members come and go with their session, and speak for themselves.
    fn member(&self, op: &Op, path: &str, name: &str) -> Result<(), No> {
        match op {
            Op::Create { data, mode, acl, .. } if is_open(acl.as_deref()) => {
                check_name(name).map_err(|fault| content(&fault))?;
                if *mode != CreateMode::Ephemeral {
                    return Err(content(&"a member is an ephemeral node with its name, not with a number"));
                }
                read_member(data.as_deref()).map(drop)
            }
            Op::SetData { data, .. } if self.keeps(path) => {
                let before =
                    self.state.tree().get(path).and_then(|node| from_json::<Member>(node.bytes()).ok());
                let operators =
                    |member: &Member| (member.draining, member.cordoned, member.successor.clone());
                let before = before.as_ref().map_or((false, false, None), operators);
                match operators(&read_member(data.as_deref())?) == before {
                    true => Ok(()),
                    false => Err(content(
                        &"\"draining\", \"cordoned\" and \"successor\" are the operator's: `rota drain`, `rota cordon`, `rota replace`",
                    )),
                }
            }
            Op::Delete { .. } if self.keeps(path) => Ok(()),
            Op::SetData { .. } | Op::Delete { .. } => {
                Err(reserved("only the session that keeps a member changes it"))
            }
            _ => Err(reserved("a member is a node with the open access control list")),
        }
    }

    /// Items are anybody's, as over HTTP; one that a session keeps is changed by it.
    fn item(&self, op: &Op, path: &str, pool: &str, name: &str) -> Result<(), No> {
        match op {
            Op::Create { data, mode, acl, .. } if is_open(acl.as_deref()) => {
                check_name(name).map_err(|fault| content(&fault))?;
                if !matches!(mode, CreateMode::Ephemeral | CreateMode::Persistent) {
                    return Err(content(&"an item is an ephemeral or persistent node with its name"));
                }
                if self.spec(pool).is_some_and(|spec| spec.kind != Kind::Named) {
                    return Err(content(&"the pool is hashed: only a named pool has items"));
                }
                read_item(data.as_deref())
            }
            Op::SetData { data, .. } => {
                let keeper = self.state.tree().get(path).and_then(|node| node.owner());
                if keeper.is_some() && keeper != self.by.session {
                    return Err(reserved("only the session that keeps an item changes it"));
                }
                read_item(data.as_deref())
            }
            Op::Delete { .. } => Ok(()),
            _ => Err(reserved("an item is a node with the open access control list")),
        }
    }

    /// A checkpoint is bytes of whoever leads the bucket: its primary's session writes it
    /// together with a check that the row is still the one that it knows. Who has no session names
    /// the grant by its fence, as over HTTP.
    fn checkpoint(&self, op: &Op, pool: &str, bucket: &Bucket) -> Result<(), No> {
        let row = layout::row(pool, bucket.as_str());
        let version = self.versioned.get(row.as_str());
        let is_now =
            |version: &i32| self.state.tree().get(&row).is_some_and(|node| node.stamps.version == *version);
        let leads = || self.row(&row).primary().is_some_and(|primary| self.is_own(pool, primary));
        let is_fenced = self.fenced.contains(row.as_str());
        // Whoever knows another row is told so by the check itself, unless the multi makes it true.
        let is_now = version.is_some_and(is_now) || self.written.contains(row.as_str());
        if (is_now || is_fenced && self.by.session.is_some()) && !leads() {
            return Err(reserved("the bucket is led by another session's member, or by none"));
        }
        let is_guarded = version.is_some() || is_fenced;
        let is_kept = match op {
            Op::Create { mode, acl, .. } => *mode == CreateMode::Persistent && is_open(acl.as_deref()),
            Op::SetData { .. } | Op::Delete { .. } => true,
            _ => false,
        };
        match is_kept && is_guarded {
            true => Ok(()),
            false => Err(reserved(
                "a checkpoint is a persistent node with the open access control list, written in a multi \
                 with a check (of its version) or check_fence of the bucket's row",
            )),
        }
    }

    /// A member does with a row that names it what is its to do, and nothing else; the row is
    /// still the one that it knows.
    fn owner_action(
        &self,
        path: &str,
        pool: &str,
        data: Option<&[u8]>,
        version: Option<i32>,
    ) -> Result<(), No> {
        let next: Row = from_json(data.unwrap_or_default()).map_err(|fault| content(&fault))?;
        if version.is_none() && !self.fenced.contains(path) {
            return Err(reserved("a row is written with the version that the writer knows"));
        }
        let row = self.row(path);
        let named = row.owners.iter().chain(&row.preparing);
        let own: Vec<&Owner> = named.filter(|owner| self.is_own(pool, owner)).collect();
        if own.is_empty() {
            return Err(reserved("the bucket belongs to another session's member, or to none"));
        }
        let replicas = self.spec(pool).map_or(1, |spec| spec.replicas as usize);
        let deeds = [OwnerAction::Release, OwnerAction::StepDown, OwnerAction::Ready];
        let rows = own.iter().flat_map(|owner| deeds.map(|action| row.apply_action(owner, action, replicas)));
        let rows: Vec<Row> = rows.flatten().collect();
        if rows.contains(&next) {
            return Ok(());
        }
        let may_be: Vec<String> =
            rows.iter().map(|row| String::from_utf8_lossy(&to_json(row)).into_owned()).collect();
        Err(reserved(format!("its member can make of this row only {}", may_be.join(" or "))))
    }

    fn spec(&self, pool: &str) -> Option<Spec> {
        let node = self.state.tree().get(&layout::pool(pool))?;
        from_json(node.bytes()).ok()
    }

    /// The row at `path`, with its fences; a vacant one, if there is none.
    fn row(&self, path: &str) -> Row {
        let node = self.state.tree().get(path);
        let row = node
            .and_then(|node| Some(from_json::<Row>(node.bytes()).ok()?.resolve_fences(node.stamps.mzxid)));
        row.unwrap_or_default()
    }

    /// Whether an owner is a member that the session keeps, as it joined then.
    fn is_own(&self, pool: &str, owner: &Owner) -> bool {
        let path = layout::member(pool, &owner.member);
        let node = self.state.tree().get(&path);
        self.keeps(&path) && node.is_some_and(|node| node.stamps.czxid == owner.joined)
    }

    /// Whether the node at `path` is the session's own.
    fn keeps(&self, path: &str) -> bool {
        let keeper = self.state.tree().get(path).and_then(|node| node.owner());
        keeper.is_some() && keeper == self.by.session
    }
}

/// Whether that is the list that allows everybody everything, named or left out.
fn is_open(acl: Option<&[AclEntry]>) -> bool {
    acl.is_none_or(|entries| Acl::new(entries.to_vec()).is_open())
}

fn read_member(data: Option<&[u8]>) -> Result<Member, No> {
    let member: Member = from_json(data.unwrap_or_default()).map_err(|fault| content(&fault))?;
    member.check().map_err(|fault| content(&fault))?;
    Ok(member)
}

fn read_item(data: Option<&[u8]>) -> Result<(), No> {
    let item: Item = from_json(data.unwrap_or_default()).map_err(|fault| content(&fault))?;
    item.check().map_err(|fault| content(&fault))
}
