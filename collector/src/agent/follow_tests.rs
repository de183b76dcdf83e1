//! Files that are rotated in every way, and one reader that must get each byte
//! once. Real files, without network and timers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use super::super::classify::BIRTH_SLACK_NS;
use super::super::glob::Patterns;
use super::super::index::Index;
use super::super::rooted_fs::{Links, RootedFs};
use super::super::scan::Scope;
use super::super::shared::Shared;
use super::super::source::Source;
use super::super::test_bench::{Bench, tick};
use super::*;
use crate::wire::GapReason;

#[test]
fn growth() {
    let mut b = Bench::new("*.log");
    assert!(b.files().is_empty());
    b.append("x.log", "1\n");
    b.append("x.txt", "no\n");
    b.look();
    assert_eq!((b.files(), b.read("x.log")), (vec!["x.log".into()], "1\n".into()));
    b.append("x.log", "2\n");
    assert_eq!(b.read("x.log"), "2\n", "a reader need not wait for a look");
    assert_eq!(b.read("x.log"), "");
}

#[test]
fn rename_and_create() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.append("x.log", "2\n");
    b.rename("x.log", "x.log.1");
    b.append("x.log", "3\n");
    b.append("x.log.1", "late\n");
    b.look();
    assert_eq!(b.read("x.log"), "2\nlate\n3\n");
    assert_eq!(b.files(), ["x.log"]);
}

#[test]
fn rotated_names_that_match_are_no_sources_of_their_own() {
    let mut b = Bench::new("x.log*");
    for round in 0..4 {
        b.append("x.log", &format!("{round}\n"));
        b.look();
        assert_eq!(b.read("x.log"), format!("{round}\n"));
        for n in (1..=round).rev() {
            b.rename(&format!("x.log.{n}"), &format!("x.log.{}", n + 1));
        }
        b.rename("x.log", "x.log.1");
        b.look();
        assert_eq!(b.files(), ["x.log"], "round {round}");
    }
    b.stop();
    b.append("x.log", "new\n");
    b.start();
    assert_eq!((b.read("x.log"), b.files()), ("new\n".into(), vec!["x.log".into()]));
}

#[test]
fn rotated_twice_between_two_looks() {
    for glob in ["x.log", "x.log*"] {
        let mut b = Bench::new(glob);
        b.append("x.log", "1\n");
        b.look();
        b.rename("x.log", "x.log.1");
        b.append("x.log", "2\n");
        b.rename("x.log.1", "x.log.2");
        b.rename("x.log", "x.log.1");
        b.append("x.log", "3\n");
        b.look();
        assert_eq!((b.read("x.log"), b.files()), ("1\n2\n3\n".into(), vec!["x.log".into()]), "{glob}");
    }
}

#[test]
fn older_rotated_files_are_not_taken_for_missed_ones() {
    let mut b = Bench::new("x.log");
    b.append("x.log.1", "old\n");
    b.append("x.log", "1\n");
    // Well beyond the slack, so that their births cannot be mixed up with the look.
    tick(b.dir.path(), Duration::from_nanos(2 * BIRTH_SLACK_NS));
    b.look();
    b.rename("x.log.1", "x.log.2");
    b.rename("x.log", "x.log.1");
    b.append("x.log", "2\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n");
}

#[test]
fn renamed_and_deleted_before_it_was_read() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    b.append("x.log", "2\n");
    b.rename("x.log", "x.log.1");
    b.append("x.log", "3\n");
    fs::remove_file(b.path("x.log.1")).unwrap();
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n3\n");
}

#[test]
fn deleted_and_made_again() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    fs::remove_file(b.path("x.log")).unwrap();
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.append("x.log", "2\n");
    b.look();
    assert_eq!(b.read("x.log"), "2\n");
}

#[test]
fn moved_to_a_directory_that_is_not_looked_at() {
    let mut b = Bench::new("*.log");
    fs::create_dir(b.path("old")).unwrap();
    b.append("x.log", "1\n");
    b.look();
    b.append("x.log", "2\n");
    b.rename("x.log", "old/x.log");
    b.append("x.log", "3\n");
    b.look();
    b.append("old/x.log", "late\n");
    assert_eq!(b.read("x.log"), "1\n2\nlate\n3\n");
}

#[test]
fn truncated_after_it_was_read() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n2\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n2\n");
    fs::copy(b.path("x.log"), b.path("x.log.1")).unwrap();
    fs::write(b.path("x.log"), "3\n").unwrap();
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("3\n".into(), vec![]));
    // Without a copy nobody knows what was written before it.
    fs::write(b.path("x.log"), "").unwrap();
    b.append("x.log", "4\n");
    b.look();
    assert_eq!(b.read("x.log"), "4\n");
    assert_eq!(b.gap_ranges(), [(2, None, GapReason::Truncated)]);
}

#[test]
fn truncated_before_it_was_read_is_a_gap() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.append("x.log", "unread\n");
    b.look();
    fs::write(b.path("x.log"), "3\n").unwrap();
    b.look();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("3\n".into(), vec![(2, None, GapReason::Truncated)]));
}

