//! Files that were rotated away before a look saw them at their path. Real files, without network
//! and timers.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use super::super::rooted_fs::Links;
use super::super::scan::{Scan, Scope};
use super::super::source::RETIRE_MS;
use super::super::test_bench::{Bench, tick};
use crate::clock::Now;
use crate::wire::GapReason::Gone;

/// Rotates `x.log` twice. The second file contains the line 2.
fn rotate_twice(b: &Bench) {
    b.rename("x.log", "x.log.2");
    b.append("x.log", "2\n");
    b.rename("x.log", "x.log.1");
}

/// Starts a look, which has read the names in the directory some time after its last change.
fn start_scan(b: &Bench) -> Scan {
    let (follower, shared) = b.agent.as_ref().unwrap();
    tick(b.dir.path(), Duration::from_millis(50));
    let mut survey = Scan::of(&Scope::All, &follower.patterns, &shared.beneath, &BTreeSet::new());
    survey.names_in(&b.logs());
    survey
}

#[test]
fn a_file_that_is_rotated_during_a_look_is_not_missed() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    b.rename("x.log", "x.log.2");
    b.look();
    b.append("x.log", "2\n");
    let mut survey = start_scan(&b);
    b.rename("x.log", "x.log.1");
    b.append("x.log", "3\n");
    let (follower, _) = b.agent.as_ref().unwrap();
    follower.adopt(&b.path("x.log"), &mut survey, Now::read()).unwrap();
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n3\n");
}

/// The look comes between two rotations: the path leads nowhere.
#[test]
fn a_file_that_was_rotated_unseen_is_no_source_of_its_own() {
    for glob in ["x.log*", "x*log"] {
        let mut b = Bench::new(glob);
        let old = |n: u32| if glob == "x.log*" { format!("x.log.{n}") } else { format!("x-{n}.log") };
        b.append("x.log", "1\n");
        b.look();
        b.rename("x.log", &old(2));
        b.append("x.log", "2\n");
        b.rename("x.log", &old(1));
        b.look();
        assert_eq!(b.files(), ["x.log"]);
        b.append("x.log", "3\n");
        b.look();
        assert_eq!((b.read("x.log"), b.files()), ("1\n2\n3\n".into(), vec!["x.log".into()]), "{glob}");
    }
}

/// The directory was read while files were rotated: the path led to the first file when it was read,
/// and the second one had its rotated name by then.
#[test]
fn a_file_that_was_rotated_while_the_directory_was_read_is_no_source_of_its_own() {
    let mut b = Bench::new("x.log*");
    b.append("x.log", "1\n");
    b.look();
    rotate_twice(&b);
    b.append("x.log", "3\n");
    let mut survey = start_scan(&b);
    let (follower, _) = b.agent.as_ref().unwrap();
    follower.adopt(&b.path("x.log.1"), &mut survey, Now::read()).unwrap();
    b.look();
    assert_eq!((b.read("x.log"), b.files()), ("1\n2\n3\n".into(), vec!["x.log".into()]));
}

/// The last line of the first file is read after the second file was rotated away.
#[test]
fn reading_a_rotated_file_does_not_hide_the_next_one() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    rotate_twice(&b);
    tick(b.dir.path(), Duration::from_millis(50));
    b.append("x.log.2", "late\n");
    assert_eq!(b.read("x.log"), "late\n");
    b.append("x.log", "3\n");
    b.look();
    assert_eq!(b.read("x.log"), "2\n3\n");
}

/// Births within `BIRTH_SLACK_NS` of the last look do not show that a file was seen; the birth of the
/// last incarnation does.
#[test]
fn a_rotated_file_that_was_read_and_forgotten_is_not_read_again() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    rotate_twice(&b);
    tick(b.dir.path(), Duration::ZERO);
    b.append("x.log", "3\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n3\n");
    {
        let mut table = b.agent.as_ref().unwrap().1.table();
        let path = b.path("x.log");
        let second = table.get(&path).unwrap().incarnations[1].number;
        table.drop_source(&(path, second));
    }
    b.rename("x.log", "x.log.0");
    b.append("x.log", "4\n");
    b.look();
    assert_eq!(b.read("x.log"), "4\n");
}

