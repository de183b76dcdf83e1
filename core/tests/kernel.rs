//! Golden scripts for the state machine, in `kernel/`. How they are written and
//! rewritten: `golden/mod.rs`; the commands: [`Kernel::run`].
//!
//! After every command the state is checked by [`rota_core::state::check`], and
//! the Stat of a lone operation's reply must be the one that the tree holds.

#[macro_use]
mod golden;
mod kernel_text;

use std::iter;

use bytes::Bytes;
use golden::Command as Line;
use kernel_text as text;
use rota_core::batch::{self, Batch, Header, Origin, UnitOutcome};
use rota_core::state::{
    AclEntry, Actor, Command, CreateMode, Identity, Import, ImportedNode, ImportedSession, NodeKind, Op,
    OpReply, Password, Privilege, Reply, SessionId, Stamps, State, Submitted, Timestamp, check::check, perms,
    snapshot,
};

scenarios! { "kernel", run:
    acl_change_counts_and_is_no_event
    acl_decides_who_may_do_what
    acl_of_auth_stands_for_whoever_asks
    acl_survives_a_snapshot
    acl_that_means_nothing_is_refused
    bad_paths
    bad_version
    check_changes_nothing
    check_fence_after_recreation
    check_fence_moves_with_data_only
    children_in_order_of_their_names
    clients_write_only_their_part_of_rota
    config_is_read_only
    container_is_reaped_when_its_last_child_is_gone
    create_below_missing_parent
    create_makes_a_fresh_stat
    create_twice
    data_may_be_none
    delete_root_refused
    delete_with_children_refused
    deleted_and_created_is_another_node
    ensure_makes_what_is_missing
    ephemeral_cannot_have_children
    ephemeral_may_be_changed_by_others
    ephemeral_needs_a_session
    events_in_order
    first_nodes
    import_changes_everything_or_nothing
    import_keeps_to_what_there_can_be
    import_of_a_session_twice_is_refused
    multi_begins_few_quotas
    multi_checks_permission_on_what_it_has_made
    multi_creates_and_deletes_one_node
    multi_names_the_refused_operation
    multi_of_nothing_is_done
    multi_rolls_back_ephemerals
    multi_rolls_back_everything
    multi_sees_its_own_changes
    multi_shares_one_zxid
    own_stat_after_set_data
    parent_stat_after_child_changes
    parent_stat_after_session_close
    quota_counts_what_is_below
    quota_that_is_hard_refuses
    refused_write_has_no_events
    sequential_ephemeral_has_number_and_owner
    sequential_name_may_be_taken
    sequential_name_may_be_the_number_alone
    sequential_names_count_creations
    session_close_removes_its_ephemerals
    session_gone_is_refused
    session_of_nobody_is_enough_for_persistent_nodes
    session_opened_twice
    session_removed_its_ephemerals_before
    session_resumed_elsewhere_outruns_its_old_connection
    set_data_of_missing_node
    snapshot_keeps_what_was_submitted
    snapshot_of_the_first_state
    snapshot_round_trip
    cluster_clock_never_goes_back
    ttl_is_counted_by_the_cluster_clock
    ttl_node_is_reaped_when_its_time_is_over
    unit_goes_on_after_a_refusal
    unit_of_a_new_boot_begins_at_one
    unit_repeats_are_skipped
}

fn run(name: &str) {
    let mut kernel = Kernel { state: State::new(), now: Timestamp::default() };
    golden::run("kernel", name, |line| {
        let output = kernel.run(line);
        assert_eq!(check(&kernel.state), [""; 0], "after {line:?}");
        output
    });
}

struct Kernel {
    state: State,
    now: Timestamp,
}

impl Kernel {
    /// Writes: those of [`command`]. What is around them:
    ///
    /// - `clock MS`: the cluster clock and the leader's wall clock from now on
    /// - `wall MS`: the leader's wall clock alone
    /// - `unit server=N boot=N seq=N`, its commands indented below it
    /// - `snapshot`: go on with what a snapshot of the state decodes to
    ///
    /// Reads: `stat PATH`, `acl PATH`, `reapable`, `ls PATH`, `tree PATH`, `sessions`, `time`.
    fn run(&mut self, line: &mut Line) -> String {
        match line.name.as_str() {
            "clock" => {
                self.now = Timestamp::at(line.word().parse().expect("milliseconds"));
                String::new()
            }
            "wall" => {
                self.now.wall_ms = line.word().parse().expect("milliseconds");
                String::new()
            }
            "unit" => self.unit(line),
            "snapshot" => self.snapshot(),
            "stat" => text::stat(&self.state, &line.word()),
            "acl" => text::acl(&self.state, &line.word()),
            "reapable" => text::reapable(&self.state),
            "ls" => text::children(&self.state, &line.word()),
            "tree" => text::tree(&self.state, &line.word()),
            "sessions" => text::sessions(&self.state),
            "time" => {
                let Timestamp { wall_ms, cluster_ms } = self.state.last_timestamp();
                format!("wall {wall_ms} ms, clock {cluster_ms} ms\n")
            }
            _ => self.write(&command(line)),
        }
    }

