//! Owners that come and go, and zombies that wake up at the worst moments.

use rota_core::pool::Item;

use super::*;
use crate::naming::{item_name, labels};

const WAIT: Duration = Duration::from_millis(20);

fn place(dir: &Path) -> Place {
    let item = Item { labels: labels("a", "h", "x/f.log"), ..Item::default() };
    Place::of(dir, &item_name("a", "h", "x/f.log"), &item, Modes::default()).unwrap()
}

fn claim(dir: &Path, fence: u64, out_len: Option<u64>) -> Result<Sink, SinkError> {
    Sink::claim(place(dir), fence, out_len, WAIT)
}

fn append(sink: &mut Sink, text: &str) -> Result<(), SinkError> {
    sink.append(&[Bytes::copy_from_slice(text.as_bytes())])
}

fn output(dir: &Path) -> String {
    fs::read_to_string(place(dir).output).unwrap()
}

/// Somebody who holds the output's lock for ever.
fn hold_lock(dir: &Path) -> File {
    let file = File::options().write(true).open(place(dir).output).unwrap();
    file.try_lock().unwrap();
    file
}

#[test]
fn an_owner_appends() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = claim(dir.path(), 5, None).unwrap();
    assert!(sink.is_empty() && sink.ends_line());
    append(&mut sink, "1\n").unwrap();
    sink.append(&["2".into(), "".into(), "3".into()]).unwrap();
    sink.sync().unwrap();
    assert_eq!((output(dir.path()).as_str(), sink.len(), sink.ends_line()), ("1\n23", 4, false));
}

#[test]
fn a_takeover_at_every_point_goes_on_from_the_checkpoint() {
    let text = "1\n22\n333\n";
    for written in 0..=text.len() {
        for checkpoint in 0..=written {
            let dir = tempfile::tempdir().unwrap();
            let mut first = claim(dir.path(), 5, None).unwrap();
            append(&mut first, &text[..written]).unwrap();
            let mut second = claim(dir.path(), 6, Some(checkpoint as u64)).unwrap();
            assert_eq!(second.ends_line(), checkpoint == 0 || text[..checkpoint].ends_with('\n'));
            assert!(matches!(
                append(&mut first, "zombie"),
                Err(SinkError::Fenced { ours: 5, theirs: 6, .. })
            ));
            append(&mut second, &text[checkpoint..]).unwrap();
            assert_eq!(output(dir.path()), text);
        }
    }
}

#[test]
fn an_older_grant_that_comes_late_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = claim(dir.path(), 6, None).unwrap();
    append(&mut owner, "1\n").unwrap();
    assert!(matches!(claim(dir.path(), 5, Some(0)), Err(SinkError::Fenced { ours: 5, theirs: 6, .. })));
    append(&mut owner, "2\n").unwrap();
    assert_eq!(output(dir.path()), "1\n2\n");
}

#[test]
fn what_does_not_fit_the_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // As if the disk of the outputs were not mounted; trying again is not enough.
    for fence in [5, 6] {
        let refused = claim(dir.path(), fence, Some(3));
        assert!(matches!(refused, Err(SinkError::OtherDirectory { out_len: 3, .. })), "{refused:?}");
        assert!(!place(dir.path()).output.exists(), "nothing is made up");
    }
    let mut sink = claim(dir.path(), 7, None).unwrap();
    append(&mut sink, "1\n").unwrap();
    assert!(matches!(claim(dir.path(), 8, None), Err(SinkError::NoCheckpoint { len: 2, .. })));
    assert_eq!(output(dir.path()), "1\n");
}

/// What somebody else does to an output.
type Change = fn(&Path);

/// What an operator does to an output between two owners.
#[test]
fn an_output_that_was_rotated_removed_or_emptied_is_begun_anew() {
    let cases: [(&str, Change, u64); 4] = [
        ("rotated", |path| fs::rename(path, path.with_extension("1")).unwrap(), 0),
        ("removed", |path| fs::remove_file(path).unwrap(), 0),
        ("emptied", |path| fs::write(path, "").unwrap(), 0),
        ("cut", |path| fs::write(path, "1").unwrap(), 1),
    ];
    for (case, change, len) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut first = claim(dir.path(), 5, None).unwrap();
        append(&mut first, "1\n").unwrap();
        change(&place(dir.path()).output);
        let mut second = claim(dir.path(), 6, Some(2)).unwrap();
        assert_eq!((second.len(), second.ends_line()), (len, len == 0), "{case}");
        append(&mut second, "2\n").unwrap();
        assert!(output(dir.path()).ends_with("2\n"), "{case}");
    }
}

/// And while one works.
#[test]
fn an_owner_goes_on_after_its_output_was_rotated_removed_or_emptied() {
    let cases: [(&str, Change, &str); 4] = [
        ("rotated", |path| fs::rename(path, path.with_extension("1")).unwrap(), "2\n"),
        (
            "rotated and made again",
            |path| {
                fs::rename(path, path.with_extension("1")).unwrap();
                fs::write(path, "").unwrap();
            },
            "2\n",
        ),
        ("removed", |path| fs::remove_file(path).unwrap(), "2\n"),
        ("emptied", |path| fs::write(path, "").unwrap(), "2\n"),
    ];
    for (case, change, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = claim(dir.path(), 5, None).unwrap();
        append(&mut sink, "1\n").unwrap();
        change(&place(dir.path()).output);
        assert!(matches!(append(&mut sink, "2\n"), Err(SinkError::Replaced { .. })), "{case}");
        sink.reopen().unwrap();
        assert_eq!(sink.len(), 0, "{case}");
        append(&mut sink, "2\n").unwrap();
        assert_eq!(output(dir.path()), wanted, "{case}");
        let rotated = fs::read_to_string(place(dir.path()).output.with_extension("1"));
        assert!(rotated.is_err() || rotated.unwrap() == "1\n", "{case}");
    }
}