#[test]
fn a_new_file_beside_one_that_stays_is_a_source_of_its_own() {
    let mut b = Bench::new("x*log*");
    b.append("x.log", "1\n");
    b.look();
    b.append("x-2.log", "2\n");
    b.append("x.log.1", "3\n");
    b.look();
    assert_eq!(b.files(), ["x-2.log", "x.log", "x.log.1"]);
}

#[test]
fn a_copy_that_is_made_during_a_look_is_found() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    let mut survey = start_scan(&b);
    fs::copy(b.path("x.log"), b.path("x.log.1")).unwrap();
    fs::write(b.path("x.log"), "").unwrap();
    let (follower, shared) = b.agent.as_ref().unwrap();
    let path = b.path("x.log");
    let (number, known) =
        shared.table().get(&path).and_then(|s| s.live().map(|i| (i.number, i.trace))).unwrap();
    let found = follower.find_copy(&(path, number), &known, &mut survey).unwrap().map(|found| found.at);
    assert_eq!(found, Some(b.path("x.log.1")));
}

/// The file is opened at its path, and renamed before the names are read; then the next one comes.
#[test]
fn a_file_that_is_renamed_while_it_is_adopted_is_read_once() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    b.rename("x.log", "x.log.2");
    b.append("x.log", "2\n");
    // A second name stands for the moment between opening and renaming.
    fs::hard_link(b.path("x.log"), b.path("x.log.1")).unwrap();
    b.look();
    b.append("x.log", "3\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n3\n");
    b.append("x.log", "4\n");
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("4\n".into(), vec![]));
}

/// While the agent was away, `x.log` was rotated and made anew, and then `x-2.log` was made.
#[test]
fn a_file_made_after_the_current_one_is_a_source_of_its_own() {
    let mut b = Bench::new("x*.log");
    b.append("x.log", "1\n");
    b.look();
    b.stop();
    b.rename("x.log", "x-1.log");
    b.append("x.log", "2\n");
    tick(b.dir.path(), Duration::ZERO);
    b.append("x-2.log", "other\n");
    b.start();
    assert_eq!(b.files(), ["x-2.log", "x.log"]);
    assert_eq!((b.read("x.log"), b.read("x-2.log")), ("1\n2\n".into(), "other\n".into()));
}

/// `worker.log` is gone for good: files that are made long after it are no rotations of it, and the
/// next file of a source at its own path never is.
#[test]
fn a_source_whose_file_is_gone_takes_no_files_of_others() {
    let mut b = Bench::new("worker*.log");
    b.append("worker.log", "1\n");
    b.append("worker_9.log", "9\n");
    b.look();
    fs::remove_file(b.path("worker.log")).unwrap();
    b.look();
    b.rename("worker_9.log", "worker_9.log.old");
    b.append("worker_9.log", "99\n");
    b.append("worker_1.log", "2\n");
    b.look();
    assert_eq!((b.read("worker.log"), b.read("worker_9.log")), ("1\n2\n".into(), "9\n99\n".into()));
    {
        let (path, mut table) = (b.path("worker.log"), b.agent.as_ref().unwrap().1.table());
        let gone = table.change(&path).unwrap().gone.as_mut().unwrap();
        gone.unix_ms -= 2 * RETIRE_MS;
    }
    b.append("worker_2.log", "3\n");
    b.look();
    assert_eq!(b.files(), ["worker.log", "worker_2.log", "worker_9.log"]);
    assert_eq!((b.read("worker.log"), b.read("worker_2.log")), (String::new(), "3\n".into()));
}

#[test]
fn two_copies_that_were_made_while_the_agent_was_away_are_read() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    b.stop();
    let truncate = |b: &Bench| {
        fs::copy(b.path("x.log"), b.path("x.log.1")).unwrap();
        fs::write(b.path("x.log"), "").unwrap();
    };
    b.append("x.log", "2\n");
    truncate(&b);
    tick(b.dir.path(), Duration::ZERO);
    b.rename("x.log.1", "x.log.2");
    b.append("x.log", "3\n");
    truncate(&b);
    b.append("x.log", "4\n");
    b.start();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("1\n2\n3\n4\n".into(), vec![]));
}

