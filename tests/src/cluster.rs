//! A cluster of real servers, each from its own command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rota_client::Client;
use tempfile::TempDir;

use crate::call::{Answer, Call, Http, NoAnswer};
use crate::certificates::Certificates;
use crate::command::{Ran, command};
use crate::ports::free_port;
use crate::process::Process;
use crate::process_limit::Turn;

/// How long anything may take that happens in well under a second on an idle
/// machine.
pub const LIVENESS: Duration = Duration::from_secs(20);
/// How long a server may take to end after TERM: its own deadlines add up to
/// less.
const STOP: Duration = Duration::from_secs(15);

/// How a cluster is started.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Its name; `rota` if empty.
    pub cluster: String,
    /// More flags for every server.
    pub flags: Vec<String>,
    /// Whether nobody else may run meanwhile: for whoever measures time.
    pub alone: bool,
    /// Whether the servers serve clients of ZooKeeper over TLS, too.
    pub tls: bool,
    /// Whether each server's wall clock can be set: see [`Cluster::set_wall_clock_offset`].
    pub fake_wall_clock: bool,
}

/// Servers that were started together. Servers are called by their numbers, from
/// 1. All are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    // Fields are dropped in this order: processes end before their directory goes
    // and before it is somebody else's turn.
    servers: BTreeMap<u64, Server>,
    http: Http,
    dir: TempDir,
    name: String,
    flags: Vec<String>,
    certificates: Option<Certificates>,
    /// The library that fakes the servers' wall clocks.
    faketime: Option<PathBuf>,
    turn: Option<Turn>,
}

#[derive(Debug)]
struct Server {
    process: Option<Process>,
    http: String,
    peer: String,
    zookeeper: String,
    zookeeper_tls: String,
    /// `--peers …` or `--join`.
    role: Vec<String>,
}

impl Server {
    /// A server that does not run, at addresses of its own.
    fn new(role: Vec<String>) -> Self {
        Self {
            process: None,
            http: loopback(),
            peer: loopback(),
            zookeeper: loopback(),
            zookeeper_tls: loopback(),
            role,
        }
    }
}

impl Cluster {
    /// Starts `count` servers and waits until all of them follow one leader.
    pub async fn start(count: u64) -> Self {
        Self::start_with(count, Settings::default()).await
    }

    /// As [`Cluster::start`], with settings.
    pub async fn start_with(count: u64, settings: Settings) -> Self {
        let mut cluster = Self::prepare(count, settings).await;
        for id in 1..=count {
            cluster.restart(id);
        }
        cluster.all_follow_one_leader().await;
        cluster
    }

    /// Everything but the servers' start, which [`Cluster::restart`] does.
    pub async fn prepare(count: u64, settings: Settings) -> Self {
        let turn = if settings.alone { Turn::alone().await } else { Turn::shared().await };
        let mut cluster = Self::beside(count, settings);
        cluster.turn = Some(turn);
        cluster
    }

    /// As [`Cluster::prepare`], for a second cluster in a test, whose turn it is
    /// already.
    #[must_use]
    pub fn beside(count: u64, settings: Settings) -> Self {
        let name = if settings.cluster.is_empty() { "rota".to_owned() } else { settings.cluster };
        let dir = TempDir::with_prefix("rota-tests-").expect("there is room for temporary files");
        let addresses: BTreeMap<u64, (String, String)> =
            (1..=count).map(|id| (id, (loopback(), loopback()))).collect();
        let peers: Vec<String> = addresses.iter().map(|(id, (_, peer))| format!("{id}={peer}")).collect();
        let role = vec!["--peers".to_owned(), peers.join(",")];
        let server = |(id, (http, peer))| (id, Server { http, peer, ..Server::new(role.clone()) });
        let servers = addresses.into_iter().map(server).collect();
        let certificates = settings.tls.then(|| Certificates::make(&dir.path().join("certificates")));
        let flags = settings.flags;
        let faketime = settings.fake_wall_clock.then(faketime_library);
        Self { servers, http: Http::default(), dir, name, flags, certificates, faketime, turn: None }
    }

    /// Starts a server more, which waits to be added.
    pub fn start_joiner(&mut self, id: u64) {
        self.start_as(id, vec!["--join".to_owned()]);
    }

