//! The language of scenarios. A line is a session's name, an operation and its
//! arguments; sessions connect by themselves, each to another server.
//!
//! ```text
//! a create /x data=hello acl=world:anyone:r
//! b get /x watch
//! a multi set /x data=1 v=0 ; create /x/y ; delete /none
//! a pipe sync / ; create /z ; get /z
//! ```
//!
//! Every scenario has a part of the tree for itself, in which its paths lie; a path
//! that begins with `=` is meant as it stands, and `$R` in it stands for that part.

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use rota_core::state::{AclEntry, Identity};
use rota_protocol::zk::{
    Auth, Create, CreateTtl, MultiOp, PathNumber, PathVersion, PathWatch, ReadOp, Reconfig, Request, SetAcl,
    SetData, SetWatches, SetWatches2,
};

use super::peer::Release;

/// Steps, and what they are about.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Its lines.
    pub steps: Vec<String>,
    /// The only release that it is played to, where the two do not answer alike.
    pub only: Option<Release>,
}

/// The scenarios of a text: each begins with `== name`, with `(3.8)` or `(3.9)` after it if it is
/// for that release only.
#[must_use]
pub fn scenarios(text: &str) -> Vec<Scenario> {
    let mut all: Vec<Scenario> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("== "), all.last_mut()) {
            (Some(name), _) => {
                let only = match name {
                    name if name.ends_with("(3.8)") => Some(Release::V3_8),
                    name if name.ends_with("(3.9)") => Some(Release::V3_9),
                    _ => None,
                };
                all.push(Scenario { name: name.to_owned(), steps: Vec::new(), only });
            }
            (None, Some(scenario)) => scenario.steps.push(line.to_owned()),
            (None, None) => panic!("a step before the first scenario: {line}"),
        }
    }
    all
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Act {
    /// Says this.
    Ask(Request),
    /// Says all of these at once.
    Pipe(Vec<(String, Request)>),
    /// Says bytes of an operation with this number.
    AskRaw(i32, Bytes),
    /// Opens a session with this timeout, on that server.
    Connect { timeout_ms: i32, server: Option<usize> },
    /// Leaves the connection without a word, and goes on with the session elsewhere.
    Resume { server: usize, password: Option<Bytes> },
    /// Remembers the last write.
    Mark(String),
}

