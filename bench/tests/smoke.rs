//! The subcommands of the benchmark run, for moments, and without looking at its numbers.

use std::process::Command;

#[test]
fn the_benchmark_runs() {
    let out = tempfile::TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rota-bench"));
    command
        .args(["compare", "--systems", "rota,rota-http", "--rounds", "1", "--seconds", "0.3"])
        .args(["--faults", "leader-killed", "--nodes", "2000"])
        .args(["--sessions", "50", "--session-seconds", "1", "--out"])
        .arg(out.path());
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let results = std::fs::read_to_string(out.path().join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let count = |what: &str| results[what].as_array().unwrap().len();
    assert_eq!((count("samples"), count("noticed"), count("big")), (12, 1, 1));
    assert_eq!((count("told"), count("held"), &results["held"][0]["lost"]), (1, 1, &0.into()));
    for sample in results["samples"].as_array().unwrap() {
        assert!(sample["report"]["done"].as_u64().unwrap() > 0, "{sample}");
        assert!(sample["servers_us"].as_f64().unwrap() > 0.0, "{sample}");
    }
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("leader killed") && text.contains("Rota, HTTP"), "{text}");
    let chart = std::fs::read_to_string(out.path().join("results.svg")).unwrap();
    assert_eq!(chart.matches("<rect").count(), 1 + 12, "a bar for each system and workload");
}

#[test]
fn the_benchmark_of_assignment_runs() {
    let small =
        ["--members", "40", "--buckets", "1000", "--workers", "20", "--changes", "20", "--watchers", "60"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_rota-bench"));
    let ran = command.arg("assignment").args(small).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    for what in ["from nothing", "after a death", "20 workers", "60 watchers"] {
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn the_seed_corpus_is_recorded() {
    let out = tempfile::TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rota-bench"));
    let ran = command.arg("seed-corpus").arg("--out").arg(out.path()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    let kinds = |target: &str| text.lines().filter(|line| line.starts_with(&format!("{target} "))).count();
    let kinds = ["http_body", "client_table", "data_files", "agent_files", "zk_disk", "snapshot"].map(kinds);
    assert_eq!(kinds, [13, 2, 2, 2, 1, 1], "every kind of body, table and file: {text}");
    let seeds = std::fs::read_dir(out.path().join("http_body")).unwrap().count();
    assert!(seeds >= 13, "{seeds} seeds");
}
