//! Programs of ZooKeeper's own world, as Debian packages them, against a cluster: Curator's
//! recipes and the Java client, `zkCli.sh`, and the C client. What they expect was seen to be so
//! with ZooKeeper 3.8 (with `extendedTypesEnabled`, `enforceQuota`
//! and `znode.container.checkIntervalMs=500`). They know nothing of Rota.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rota_tests::zk::Release;
use rota_tests::{Cluster, LIVENESS, Ran, Settings, run};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// The jars of Curator; their manifests name those that they need.
const CLASS_PATH: &str = "/usr/share/java/curator-recipes.jar:/usr/share/java/curator-framework.jar:\
                          /usr/share/java/curator-client.jar:/usr/share/java/zookeeper.jar:\
                          /usr/share/java/slf4j-nop.jar";
const ZK_CLI: &str = "/usr/share/zookeeper/bin/zkCli.sh";
/// For short programs: what the optimizing compiler would gain, it costs.
const JVM_FLAGS: &str = "-XX:TieredStopAtLevel=1";
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// A little more than the program's own watchdog, which says more.
const JAVA_TIMEOUT: Duration = Duration::from_secs(130);
/// As [`JAVA_TIMEOUT`], for the program in C.
const C_TIMEOUT: Duration = Duration::from_secs(100);
/// A script takes a second or two, and this long when an event that it expects does not come.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Three servers that know the super user `super:test`, and look often for what is to be reaped.
async fn cluster() -> Cluster {
    let super_user = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";
    let flags = ["--zookeeper-4lw-whitelist", "*", "--super-digest", super_user, "--reap-period-ms", "500"];
    let flags = flags.map(str::to_owned).to_vec();
    Cluster::start_with(3, Settings { flags, ..Settings::default() }).await
}

