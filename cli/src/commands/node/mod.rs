//! `rota node`: the tree itself.

mod multi;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{AclBody, Children, Data, Mode, NodeBody, NodeCreate, NodeSet};

use crate::args::{Format, duration};
use crate::input;
use crate::operator::{Operator, Reading};
use crate::output::{self, facts, say};

/// Nodes: the tree that everything is kept in.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Write a node's data to standard output, as it is.
    #[command(after_help = "Examples:\n  rota node get /app/config\n  rota node get /app/config --stat")]
    Get {
        /// The node.
        #[arg(value_parser = absolute)]
        path: String,
        /// Show the node's Stat instead of its data.
        #[arg(long)]
        stat: bool,
        #[command(flatten)]
        reading: Reading,
    },
    /// List a node's children.
    #[command(after_help = "Example:\n  rota node ls /app --all")]
    Ls {
        /// The node.
        #[arg(value_parser = absolute)]
        path: String,
        /// Ask until all are there, not only for the first part.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        reading: Reading,
    },
    /// Create a node.
    #[command(after_help = "Examples:
  rota node create /app --data hello
  rota node create /app/job- --mode persistent-sequential --data - < job.json")]
    Create(CreateArgs),
    /// Replace a node's data.
    #[command(disable_version_flag = true)]
    #[command(after_help = "Example:\n  rota node set /app --data hello --version 3")]
    Set(SetArgs),
    /// Delete a node that has no children.
    #[command(disable_version_flag = true)]
    #[command(after_help = "Example:\n  rota node delete /app --version 4")]
    Delete {
        /// The node.
        #[arg(value_parser = absolute)]
        path: String,
        /// The version that it must have.
        #[arg(long)]
        version: Option<i32>,
        #[command(flatten)]
        name: InName,
    },
    /// Do several operations, or none.
    #[command(
        after_help = "The file holds {\"ops\":[…]}; an operation is one of create, delete, set, check, check_fence.

Example:
  echo '{\"ops\":[{\"op\":\"check\",\"path\":\"/a\",\"version\":3},{\"op\":\"set\",\"path\":\"/b\",\"data\":\"x\"}]}' |
    rota node multi -"
    )]
    Multi {
        /// A file with the operations, or `-` for standard input.
        file: String,
        #[command(flatten)]
        name: InName,
    },
}

/// In whose name a write is made.
#[derive(Debug, Args)]
pub(crate) struct InName {
    /// The session, as `rota session open` shows it. An ephemeral node is kept by it.
    #[arg(long, env = "ROTA_SESSION", hide_env_values = true, value_name = "ID:PASSWORD")]
    session: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The node.
    #[arg(value_parser = absolute)]
    path: String,
    /// Its data; `-` reads it from standard input.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    data: String,
    /// Its kind.
    #[arg(long, value_enum, default_value_t = ModeArg::Persistent)]
    mode: ModeArg,
    /// Have it reaped once it went so long without children and without a change of
    /// its data (`10m`).
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    ttl: Option<u64>,
    /// Who may do what with it, as often as needed: PERMS is some of the letters of
    /// `cdrwa` (create, delete, read, write, admin).
    #[arg(long, value_name = "SCHEME:ID:PERMS", value_parser = acl_entry)]
    acl: Vec<AclBody>,
    #[command(flatten)]
    name: InName,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The node.
    #[arg(value_parser = absolute)]
    path: String,
    /// Its new data; `-` reads it from standard input.
    #[arg(long, allow_hyphen_values = true)]
    data: String,
    /// The version that it must have.
    #[arg(long)]
    version: Option<i32>,
    #[command(flatten)]
    name: InName,
}

/// Kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Lives until deleted.
    Persistent,
    /// As `persistent`, with a number added to its name.
    PersistentSequential,
    /// Lives at most as long as its session.
    Ephemeral,
    /// As `ephemeral`, with a number added to its name.
    EphemeralSequential,
    /// Reaped when its last child is gone.
    Container,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Persistent => Self::Persistent,
            ModeArg::PersistentSequential => Self::PersistentSequential,
            ModeArg::Ephemeral => Self::Ephemeral,
            ModeArg::EphemeralSequential => Self::EphemeralSequential,
            ModeArg::Container => Self::Container,
        }
    }
}

