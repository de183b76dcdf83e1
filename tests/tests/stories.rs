//! What a newcomer runs first: the demo on files of one's own, and the story of a
//! pool on the command line.

use std::path::Path;
use std::time::Duration;

use rota_tests::{Ran, Turn, python, rota, run};
use serde_json::Value;
use tempfile::TempDir;

/// Far longer than either takes.
const STORY_TIMEOUT: Duration = Duration::from_secs(300);

/// Text files of all kinds, by their paths.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let many: String = (0..20_000).map(|n| format!("{n} the quick brown fox\n")).collect();
    vec![
        ("app.log", many.into_bytes()),
        ("deep/er/app.log", b"one\ntwo\nthree\n".to_vec()),
        ("with a space.txt", b"a\n\n\nb\n".to_vec()),
        ("windows.txt", b"a\r\nb\r\n".to_vec()),
        ("no-newline-at-the-end", b"first\nlast".to_vec()),
        ("empty", Vec::new()),
        ("long-line", [vec![b'x'; 300_000], b"\nshort\n".to_vec()].concat()),
        ("not-utf8", b"\xff\xfe\n\x80\n".to_vec()),
        ("caf\u{e9}.log", "gar\u{e7}on\n".as_bytes().to_vec()),
    ]
}

fn succeeded(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.out, ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_collects_every_file_as_it_is() {
    let _turn = Turn::alone().await;
    let (logs, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (path, data) in files() {
        let path = logs.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }
    let text = |path: &Path| path.display().to_string();
    let (logs_arg, out_arg) = (text(logs.path()), text(out.path()));
    let args = ["--output", "json", "demo", "--for", "30s", "--logs", &logs_arg, "--out", &out_arg];
    let ran = run(&rota(), &args, STORY_TIMEOUT).await;
    succeeded(&ran);
    let account: Value = ran.json().unwrap();
    println!("{account}");
    for what in ["lost", "doubled", "out_of_order"] {
        assert_eq!(account["lines"][what], 0, "{account}");
    }
    assert_eq!(account["two_owners"], 0, "{account}");
    assert!(account["lines"]["lines_in"].as_u64().unwrap() > 20_000, "{account}");
    for (path, data) in files() {
        let collected = std::fs::read(out.path().join("system/localhost").join(path)).unwrap();
        assert!(collected == data, "{path} is not as it was: {} of {} bytes", collected.len(), data.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs_through() {
    let _turn = Turn::alone().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/rebalance.sh");
    let ran = run(&script, &[], STORY_TIMEOUT).await;
    succeeded(&ran);
    println!("{}", ran.out);
}

/// It prints an account of every message, and fails if the account is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_partitions_loses_nothing() {
    let _turn = Turn::alone().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/partitions/run.sh");
    let interpreter = python().get_program().to_string_lossy().into_owned();
    let ran = run(
        Path::new("env"),
        &[&format!("PYTHON={interpreter}"), &script.display().to_string()],
        STORY_TIMEOUT,
    )
    .await;
    succeeded(&ran);
    assert!(ran.out.contains("the account is right"), "{}", ran.out);
    println!("{}", ran.out);
}
