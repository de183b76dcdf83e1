//! Four-letter words: questions of operators and their tools, asked as the first
//! four bytes of a connection, answered with text. Only those on a list are
//! answered. Formats: ZooKeeper's `server/command/*.java`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::fs::Metadata;
use std::path::Path;
use std::sync::atomic::Ordering;

use rota_core::state::NodeKind;
use rota_core::watches::WatchKind;

use super::connection::Connection;
use super::{Zk, configuration};
use crate::connections;
use crate::raft::Leadership;
use crate::timings::Timing;

/// What this server says it is, to tools that ask: the version of ZooKeeper whose
/// protocol it speaks, then its own.
pub(super) const VERSION: &str =
    concat!("3.9.5-rota-", env!("CARGO_PKG_VERSION"), ", built on ", env!("ROTA_BUILT_ON"), " UTC");
/// The answer of a server that serves no clients (`AbstractFourLetterCommand.java`).
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";
/// All words that are known.
pub(crate) const ALL: [&str; 15] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "isro", "mntr", "ruok", "srst", "srvr", "stat", "wchc",
    "wchp", "wchs",
];

/// The word that a connection begins with, if it does. As a length, its bytes would
/// be far beyond any packet.
pub(super) fn word(first: &[u8]) -> Option<String> {
    let four = first.get(..4)?;
    let is_word = four.iter().all(u8::is_ascii_lowercase);
    is_word.then(|| String::from_utf8_lossy(four).into_owned())
}

/// The answer to a word.
pub(super) async fn answer(zk: &Zk, word: &str) -> String {
    if !ALL.contains(&word) {
        return String::new();
    }
    if !zk.service.config.zookeeper.words.contains(word) {
        return format!("{word} is not executed because it is not in the whitelist.\n");
    }
    let mut text = String::new();
    let told = match word {
        "ruok" => text.write_str("imok"),
        "envi" => envi(&mut text),
        "isro" if !zk.is_serving() => text.write_str("null"),
        _ if !zk.is_serving() => text.write_str(NOT_SERVING),
        "isro" => text.write_str(if zk.is_read_only() { "ro" } else { "rw" }),
        "crst" => {
            zk.registry.connections().iter().for_each(|connection| connection.reset_counts());
            text.write_str("Connection stats reset.\n")
        }
        "srst" => {
            zk.registry.totals().reset();
            zk.registry.counters().reset();
            zk.service.replica.timings().reset();
            text.write_str("Server stats reset.\n")
        }
        "conf" => conf(zk, &mut text),
        "cons" => cons(zk, &mut text),
        "dirs" => dirs(zk, &mut text),
        "dump" => dump(zk, &mut text),
        "mntr" => mntr(zk, &mut text).await,
        "srvr" => srvr(zk, &mut text).await,
        "stat" => stat(zk, &mut text).await,
        "wchc" => wchc(zk, &mut text),
        "wchp" => wchp(zk, &mut text),
        _ => wchs(zk, &mut text),
    };
    // Writing into a string does not fail.
    let _ = told;
    text
}

fn conf(zk: &Zk, to: &mut String) -> fmt::Result {
    let config = &zk.service.config;
    let port = |address: Option<&str>| {
        address.and_then(|address| address.rsplit_once(':')).map_or("-1", |(_, port)| port).to_owned()
    };
    writeln!(to, "clientPort={}", port(config.zookeeper_address.as_deref()))?;
    writeln!(to, "secureClientPort={}", port(config.zookeeper_tls_address.as_deref()))?;
    let (snapshots, log) = (zk.service.directory.join("snapshots"), zk.service.directory.join("log"));
    writeln!(to, "dataDir={}", snapshots.display())?;
    writeln!(to, "dataDirSize={}", bytes_in(&snapshots))?;
    writeln!(to, "dataLogDir={}", log.display())?;
    writeln!(to, "dataLogSize={}", bytes_in(&log))?;
    writeln!(to, "tickTime={}", config.timing.heartbeat_ms)?;
    writeln!(to, "maxClientCnxns={}", config.zookeeper.connections_per_address_max)?;
    writeln!(to, "minSessionTimeout={}", config.limits.session_min_ms)?;
    writeln!(to, "maxSessionTimeout={}", config.limits.session_max_ms)?;
    writeln!(to, "clientPortListenBacklog=-1")?;
    writeln!(to, "serverId={}", config.server)?;
    let is_learner = !zk.service.group.voters().contains(&config.server);
    writeln!(to, "peerType={}", u8::from(is_learner))?;
    let applied = zk.service.replica.read();
    writeln!(to, "membership: ")?;
    write!(to, "{}", configuration::text(&applied.state))
}

