//! What a server answered, so that the answers of two servers can be compared: what
//! must be equal as it is, write numbers by their order, sessions by their names,
//! and times by the writes that they belong to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use rota_core::state::{AclEntry, Stat};
use rota_protocol::zk::{Body, ErrorCode, Part};

/// One thing in a line.
#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Zxid(u64),
    Owner(u64),
}

/// All that was answered.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    lines: Vec<Vec<Piece>>,
    sessions: BTreeMap<u64, String>,
    /// What the servers said of the time of each write.
    times: BTreeMap<u64, BTreeSet<u64>>,
    root: String,
}

impl Transcript {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    pub(super) fn name_session(&mut self, id: u64, name: &str) {
        self.sessions.insert(id, name.to_owned());
    }

    pub(super) fn line(&mut self, text: &str) {
        self.lines.push(vec![Piece::Text(self.plain(text))]);
    }

    /// An answer; `zxid` if it is a write's.
    pub(super) fn answer(&mut self, step: &str, zxid: Option<u64>, answer: &Result<Body, i32>) {
        let mut line = vec![Piece::Text(format!("{step} ->"))];
        if let Some(zxid) = zxid {
            line.push(Piece::Text(" at ".to_owned()));
            line.push(Piece::Zxid(zxid));
        }
        match answer {
            Ok(body) => self.body(&mut line, body),
            Err(code) => line.push(Piece::Text(format!(" {}", name(*code)))),
        }
        self.lines.push(line);
    }

    fn plain(&self, text: &str) -> String {
        if self.root.is_empty() { text.to_owned() } else { text.replace(&self.root, "~") }
    }

    fn body(&mut self, line: &mut Vec<Piece>, body: &Body) {
        let root = self.root.clone();
        let mut say = |text: String| line.push(Piece::Text(text.replace(&root, "~")));
        match body {
            Body::Nothing => say(" ok".to_owned()),
            Body::Path(path) => say(format!(" {path}")),
            Body::PathStat(path, stat) => {
                say(format!(" {path}"));
                self.stat(line, stat);
            }
            Body::Stat(stat) => self.stat(line, stat),
            Body::DataStat(data, stat) => {
                say(format!(" {}", bytes(data.as_deref())));
                self.stat(line, stat);
            }
            Body::AclStat(acl, stat) => {
                // Several identities that `auth` stands for come in no order.
                let acl: BTreeSet<String> = acl.iter().map(entry).collect();
                say(format!(" {acl:?}"));
                self.stat(line, stat);
            }
            Body::Names(names) => say(format!(" {}", sorted(names))),
            Body::NamesStat(names, stat) => {
                say(format!(" {}", sorted(names)));
                self.stat(line, stat);
            }
            Body::Number(number) => say(format!(" {number}")),
            Body::Clients(clients) => {
                let clients: BTreeSet<String> =
                    clients.iter().map(|c| format!("{}:{}", c.scheme, c.user)).collect();
                say(format!(" {clients:?}"));
            }
            Body::Parts(parts) => parts.iter().for_each(|part| self.part(line, part)),
        }
    }

    fn part(&mut self, line: &mut Vec<Piece>, part: &Part) {
        let mut say = |text: String| line.push(Piece::Text(format!(" | {}", text.replace(&self.root, "~"))));
        match part {
            Part::Create(path) => say(path.clone()),
            Part::Create2(path, stat) => {
                say(path.clone());
                self.stat(line, stat);
            }
            Part::Delete => say("deleted".to_owned()),
            Part::Check => say("checked".to_owned()),
            Part::SetData(stat) => {
                say("set".to_owned());
                self.stat(line, stat);
            }
            Part::GetData(data, stat) => {
                say(bytes(data.as_deref()));
                self.stat(line, stat);
            }
            Part::GetChildren(names) => say(sorted(names)),
            Part::Error(code) => say(name(*code)),
        }
    }

    fn stat(&mut self, line: &mut Vec<Piece>, stat: &Stat) {
        self.times.entry(stat.czxid).or_default().insert(stat.ctime_ms);
        self.times.entry(stat.mzxid).or_default().insert(stat.mtime_ms);
        line.push(Piece::Text(" (c".to_owned()));
        line.push(Piece::Zxid(stat.czxid));
        line.push(Piece::Text(" m".to_owned()));
        line.push(Piece::Zxid(stat.mzxid));
        line.push(Piece::Text(" p".to_owned()));
        line.push(Piece::Zxid(stat.pzxid));
        let Stat { version, cversion, aversion, data_length, num_children, .. } = stat;
        line.push(Piece::Text(format!(
            " v{version} cv{cversion} av{aversion} {data_length}B {num_children}n "
        )));
        line.push(Piece::Owner(stat.ephemeral_owner));
        line.push(Piece::Text(")".to_owned()));
    }

    /// The lines, with the writes numbered in their order.
    pub(super) fn render(&self) -> Vec<String> {
        let zxids: BTreeSet<u64> = self
            .lines
            .iter()
            .flatten()
            .filter_map(|piece| match piece {
                Piece::Zxid(zxid) if *zxid > 0 => Some(*zxid),
                _ => None,
            })
            .collect();
        let order: BTreeMap<u64, usize> =
            zxids.iter().enumerate().map(|(at, zxid)| (*zxid, at + 1)).collect();
        let render = |line: &Vec<Piece>| {
            let mut text = String::new();
            for piece in line {
                let written = match piece {
                    Piece::Text(piece) => text.write_str(piece),
                    Piece::Zxid(zxid) => write!(text, "{}", order.get(zxid).copied().unwrap_or(0)),
                    Piece::Owner(0) => text.write_str("-"),
                    Piece::Owner(owner) => match self.sessions.get(owner) {
                        Some(name) => text.write_str(name),
                        None => write!(text, "{owner:x}"),
                    },
                };
                written.expect("a string takes everything");
            }
            text
        };
        let mut lines: Vec<String> = self.lines.iter().map(render).collect();
        lines.extend(self.faults_of_time());
        lines
    }

    /// Each write has one time, and none is before an earlier one's.
    fn faults_of_time(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut latest = 0;
        for (zxid, times) in &self.times {
            if times.len() > 1 {
                faults.push(format!("write {zxid:x} has several times: {times:?}"));
            }
            let first = times.first().copied().unwrap_or(0);
            if first < latest {
                faults.push(format!("write {zxid:x} is of {first}, before an earlier one of {latest}"));
            }
            latest = latest.max(first);
        }
        faults
    }
}

fn name(code: i32) -> String {
    ErrorCode::from_number(code).map_or_else(|| code.to_string(), |code| format!("{code:?}"))
}

fn bytes(data: Option<&[u8]>) -> String {
    match data {
        None => "none".to_owned(),
        Some(data) if data.len() > 200 => format!("{} bytes", data.len()),
        Some(data) => format!("{:?}", String::from_utf8_lossy(data)),
    }
}

fn entry(entry: &AclEntry) -> String {
    format!("{}:{}:{}", entry.who.scheme, entry.who.id, entry.perms)
}

/// ZooKeeper names children in no order.
fn sorted(names: &[String]) -> String {
    let names: BTreeSet<&String> = names.iter().collect();
    format!("{names:?}")
}
