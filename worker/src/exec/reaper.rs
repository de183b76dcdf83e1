//! A process that outlives this one for a moment, to kill what its commands have
//! left behind: a worker that was killed cannot do so itself, and work would go on
//! for buckets that are others' by then.
//!
//! It is a shell that is told the process groups through a pipe. When this
//! process is gone, however it went, the pipe ends.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// What the shell does: it keeps a list, and at the end of its input kills all on
/// it.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=' '
while read -r what id; do
    case $what in
        watch) groups="$groups$id " ;;
        forget) case $groups in *" $id "*) groups="${groups%% $id *} ${groups#* $id }" ;; esac ;;
    esac
done
for id in $groups; do kill -s KILL -- "-$id" 2>/dev/null; done
"#;

/// Has a process group killed when this process is gone.
pub(super) fn watch(group: u32) {
    tell("watch", group);
}

/// The group has ended: its number may soon be somebody else's.
pub(super) fn forget(group: u32) {
    tell("forget", group);
}

fn tell(what: &str, group: u32) {
    static REAPER: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    let mut reaper = REAPER.get_or_init(|| Mutex::new(start())).lock().expect("no code panics with it");
    // A line of less than a page is written at once or not at all.
    let told = reaper.as_mut().map(|pipe| pipe.write_all(format!("{what} {group}\n").as_bytes()));
    if let Some(Err(error)) = told {
        tracing::warn!(%error, "what a command has started may outlive this worker if it is killed");
        *reaper = None;
    }
}

fn start() -> Option<ChildStdin> {
    let mut command = Command::new("sh");
    // A group of its own, so that it does not end with ours.
    command.args(["-c", SCRIPT]).process_group(0);
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    match spawned {
        Ok(child) => child.stdin,
        Err(error) => {
            tracing::warn!(%error, "what a command has started may outlive this worker if it is killed");
            None
        }
    }
}