fn clients(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

/// The files of a kind in a directory, in order.
fn files(directory: &Path, kind: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the clients are beside the tests");
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    let of_kind = paths.filter(|path| path.extension().is_some_and(|extension| extension == kind));
    let mut files: Vec<String> = of_kind.map(|path| path.display().to_string()).collect();
    files.sort();
    files
}

async fn compile(compiler: &str, args: &[&str], sources: &[String]) {
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let ran = run(Path::new(compiler), &[args, &sources].concat(), COMPILE_TIMEOUT).await;
    assert_eq!(ran.code, Some(0), "{compiler} failed:\n{}\n{}", ran.out, ran.err);
}

/// Compiles the programs in Java. Returns the class path to run them with.
async fn compile_java(cluster: &Cluster) -> String {
    let classes = cluster.dir().join("classes").display().to_string();
    compile("javac", &["-cp", CLASS_PATH, "-d", &classes], &files(&clients("java"), "java")).await;
    format!("{CLASS_PATH}:{classes}")
}

#[tokio::test(flavor = "multi_thread")]
async fn curator_and_the_java_client_run() {
    let cluster = cluster().await;
    let class_path = compile_java(&cluster).await;
    let args = [JVM_FLAGS, "-cp", &class_path, "CuratorRecipes", &cluster.zookeeper_all()];
    let ran: Ran = run(Path::new("java"), &args, JAVA_TIMEOUT).await;
    println!("{}\n{}", ran.out, ran.err);
    assert_eq!(ran.code, Some(0), "see the parts that FAILED above");
    assert!(ran.out.ends_with("all parts are well\n"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeepers_and_curators_classes_read_the_configuration() {
    let cluster = cluster().await;
    let class_path = Release::V3_9.class_path();
    let classes = cluster.dir().join("classes").display().to_string();
    compile("javac", &["-cp", &class_path, "-d", &classes], &files(&clients("java-3.9"), "java")).await;
    let with_classes = format!("{class_path}:{classes}");
    let args = [JVM_FLAGS, "-cp", &with_classes, "Ensemble", &cluster.zookeeper_all()];
    let ran: Ran = run(Path::new("java"), &args, JAVA_TIMEOUT).await;
    assert_eq!((ran.code, ran.out.matches("ok ").count()), (Some(0), 2), "{}\n{}", ran.out, ran.err);
}

/// A child and all that it starts, which end when this is dropped.
struct Family(Child);

impl Family {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        Self(command.spawn().expect("the program can be started; tests/set-up.sh installs what is needed"))
    }

    async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(LIVENESS, self.0.wait()).await;
        ended.expect("the program ends").expect("a child can be waited for").code()
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        // None if it was waited for: then the number may be another's now.
        if let Some(id) = self.0.id() {
            let group = Pid::from_raw(i32::try_from(id).expect("a pid fits"));
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curator_gets_on_while_servers_are_killed() {
    let mut cluster = cluster().await;
    let class_path = compile_java(&cluster).await;
    let args = [JVM_FLAGS, "-cp", &class_path, "CuratorUnderRestarts", &cluster.zookeeper_all()];
    let mut child = Family::start(Command::new("java").args(args));
    let said = tokio::time::timeout(JAVA_TIMEOUT, kill_each_when_told(&mut child, &mut cluster)).await;
    let said = said.expect("the program ends before its watchdog");
    assert_eq!(child.ended().await, Some(0), "it said: {said:#?}");
    assert_eq!(said.last().map(String::as_str), Some("ok restarts"));
}

/// Kills and restarts one server after the other when the program is ready. Returns what it said
/// until its end.
async fn kill_each_when_told(child: &mut Family, cluster: &mut Cluster) -> Vec<String> {
    let mut stdin = child.0.stdin.take();
    let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
    let (mut said, mut servers) = (Vec::new(), cluster.ids().into_iter());
    while let Some(line) = lines.next_line().await.expect("a pipe can be read") {
        if line == "ready" {
            // The end of the input ends the program.
            let Some(server) = servers.next() else {
                drop(stdin.take());
                continue;
            };
            cluster.kill9(server);
            cluster.restart(server);
            cluster.all_follow_one_leader().await;
            stdin
                .as_mut()
                .expect("it is not closed")
                .write_all(b"restarted\n")
                .await
                .expect("the program reads");
        }
        said.push(line);
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn the_c_client_runs_and_outlives_its_server() {
    let mut cluster = cluster().await;
    let program = cluster.dir().join("recipes").display().to_string();
    let (include, sources) = (clients("c").display().to_string(), files(&clients("c"), "c"));
    let warnings =
        ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-DTHREADED", "-I", &include, "-o", &program];
    let libraries = ["-lzookeeper_mt", "-lpthread"].map(str::to_owned);
    compile("cc", &warnings, &[sources, libraries.to_vec()].concat()).await;

    // The first server is the one that it loses: let that be the leader.
    let leader = cluster.leader().await;
    let mut ids = cluster.ids();
    ids.sort_by_key(|id| *id != leader);
    let servers: Vec<String> = ids.iter().map(|id| cluster.zookeeper(*id)).collect();
    let mut child = Family::start(Command::new(&program).arg(servers.join(",")));
    let said = tokio::time::timeout(C_TIMEOUT, kill_when_told(&mut child, &mut cluster, leader)).await;
    let said = said.expect("the program ends before its watchdog");
    assert_eq!(child.ended().await, Some(0), "it said: {said:#?}");
    let parts =
        ["nodes", "access-lists", "watches", "multi", "pipelined", "syncs", "close", "reconnection", "mixed"];
    for part in parts {
        assert!(said.contains(&format!("ok {part}")), "no `ok {part}` in {said:#?}");
    }
}

/// Kills the server when the program asks for it. Returns what it said until its end.
async fn kill_when_told(child: &mut Family, cluster: &mut Cluster, server: u64) -> Vec<String> {
    let mut stdin = child.0.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await.expect("a pipe can be read") {
        if line.starts_with("kill ") {
            assert_eq!(line, format!("kill {}", cluster.zookeeper(server)));
            cluster.kill9(server);
            stdin.write_all(b"dead\n").await.expect("the program reads");
        }
        said.push(line);
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn zkcli_says_what_its_scripts_say() {
    let cluster = cluster().await;
    let mut faults = String::new();
    // `nodes` is the first: it looks at the root of a new cluster.
    for name in ["nodes", "watches", "access", "quotas"] {
        let path = clients("zkcli").join(format!("{name}.script"));
        let script = Script::read(&path);
        let transcript = script.play(&cluster.zookeeper_all()).await;
        faults.extend(script.faults(&transcript).iter().map(|fault| format!("{name}: {fault}\n")));
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// Commands for `zkCli.sh`, and what it answers:
///
/// ```text
/// # A remark.
/// > create /a x
/// Created /a
/// ! NodeCreated /a
/// ```
///
/// Answers are whole, line by line but for empty ones; a line that ends in `*` stands for all that
/// begin so. Events come in this order, but when they come beside the answers is open.
struct Script {
    steps: Vec<Step>,
    events: Vec<String>,
}

struct Step {
    command: String,
    answer: Vec<String>,
}

/// What `zkCli.sh` said: the answer to each command, and the events in between.
#[derive(Debug, Default)]
struct Transcript {
    answers: Vec<Vec<String>>,
    events: Vec<String>,
}

/// Sent after each command, so that answers can be told apart.
const MARKER: &str = "printwatches";
/// What `zkCli.sh` answers to [`MARKER`], and to nothing else.
const MARK: &str = "printwatches is on";

impl Script {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a script can be read");
        let (mut steps, mut events) = (Vec::<Step>::new(), Vec::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(command) = line.strip_prefix("> ") {
                steps.push(Step { command: command.to_owned(), answer: Vec::new() });
            } else if let Some(event) = line.strip_prefix("! ") {
                events.push(event.to_owned());
            } else {
                steps.last_mut().expect("answers follow a command").answer.push(line.to_owned());
            }
        }
        Self { steps, events }
    }

    /// Sends the commands, and reads until all answers and all events that are expected are there.
    async fn play(&self, servers: &str) -> Transcript {
        let program = format!("exec {ZK_CLI} -server {servers} 2>&1");
        let mut child =
            Family::start(Command::new("sh").args(["-c", &program]).env("CLIENT_JVMFLAGS", JVM_FLAGS));
        let mut stdin = child.0.stdin.take().expect("it is piped");
        let mut lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines();
        let commands = self.steps.iter().map(|step| step.command.replace("SERVERS", servers));
        let input: String = commands.map(|command| format!("{command}\n{MARKER}\n")).collect();
        let mut transcript = Transcript::default();
        let exchange = async {
            stdin.write_all(format!("{MARKER}\n{input}").as_bytes()).await.expect("zkCli.sh reads");
            // One answer more than commands: what it says at its start.
            while transcript.answers.len() <= self.steps.len() || transcript.events.len() < self.events.len()
            {
                match lines.next_line().await.expect("a pipe can be read") {
                    Some(line) => transcript.add(&line),
                    None => break,
                }
            }
            stdin.write_all(b"quit\n").await.expect("zkCli.sh reads");
            while let Some(line) = lines.next_line().await.expect("a pipe can be read") {
                transcript.add(&line);
            }
        };
        // Whatever is missing after that is a fault, and said to be.
        let _ = tokio::time::timeout(SCRIPT_TIMEOUT, exchange).await;
        transcript.finish()
    }

    /// Where the transcript is not what the script says.
    fn faults(&self, transcript: &Transcript) -> Vec<String> {
        let mut faults = Vec::new();
        for (n, Step { command, answer }) in self.steps.iter().enumerate() {
            let said = transcript.answers.get(n).cloned().unwrap_or_default();
            let fits = said.len() == answer.len()
                && said.iter().zip(answer).all(|(said, line)| stands_for(line, said));
            if !fits {
                faults.push(format!("> {command}\nexpected {answer:#?}, but it said {said:#?}"));
            }
        }
        if transcript.events != self.events {
            faults.push(format!(
                "expected the events {:#?}, but they were {:#?}",
                self.events, transcript.events
            ));
        }
        faults
    }
}

fn stands_for(line: &str, said: &str) -> bool {
    line.strip_suffix('*').map_or(line == said, |beginning| said.starts_with(beginning))
}

impl Transcript {
    fn add(&mut self, line: &str) {
        if self.answers.is_empty() {
            self.answers.push(Vec::new());
        }
        if line == MARK {
            self.answers.push(Vec::new());
        } else if let Some((_, event)) = line.split_once(" type:") {
            // Events of the session are the client's, not the script's.
            if !event.starts_with("None ") {
                self.events.push(event.replacen("path:", "", 1));
            }
        } else if !line.is_empty() && line != "WATCHER::" && !line.starts_with("SLF4J:") {
            self.answers.last_mut().expect("there is one").push(line.to_owned());
        }
    }

    /// Without what is said before the first marker and after the last.
    fn finish(mut self) -> Self {
        self.answers.pop();
        if !self.answers.is_empty() {
            self.answers.remove(0);
        }
        self
    }
}