    fn write(&mut self, command: &Command) -> String {
        let zxid = self.state.zxid() + 1;
        let applied = self.state.apply(zxid, self.now, command.clone());
        // What a quota holds is counted after that, without a trace in any answer.
        if let Ok(Reply::Op(OpReply::Created { path, stat })) = &applied.reply
            && !path.ends_with("zookeeper_stats")
        {
            assert_eq!(self.state.tree().get(path).map(|node| node.stat()), Some(*stat));
        }
        if let (Command::Write { op: Op::SetData { path, .. }, .. }, Ok(Reply::Op(OpReply::Set { stat }))) =
            (command, &applied.reply)
        {
            assert_eq!(self.state.tree().get(path).map(|node| node.stat()), Some(*stat));
        }
        text::applied(zxid, &applied)
    }

    fn unit(&mut self, line: &mut Line) -> String {
        let mut number = |key| line.option(key).expect(key);
        let unit = Submitted { boot: number("boot"), seq: number("seq") };
        let origin = Origin { server: number("server"), unit };
        let commands: Vec<Command> = line.body.iter_mut().map(command).collect();
        let header = Header { timestamp: self.now, checkpoint: (0, 0) };
        let bytes = batch::encode_batch(header, [batch::encode_unit(origin, &commands)].iter());
        let before = self.state.zxid();
        let mut output = String::new();
        batch::apply(&mut self.state, Batch::decode(bytes).unwrap(), |state, _, fate| match fate {
            UnitOutcome::Skipped => output += "skipped\n",
            UnitOutcome::Undecodable => panic!("it was encoded here"),
            UnitOutcome::Applied(index, applied) => {
                assert_eq!(state.zxid(), before + 1 + index as u64);
                output += &text::applied(state.zxid(), &applied);
            }
        });
        output
    }

    fn snapshot(&mut self) -> String {
        let mut decoder = snapshot::Decoder::new();
        for block in snapshot::encode(&self.state) {
            decoder.push(&block).unwrap();
        }
        let decoded = decoder.finish().unwrap();
        assert_eq!(decoded, self.state);
        assert_eq!(decoded.digest(), self.state.digest());
        self.state = decoded;
        format!("nodes={} sessions={}\n", self.state.tree().len(), self.state.sessions().count())
    }
}

/// `open SESSION [timeout=MS]` · `close SESSION`
/// · `resume SESSION [timeout=MS] [password=N]` · `expire SESSION [connection=N]`
/// · an operation · `multi`, its operations indented below it. The last two take
/// `session=SESSION`, `connection=N`, and `as=WHO` for a client who is `anyone`, or
/// all of `SCHEME:ID,...` besides; without it they are Rota's own.
/// · `import begin` · `import session SESSION [timeout=MS]`
/// · `import node PATH [DATA] [owner=SESSION] [zxid=ZXID] [ctime=MS]` · `import end ZXID`
/// · `import nodes PATH...` · `import abandon`
fn command(line: &mut Line) -> Command {
    match line.name.as_str() {
        "open" => {
            let session = session(&line.word());
            let password = Password([session.0.to_le_bytes()[0]; 16]);
            Command::OpenSession { session, password, timeout_ms: line.option("timeout").unwrap_or(10_000) }
        }
        "close" => Command::CloseSession { session: session(&line.word()) },
        "resume" => {
            let session = session(&line.word());
            let password = line.option("password").unwrap_or(session.0.to_le_bytes()[0]);
            let timeout_ms = line.option("timeout").unwrap_or(10_000);
            Command::ResumeSession { session, password: Password([password; 16]), timeout_ms }
        }
        "expire" => {
            let session = session(&line.word());
            Command::ExpireSession { session, connection: line.option("connection").unwrap_or(0) }
        }
        "import" => Command::Import(import(line)),
        "multi" => Command::Multi { by: actor(line), ops: line.body.iter_mut().map(op).collect() },
        _ => Command::Write { by: actor(line), op: op(line) },
    }
}

