//! What may be lost, and what must not be without a word. Real files, without
//! network and timers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::classify::BIRTH_SLACK_NS;
use super::open_files::OpenFiles;
use super::rooted_fs::Links;
use super::test_bench::{Bench, tick};
use crate::wire::GapReason::{Gone, Truncated};

fn listed(b: &Bench) -> Vec<(String, String)> {
    let shared = &b.agent.as_ref().unwrap().1;
    let table = shared.table();
    table.unreadable.listed.iter().map(|body| (body.path.clone(), body.error.clone())).collect()
}

/// Kubernetes: what the glob matches are links to files that are rotated where
/// they are. `open_files_max` is so small that none of them is still open.
#[test]
fn a_rotated_file_is_searched_for_where_a_link_led() {
    let pods = tempfile::tempdir().unwrap();
    let mut b = Bench::with("*.log", Links::Followed(vec![pods.path().to_owned()]), 1);
    let pod = |n: usize| pods.path().join(n.to_string());
    for n in 0..5 {
        fs::create_dir(pod(n)).unwrap();
        fs::write(pod(n).join("0.log"), "1\n").unwrap();
        symlink(pod(n).join("0.log"), b.path(&format!("{n}.log"))).unwrap();
    }
    b.look();
    for n in 0..5 {
        assert_eq!(b.read(&format!("{n}.log")), "1\n");
        fs::write(pod(n).join("0.log"), "1\n2\n").unwrap();
        fs::rename(pod(n).join("0.log"), pod(n).join("0.log.20261231")).unwrap();
        fs::write(pod(n).join("0.log"), "3\n").unwrap();
    }
    b.look();
    for n in 0..5 {
        assert_eq!(b.read(&format!("{n}.log")), "2\n3\n", "{n}");
    }
    assert_eq!(b.gap_ranges(), []);
}

/// Twice between two looks: the one in between has a name of the target's.
#[test]
fn files_that_were_rotated_unseen_are_searched_for_where_a_link_led() {
    let pods = tempfile::tempdir().unwrap();
    let mut b = Bench::with("*.log", Links::Followed(vec![pods.path().to_owned()]), 100);
    let path = pods.path().join("0.log");
    fs::write(&path, "1\n").unwrap();
    symlink(&path, b.path("x.log")).unwrap();
    b.look();
    fs::rename(&path, pods.path().join("0.log.1")).unwrap();
    fs::write(&path, "2\n").unwrap();
    fs::rename(&path, pods.path().join("0.log.2")).unwrap();
    tick(pods.path(), Duration::ZERO);
    fs::write(&path, "3\n").unwrap();
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("1\n2\n3\n".into(), vec![]));
}

/// logrotate's `olddir`, at midnight: all files are moved to another directory at
/// once, and each has lines that nobody has read.
#[test]
fn many_files_that_are_moved_away_at_once() {
    let mut b = Bench::new("*.log");
    fs::create_dir(b.path("old")).unwrap();
    let names: Vec<String> = (0..300).map(|n| format!("{n}.log")).collect();
    names.iter().for_each(|name| b.append(name, "1\n"));
    b.look();
    for name in &names {
        b.append(name, "2\n");
        b.rename(name, &format!("old/{name}"));
        b.append(name, "3\n");
    }
    b.look();
    for name in &names {
        assert_eq!(b.read(name), "1\n2\n3\n", "{name}");
    }
    assert_eq!(b.gap_ranges(), []);
}

#[test]
fn many_files_that_are_deleted_unread() {
    let mut b = Bench::new("*.log");
    let names: Vec<String> = (0..300).map(|n| format!("{n}.log")).collect();
    names.iter().for_each(|name| b.append(name, "1\n"));
    b.look();
    names.iter().for_each(|name| fs::remove_file(b.path(name)).unwrap());
    b.look();
    for name in &names {
        assert_eq!(b.read(name), "1\n", "{name}");
    }
    assert_eq!(b.gap_ranges(), []);
}

