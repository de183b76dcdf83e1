//! A process that outlives this one for a moment, to kill what its commands have
//! left behind: a worker that was killed cannot do so itself, and work would go on
//! for buckets that are others' by then.
//!
//! It is a shell that is told the process groups through a pipe. When this
//! process is gone, however it went, the pipe ends.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;

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

/// The process groups that are to be killed, and whom that is told.
static REAPER: Mutex<Reaper> = Mutex::new(Reaper { groups: BTreeSet::new(), pipe: None });

struct Reaper {
    groups: BTreeSet<u32>,
    /// `None` before the first group, and when the shell is gone.
    pipe: Option<ChildStdin>,
}

/// Has a process group killed when this process is gone.
pub(super) fn watch(group: u32) {
    change(|reaper| {
        reaper.groups.insert(group);
        reaper.tell("watch", group)
    });
}

/// The group has ended: its number may soon be somebody else's.
pub(super) fn forget(group: u32) {
    change(|reaper| {
        reaper.groups.remove(&group);
        reaper.tell("forget", group)
    });
}

fn change(change: impl FnOnce(&mut Reaper) -> io::Result<()>) {
    let mut reaper = REAPER.lock().expect("no code panics while it holds this");
    // If the shell is gone, another is told everything.
    if let Err(error) = change(&mut reaper).or_else(|_| reaper.start_anew()) {
        tracing::warn!(%error, "what a command has started may outlive this worker if it is killed");
    }
}

impl Reaper {
    /// A line of less than a page is written at once or not at all.
    fn tell(&mut self, what: &str, group: u32) -> io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(format!("{what} {group}\n").as_bytes())
    }

    fn start_anew(&mut self) -> io::Result<()> {
        let mut command = Command::new("sh");
        // A group of its own, so that it does not end with ours.
        command.args(["-c", SCRIPT]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.pipe = command.spawn()?.stdin;
        self.groups.clone().into_iter().try_for_each(|group| self.tell("watch", group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that no process group can have (proc(5), `pid_max`).
    const NOBODY: [u32; 3] = [4_194_305, 4_194_306, 4_194_307];

    #[test]
    fn a_reaper_that_was_killed_is_replaced() {
        let mut reaper = Reaper { groups: [NOBODY[0]].into(), pipe: None };
        assert!(reaper.tell("watch", NOBODY[0]).is_err(), "there is none yet");
        reaper.start_anew().unwrap();
        reaper.tell("forget", NOBODY[0]).unwrap();
        // As if the shell were gone: nobody reads any more.
        let mut gone = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
        reaper.pipe = gone.stdin.take();
        gone.wait().unwrap();
        assert!(reaper.tell("watch", NOBODY[1]).is_err());
        reaper.groups = BTreeSet::new();
        reaper.start_anew().unwrap();
        reaper.tell("watch", NOBODY[2]).unwrap();
        reaper.tell("forget", NOBODY[2]).unwrap();
    }
}
