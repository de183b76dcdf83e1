//! Golden scripts for the state machine, in `kernel/`. How they are written and
//! rewritten: `golden/mod.rs`; the commands: [`Kernel::run`].
//!
//! After every command the state is checked by [`rota_core::state::check`], and
//! the Stat of a lone operation's reply must be the one that the tree holds.

#[macro_use]
mod golden;
mod kernel_text;

use bytes::Bytes;
use golden::Command as Line;
use kernel_text as text;
use rota_core::batch::{self, Batch, Header, Origin};
use rota_core::state::{Command, CreateMode, Op, OpReply, Password, Reply, SessionId, State, Submitted};
use rota_core::state::{check::check, snapshot};

scenarios! { "kernel", run:
    bad_paths
    bad_version
    check_changes_nothing
    check_fence_after_recreation
    check_fence_moves_with_data_only
    children_in_order_of_their_names
    create_below_missing_parent
    create_makes_a_fresh_stat
    create_twice
    delete_root_refused
    delete_with_children_refused
    deleted_and_created_is_another_node
    ephemeral_cannot_have_children
    ephemeral_may_be_changed_by_others
    ephemeral_needs_a_session
    events_in_order
    first_nodes
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
    set_data_of_missing_node
    snapshot_keeps_what_was_submitted
    snapshot_of_the_first_state
    snapshot_round_trip
    time_never_goes_back
    unit_goes_on_after_a_refusal
    unit_of_a_new_boot_begins_at_one
    unit_repeats_are_skipped
}

fn run(name: &str) {
    let mut kernel = Kernel { state: State::new(), clock_ms: 0 };
    golden::run("kernel", name, |line| {
        let output = kernel.run(line);
        assert_eq!(check(&kernel.state), [""; 0], "after {line:?}");
        output
    });
}

struct Kernel {
    state: State,
    clock_ms: u64,
}

impl Kernel {
    /// Writes: those of [`command`]. What is around them:
    ///
    /// - `clock MS`: the leader's clock from now on
    /// - `unit server=N boot=N seq=N`, its commands indented below it
    /// - `snapshot`: go on with what a snapshot of the state decodes to
    ///
    /// Reads: `stat PATH`, `ls PATH`, `tree PATH`, `sessions`, `time`.
    fn run(&mut self, line: &mut Line) -> String {
        match line.name.as_str() {
            "clock" => {
                self.clock_ms = line.word().parse().expect("milliseconds");
                String::new()
            }
            "unit" => self.unit(line),
            "snapshot" => self.snapshot(),
            "stat" => text::stat(&self.state, &line.word()),
            "ls" => text::children(&self.state, &line.word()),
            "tree" => text::tree(&self.state, &line.word()),
            "sessions" => text::sessions(&self.state),
            "time" => format!("{} ms\n", self.state.time_ms()),
            _ => self.write(&command(line)),
        }
    }

    fn write(&mut self, command: &Command) -> String {
        let zxid = self.state.zxid() + 1;
        let applied = self.state.apply(zxid, self.clock_ms, command);
        if let Ok(Reply::Op(OpReply::Created { path, stat })) = &applied.reply {
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
        let header = Header { time_ms: self.clock_ms, checkpoint: (0, 0) };
        let bytes = batch::encode_batch(header, [batch::encode_unit(origin, &commands)].iter());
        let before = self.state.zxid();
        let units = batch::apply(&mut self.state, Batch::decode(bytes).unwrap()).unwrap();
        match &units[0].applied {
            None => "skipped\n".to_owned(),
            Some(all) => {
                (before + 1..).zip(all).map(|(zxid, applied)| text::applied(zxid, applied)).collect()
            }
        }
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

/// `open SESSION [timeout=MS]` · `close SESSION` · an operation
/// · `multi`, its operations indented below it. Those that may be done in the
/// name of a session take `session=SESSION`.
fn command(line: &mut Line) -> Command {
    let session = line.option("session").map(|name: String| session(&name));
    match line.name.as_str() {
        "open" => {
            let session = self::session(&line.word());
            let password = Password([session.0.to_le_bytes()[0]; 16]);
            Command::OpenSession { session, password, timeout_ms: line.option("timeout").unwrap_or(10_000) }
        }
        "close" => Command::CloseSession { session: self::session(&line.word()) },
        "multi" => Command::Multi { session, ops: line.body.iter_mut().map(op).collect() },
        _ => Command::Write { session, op: op(line) },
    }
}

/// `create PATH [DATA] [ephemeral] [sequential]` · `set PATH DATA [version=N]`
/// · `delete PATH [version=N]` · `check PATH [version=N]`
/// · `check-fence PATH FENCE`
fn op(line: &mut Line) -> Op {
    let mode = match (line.flag("ephemeral"), line.flag("sequential")) {
        (false, false) => CreateMode::Persistent,
        (false, true) => CreateMode::PersistentSequential,
        (true, false) => CreateMode::Ephemeral,
        (true, true) => CreateMode::EphemeralSequential,
    };
    let (path, version) = (line.word(), line.option("version"));
    match line.name.as_str() {
        "create" => Op::Create { path, data: data(line), mode },
        "set" => Op::SetData { path, data: data(line), version },
        "delete" => Op::Delete { path, version },
        "check" => Op::Check { path, version },
        "check-fence" => Op::CheckFence { path, fence: line.word().parse().expect("a zxid") },
        other => panic!("no command {other}"),
    }
}

fn data(line: &mut Line) -> Bytes {
    line.maybe_word().map(Bytes::from).unwrap_or_default()
}

/// Session `s7` has the id 7.
fn session(name: &str) -> SessionId {
    SessionId(name.strip_prefix('s').and_then(|number| number.parse().ok()).expect("s and a number"))
}