/// A file that is moved away for good has no successor. What is lost of it is told
/// all the same, once, and then the source is over.
#[test]
fn the_last_incarnation_is_lost_with_a_word() {
    let mut b = Bench::with("*.log", Links::Refused, 1);
    fs::create_dir(b.path("old")).unwrap();
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    // Others take the only two places among the open ones.
    b.append("y.log", "1\n");
    b.append("z.log", "1\n");
    b.look();
    b.append("x.log", "unseen\n");
    b.rename("x.log", "old/moved");
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), (String::new(), vec![(2, None, Gone)]));
    assert_eq!((b.read("x.log"), b.gaps.len()), (String::new(), 1), "once");
    let is_over = |b: &Bench| {
        let shared = &b.agent.as_ref().unwrap().1;
        let path = b.path("x.log");
        shared.table().get(&path).is_some_and(|source| source.is_over(super::test_bench::in_a_year()))
    };
    assert!(is_over(&b), "its reader has recorded all");
}

#[test]
fn copytruncate_is_read_on_in_the_copy() {
    for is_down in [false, true] {
        let mut b = Bench::new("x.log");
        b.append("x.log", "1\n");
        b.look();
        assert_eq!(b.read("x.log"), "1\n");
        if is_down {
            b.stop();
        }
        b.append("x.log", "2\n");
        // An older copy, which does not begin with what was known.
        fs::write(b.path("x.log.2"), "0\n0\n0\n").unwrap();
        fs::copy(b.path("x.log"), b.path("x.log.1")).unwrap();
        fs::write(b.path("x.log"), "").unwrap();
        b.append("x.log", "3\n");
        if is_down {
            b.start();
        } else {
            b.look();
        }
        assert_eq!((b.read("x.log"), b.gap_ranges()), ("2\n3\n".into(), vec![]), "down: {is_down}");
        // The next rotation moves the copy on.
        b.rename("x.log.1", "x.log.2");
        b.look();
        assert_eq!((b.read("x.log"), b.gap_ranges()), (String::new(), vec![]));
    }
}

/// The copy of an earlier rotation begins with the same lines, and is not taken for
/// this one's.
#[test]
fn an_earlier_copy_is_not_read_again() {
    let mut b = Bench::new("x.log");
    fs::write(b.path("x.log.1"), "started\nof yesterday\n").unwrap();
    tick(b.dir.path(), Duration::from_nanos(2 * BIRTH_SLACK_NS));
    b.append("x.log", "started\n");
    b.look();
    assert_eq!(b.read("x.log"), "started\n");
    fs::write(b.path("x.log"), "").unwrap();
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), (String::new(), vec![(8, None, Truncated)]));
}

/// After a restart nothing is open; a file that is moved away at once must not be
/// lost for that.
#[test]
fn files_are_opened_again_after_a_restart() {
    let mut b = Bench::new("*.log");
    fs::create_dir(b.path("old")).unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("{n}.log")).collect();
    names.iter().for_each(|name| b.append(name, "1\n"));
    b.look();
    b.stop();
    b.start();
    for name in &names {
        b.append(name, "2\n");
        b.rename(name, &format!("old/{name}"));
    }
    b.look();
    for name in &names {
        assert_eq!(b.read(name), "1\n2\n", "{name}");
    }
    assert_eq!(b.gap_ranges(), []);
}