/// Reads a step's operation. `root` is the scenario's part of the tree, `zxid` says
/// which write a name remembers.
pub(super) fn act(line: &str, root: &str, zxid: &dyn Fn(&str) -> u64) -> anyhow::Result<Act> {
    let (op, rest) = line.split_once(' ').unwrap_or((line, ""));
    let args = Args::parse(rest, root);
    let request = match op {
        "connect" => {
            let timeout_ms = args.number("timeout").unwrap_or(10_000);
            let server = args.number::<usize>("server");
            return Ok(Act::Connect { timeout_ms, server });
        }
        "resume" => {
            let password = args.value("password").map(|text| Bytes::copy_from_slice(text.as_bytes()));
            return Ok(Act::Resume { server: args.number("server").unwrap_or(0), password });
        }
        "pipe" => {
            let ask = |part: &str| match act(part, root, zxid)? {
                Act::Ask(request) => Ok((part.to_owned(), request)),
                _ => bail!("{part:?} cannot be one of several"),
            };
            return Ok(Act::Pipe(parts(rest).map(ask).collect::<anyhow::Result<_>>()?));
        }
        "mark" => return Ok(Act::Mark(args.word(0)?.to_owned())),
        "raw" => {
            let op = args.number("op").context("raw needs op=")?;
            return Ok(Act::AskRaw(op, args.hex()?));
        }
        "multi" => {
            Request::Multi(parts(rest).map(|part| multi_op(part, root)).collect::<anyhow::Result<_>>()?)
        }
        "mread" => {
            Request::MultiRead(parts(rest).map(|part| read_op(part, root)).collect::<anyhow::Result<_>>()?)
        }
        "create" => Request::Create(args.create()?),
        "create2" => Request::Create2(args.create()?),
        "container" => Request::CreateContainer(args.container()?),
        "ttl" => Request::CreateTtl(args.create_ttl()?),
        "delete" => Request::Delete(args.path_version()?),
        "reap" => Request::DeleteContainer(args.path()?),
        "set" => Request::SetData(args.set()?),
        "setacl" => Request::SetAcl(SetAcl { path: args.path()?, acl: args.acl()?, version: args.version() }),
        "exists" => Request::Exists(args.path_watch()?),
        "get" => Request::GetData(args.path_watch()?),
        "ls" => Request::GetChildren(args.path_watch()?),
        "ls2" => Request::GetChildren2(args.path_watch()?),
        "getacl" => Request::GetAcl(args.path()?),
        "ephemerals" => Request::GetEphemerals(args.path()?),
        "count" => Request::GetAllChildrenNumber(args.path()?),
        "sync" => Request::Sync(args.path()?),
        "ping" => Request::Ping,
        "whoami" => Request::WhoAmI,
        "close" => Request::CloseSession,
        "auth" => {
            let (scheme, auth) = args.word(0)?.split_once(':').context("auth needs SCHEME:PROOF")?;
            let auth = Some(Bytes::copy_from_slice(auth.as_bytes()));
            Request::Auth(Auth { auth_type: 0, scheme: scheme.to_owned(), auth })
        }
        "addwatch" => Request::AddWatch(args.path_number("mode")?),
        "checkwatch" => Request::CheckWatches(args.path_number("type")?),
        "removewatch" => Request::RemoveWatches(args.path_number("type")?),
        "setwatches" => Request::SetWatches(args.set_watches(zxid)),
        "setwatches2" => Request::SetWatches2(SetWatches2 {
            one_shot: args.set_watches(zxid),
            persistent: args.paths("persistent"),
            recursive: args.paths("recursive"),
        }),
        "reconfig" => {
            let text = |name| args.value(name).map(str::to_owned);
            let (joining, leaving, new_members) = (text("joining"), text("leaving"), text("members"));
            Request::Reconfig(Reconfig {
                joining,
                leaving,
                new_members,
                current: args.number("from").unwrap_or(-1),
            })
        }
        _ => bail!("{op:?} is no operation"),
    };
    Ok(Act::Ask(request))
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(';').map(str::trim).filter(|part| !part.is_empty())
}

fn multi_op(part: &str, root: &str) -> anyhow::Result<MultiOp> {
    let (op, rest) = part.split_once(' ').context("an operation of a multi has a path")?;
    let args = Args::parse(rest, root);
    Ok(match op {
        "create" => MultiOp::Create(args.create()?),
        "create2" => MultiOp::Create2(args.create()?),
        "container" => MultiOp::CreateContainer(args.container()?),
        "ttl" => MultiOp::CreateTtl(args.create_ttl()?),
        "delete" => MultiOp::Delete(args.path_version()?),
        "set" => MultiOp::SetData(args.set()?),
        "check" => MultiOp::Check(args.path_version()?),
        _ => bail!("{op:?} is no operation of a multi"),
    })
}

fn read_op(part: &str, root: &str) -> anyhow::Result<ReadOp> {
    let (op, rest) = part.split_once(' ').context("an operation of a multi has a path")?;
    let args = Args::parse(rest, root);
    Ok(match op {
        "get" => ReadOp::GetData(args.path_watch()?),
        "ls" => ReadOp::GetChildren(args.path_watch()?),
        _ => bail!("{op:?} is no operation of a multiRead"),
    })
}

