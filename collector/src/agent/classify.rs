//! What became of a source's file: the one decision that everything else in
//! the agent follows from. Pure.

use std::iter;

use super::identity::{FileId, Fingerprint, Seen};

/// What became of the file that a source's path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It is as it was.
    Same,
    /// It has more bytes, after those that were known.
    Grown,
    /// It is the same file, and what it held is gone: it was truncated, or
    /// overwritten, or both and then grew beyond its old size.
    Truncated,
    /// The path leads to another file.
    Replaced,
    /// The path leads to no file.
    Missing,
}

/// Judges what is `seen` at a path where a file with the trace `known` was.
#[must_use]
pub fn classify(known: &Fingerprint, seen: Option<&Seen>) -> Disposition {
    let Some(seen) = seen else { return Disposition::Missing };
    let now = &seen.trace.stat;
    let kept = now.size >= known.stat.size && seen.head_same && seen.tail_same;
    match sameness(known.stat.id, now.id) {
        Sameness::Other => Disposition::Replaced,
        // A device number may change with a reboot or a remount. That the
        // content is still there too decides.
        Sameness::OtherDevice if !kept => Disposition::Replaced,
        Sameness::Same if !kept => Disposition::Truncated,
        _ if now.size > known.stat.size => Disposition::Grown,
        _ => Disposition::Same,
    }
}

enum Sameness {
    Same,
    OtherDevice,
    Other,
}

fn sameness(known: FileId, now: FileId) -> Sameness {
    if known == now {
        Sameness::Same
    } else if known.ino == now.ino && known.born_ns == now.born_ns && known.born_ns != 0 {
        Sameness::OtherDevice
    } else {
        Sameness::Other
    }
}

/// What separates a file's name from what rotation adds to it.
const SEPARATORS: [char; 4] = ['.', '-', '_', '~'];

/// Whether `name` looks like the name that rotation gives to a file called
/// `of`: a suffix or an infix that starts with a separator and has a digit
/// (`app.log.1`, `app.log-20261231`, `app-2026-12-31.log`). A compressed file
/// does not count: its bytes are other ones.
#[must_use]
pub fn is_rotated_name(name: &str, of: &str) -> bool {
    const COMPRESSED: [&str; 6] = [".gz", ".xz", ".zst", ".bz2", ".lz4", ".zip"];
    if name == of || COMPRESSED.iter().any(|suffix| name.ends_with(suffix)) {
        return false;
    }
    let stamp = |added: &str| added.starts_with(SEPARATORS) && added.contains(|c: char| c.is_ascii_digit());
    let infix = || {
        let (stem, extension) = of.split_at(of.rfind('.')?);
        name.strip_prefix(stem)?.strip_suffix(extension)
    };
    name.strip_prefix(of).is_some_and(stamp) || infix().is_some_and(stamp)
}

/// All names of which `name` is a rotated name ([`is_rotated_name`]), the longest first.
pub fn original_names(name: &str) -> Vec<String> {
    let extensions = || iter::once("").chain(name.rmatch_indices('.').map(|(position, _)| &name[position..]));
    let stems: Vec<&str> = name.match_indices(SEPARATORS).map(|(position, _)| &name[..position]).collect();
    let mut originals: Vec<String> = stems
        .iter()
        .flat_map(|stem| extensions().map(move |extension| format!("{stem}{extension}")))
        .collect();
    originals.retain(|original| is_rotated_name(name, original));
    originals.sort_by_key(|original| std::cmp::Reverse(original.len()));
    originals.dedup();
    originals
}

/// Birth times come from the kernel's coarse clock, which may be this far
/// behind the clock that says when a file was seen.
pub const BIRTH_SLACK_NS: u64 = 20_000_000;

/// Whether a file born at `born_ns` can have stood at a path after the file
/// that was seen there at `seen_ns` and before the one born at `next_born_ns`.
/// All in nanoseconds since 1970; an unknown time (0) proves nothing.
#[must_use]
pub fn is_born_between(seen_ns: u64, born_ns: u64, next_born_ns: u64) -> bool {
    seen_ns != 0
        && seen_ns < born_ns.saturating_add(BIRTH_SLACK_NS)
        && born_ns <= next_born_ns
        && born_ns != 0
}