#[test]
fn truncated_and_grown_beyond_its_old_size_before_a_look() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "one\n");
    b.look();
    assert_eq!(b.read("x.log"), "one\n");
    fs::write(b.path("x.log"), "two\nthree\nfour\n").unwrap();
    assert_eq!(b.read("x.log"), "two\nthree\nfour\n", "the reader finds out, before any look");
    assert_eq!(b.gap_ranges(), [(4, None, GapReason::Truncated)]);
}

#[test]
fn overwritten_with_the_same_beginning() {
    let mut b = Bench::new("*.log");
    let banner = "=".repeat(2000) + "\n";
    b.append("x.log", &format!("{banner}one\n"));
    b.look();
    assert_eq!(b.read("x.log"), format!("{banner}one\n"));
    fs::write(b.path("x.log"), format!("{banner}two and more\n")).unwrap();
    assert_eq!(b.read("x.log"), format!("{banner}two and more\n"));
}

#[test]
fn a_stop_while_a_file_grows() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.stop();
    b.append("x.log", "2\n");
    b.start();
    assert_eq!(b.read("x.log"), "2\n");
}

#[test]
fn rotated_while_the_agent_was_down() {
    for glob in ["x.log", "x.log*"] {
        let mut b = Bench::new(glob);
        b.append("x.log", "1\n");
        b.look();
        assert_eq!(b.read("x.log"), "1\n");
        b.stop();
        b.append("x.log", "2\n");
        b.rename("x.log", "x.log.1");
        b.append("x.log", "3\n");
        b.start();
        assert_eq!((b.read("x.log"), b.files()), ("2\n3\n".into(), vec!["x.log".into()]), "{glob}");
    }
}

#[test]
fn rotated_twice_while_the_agent_was_down() {
    let mut b = Bench::new("x.log*");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.stop();
    b.append("x.log", "2\n");
    b.rename("x.log", "x.log.1");
    b.append("x.log", "3\n");
    b.rename("x.log.1", "x.log.2");
    b.rename("x.log", "x.log.1");
    b.append("x.log", "4\n");
    b.start();
    assert_eq!((b.read("x.log"), b.files()), ("2\n3\n4\n".into(), vec!["x.log".into()]));
}

#[test]
fn deleted_while_the_agent_was_down_is_a_gap() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "read\n");
    b.look();
    assert_eq!(b.read("x.log"), "read\n");
    b.append("x.log", "unread\n");
    b.look();
    b.stop();
    fs::remove_file(b.path("x.log")).unwrap();
    b.append("x.log", "3\n");
    b.start();
    assert_eq!((b.read("x.log"), b.gap_ranges()), ("3\n".into(), vec![(5, None, GapReason::Gone)]));
}

#[test]
fn truncated_while_the_agent_was_down() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "read\n");
    b.look();
    assert_eq!(b.read("x.log"), "read\n");
    b.stop();
    fs::write(b.path("x.log"), "anew and longer\n").unwrap();
    b.start();
    assert_eq!(
        (b.read("x.log"), b.gap_ranges()),
        ("anew and longer\n".into(), vec![(5, None, GapReason::Truncated)])
    );
}

#[test]
fn a_reader_ahead_of_what_is_there_shows_a_truncation() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    let (number, _) = b.reader["x.log"];
    b.reader.insert("x.log".into(), (number, 500));
    assert_eq!(b.read("x.log"), "1\n", "the machine lost its newest bytes; all begins anew");
}

#[test]
fn links_and_doubles_are_one_source() {
    let mut b = Bench::with_links("*.log");
    b.append("x.log", "1\n");
    symlink(b.path("x.log"), b.path("a-link.log")).unwrap();
    fs::hard_link(b.path("x.log"), b.path("y-double.log")).unwrap();
    b.append("elsewhere", "2\n");
    symlink(b.path("elsewhere"), b.path("b-link.log")).unwrap();
    b.look();
    assert_eq!(b.files(), ["b-link.log", "x.log"]);
    assert_eq!((b.read("x.log"), b.read("b-link.log")), ("1\n".into(), "2\n".into()));
}

#[test]
fn a_link_that_is_led_elsewhere() {
    let mut b = Bench::with_links("current.log");
    b.append("2026-01-01", "1\n");
    symlink(b.path("2026-01-01"), b.path("current.log")).unwrap();
    b.look();
    b.append("2026-01-01", "2\n");
    fs::remove_file(b.path("current.log")).unwrap();
    b.append("2026-01-02", "3\n");
    symlink(b.path("2026-01-02"), b.path("current.log")).unwrap();
    b.look();
    assert_eq!(b.read("current.log"), "1\n2\n3\n");
}