/// Bytes of the files in a directory.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(directory) else { return 0 };
    let metadata = files.flatten().filter_map(|file| file.metadata().ok());
    metadata.filter(Metadata::is_file).map(|metadata| metadata.len()).sum()
}

fn dirs(zk: &Zk, to: &mut String) -> fmt::Result {
    writeln!(to, "datadir_size: {}", bytes_in(&zk.service.directory.join("snapshots")))?;
    writeln!(to, "logdir_size: {}", bytes_in(&zk.service.directory.join("log")))
}

/// Milliseconds as ZooKeeper writes a mean: four digits after the point at most.
fn mean(ms: f64) -> f64 {
    (ms * 1e4).round() / 1e4
}

fn envi(to: &mut String) -> fmt::Result {
    writeln!(to, "Environment:")?;
    writeln!(to, "zookeeper.version={VERSION}")?;
    let host = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    writeln!(to, "host.name={}", host.as_deref().map_or("<NA>", str::trim))?;
    writeln!(to, "os.name={}", std::env::consts::OS)?;
    writeln!(to, "os.arch={}", std::env::consts::ARCH)
}

/// `leader`, `follower`, `observer`, `read-only`, as ZooKeeper calls them.
async fn mode(zk: &Zk) -> &'static str {
    let service = &zk.service;
    if zk.is_read_only() {
        return "read-only";
    }
    match service.group.current_leadership() {
        Leadership::Own { .. } if service.group.voters().len() == 1 => "standalone",
        Leadership::Own { .. } => "leader",
        _ if service.group.voters().contains(&service.config.server) => "follower",
        _ => "observer",
    }
}

async fn srvr(zk: &Zk, to: &mut String) -> fmt::Result {
    heading(zk, to)?;
    summary(zk, to).await
}

fn heading(zk: &Zk, to: &mut String) -> fmt::Result {
    writeln!(to, "Zookeeper version: {VERSION}")?;
    if zk.is_read_only() {
        writeln!(to, "READ-ONLY mode; serving only read-only clients")?;
    }
    Ok(())
}

async fn stat(zk: &Zk, to: &mut String) -> fmt::Result {
    heading(zk, to)?;
    writeln!(to, "Clients:")?;
    for connection in zk.registry.connections() {
        writeln!(to, " {})", brief(&connection))?;
    }
    writeln!(to)?;
    summary(zk, to).await
}

async fn summary(zk: &Zk, to: &mut String) -> fmt::Result {
    let mode = mode(zk).await;
    let counts = zk.registry.totals().counts();
    let latency = counts.latency;
    let mean_ms = mean(latency.mean_ms());
    writeln!(to, "Latency min/avg/max: {}/{mean_ms:?}/{}", latency.min_ms(), latency.max_ms())?;
    writeln!(to, "Received: {}", counts.received)?;
    writeln!(to, "Sent: {}", counts.sent)?;
    writeln!(to, "Connections: {}", zk.registry.len())?;
    writeln!(to, "Outstanding: {}", zk.service.write_queue.len())?;
    let applied = zk.service.replica.read();
    writeln!(to, "Zxid: 0x{:x}", applied.state.zxid())?;
    writeln!(to, "Mode: {mode}")?;
    writeln!(to, "Node count: {}", applied.state.tree().len())
}

fn brief(connection: &Connection) -> String {
    let (counts, queued) = connection.counts();
    let interest = u8::from(connection.session().is_some());
    format!(
        "/{}[{interest}](queued={queued},recved={},sent={}",
        connection.address(),
        counts.received,
        counts.sent
    )
}

fn cons(zk: &Zk, to: &mut String) -> fmt::Result {
    for connection in zk.registry.connections() {
        write!(to, " {}", brief(&connection))?;
        if let Some(session) = connection.session() {
            let (counts, _) = connection.counts();
            write!(
                to,
                ",sid=0x{:x},lop={},est={},to={},lcxid=0x{:x},lzxid=0x{:x},lresp={},llat={},minlat={},avglat={:.0},maxlat={}",
                session.0,
                counts.last_op.unwrap_or("NA"),
                connection.opened_at().elapsed().as_millis(),
                connection.timeout().as_millis(),
                counts.last_xid,
                counts.last_zxid,
                counts.answered_at.map_or(0, |at| at.duration_since(connection.opened_at()).as_millis()),
                counts.latency.last_ms(),
                counts.latency.min_ms(),
                counts.latency.mean_ms(),
                counts.latency.max_ms(),
            )?;
        }
        writeln!(to, ")")?;
    }
    writeln!(to)
}