    /// Starts a server more, which makes a cluster together with others whose
    /// addresses are given.
    pub fn start_founder(&mut self, id: u64, others: &[(u64, &str)]) {
        let peer = loopback();
        let others = others.iter().map(|(id, address)| format!("{id}={address}"));
        let peers: Vec<String> = others.chain([format!("{id}={peer}")]).collect();
        let server = Server { peer, ..Server::new(vec!["--peers".to_owned(), peers.join(",")]) };
        self.servers.insert(id, server);
        self.restart(id);
    }

    /// Starts a server more with these flags in place of `--peers` or `--join`.
    pub fn start_as(&mut self, id: u64, role: Vec<String>) {
        self.servers.insert(id, Server::new(role));
        self.restart(id);
    }

    /// Gives a server other flags in place of `--peers` or `--join` from its next start on.
    pub fn set_role(&mut self, id: u64, role: Vec<String>) {
        self.server_mut(id).role = role;
    }

    /// Has servers that do not run yet reach each other's peer ports where `proxied_port` says.
    ///
    /// # Errors
    /// Those of `proxied_port`.
    pub fn route_peers(
        &mut self,
        mut proxied_port: impl FnMut(u64, u16) -> anyhow::Result<u16>,
    ) -> anyhow::Result<()> {
        let mut peers = Vec::new();
        for id in self.ids() {
            let address: std::net::SocketAddr = self.peer(id).parse()?;
            peers.push(format!("{id}=127.0.0.1:{}", proxied_port(id, address.port())?));
        }
        for id in self.ids() {
            self.set_role(id, vec!["--peers".to_owned(), peers.join(",")]);
        }
        Ok(())
    }

    /// Gives a server another peer address from its next start on, and returns it.
    pub fn move_peer(&mut self, id: u64) -> String {
        let peer = loopback();
        self.server_mut(id).peer.clone_from(&peer);
        peer
    }

    /// The command line of a server.
    #[must_use]
    pub fn arguments(&self, id: u64) -> Vec<String> {
        let server = self.server(id);
        let text = |s: &str| s.to_owned();
        let mut args =
            vec![text("coordinator"), text("--id"), id.to_string(), text("--cluster"), self.name.clone()];
        args.extend([text("--data"), self.data(id).display().to_string()]);
        args.extend([text("--http"), server.http.clone(), text("--peer"), server.peer.clone()]);
        args.extend([text("--zookeeper"), server.zookeeper.clone()]);
        if let Some(files) = &self.certificates {
            args.extend([text("--zookeeper-tls"), server.zookeeper_tls.clone()]);
            for (flag, file) in [
                ("certificate", &files.server),
                ("key", &files.server_key),
                ("authorities", &files.authority),
            ] {
                args.extend([format!("--zookeeper-tls-{flag}"), file.display().to_string()]);
            }
        }
        args.extend(server.role.iter().cloned());
        args.extend(self.flags.iter().cloned());
        args
    }

    /// Starts a server that does not run, from the same command line as before.
    pub fn restart(&mut self, id: u64) {
        self.restart_with(id, &[]);
    }

    /// As [`Cluster::restart`], with more flags for this once.
    pub fn restart_with(&mut self, id: u64, flags: &[&str]) {
        let mut args = self.arguments(id);
        args.extend(flags.iter().map(ToString::to_string));
        let log = self.log(id);
        let mut command = std::process::Command::new(crate::rota());
        command.args(args);
        if let Some(library) = self.faketime.clone() {
            if !self.wall_clock_file(id).exists() {
                self.set_wall_clock_offset(id, "+0");
            }
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.wall_clock_file(id));
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let server = self.server_mut(id);
        assert!(server.process.as_mut().is_none_or(|p| !p.runs()), "server {id} runs already");
        server.process = Some(Process::spawn(command, &log));
    }

    /// Sets the offset of a server's wall clock, as `+1h` or `-30d`. Its monotonic clock goes on.
    pub fn set_wall_clock_offset(&self, id: u64, offset: &str) {
        // Replaced whole: the server reads it whenever it looks at the time.
        let (file, new) = (self.wall_clock_file(id), self.dir.path().join("wall-clock.new"));
        std::fs::write(&new, offset).expect("there is room for a file");
        std::fs::rename(&new, file).expect("a file can be renamed");
    }