/// The words of a step after the operation: some `name=value`, the others in order.
struct Args<'a> {
    root: &'a str,
    words: Vec<&'a str>,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Args<'a> {
    fn parse(text: &'a str, root: &'a str) -> Self {
        let mut args = Self { root, words: Vec::new(), named: Vec::new() };
        for word in text.split_whitespace() {
            match word.split_once('=').filter(|(name, _)| !name.is_empty() && !name.contains('/')) {
                Some(named) => args.named.push(named),
                None => args.words.push(word),
            }
        }
        args
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.named.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.value(name).and_then(|value| value.parse().ok())
    }

    fn word(&self, at: usize) -> anyhow::Result<&'a str> {
        self.words.get(at).copied().context("an argument is missing")
    }

    fn absolute(&self, path: &str) -> String {
        match path.strip_prefix('=') {
            Some(literal) => literal.replace("$R", self.root).replace("\\0", "\0").replace("\\1", "\u{1}"),
            None if path == "/" => self.root.to_owned(),
            None => format!("{}{}", self.root, path.replace("\\0", "\0").replace("\\1", "\u{1}")),
        }
    }

    fn path(&self) -> anyhow::Result<String> {
        Ok(self.absolute(self.word(0)?))
    }

    fn paths(&self, name: &str) -> Vec<String> {
        let list = self.value(name).unwrap_or_default().split(',').filter(|path| !path.is_empty());
        list.map(|path| self.absolute(path)).collect()
    }

    fn version(&self) -> i32 {
        self.number("v").unwrap_or(-1)
    }

    /// `data=TEXT`, `data=` for empty, `none` for none, `bytes=N` for so many.
    fn data(&self) -> Option<Bytes> {
        if self.words.contains(&"none") {
            return None;
        }
        match self.number::<usize>("bytes") {
            Some(bytes) => Some(Bytes::from(vec![b'x'; bytes])),
            // Counts of quotas are written with blanks nowhere, and with `;` for a comma.
            None => Some(Bytes::from(self.value("data").unwrap_or_default().to_owned())),
        }
    }

    /// `acl=SCHEME:ID:PERMS,…`; `acl=` for an empty one.
    fn acl(&self) -> anyhow::Result<Vec<AclEntry>> {
        let text = self.value("acl").unwrap_or("world:anyone:rwcda");
        text.split(',').filter(|entry| !entry.is_empty()).map(acl_entry).collect()
    }

    fn create(&self) -> anyhow::Result<Create> {
        let flags = self.number("flags").unwrap_or(0);
        Ok(Create { path: self.path()?, data: self.data(), acl: self.acl()?, flags })
    }

    fn container(&self) -> anyhow::Result<Create> {
        Ok(Create { flags: self.number("flags").unwrap_or(4), ..self.create()? })
    }

    fn create_ttl(&self) -> anyhow::Result<CreateTtl> {
        let create = Create { flags: self.number("flags").unwrap_or(5), ..self.create()? };
        Ok(CreateTtl { create, ttl_ms: self.number("ttl").unwrap_or(1_000_000) })
    }

    fn set(&self) -> anyhow::Result<SetData> {
        Ok(SetData { path: self.path()?, data: self.data(), version: self.version() })
    }

    fn path_version(&self) -> anyhow::Result<PathVersion> {
        Ok(PathVersion { path: self.path()?, version: self.version() })
    }

    fn path_watch(&self) -> anyhow::Result<PathWatch> {
        Ok(PathWatch { path: self.path()?, watch: self.words.contains(&"watch") })
    }

    fn path_number(&self, name: &str) -> anyhow::Result<PathNumber> {
        let number = self.number(name).with_context(|| format!("{name}= is missing"))?;
        Ok(PathNumber { path: self.path()?, number })
    }

    fn set_watches(&self, zxid: impl Fn(&str) -> u64) -> SetWatches {
        SetWatches {
            seen: self.value("seen").map_or(0, zxid),
            data: self.paths("data"),
            exist: self.paths("exist"),
            children: self.paths("children"),
        }
    }

    fn hex(&self) -> anyhow::Result<Bytes> {
        let text = self.value("hex").unwrap_or_default();
        let mut bytes = BytesMut::new();
        for at in (0..text.len()).step_by(2) {
            let digits = text.get(at..at + 2).context("hex digits come in pairs")?;
            bytes.put_u8(u8::from_str_radix(digits, 16)?);
        }
        Ok(bytes.freeze())
    }
}

fn acl_entry(text: &str) -> anyhow::Result<AclEntry> {
    let (scheme, rest) = text.split_once(':').context("SCHEME:ID:PERMS")?;
    let (id, letters) = rest.rsplit_once(':').context("SCHEME:ID:PERMS")?;
    let mut perms = 0;
    for letter in letters.chars() {
        perms |= 1 << "rwcda".find(letter).with_context(|| format!("{letter:?} is no permission"))?;
    }
    Ok(AclEntry { perms, who: Identity::new(scheme, id) })
}