#[test]
fn a_file_renamed_and_renamed_back() {
    let mut b = Bench::new("x.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    b.rename("x.log", "away");
    b.look();
    b.rename("away", "x.log");
    b.append("x.log", "2\n");
    b.look();
    assert_eq!(b.read("x.log"), "2\n");
}

#[test]
fn two_files_of_one_name_keep_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display().to_string();
    for sub in ["p", "q"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
        fs::write(dir.path().join(sub).join("x.log"), format!("{sub}\n")).unwrap();
    }
    let whole = format!("{}/q/x.log", root.trim_start_matches('/'));
    for remove_first in [false, true] {
        let patterns = Patterns::new(&[format!("{root}/p/*.log"), format!("{root}/q/*.log")], &[]).unwrap();
        let beneath = RootedFs::new(vec![dir.path().to_owned()], Links::Refused);
        let shared = Arc::new(Shared::new(beneath, 100));
        let owner = Owner { app: "a".into(), host: "h".into() };
        let index = Index::open(&dir.path().join("state")).unwrap();
        let mut follower = Follower::new(owner, patterns, index, Arc::clone(&shared));
        follower.scan(&Scope::All);
        let files: Vec<String> = shared.table().items().map(|s| s.file.clone()).collect();
        assert_eq!(files, ["x.log", &whole]);
        if !remove_first {
            fs::remove_file(dir.path().join("p/x.log")).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_read_is_said_and_tried_again() {
    let mut b = Bench::with_links("x.log");
    let unreadable = |b: &Bench| b.agent.as_ref().unwrap().1.table().unreadable.listed.len();
    symlink(b.path("x.log"), b.path("x.log")).unwrap();
    b.look();
    assert_eq!((b.files().len(), unreadable(&b)), (0, 1), "a link to itself");
    fs::remove_file(b.path("x.log")).unwrap();
    b.append("x.log", "1\n");
    b.look();
    assert_eq!((b.read("x.log"), unreadable(&b)), ("1\n".into(), 0));

    b.rename("x.log", "kept");
    symlink(b.path("x.log"), b.path("x.log")).unwrap();
    b.look();
    assert_eq!(
        b.agent.as_ref().unwrap().1.table().iter().filter_map(Source::live).count(),
        1,
        "not known to be gone"
    );
}

#[test]
fn a_hint_about_one_file_is_enough_for_every_change_of_it() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    let hint = |b: &mut Bench| {
        let scope = Scope::Some { dirs: BTreeSet::new(), files: [b.path("x.log")].into() };
        b.agent.as_mut().unwrap().0.scan(&scope);
    };
    fs::write(b.path("x.log"), "").unwrap();
    hint(&mut b);
    b.append("x.log", "2\n");
    b.rename("x.log", "x.log.1");
    b.append("x.log", "3\n");
    hint(&mut b);
    assert_eq!(b.read("x.log"), "2\n3\n");
    assert_eq!(b.gap_ranges(), [(0, None, GapReason::Truncated)]);
}

#[test]
fn an_index_that_is_lost_begins_with_larger_numbers() {
    let mut b = Bench::new("*.log");
    b.append("x.log", "1\n");
    b.look();
    assert_eq!(b.read("x.log"), "1\n");
    let (before, _) = b.reader.remove("x.log").unwrap();
    b.stop();
    fs::remove_dir_all(b.dir.path().join("state/index")).unwrap();
    b.start();
    assert_eq!(b.read("x.log"), "1\n");
    assert!(b.reader["x.log"].0 > before);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]

    /// Whatever happens in whatever order, as long as no file is deleted or
    /// truncated before it was seen: every byte is read once, in order.
    #[test]
    fn any_sequence_of_rotations(matched in proptest::bool::ANY, actions in proptest::collection::vec(0..10u8, 1..40)) {
        let mut b = Bench::new(if matched { "x.log*" } else { "x.log" });
        let (mut written, mut read, mut rotated, mut lines) = (String::new(), String::new(), 0, 0);
        let mut append = |b: &Bench, name: &str| {
            lines += 1;
            b.append(name, &format!("{lines}\n"));
            written.push_str(&format!("{lines}\n"));
        };
        append(&b, "x.log");
        b.look();
        for action in actions {
            match action {
                0..=2 => append(&b, "x.log"),
                3 | 4 => {
                    (1..=rotated).rev().for_each(|n| b.rename(&format!("x.log.{n}"), &format!("x.log.{}", n + 1)));
                    b.rename("x.log", "x.log.1");
                    rotated += 1;
                    append(&b, "x.log.1");
                    tick(b.dir.path(), Duration::ZERO);
                    append(&b, "x.log");
                }
                5 | 6 => b.look(),
                7 => read.push_str(&b.read("x.log")),
                8 => {
                    b.stop();
                    append(&b, "x.log");
                    b.start();
                }
                // The oldest goes, once everything was read.
                _ => {
                    b.look();
                    read.push_str(&b.read("x.log"));
                    if rotated > 0 {
                        fs::remove_file(b.path(&format!("x.log.{rotated}"))).unwrap();
                        rotated -= 1;
                    }
                }
            }
        }
        b.look();
        read.push_str(&b.read("x.log"));
        proptest::prop_assert_eq!(read, written);
        proptest::prop_assert_eq!((b.files(), b.gap_ranges()), (vec!["x.log".to_owned()], vec![]));
    }
}