async fn mntr(zk: &Zk, to: &mut String) -> fmt::Result {
    let (service, mode) = (&zk.service, mode(zk).await);
    let counts = zk.registry.totals().counts();
    let watches: usize = zk.registry.watch_counts().iter().map(|summary| summary.watches).sum();
    let (zxid, nodes, bytes, ephemerals, sessions) = {
        let applied = service.replica.read();
        let state = &applied.state;
        let bytes = state.tree().bytes() + state.tree().path_bytes();
        let ephemerals: usize = state.sessions().map(|(_, session)| session.ephemerals.len()).sum();
        (state.zxid(), state.tree().len(), bytes, ephemerals, state.sessions().count())
    };
    let mut line = |name: &str, value: &dyn fmt::Display| writeln!(to, "zk_{name}\t{value}");
    line("version", &VERSION)?;
    line("server_state", &mode)?;
    if let Some(state) = peer_state(mode) {
        line("peer_state", &format_args!("{state} - broadcast"))?;
    }
    line("uptime", &service.started_at.elapsed().as_millis())?;
    line("avg_latency", &format_args!("{:?}", mean(counts.latency.mean_ms())))?;
    line("min_latency", &counts.latency.min_ms())?;
    line("max_latency", &counts.latency.max_ms())?;
    line("packets_received", &counts.received)?;
    line("packets_sent", &counts.sent)?;
    line("num_alive_connections", &zk.registry.len())?;
    line("outstanding_requests", &service.write_queue.len())?;
    line("last_processed_zxid", &zxid)?;
    line("znode_count", &nodes)?;
    line("watch_count", &watches)?;
    line("ephemerals_count", &ephemerals)?;
    line("approximate_data_size", &bytes)?;
    line("global_sessions", &sessions)?;
    line("local_sessions", &0)?;
    line("open_file_descriptor_count", &std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count))?;
    line("max_file_descriptor_count", &connections::descriptors_max())?;
    let counters = zk.registry.counters();
    for (name, count) in [
        ("connection_request_count", &counters.session_requests),
        ("connection_rejected", &counters.rejected),
        ("auth_failed_count", &counters.auth_failed),
        ("large_requests_rejected", &counters.too_large),
        ("bytes_received_count", &counters.bytes_received),
        ("response_bytes", &counters.bytes_sent),
    ] {
        line(name, &count.load(Ordering::Relaxed))?;
    }
    line("quorum_size", &service.group.voters().len())?;
    if mode == "leader" || mode == "standalone" {
        leader_lines(zk, &mut line)?;
    }
    let timings = service.replica.timings();
    line("commit_count", &timings.proposal.latency().count())?;
    line("snap_count", &timings.snapshot.latency().count())?;
    for (name, timing) in [
        ("fsynctime", &timings.fsync),
        ("snapshottime", &timings.snapshot),
        ("election_time", &timings.election),
    ] {
        summary_lines(name, timing, &mut line)?;
    }
    for (name, timing) in [
        ("readlatency", &timings.read),
        ("updatelatency", &timings.write),
        ("proposal_latency", &timings.proposal),
    ] {
        summary_lines(name, timing, &mut line)?;
        let tails = timing.permille_ms([500, 950, 990, 999]);
        for (tail, ms) in ["p50", "p95", "p99", "p999"].into_iter().zip(tails) {
            line(&format!("{tail}_{name}"), &ms)?;
        }
    }
    Ok(())
}

type Line<'a> = dyn FnMut(&str, &dyn fmt::Display) -> fmt::Result + 'a;

/// `leading`, `following`, `observing`; nothing of a server alone, as in ZooKeeper.
fn peer_state(mode: &str) -> Option<&'static str> {
    match mode {
        "leader" => Some("leading"),
        "follower" => Some("following"),
        "observer" => Some("observing"),
        _ => None,
    }
}

/// What only a leader says.
fn leader_lines(zk: &Zk, line: &mut Line<'_>) -> fmt::Result {
    let group = &zk.service.group;
    let voters = group.voters();
    let up = group.peers_up().into_iter().filter(|(_, is_up)| *is_up).map(|(id, _)| id);
    let learners: Vec<u64> = up.collect();
    let synced = learners.iter().filter(|id| group.has_caught_up(**id));
    let (followers, observers): (Vec<u64>, Vec<u64>) = synced.partition(|id| voters.contains(id));
    line("learners", &learners.len())?;
    line("synced_followers", &followers.len())?;
    line("synced_observers", &observers.len())?;
    line("synced_non_voting_followers", &0)?;
    line("pending_syncs", &zk.syncs.len())?;
    let leads_for = zk.service.replica.timings().leads_for().unwrap_or_default();
    line("leader_uptime", &leads_for.as_millis())
}

