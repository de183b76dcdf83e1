//! Agents and collectors as real processes, among strangers: forged requests and
//! items, links and names that were made to deceive, and outputs in the way.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use rota_tests::{Answer, Call, Cluster, Http, Process, eventually, free_port};
use serde_json::{Value, json};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A server, an agent of application `a` on host `h` and, once it is started, a
/// collector.
struct Logs {
    cluster: Cluster,
    agent: Process,
    address: String,
    collector: Option<Process>,
}

impl Logs {
    /// An agent that follows what `prepare` has put into the directory `src`.
    async fn start(prepare: impl FnOnce(&Path)) -> Self {
        let cluster = Cluster::start(1).await;
        let dir = cluster.dir().to_owned();
        fs::create_dir(dir.join("src")).unwrap();
        prepare(&dir);
        let address = format!("127.0.0.1:{}", free_port());
        let glob = format!("{}/src/*.log", dir.display());
        let state = dir.join("state").display().to_string();
        let args = ["agent", "--app", "a", "--host", "h", "--path", &glob, "--state", &state];
        let args = args.into_iter().chain(["--listen", &address, "--session-timeout", "2s"]);
        let agent = spawn(&cluster, args, "agent.log");
        let logs = Self { cluster, agent, address, collector: None };
        logs.served("the agent serves", |listed| !listed["sources"].as_array().unwrap().is_empty()).await;
        logs
    }

    fn collect(&mut self) {
        let out = self.path("out").display().to_string();
        let args = ["collector", "--out", &out, "--name", "k1", "--session-timeout", "2s"];
        self.collector = Some(spawn(&self.cluster, args, "collector.log"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.dir().join(name)
    }

    fn output(&self, file: &str) -> String {
        fs::read_to_string(self.path("out/a/h").join(file)).unwrap_or_default()
    }

    fn ledger(&self) -> String {
        fs::read_to_string(self.path("out/.rota/gaps.jsonl")).unwrap_or_default()
    }

    async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Answer {
        let call = headers.iter().fold(Call::get(path), |call, (name, value)| call.header(name, value));
        Http::default().send(&self.address, call).await.expect("the agent answers")
    }

    /// Waits until what the agent lists is so, and returns it.
    async fn served(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, LONG, async || {
            let Ok(answer) = Http::default().send(&self.address, Call::get("/v1/sources")).await else {
                bail!("no answer; it said {}", self.agent.said())
            };
            let listed: Value = answer.ok()?;
            ensure!(is_so(&listed), "{listed}");
            Ok(listed)
        })
        .await
    }

    async fn collected(&self, file: &str, wanted: &str) {
        eventually(&format!("{file} is collected"), LONG, async || {
            let output = self.output(file);
            ensure!(output == wanted, "{} of {} bytes", output.len(), wanted.len());
            Ok(())
        })
        .await;
    }
}

fn spawn<'a>(cluster: &Cluster, args: impl IntoIterator<Item = &'a str>, log: &str) -> Process {
    let servers = cluster.addresses().join(",");
    let servers = ["--servers".to_owned(), servers];
    let args: Vec<String> = servers.into_iter().chain(args.into_iter().map(str::to_owned)).collect();
    Process::start(args, &cluster.dir().join(log))
}

fn lines(range: std::ops::RangeInclusive<u32>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

fn incarnations(listed: &Value) -> Vec<u64> {
    let all = listed["sources"][0]["incarnations"].as_array().unwrap();
    all.iter().map(|incarnation| incarnation["incarnation"].as_u64().unwrap()).collect()
}

const DATA: &str = "/v1/sources/a@h:x.log/data";

/// One GET by a stranger had the collector read everything twice, and record a gap
/// that never was.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_range_doubles_nothing() {
    let mut logs = Logs::start(|dir| fs::write(dir.join("src/x.log"), lines(1..=1000)).unwrap()).await;
    logs.collect();
    logs.collected("x.log", &lines(1..=1000)).await;
    let tag = format!("\"{}\"", incarnations(&logs.served("it is listed", |_| true).await)[0]);
    let refused = logs.get(DATA, &[("if-match", &tag), ("range", "bytes=999999-")]).await;
    assert_eq!(refused.status.as_u16(), 416);
    assert_eq!(refused.header("rota-next-incarnation"), None);
    fs::write(logs.path("src/x.log"), lines(1..=1010)).unwrap();
    logs.collected("x.log", &lines(1..=1010)).await;
    assert_eq!(logs.ledger(), "");
}

