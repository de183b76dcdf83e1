//! Habits that are checked rather than hoped for: every source file says what it
//! is for, the core stays pure, files stay small, licences stay allowed, and the
//! documents name what there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file past this many lines holds more than one subject.
const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All tracked and new files of our own below `directory` that end in `suffix`.
fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && name != ".git" && name != "vendor" {
                found.extend(files(&path, suffix));
            }
        } else if name.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<String> = files(&root(), ".rs")
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| relative(path))
        .collect();
    assert!(silent.is_empty(), "these do not open with `//!`: {silent:#?}");
}

#[test]
fn no_source_file_is_too_long() {
    let long: Vec<String> = files(&root(), ".rs")
        .iter()
        .filter(|path| fs::read_to_string(path).unwrap().lines().count() > LINES_MAX)
        .map(|path| relative(path))
        .collect();
    assert!(long.is_empty(), "split these, they have more than {LINES_MAX} lines: {long:#?}");
}

/// The one place in `core` whose hashes are keyed by chance, so that clients cannot choose
/// names that meet. Nothing that the state does depends on the order of that map
/// (`docs/decisions/0014-hashed-tree.md`), which a law of the core holds it to: replicas, each
/// with keys of its own, agree.
const KEYED_BY_CHANCE: (&str, &str) = ("core/src/state/tree.rs", "HashMap");

/// `core` decides and does not act: no I/O, no async, no clock, no chance.
/// Words that code used before it was renamed to the field's terms, by folder: they do not come
/// back.
const RENAMED: [(&str, &[&str]); 5] = [
    (
        "core/src",
        &[
            "BEGUN_MAX",
            "BadAcl",
            "Chapter",
            "Concerned",
            "Crew",
            "Deed",
            "Faces",
            "Fate",
            "Haste",
            "LeaseEnd",
            "Market",
            "Missed",
            "Posed",
            "Stepper",
            "Supply",
            "Touched",
            "UnderWay",
            "chapter",
            "deed",
            "disown",
            "given_up",
            "lease_end",
            "max_churn",
            "max_moving",
            "max_out",
            "min_gain",
            "mortal",
            "plant",
            "upto",
        ],
    ),
    (
        "coordinator/src",
        &[
            "BoxWire",
            "Entropy",
            "Fed",
            "Followed",
            "Group",
            "Heard",
            "Hub",
            "Liveness",
            "Machine",
            "Occasion",
            "Outbox",
            "Pulse",
            "Question",
            "SentAway",
            "Talk",
            "UnitSender",
            "Wire",
            "deed",
            "faces",
            "hub",
            "liveness",
            "outbox",
            "upto",
        ],
    ),
    ("worker/src", &["Attendance", "Happened", "LEAVE_PATIENCE", "attend", "bring_in_step", "deed"]),
    ("client/src", &["PATIENCE_DEFAULT", "Repeat", "Verdict", "heard_of", "judge", "with_patience"]),
    (
        "collector/src",
        &["Beneath", "Claims", "Survey", "Trace", "Verdict", "displace", "judge", "stake", "tend"],
    ),
];

#[test]
fn renamed_words_stay_renamed() {
    let mut faults = Vec::new();
    for (folder, words) in RENAMED {
        for path in files(&root().join(folder), ".rs") {
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                let mut names = code.split(|c: char| !c.is_alphanumeric() && c != '_');
                if let Some(word) = names.find(|name| words.contains(name)) {
                    faults.push(format!("{}:{}: {word}", relative(&path), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "renamed words: {faults:#?}");
}

#[test]
fn the_core_is_pure() {
    let banned = [
        "std::fs",
        "std::net",
        "std::env",
        "std::thread",
        "std::io",
        "std::process",
        "SystemTime",
        "Instant::now",
        "tokio",
        "async fn",
        ".await",
        "rand::",
        "getrandom",
        "HashMap",
        "HashSet",
        "println!",
        "tracing",
    ];
    let mut faults = Vec::new();
    for path in files(&root().join("core/src"), ".rs") {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let may = |word: &&&str| (relative(&path).as_str(), **word) == KEYED_BY_CHANCE;
            // A field may begin with the word.
            let has = |word: &str| {
                code.match_indices(word).any(|(at, _)| {
                    let next = code[at + word.len()..].chars().next();
                    word != ".await" || next.is_none_or(|next| !next.is_alphanumeric())
                })
            };
            for word in banned.iter().filter(|word| has(word) && !may(word)) {
                faults.push(format!("{}:{}: {word}", relative(&path), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let manifest = fs::read_to_string(root().join("core/Cargo.toml")).unwrap();
    for dependency in ["tokio", "openraft", "sled", "axum", "tracing", "rand"] {
        assert!(!manifest.contains(&format!("\n{dependency}")), "core depends on {dependency}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let mut faults = Vec::new();
    for path in files(&root(), ".rs") {
        if path.ends_with("tests/tests/tidy.rs") {
            continue;
        }
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            for mark in ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "FIXME", "XXX"] {
                if line.contains(mark) {
                    faults.push(format!("{}:{}: {mark}", relative(&path), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Every dependency's licence is one that `deny.toml` allows.
#[test]
fn licences_are_allowed() {
    let deny: toml::Table = fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let allowed: BTreeSet<&str> =
        deny["licenses"]["allow"].as_array().unwrap().iter().filter_map(|l| l.as_str()).collect();
    let banned: BTreeSet<&str> =
        deny["bans"]["deny"].as_array().unwrap().iter().filter_map(|b| b["crate"].as_str()).collect();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        if banned.contains(name) || !is_allowed(licence, &allowed) {
            faults.push(format!("{name}: {licence}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Cargo only warns of a patch that fits no longer (`docs/decisions/0015-patched-histogram.md`).
#[test]
fn patches_are_used() {
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    for name in manifest["patch"]["crates-io"].as_table().unwrap().keys() {
        let sources: Vec<_> = packages
            .iter()
            .filter(|package| package["name"].as_str() == Some(name))
            .map(|package| package.get("source"))
            .collect();
        assert_eq!(sources, [None], "{name} is to come from its patch, and from nowhere else");
    }
}

/// An SPDX expression of alternatives (`OR`, or the old `/`) of which one is
/// allowed, or of demands (`AND`) which all are.
fn is_allowed(licence: &str, allowed: &BTreeSet<&str>) -> bool {
    let licence = licence.replace(['(', ')'], "");
    let alternatives = licence.split(" AND ");
    alternatives
        .into_iter()
        .all(|part| part.replace('/', " OR ").split(" OR ").any(|one| allowed.contains(one.trim())))
}

/// The table of metrics in the documents is the one in the code.
#[test]
fn metrics_are_documented() {
    let documented = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let code = fs::read_to_string(root().join("coordinator/src/metrics.rs")).unwrap();
    let names: Vec<&str> = code.split('"').filter(|text| text.starts_with("rota_")).collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(documented.contains(&format!("`{name}`")), "docs/metrics.md does not have {name}");
    }
}

/// Links from the documents to files lead somewhere.
#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for path in files(&root(), ".md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            if !path.parent().unwrap().join(file).exists() {
                faults.push(format!("{}: {link}", relative(&path)));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