/// Truncated by its application: other files that were made meanwhile are sources.
#[test]
fn a_truncated_file_takes_no_files_that_are_sources() {
    let mut b = Bench::new("x*.log");
    b.append("x.log", "1\n");
    b.look();
    b.stop();
    fs::write(b.path("x.log"), "").unwrap();
    b.append("x-2.log", "other\n");
    b.start();
    assert_eq!(b.files(), ["x-2.log", "x.log"]);
}

/// A link that is made anew leads elsewhere: the files that it missed are where it led before.
#[test]
fn files_that_were_rotated_before_a_link_was_replaced_are_found() {
    let targets = tempfile::tempdir().unwrap();
    let mut b = Bench::with("*.log", Links::Followed(vec![targets.path().to_owned()]), 100);
    let target = |name: &str| targets.path().join(name);
    for dir in ["v1", "v2"] {
        fs::create_dir(target(dir)).unwrap();
    }
    fs::write(target("v1/x.log"), "1\n").unwrap();
    symlink(target("v1/x.log"), b.path("x.log")).unwrap();
    b.look();
    fs::rename(target("v1/x.log"), target("v1/x.log.2")).unwrap();
    fs::write(target("v1/x.log"), "2\n").unwrap();
    fs::rename(target("v1/x.log"), target("v1/x.log.1")).unwrap();
    tick(b.dir.path(), Duration::ZERO);
    fs::write(target("v2/x.log"), "3\n").unwrap();
    fs::remove_file(b.path("x.log")).unwrap();
    symlink(target("v2/x.log"), b.path("x.log")).unwrap();
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n3\n");
}

/// Runs `run` in this thread without the right to read files of others.
fn without_privileges(run: impl FnOnce()) {
    let nobody = nix::unistd::Uid::from_raw(65_534);
    let own = nix::unistd::setfsuid(nobody);
    run();
    nix::unistd::setfsuid(own);
}

#[test]
fn a_rotated_file_that_may_not_be_read_is_a_gap() {
    let mut b = Bench::new("x.log");
    for dir in [b.dir.path(), &b.logs()] {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    b.append("x.log", "1\n");
    b.look();
    rotate_twice(&b);
    fs::set_permissions(b.path("x.log.1"), Permissions::from_mode(0o000)).unwrap();
    tick(b.dir.path(), Duration::ZERO);
    b.append("x.log", "3\n");
    let mut survey = start_scan(&b);
    let (follower, _) = b.agent.as_mut().unwrap();
    // The first look finds that the path leads elsewhere.
    follower.revisit(&b.dir.path().join("logs/x.log"), &mut survey, Now::read());
    without_privileges(|| {
        follower.adopt(&b.dir.path().join("logs/x.log"), &mut survey, Now::read()).unwrap();
    });
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("1\n3\n".into(), vec![(0, None, Gone)]));
}

/// A directory that changes all the time is not read without end: what is left comes with the next
/// look.
#[test]
fn a_directory_that_changes_is_read_a_limited_number_of_times() {
    let mut b = Bench::new("*.log");
    let names: Vec<String> = (0..200).map(|n| format!("{n}.log")).collect();
    names.iter().for_each(|name| b.append(name, "1\n"));
    b.look();
    names.iter().for_each(|name| b.rename(name, &format!("{name}.1")));
    names.iter().for_each(|name| b.append(name, "2\n"));
    let mut survey = start_scan(&b);
    let (follower, shared) = b.agent.as_ref().unwrap();
    for name in &names {
        follower.revisit(&b.path(name), &mut survey, Now::read());
    }
    let adopted = names.iter().filter(|name| {
        b.append(&format!("{name}.new"), "");
        follower.adopt(&b.path(name), &mut survey, Now::read()).unwrap();
        shared.table().get(&b.path(name)).is_some_and(|source| source.live().is_some())
    });
    let adopted = adopted.count();
    assert!((8..100).contains(&adopted), "{adopted}");
    tick(b.dir.path(), Duration::from_millis(50));
    b.look();
    for name in &names {
        assert_eq!(b.read(name), "1\n2\n", "{name}");
    }
}