fn import(line: &mut Line) -> Import {
    match line.word().as_str() {
        "begin" => Import::Begin,
        "abandon" => Import::Abandon,
        "end" => Import::End { zxid: line.word().parse().expect("a zxid") },
        "session" => {
            let timeout_ms = line.option("timeout").unwrap_or(10_000);
            let session = session(&line.word());
            let sessions = vec![ImportedSession { session, password: Password([0; 16]), timeout_ms }];
            Import::More { sessions, nodes: Vec::new() }
        }
        "nodes" => {
            let stamps = Stamps::new(1, 0);
            let node =
                |path| ImportedNode { path, data: None, kind: NodeKind::Persistent, acl: None, stamps };
            Import::More {
                sessions: Vec::new(),
                nodes: iter::from_fn(|| line.maybe_word()).map(node).collect(),
            }
        }
        "node" => {
            let owner = line.option("owner").map(|name: String| session(&name));
            let stamps = Stamps::new(line.option("zxid").unwrap_or(1), line.option("ctime").unwrap_or(0));
            let kind = owner.map_or(NodeKind::Persistent, NodeKind::Ephemeral);
            let (path, data) = (line.word(), Some(data(line)));
            let nodes = vec![ImportedNode { path, data, kind, acl: None, stamps }];
            Import::More { sessions: Vec::new(), nodes }
        }
        other => panic!("no import {other}"),
    }
}

/// `create PATH [DATA] [ephemeral] [sequential] [container] [ttl=MS] [acl=ACL]`
/// · `set PATH DATA [version=N]` · `delete PATH [version=N]`
/// · `check PATH [version=N]` · `check-fence PATH FENCE`
/// · `set-acl PATH ACL [version=N]` · `ensure PATH [acl=ACL]` · `reap PATH`
///
/// An ACL is `SCHEME:ID:PERMS,...`, with PERMS of the letters `cdrwa`. No DATA is
/// empty data; `none` is none.
fn op(line: &mut Line) -> Op {
    let mode = match (line.flag("ephemeral"), line.flag("sequential"), line.option("ttl")) {
        _ if line.flag("container") => CreateMode::Container,
        (false, false, None) => CreateMode::Persistent,
        (false, true, None) => CreateMode::PersistentSequential,
        (true, false, _) => CreateMode::Ephemeral,
        (true, true, _) => CreateMode::EphemeralSequential,
        (false, false, Some(ttl_ms)) => CreateMode::PersistentWithTtl { ttl_ms },
        (false, true, Some(ttl_ms)) => CreateMode::PersistentSequentialWithTtl { ttl_ms },
    };
    let acl = line.option("acl").map(|text: String| acl(&text));
    let none = line.flag("none");
    let (path, version) = (line.word(), line.option("version"));
    match line.name.as_str() {
        "create" => Op::Create { path, data: (!none).then(|| data(line)), mode, acl },
        "set" => Op::SetData { path, data: (!none).then(|| data(line)), version },
        "set-acl" => Op::SetAcl { path, acl: self::acl(&line.word()), version },
        "ensure" => Op::Ensure { path, acl },
        "reap" => Op::Reap { path },
        "delete" => Op::Delete { path, version },
        "check" => Op::Check { path, version },
        "check-fence" => Op::CheckFence { path, fence: line.word().parse().expect("a zxid") },
        other => panic!("no command {other}"),
    }
}

fn actor(line: &mut Line) -> Actor {
    let session = line.option("session").map(|name: String| session(&name));
    let standing = match line.option::<String>("as").as_deref() {
        None => Privilege::Rota,
        Some("anyone") => Privilege::Client(Vec::new()),
        Some(who) => Privilege::Client(who.split(',').map(identity).collect()),
    };
    Actor { session, connection: line.option("connection"), privilege: standing }
}

fn identity(text: &str) -> Identity {
    let (scheme, id) = text.split_once(':').expect("a scheme and an id");
    Identity::new(scheme, id)
}

fn acl(text: &str) -> Vec<AclEntry> {
    let entry = |text: &str| {
        let (who, letters) = text.rsplit_once(':').expect("who and what");
        let perm = |letter| match letter {
            'c' => perms::CREATE,
            'd' => perms::DELETE,
            'r' => perms::READ,
            'w' => perms::WRITE,
            'a' => perms::ADMIN,
            _ => panic!("no permission {letter}"),
        };
        AclEntry { perms: letters.chars().map(perm).sum(), who: identity(who) }
    };
    text.split(',').filter(|entry| !entry.is_empty()).map(entry).collect()
}

fn data(line: &mut Line) -> Bytes {
    line.maybe_word().map(Bytes::from).unwrap_or_default()
}

/// Session `s7` has the id 7.
fn session(name: &str) -> SessionId {
    SessionId(name.strip_prefix('s').and_then(|number| number.parse().ok()).expect("s and a number"))
}