/// Another had the agent close a rotated file that nobody had read.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_position_loses_nothing() {
    let mut logs = Logs::start(|dir| fs::write(dir.join("src/x.log"), lines(1..=1000)).unwrap()).await;
    fs::rename(logs.path("src/x.log"), logs.path("src/x.log.1")).unwrap();
    fs::write(logs.path("src/x.log"), lines(1001..=1010)).unwrap();
    let listed = logs.served("the rotation is seen", |listed| incarnations(listed).len() == 2).await;
    fs::remove_file(logs.path("src/x.log.1")).unwrap();
    logs.served("the file is held", |listed| listed["sources"][0]["incarnations"][0].get("path").is_none())
        .await;
    for position in [format!("{}:0:0", incarnations(&listed)[1]), format!("{}:999:9", u64::MAX)] {
        logs.get(DATA, &[("rota-collected", &position)]).await;
    }
    logs.collect();
    logs.collected("x.log", &lines(1..=1010)).await;
    assert_eq!(logs.ledger(), "");
    // And the checkpoint, which the collector has written as the owner, releases it.
    logs.served("it is released", |listed| incarnations(listed).len() == 1).await;
}

/// Whoever can write to the directory of the logs must not get at other files by
/// the agent, nor at the operator's terminal.
#[tokio::test(flavor = "multi_thread")]
async fn links_and_names_deceive_nobody() {
    let escapes = OsStr::from_bytes(b"esc\x1b[31mred\nnl.log");
    let mut logs = Logs::start(|dir| {
        fs::create_dir(dir.join("secret")).unwrap();
        fs::write(dir.join("secret/shadow"), "root:SECRET-HASH\n").unwrap();
        fs::write(dir.join("src/x.log"), "hello\n").unwrap();
        fs::write(dir.join("src").join(escapes), "evil\n").unwrap();
        fs::write(dir.join("src").join(OsStr::from_bytes(b"bad\xff.log")), "u\n").unwrap();
        symlink(dir.join("secret/shadow"), dir.join("src/link.log")).unwrap();
    })
    .await;
    logs.collect();
    logs.collected("x.log", "hello\n").await;
    logs.collected("esc%1B[31mred%0Anl.log", "evil\n").await;
    logs.collected("bad%FF.log", "u\n").await;
    let listed = logs.served("the link is listed", |listed| listed["unreadable"][0].is_object()).await;
    let unreadable = &listed["unreadable"][0];
    assert!(unreadable["path"].as_str().unwrap().ends_with("/src/link.log"), "{listed}");
    assert_eq!(logs.get("/v1/sources/a@h:link.log/data", &[]).await.status.as_u16(), 404);

    // The file becomes a link while it is followed.
    fs::remove_file(logs.path("src/x.log")).unwrap();
    symlink(logs.path("secret/shadow"), logs.path("src/x.log")).unwrap();
    logs.served("the change is seen", |listed| listed["unreadable"].as_array().unwrap().len() == 2).await;
    fs::remove_file(logs.path("src/x.log")).unwrap();
    fs::write(logs.path("src/x.log"), "again\n").unwrap();
    logs.collected("x.log", "hello\nagain\n").await;

    for traversal in ["..%2f..%2fsecret%2fshadow", "a@h:..%2f..%2fsecret%2fshadow", "a@h:%2fetc%2fpasswd"] {
        let answer = logs.get(&format!("/v1/sources/{traversal}/data"), &[]).await;
        assert_eq!(answer.status.as_u16(), 404, "{traversal}");
    }
    for log in ["agent.log", "collector.log"] {
        let said = fs::read(logs.path(log)).unwrap();
        assert!(!said.contains(&0x1b), "{log}: {}", String::from_utf8_lossy(&said));
        assert!(!String::from_utf8_lossy(&said).lines().any(|line| line.starts_with("nl.log")), "{log}");
    }
    for (path, mode) in
        [("out", 0o700), ("out/a/h", 0o700), ("out/.rota", 0o700), ("out/a/h/x.log", 0o600), ("state", 0o700)]
    {
        let found = fs::metadata(logs.path(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
    for (path, text) in tree(&logs.path("out")) {
        assert!(!text.contains("SECRET"), "{} has it", path.display());
    }
}

/// Items can be put by anybody who reaches a server. None leads the collector out of
/// its directory.
#[tokio::test(flavor = "multi_thread")]
async fn forged_items_write_nowhere_else() {
    let mut logs = Logs::start(|dir| fs::write(dir.join("src/x.log"), "hello\n").unwrap()).await;
    logs.collect();
    logs.collected("x.log", "hello\n").await;
    let pwned = logs.path("pwned");
    let cases = [
        ("a", "h", "../../../pwned"),
        ("..", "..", "pwned"),
        ("a", "h", pwned.to_str().unwrap()),
        (".rota", "h", "gaps.jsonl"),
        ("a", "h", "x.log/../../y"),
    ];
    let mut names = Vec::new();
    for (app, host, file) in cases {
        let name = format!("{app}@{host}:{}", file.replace('/', "%2F"));
        let labels = json!({"app": app, "host": host, "file": file});
        let item = json!({"name": name, "address": logs.address, "labels": labels, "persistent": true});
        let put = logs.cluster.ask(1, Call::post("/v1/pools/logs/items", &item)).await;
        assert!(put.status.is_success(), "{name}: {}", put.text());
        names.push(name);
    }
    let said = eventually("each is refused, and the status says so", LONG, async || {
        let ran = logs.cluster.operate(&["status"]).await;
        ensure!(ran.err.contains(&format!("work fails on {} buckets", names.len())), "{ran:?}");
        Ok(ran)
    })
    .await;
    said.failed(&["could lead out of the output directory"]);
    let found: Vec<PathBuf> = tree(&logs.path("out")).into_iter().map(|(path, _)| path).collect();
    let foreign = found.iter().find(|path| path.ends_with("pwned") || path.ends_with("y"));
    assert_eq!((foreign, pwned.exists()), (None, false), "{found:?}");
    assert_eq!(logs.ledger(), "");
}

/// What stands still is in `rota status`, with the system's own words, and goes on
/// by itself when it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_stands_still_is_in_the_status() {
    let mut logs = Logs::start(|dir| fs::write(dir.join("src/x.log"), "hello\n").unwrap()).await;
    fs::create_dir_all(logs.path("out/a/h/x.log")).unwrap();
    logs.collect();
    let said = eventually("the status says so", LONG, async || {
        let ran = logs.cluster.operate(&["status"]).await;
        ensure!(ran.err.contains("a@h:x.log (k1): "), "{ran:?}");
        Ok(ran)
    })
    .await;
    said.failed(&["work fails on 1 bucket", "Is a directory (os error 21)"]);
    let document: Value = logs.cluster.operate(&["--output", "json", "status"]).await.json().unwrap();
    assert_eq!(document["failing"][0]["buckets"][0]["bucket"], "a@h:x.log", "{document}");

    fs::remove_dir(logs.path("out/a/h/x.log")).unwrap();
    logs.collected("x.log", "hello\n").await;
    eventually("the status is clear", LONG, async || {
        let ran = logs.cluster.operate(&["status"]).await;
        ensure!(ran.code == Some(0), "{ran:?}");
        Ok(())
    })
    .await;
}

/// All files below a directory, with their text.
fn tree(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => {
                found.push((path.clone(), String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            }
        }
    }
    found
}