/// Both names are rotated forms of `app.log`, one of them of `app-error.log` as well.
#[test]
fn an_unseen_file_belongs_to_the_source_with_the_longest_name() {
    let mut b = Bench::new("*.log");
    let rotate = |b: &Bench, day: &str| {
        for name in ["app", "app-error"] {
            b.append(&format!("{name}.log"), &format!("{name} {day}\n"));
            b.rename(&format!("{name}.log"), &format!("{name}-{day}.log"));
        }
        tick(b.dir.path(), Duration::ZERO);
    };
    b.append("app.log", "");
    b.append("app-error.log", "");
    b.look();
    b.stop();
    rotate(&b, "2026-01-01");
    rotate(&b, "2026-01-02");
    rotate(&b, "2026-01-03");
    b.start();
    let [app, error] = ["app.log", "app-error.log"].map(|name| b.read(name));
    assert_eq!(app, "app 2026-01-01\napp 2026-01-02\napp 2026-01-03\n");
    assert_eq!(error, "app-error 2026-01-01\napp-error 2026-01-02\napp-error 2026-01-03\n");
}

/// The glob was `x.log*` before: the source `x.log.1` is remembered, and gets no more files.
#[test]
fn a_source_that_no_glob_matches_any_more_takes_no_unseen_files() {
    let mut b = Bench::new("x.log*");
    b.append("x.log.1", "0\n");
    b.look();
    b.append("x.log", "1\n");
    b.look();
    b.stop();
    b.glob = "x.log";
    b.rename("x.log.1", "x.log.3");
    rotate_twice(&b);
    tick(b.dir.path(), Duration::ZERO);
    b.append("x.log", "3\n");
    b.start();
    assert_eq!(b.read("x.log"), "1\n2\n3\n");
}

/// A file that cannot be examined stays where it is as far as anybody knows: others beside it do
/// not wait for it.
#[test]
fn a_file_beside_one_that_cannot_be_examined_is_adopted() {
    let mut b = Bench::new("x*.log");
    b.append("x.log", "1\n");
    b.look();
    b.rename("x.log", "y");
    b.append("x.log", "2\n");
    b.append("x-2.log", "other\n");
    let mut survey = start_scan(&b);
    survey.failed.push((b.path("x.log"), std::io::ErrorKind::PermissionDenied.into()));
    let (follower, _) = b.agent.as_ref().unwrap();
    follower.adopt(&b.path("x-2.log"), &mut survey, Now::read()).unwrap();
    let shared = &b.agent.as_ref().unwrap().1;
    assert!(shared.table().get(&b.path("x-2.log")).is_some(), "it is a source");
}

/// Both copies begin with all that was known.
#[test]
fn of_two_copies_that_begin_alike_the_first_is_read_on_in() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "banner\n");
    b.look();
    b.stop();
    let truncate = |b: &Bench, to: &str, banner: &str| {
        fs::copy(b.path("x.log"), b.path(to)).unwrap();
        tick(b.dir.path(), Duration::from_millis(30));
        fs::write(b.path("x.log"), banner).unwrap();
    };
    tick(b.dir.path(), Duration::from_millis(30));
    b.append("x.log", "1\n");
    truncate(&b, "x.log.2", "banner\n");
    b.append("x.log", "2\n");
    truncate(&b, "x.log.1", "");
    b.append("x.log", "3\n");
    b.start();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("banner\n1\nbanner\n2\n3\n".into(), vec![]));
}

/// Any file begins with what an empty one contained: only its copy shows that it was truncated.
#[test]
fn the_copy_of_a_file_that_was_seen_empty_is_read() {
    for lines_after in ["", "3\n", "1\n", "1\n2\n3\n4\n"] {
        let mut b = Bench::new("x.log");
        b.append("x.log", "");
        b.look();
        b.stop();
        b.append("x.log", "1\n2\n");
        tick(b.dir.path(), Duration::from_millis(30));
        fs::copy(b.path("x.log"), b.path("x.log.1")).unwrap();
        let is_backup = lines_after.starts_with("1\n2\n");
        fs::write(b.path("x.log"), lines_after).unwrap();
        b.start();
        b.append("x.log", "5\n");
        b.look();
        let before = if is_backup { "" } else { "1\n2\n" };
        assert_eq!((b.read("x.log"), b.gap_ranges()), (format!("{before}{lines_after}5\n"), vec![]));
    }
}