#[cfg(test)]
mod tests {
    use super::super::identity::{Mark, Stat};
    use super::*;

    fn trace(dev: u64, ino: u64, born_ns: u64, size: u64) -> Fingerprint {
        let mark = Mark { len: size.min(64), hash: 7 };
        Fingerprint {
            stat: Stat { id: FileId { dev, ino, born_ns }, size, changed_ns: 0 },
            head: mark,
            tail: mark,
        }
    }

    #[test]
    fn verdicts() {
        use Disposition::{Grown, Missing, Replaced, Same, Truncated};
        let known = trace(1, 10, 500, 100);
        // dev, inode, born, size, head same, tail same
        let cases = [
            ("as it was", Some((1, 10, 500, 100, true, true)), Same),
            ("grown", Some((1, 10, 500, 101, true, true)), Grown),
            ("shorter", Some((1, 10, 500, 99, true, false)), Truncated),
            ("empty", Some((1, 10, 500, 0, false, false)), Truncated),
            ("truncated and grown again", Some((1, 10, 500, 200, false, false)), Truncated),
            ("the same first lines, then others", Some((1, 10, 500, 200, true, false)), Truncated),
            ("overwritten with as much", Some((1, 10, 500, 100, false, true)), Truncated),
            ("another inode", Some((1, 11, 500, 100, true, true)), Replaced),
            ("the same inode number, given again", Some((1, 10, 501, 100, true, true)), Replaced),
            ("another device number after a reboot", Some((2, 10, 500, 120, true, true)), Grown),
            ("another device", Some((2, 10, 500, 120, false, true)), Replaced),
            ("nothing there", None, Missing),
        ];
        for (name, seen, verdict) in cases {
            let seen = seen.map(|(dev, ino, born, size, head_same, tail_same)| Seen {
                trace: trace(dev, ino, born, size),
                head_same,
                tail_same,
            });
            assert_eq!(classify(&known, seen.as_ref()), verdict, "{name}");
        }
    }

    #[test]
    fn where_birth_is_not_known_the_device_counts() {
        let known = trace(1, 10, 0, 100);
        let seen = |dev| Seen { trace: trace(dev, 10, 0, 100), head_same: true, tail_same: true };
        assert_eq!(classify(&known, Some(&seen(1))), Disposition::Same);
        assert_eq!(classify(&known, Some(&seen(2))), Disposition::Replaced);
    }

    #[test]
    fn rotated_names() {
        let cases = [
            ("app.log.1", "app.log", true),
            ("app.log-20261231", "app.log", true),
            ("app.log.2026-12-31-23", "app.log", true),
            ("app-2026-12-31.log", "app.log", true),
            ("app.1.log", "app.log", true),
            ("app.log", "app.log", false),
            ("app.log.1.gz", "app.log", false),
            ("app.log.err", "app.log", false),
            ("app2.log", "app.log", false),
            ("application.1.log", "app.log", false),
            ("noext.1", "noext", true),
        ];
        for (name, of, rotated) in cases {
            assert_eq!(is_rotated_name(name, of), rotated, "{name} of {of}");
            assert_eq!(original_names(name).contains(&of.to_owned()), rotated, "{of} before {name}");
        }
    }

    #[test]
    fn births() {
        let s = 1_000_000_000;
        assert!(is_born_between(5 * s, 7 * s, 7 * s));
        assert!(is_born_between(5 * s, 5 * s - 1, 9 * s), "the kernel's clock is coarse");
        assert!(!is_born_between(5 * s, 4 * s, 9 * s));
        assert!(!is_born_between(5 * s, 10 * s, 9 * s));
        assert!(!is_born_between(0, 7 * s, 9 * s));
        assert!(!is_born_between(5 * s, 0, 9 * s));
    }
}