#[test]
fn somebody_who_was_an_owner_once_reopens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut zombie = claim(dir.path(), 5, None).unwrap();
    let mut owner = claim(dir.path(), 6, Some(0)).unwrap();
    append(&mut owner, "1\n").unwrap();
    fs::rename(place(dir.path()).output, place(dir.path()).output.with_extension("1")).unwrap();
    assert!(matches!(zombie.reopen(), Err(SinkError::Fenced { ours: 5, theirs: 6, .. })));
    owner.reopen().unwrap();
    append(&mut owner, "2\n").unwrap();
    assert_eq!(output(dir.path()), "2\n");
}

#[test]
fn an_output_that_others_write_to_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = claim(dir.path(), 5, None).unwrap();
    append(&mut sink, "1\n").unwrap();
    fs::write(place(dir.path()).output, "other\n").unwrap();
    assert!(matches!(append(&mut sink, "2\n"), Err(SinkError::Meddled { .. })));
}

#[test]
fn only_the_owner_of_the_process_may_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut sink = claim(dir.path(), 5, None).unwrap();
    append(&mut sink, "1\n").unwrap();
    // Also what takes the place of an output whose lock is held.
    let _stopped = hold_lock(dir.path());
    append(&mut sink, "2\n").unwrap();
    let place = place(dir.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.output), 0o600);
    for path in [place.output.parent().unwrap(), &dir.path().join("a"), &place.own, &dir.path().join(".rota")]
    {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
}

#[test]
fn a_zombie_that_was_stopped_within_a_write_is_displaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut zombie = claim(dir.path(), 5, None).unwrap();
    append(&mut zombie, "1\n2\n").unwrap();
    let stopped = hold_lock(dir.path());

    let mut owner = claim(dir.path(), 6, Some(2)).unwrap();
    append(&mut owner, "two\n").unwrap();
    // It goes on in the middle of its write, under its lock.
    stopped.write_all_at(b"doubled\n", 4).unwrap();
    stopped.set_len(1).unwrap();
    append(&mut owner, "three\n").unwrap();
    drop(stopped);
    assert!(matches!(append(&mut zombie, "4\n"), Err(SinkError::Fenced { .. })));
    assert_eq!(output(dir.path()), "1\ntwo\nthree\n");
}

#[test]
fn an_owner_displaces_a_zombie_that_took_the_lock_before_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = claim(dir.path(), 6, None).unwrap();
    append(&mut owner, "1\n").unwrap();
    let _stopped = hold_lock(dir.path());
    append(&mut owner, "2\n").unwrap();
    append(&mut owner, "3\n").unwrap();
    assert_eq!(output(dir.path()), "1\n2\n3\n");
}

const STEPS: [Step; 8] = [
    Step::Opened,
    Step::Looked,
    Step::Locked,
    Step::Entitled,
    Step::Acted,
    Step::Copied,
    Step::CopyEntitled,
    Step::Displaced,
];

/// A zombie is stopped after each step of whatever it does; a newer owner takes
/// over and writes, the zombie goes on, and the owner writes again.
#[test]
fn a_zombie_that_was_stopped_after_any_step_does_no_harm() {
    for step in STEPS {
        for is_locked in [false, true] {
            for is_claim in [false, true] {
                let case = format!("after {step:?}, locked {is_locked}, claim {is_claim}");
                let stopped = stop_and_take_over(step, is_locked, is_claim, &case);
                // A claim cannot come to the steps of a displacement without one.
                let displaces = matches!(step, Step::Copied | Step::CopyEntitled | Step::Displaced);
                assert_eq!(
                    stopped,
                    (!displaces || is_locked) && (step != Step::Opened || is_claim),
                    "{case}"
                );
            }
        }
    }
}

/// Returns whether the zombie came to that step.
fn stop_and_take_over(step: Step, is_locked: bool, is_claim: bool, case: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mut zombie = claim(&path, 5, None).unwrap();
    append(&mut zombie, "1\n2\n").unwrap();
    let lock = is_locked.then(|| hold_lock(&path));

    let (sender, owners) = std::sync::mpsc::channel();
    let take_over = move || {
        let mut owner = claim(&path, 7, Some(2)).unwrap();
        append(&mut owner, "two\n").unwrap();
        sender.send(owner).unwrap();
    };
    let steps = Failpoints { at: Some((step, Box::new(take_over))) };
    if is_claim {
        // An owner between the two, that is stopped while it takes over.
        let claimed = Sink::claim_in_steps(place(dir.path()), 6, Some(2), WAIT, steps);
        drop(claimed.and_then(|mut sink| append(&mut sink, "zombie\n")));
    } else {
        zombie.steps = steps;
        drop(append(&mut zombie, "zombie\n"));
    }
    drop(append(&mut zombie, "zombie\n"));
    let Ok(mut owner) = owners.try_recv() else { return false };
    append(&mut owner, "three\n").unwrap_or_else(|error| panic!("{case}: {error}"));
    drop(lock);
    drop(append(&mut zombie, "zombie\n"));
    append(&mut owner, "four\n").unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(output(dir.path()), "1\ntwo\nthree\nfour\n", "{case}");
    true
}

#[test]
fn only_the_owner_acts() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = claim(dir.path(), 5, None).unwrap();
    let mut new = claim(dir.path(), 6, None).unwrap();
    let mut acted = 0;
    assert!(matches!(old.as_owner(|| panic!("it is not the owner")), Err(SinkError::Fenced { .. })));
    new.as_owner(|| {
        acted += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(acted, 1);
}
