//! What the kernel's scripts print: answers, events, and the state.

use std::fmt::Write as _;

use rota_core::Zxid;
use rota_core::path::is_at_or_below;
use rota_core::state::{AclEntry, Applied, Event, EventKind, OpReply, Refusal, Reply, SessionId, State};

/// The zxid and the answer, then one line for each event.
pub fn applied(zxid: Zxid, applied: &Applied) -> String {
    let mut text = match &applied.reply {
        Ok(Reply::Imported { .. }) => format!("{zxid} imported\n"),
        Ok(Reply::SessionOpened { .. }) => format!("{zxid} session opened\n"),
        Ok(Reply::SessionClosed { .. }) => format!("{zxid} session closed\n"),
        Ok(Reply::SessionResumed { connection, .. }) => {
            format!("{zxid} session resumed, connection {connection}\n")
        }
        Ok(Reply::Announced) => format!("{zxid} announced\n"),
        Ok(Reply::Op(reply)) => format!("{zxid} {}\n", op_reply(reply)),
        Ok(Reply::Multi(replies)) => {
            let replies: Vec<String> = replies.iter().map(op_reply).collect();
            format!("{zxid} all done: [{}]\n", replies.join(", "))
        }
        Err(refusal) => format!("{zxid} refused {}: {refusal}\n", variant(refusal.cause())),
    };
    for event in &applied.events {
        assert_eq!(event.zxid, zxid);
        writeln!(text, "  {}", self::event(event)).unwrap();
    }
    text
}

fn op_reply(reply: &OpReply) -> String {
    match reply {
        OpReply::Created { path, .. } => format!("created {path}"),
        OpReply::Deleted => "deleted".to_owned(),
        OpReply::Set { stat } => format!("set to version {}", stat.version),
        OpReply::Checked { .. } => "checked".to_owned(),
        OpReply::Ensured => "ensured".to_owned(),
    }
}

fn variant(refusal: &Refusal) -> String {
    let text = format!("{refusal:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

fn event(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::Created => "created",
        EventKind::Deleted => "deleted",
        EventKind::DataChanged => "data changed",
        EventKind::ChildrenChanged => "children changed",
    };
    format!("{kind}: {}", event.path)
}

/// The node's Stat, in ZooKeeper's words.
pub fn stat(state: &State, path: &str) -> String {
    let Some(node) = state.tree().get(path) else { return format!("{path}: no node\n") };
    let stat = node.stat();
    format!(
        "{path}: czxid={} mzxid={} pzxid={} ctime={} mtime={} version={} cversion={} aversion={} \
         ephemeralOwner={} dataLength={} numChildren={}\n",
        stat.czxid,
        stat.mzxid,
        stat.pzxid,
        stat.ctime_ms,
        stat.mtime_ms,
        stat.version,
        stat.cversion,
        stat.aversion,
        stat.ephemeral_owner,
        stat.data_length,
        stat.num_children
    )
}

/// The node's access control list.
pub fn acl(state: &State, path: &str) -> String {
    let Some(node) = state.tree().get(path) else { return format!("{path}: no node\n") };
    let letters = |perms: i32| -> String {
        let all = [('c', 4), ('d', 8), ('r', 1), ('w', 2), ('a', 16)];
        all.into_iter().filter(|(_, bit)| perms & bit != 0).map(|(letter, _)| letter).collect()
    };
    let entry = |e: AclEntry| format!("{}:{}:{}", e.who.scheme, e.who.id, letters(e.perms));
    let entries: Vec<String> = node.acl.entries().into_iter().map(entry).collect();
    format!("{path}: [{}]\n", entries.join(", "))
}

/// The nodes that may be reaped.
pub fn reapable(state: &State) -> String {
    let paths: Vec<&str> = state.reapable().map(|path| path.as_str()).collect();
    format!("[{}]\n", paths.join(", "))
}

/// The names of the node's children, in order.
pub fn children(state: &State, path: &str) -> String {
    let mut names: Vec<&str> = state.tree().paths_below(path).map(|child| child.name()).collect();
    names.sort_unstable();
    format!("{path}: [{}]\n", names.join(", "))
}

/// The nodes at and below `top`, with their data and owners.
pub fn tree(state: &State, top: &str) -> String {
    let mut paths: Vec<&str> = state.tree().iter().map(|(path, _)| path.as_str()).collect();
    paths.retain(|path| is_at_or_below(path, top));
    paths.sort_unstable();
    if paths.is_empty() {
        return format!("{top}: no node\n");
    }
    let line = |path: &str| {
        let node = state.tree().get(path).expect("it was listed");
        let owner = node.owner().map(|SessionId(id)| format!(" of s{id}")).unwrap_or_default();
        format!("{path} {:?}{owner}\n", String::from_utf8_lossy(node.bytes()))
    };
    paths.into_iter().map(line).collect()
}

/// The living sessions and what dies with them.
pub fn sessions(state: &State) -> String {
    let mut text = String::new();
    for (id, session) in state.sessions() {
        let ephemerals: Vec<&str> = session.ephemerals.iter().map(|path| path.as_str()).collect();
        let (timeout, opened) = (session.timeout_ms, session.opened);
        writeln!(text, "s{} timeout={timeout} opened={opened} [{}]", id.0, ephemerals.join(", ")).unwrap();
    }
    if text.is_empty() { "no sessions\n".to_owned() } else { text }
}