fn summary_lines(name: &str, timing: &Timing, line: &mut Line<'_>) -> fmt::Result {
    let latency = timing.latency();
    line(&format!("avg_{name}"), &format_args!("{:?}", mean(latency.mean_ms())))?;
    line(&format!("min_{name}"), &latency.min_ms())?;
    line(&format!("max_{name}"), &latency.max_ms())?;
    line(&format!("cnt_{name}"), &latency.count())?;
    line(&format!("sum_{name}"), &latency.sum_ms())
}

fn dump(zk: &Zk, to: &mut String) -> fmt::Result {
    writeln!(to, "SessionTracker dump:")?;
    let applied = zk.service.replica.read();
    // As `LearnerSessionTracker.java`.
    writeln!(to, "Global Sessions({}):", applied.state.sessions().count())?;
    for (id, session) in applied.state.sessions() {
        writeln!(to, "0x{:x}\t{}ms", id.0, session.timeout_ms)?;
    }
    writeln!(to, "ephemeral nodes dump:")?;
    let owners = applied.state.sessions().filter(|(_, session)| !session.ephemerals.is_empty());
    let owners: Vec<_> = owners.collect();
    writeln!(to, "Sessions with Ephemerals ({}):", owners.len())?;
    for (id, session) in owners {
        writeln!(to, "0x{:x}:", id.0)?;
        session.ephemerals.iter().try_for_each(|path| writeln!(to, "\t{path}"))?;
    }
    writeln!(to, "Connections dump:")?;
    for connection in zk.registry.connections() {
        let session = connection.session().map_or(0, |session| session.0);
        writeln!(to, "\tip: /{} sessionId: 0x{session:x}", connection.address())?;
    }
    let reapable = |is: fn(NodeKind) -> bool| {
        let tree = applied.state.tree();
        let paths =
            applied.state.reapable().filter(|path| tree.get(path.as_str()).is_some_and(|n| is(n.kind)));
        paths.map(ToString::to_string).collect::<Vec<_>>()
    };
    for (name, paths) in [
        ("containers", reapable(|kind| kind == NodeKind::Container)),
        ("ttl nodes", reapable(|kind| matches!(kind, NodeKind::Ttl(_)))),
    ] {
        writeln!(to, "{name} ({}):", paths.len())?;
        paths.iter().try_for_each(|path| writeln!(to, "\t{path}"))?;
    }
    Ok(())
}

fn wchs(zk: &Zk, to: &mut String) -> fmt::Result {
    let (watchers, paths, watches) = zk.registry.watches(|watches| {
        let [data, children] = [WatchKind::Data, WatchKind::Children].map(|side| watches.summary(side));
        (data.watchers.max(children.watchers), data.paths + children.paths, data.watches + children.watches)
    });
    writeln!(to, "{watchers} connections watching {paths} paths")?;
    writeln!(to, "Total watches:{watches}")
}

fn wchc(zk: &Zk, to: &mut String) -> fmt::Result {
    let mut by_session: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for connection in zk.registry.connections() {
        let Some(session) = connection.session() else { continue };
        let paths = zk.registry.watches(|watches| watches.paths_of(connection.watcher()));
        if !paths.is_empty() {
            by_session.insert(session.0, paths);
        }
    }
    for (session, paths) in by_session {
        writeln!(to, "0x{session:x}")?;
        paths.iter().try_for_each(|path| writeln!(to, "\t{path}"))?;
    }
    writeln!(to)
}

fn wchp(zk: &Zk, to: &mut String) -> fmt::Result {
    let mut by_path: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for connection in zk.registry.connections() {
        let Some(session) = connection.session() else { continue };
        for path in zk.registry.watches(|watches| watches.paths_of(connection.watcher())) {
            by_path.entry(path).or_default().push(session.0);
        }
    }
    for (path, sessions) in by_path {
        writeln!(to, "{path}")?;
        sessions.iter().try_for_each(|session| writeln!(to, "\t0x{session:x}"))?;
    }
    writeln!(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_no_lengths() {
        assert_eq!(word(b"ruok").as_deref(), Some("ruok"));
        assert_eq!(word(&[0, 0, 0, 44]), None);
        assert_eq!(word(b"ruo"), None);
    }
}