fn milliseconds(text: &str) -> Result<u64, String> {
    duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// As zkCli.sh writes it: `world:anyone:r`, `digest:user:hash:cdrwa`.
fn acl_entry(text: &str) -> Result<AclBody, String> {
    let bad = || format!("{text:?} is not SCHEME:ID:PERMS, such as world:anyone:r");
    let (scheme, rest) = text.split_once(':').ok_or_else(bad)?;
    let (id, letters) = rest.rsplit_once(':').ok_or_else(bad)?;
    let bit = |perms, letter| Some(perms | 1 << "rwcda".find(letter)?);
    let perms = letters.chars().try_fold(0, bit).ok_or_else(bad)?;
    Ok(AclBody { scheme: scheme.to_owned(), id: id.to_owned(), perms })
}

/// A path of the tree. The servers check the rest of it.
pub(crate) fn absolute(path: &str) -> Result<String, String> {
    if path.starts_with('/') { Ok(path.to_owned()) } else { Err("a path begins with `/`".to_owned()) }
}

/// The endpoint of a node.
pub(crate) fn endpoint(path: &str) -> String {
    let names = path.strip_prefix('/').filter(|below| !below.is_empty()).map(|below| below.split('/'));
    Client::path(["v1", "nodes"].into_iter().chain(names.into_iter().flatten()))
}

pub(crate) async fn run(operator: &Operator, command: NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::Get { path, stat, reading } => {
            let body = operator.get(&Client::query(&endpoint(&path), [reading.param()])).await?;
            if stat || operator.output.format == Format::Json {
                operator.output.body(&body, describe)?;
            } else {
                let data = body.parse::<NodeBody>()?.data.unwrap_or_default();
                output::data(&data.into_bytes()?)?;
            }
        }
        NodeCommand::Ls { path, all, reading } => list(operator, &path, all, reading).await?,
        NodeCommand::Create(args) => {
            let Data { data, encoding } = input::data(&args.data)?;
            let acl = (!args.acl.is_empty()).then_some(args.acl);
            let create = NodeCreate { data, encoding, mode: args.mode.into(), ttl_ms: args.ttl, acl };
            let operator = operator.in_session(args.name.session);
            let path = endpoint(&args.path);
            let body = operator.ask(Method::POST, &path, Some(&create), Idempotency::Unsafe).await?;
            operator.output.body(&body, describe)?;
        }
        NodeCommand::Set(args) => {
            let Data { data, encoding } = input::data(&args.data)?;
            let set = NodeSet { data, encoding, version: args.version };
            let operator = operator.in_session(args.name.session);
            let body =
                operator.ask(Method::PUT, &endpoint(&args.path), Some(&set), Idempotency::Unsafe).await?;
            operator.output.body(&body, describe)?;
        }
        NodeCommand::Delete { path, version, name } => {
            let endpoint = Client::query(&endpoint(&path), [("version", version.map(|v| v.to_string()))]);
            let operator = operator.in_session(name.session);
            let body = operator.ask(Method::DELETE, &endpoint, None::<&()>, Idempotency::Unsafe).await?;
            operator.output.done(&body, &format!("{path} is deleted"))?;
        }
        NodeCommand::Multi { file, name } => {
            multi::run(&operator.in_session(name.session), &file).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(operator: &Operator, path: &str, all: bool, reading: Reading) -> anyhow::Result<()> {
    let part = |after: Option<String>| {
        let params = [("children", Some("true".to_owned())), ("after", after), reading.param()];
        Client::query(&endpoint(path), params)
    };
    let names = |found: &Children| found.children.iter().map(|name| format!("{name}\n")).collect();
    let first = operator.get(&part(None)).await?;
    let mut found: Children = first.parse()?;
    if !(all && found.more) {
        operator.output.body(&first, names)?;
        if found.more {
            say("there are more children: `--all` lists them");
        }
        return Ok(());
    }
    while found.more {
        let next: Children = operator.client.get(&part(found.children.last().cloned())).await?;
        found.more = next.more;
        found.children.extend(next.children);
    }
    operator.output.document(&found, names)
}

fn describe(node: &NodeBody) -> String {
    let stat = &node.stat;
    facts([
        ("path", node.path.clone()),
        ("version", stat.version.to_string()),
        ("bytes", stat.data_length.to_string()),
        ("children", stat.num_children.to_string()),
        ("ephemeral owner", format!("{:016x}", stat.ephemeral_owner)),
        ("czxid", stat.czxid.to_string()),
        ("mzxid", stat.mzxid.to_string()),
        ("pzxid", stat.pzxid.to_string()),
        ("ctime ms", stat.ctime_ms.to_string()),
        ("mtime ms", stat.mtime_ms.to_string()),
        ("cversion", stat.cversion.to_string()),
        ("aversion", stat.aversion.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_an_endpoint_name_by_name() {
        assert_eq!(endpoint("/"), "/v1/nodes");
        assert_eq!(endpoint("/a/b c"), "/v1/nodes/a/b%20c");
        assert_eq!(endpoint("/a/"), "/v1/nodes/a/");
        assert!(absolute("a").is_err());
    }
}