/// Files that cannot be opened must not take the turn of the others.
#[test]
fn closed_files_are_selected_round_robin() {
    let mut b = Bench::new("*.log");
    (0..5).for_each(|n| b.append(&format!("{n}.log"), "1\n"));
    b.look();
    let mut table = b.agent.as_ref().unwrap().1.table();
    table.open = OpenFiles::new(2);
    // None of them is opened in between.
    let mut turn = || -> Vec<String> {
        let closed = table.closed().into_iter();
        closed.map(|((path, _), ..)| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(turn(), ["0.log", "1.log"]);
    assert_eq!(turn(), ["2.log", "3.log"]);
    assert_eq!(turn(), ["4.log", "0.log"]);
}

#[test]
fn copytruncate_whose_copy_cannot_be_read_is_a_gap() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.stop();
    b.append("x.log", "2\n");
    fs::write(b.path("x.log.1.gz"), "not really compressed").unwrap();
    fs::write(b.path("x.log"), "").unwrap();
    b.append("x.log", "3\n");
    b.start();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("3\n".into(), vec![(2, None, Truncated)]));
}

#[test]
fn renamed_and_compressed_while_the_agent_was_down_is_a_gap() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.stop();
    b.append("x.log", "2\n");
    fs::write(b.path("x.log.1.gz"), "not really compressed").unwrap();
    fs::remove_file(b.path("x.log")).unwrap();
    b.append("x.log", "3\n");
    b.start();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("3\n".into(), vec![(2, None, Gone)]));
}

#[test]
fn links_are_not_followed_unless_that_is_asked_for() {
    let mut b = Bench::new("**/*.log");
    let secret = b.dir.path().join("shadow");
    fs::write(&secret, "SECRET\n").unwrap();
    fs::create_dir(b.path("sub")).unwrap();
    b.append("sub/y.log", "1\n");
    b.append("x.log", "1\n");
    symlink(&secret, b.path("link.log")).unwrap();
    b.look();
    assert_eq!((b.files(), b.read("x.log")), (vec!["sub/y.log".into(), "x.log".into()], "1\n".into()));
    let (path, error) = &listed(&b)[0];
    assert!(path.ends_with("/link.log") && error.contains("--follow-symlinks"), "{path}: {error}");

    // A file, and a directory, that become links while they are followed.
    fs::remove_file(b.path("x.log")).unwrap();
    symlink(&secret, b.path("x.log")).unwrap();
    fs::remove_dir_all(b.path("sub")).unwrap();
    fs::rename(&secret, b.dir.path().join("y.log")).unwrap();
    symlink(b.dir.path(), b.path("sub")).unwrap();
    for _ in 0..2 {
        assert_eq!((b.read("x.log"), b.read("sub/y.log")), (String::new(), "1\n".into()));
        b.reader.clear();
        b.look();
        assert_eq!(b.read("x.log"), "1\n", "the file that was there, held open");
    }
}

#[test]
fn links_that_lead_out_are_not_followed_either() {
    let mut b = Bench::with_links("*.log");
    let secret = b.dir.path().join("shadow");
    fs::write(&secret, "SECRET\n").unwrap();
    b.append("x.log", "1\n");
    symlink(&secret, b.path("out.log")).unwrap();
    b.look();
    assert_eq!(b.files(), ["x.log"]);
    let (path, error) = &listed(&b)[0];
    assert!(path.ends_with("/out.log") && error.contains("below no directory"), "{path}: {error}");
}

#[test]
fn what_is_listed_is_bounded_and_counted() {
    let mut b = Bench::new("*.log");
    let target: PathBuf = b.path("target");
    fs::write(&target, "").unwrap();
    (0..1_010).for_each(|n| symlink(&target, b.path(&format!("{n}.log"))).unwrap());
    b.look();
    let shared = &b.agent.as_ref().unwrap().1;
    let table = shared.table();
    assert_eq!((table.unreadable.listed.len(), table.unreadable.omitted), (1_000, 10));
}

/// Nobody can make two sources of one item.
#[test]
fn names_that_are_escaped_alike_are_not_mixed_up() {
    let mut b = Bench::new("*.log");
    b.append("a\n.log", "1\n");
    b.append("a%0A.log", "2\n");
    b.look();
    let files = b.files();
    assert!(files.len() == 2 && files[0] != files[1], "{files:?}");
}