    fn wall_clock_file(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("wall-clock-{id}"))
    }

    /// Kills a server with SIGKILL. Returns when, by `CLOCK_MONOTONIC`.
    pub fn kill9(&mut self, id: u64) -> u64 {
        self.process(id).kill9()
    }

    /// Asks a server with SIGTERM to stop, and waits for its end.
    pub async fn stop_in_order(&mut self, id: u64) {
        let process = self.process(id);
        process.term();
        let status = process.ended(STOP).await;
        let said = self.said(id);
        assert!(status.success(), "server {id} ended with {status}; it said: {said}");
        assert!(!said.contains("ERROR"), "server {id} ended in order, but said: {said}");
    }

    /// Stops a server where it stands (SIGSTOP).
    pub fn pause(&mut self, id: u64) {
        self.process(id).pause();
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&mut self, id: u64) {
        self.process(id).resume();
    }

    /// The process of a server that was started.
    pub fn process(&mut self, id: u64) -> &mut Process {
        self.server_mut(id).process.as_mut().expect("the server was started")
    }

    fn server(&self, id: u64) -> &Server {
        self.servers.get(&id).expect("there is such a server")
    }

    fn server_mut(&mut self, id: u64) -> &mut Server {
        self.servers.get_mut(&id).expect("there is such a server")
    }

    /// A server's data directory.
    #[must_use]
    pub fn data(&self, id: u64) -> PathBuf {
        self.dir().join(format!("server-{id}"))
    }

    fn log(&self, id: u64) -> PathBuf {
        self.dir().join(format!("server-{id}.log"))
    }

    /// All that a server said until now.
    #[must_use]
    pub fn said(&self, id: u64) -> String {
        std::fs::read_to_string(self.log(id)).unwrap_or_default()
    }

    /// A directory that goes when the test is over.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a server serves clients.
    #[must_use]
    pub fn http(&self, id: u64) -> String {
        self.server(id).http.clone()
    }

    /// Where a server serves clients of ZooKeeper.
    #[must_use]
    pub fn zookeeper(&self, id: u64) -> String {
        self.server(id).zookeeper.clone()
    }

    /// Where all servers serve clients of ZooKeeper, separated by commas.
    #[must_use]
    pub fn zookeeper_all(&self) -> String {
        let all: Vec<String> = self.servers.values().map(|server| server.zookeeper.clone()).collect();
        all.join(",")
    }

    /// Where all servers serve clients of ZooKeeper over TLS, separated by commas.
    #[must_use]
    pub fn zookeeper_tls_all(&self) -> String {
        let all: Vec<String> = self.servers.values().map(|server| server.zookeeper_tls.clone()).collect();
        all.join(",")
    }

    /// The certificates, if there is TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Where a server serves other servers.
    #[must_use]
    pub fn peer(&self, id: u64) -> String {
        self.server(id).peer.clone()
    }

    /// The servers' numbers, those that do not run included.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.servers.keys().copied().collect()
    }

    /// The servers that were started, those that died since included.
    pub(crate) fn started(&self) -> Vec<u64> {
        self.servers.iter().filter(|(_, s)| s.process.is_some()).map(|(id, _)| *id).collect()
    }

    /// Where all servers serve clients, those that do not run included.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.servers.values().map(|server| server.http.clone()).collect()
    }

    /// A client of all servers.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.addresses()).expect("the addresses are sound")
    }

    /// Runs an operator's command against all servers.
    pub async fn operate(&self, args: &[&str]) -> Ran {
        let servers = self.addresses().join(",");
        command(&[&["--servers", &servers], args].concat()).await
    }

    /// Asks one server.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn send(&self, id: u64, call: Call) -> Result<Answer, NoAnswer> {
        self.http.send(&self.server(id).http, call).await
    }

    /// Asks one server, which must answer.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ask(&self, id: u64, call: Call) -> Answer {
        let asked = format!("{call:?}");
        self.send(id, call).await.unwrap_or_else(|e| panic!("server {id}, asked {asked}: {e}"))
    }
}

/// A free address on loopback.
fn loopback() -> String {
    format!("127.0.0.1:{}", free_port())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for id in self.ids() {
            let said = self.said(id);
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- server {id} said last:\n{}", last.join("\n"));
        }
    }
}

/// Debian's `libfaketime`, which `make test` installs.
fn faketime_library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there is a /usr/lib").flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.exists()).expect("libfaketime is installed: tests/set-up.sh does it")
}
