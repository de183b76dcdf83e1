//! `rota import`: taking over what another system held.

mod live;
mod stored;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use rota_client::Idempotency;
use rota_core::path::is_at_or_below;
use rota_core::pool::layout;
use rota_core::state::{Acl, AclEntry};
use rota_protocol::http::{AclBody, ImportNode, ImportPart, ImportSession};
use rota_protocol::zk::disk::Node;
use serde::Serialize;
use serde_json::Value;

use crate::operator::Operator;
use crate::output::say;
use stored::Held;

/// Bytes of data in one part.
const PART_BYTES_MAX: usize = 512 * 1024;
/// Nodes or sessions in one part.
const PART_NODES_MAX: usize = 2_000;

/// Take over what another system held, into an empty cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// From ZooKeeper: nodes with their Stats and access control lists, and the number
    /// of the last write.
    #[command(after_help = "Examples:
  The files of a server that was stopped, sessions and their nodes included:
    rota import zookeeper --from /var/lib/zookeeper
  A living cluster, as its super user sees it, without what sessions own:
    rota import zookeeper --connect zk1:2181 --auth digest:super:secret")]
    Zookeeper(ZookeeperArgs),
    /// Give up an import that broke off: the cluster is empty again, and open to writes.
    #[command(after_help = "Example:\n    rota import abandon")]
    Abandon,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The dataDir of a server that is stopped; of the one with the newest log.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// A living server.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ZookeeperArgs {
    #[command(flatten)]
    source: Source,
    /// Its dataLogDir, if that is another one.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["connect", "without_logs"])]
    logs: Option<PathBuf>,
    /// Take its newest snapshot alone, and no logs.
    #[arg(long, conflicts_with = "connect")]
    without_logs: bool,
    /// As whom to read from it: SCHEME:PROOF.
    #[arg(
        long,
        value_name = "SCHEME:PROOF",
        requires = "connect",
        env = "ROTA_IMPORT_AUTH",
        hide_env_values = true
    )]
    auth: Option<String>,
}

/// What was taken over.
#[derive(Debug, Serialize)]
struct Taken {
    nodes: usize,
    sessions: usize,
    zxid: u64,
}

/// # Errors
/// When the source cannot be read, or the cluster does not take it: then what it had
/// taken is given up.
pub(crate) async fn run(operator: &Operator, command: ImportCommand) -> anyhow::Result<ExitCode> {
    let args = match command {
        ImportCommand::Zookeeper(args) => args,
        ImportCommand::Abandon => {
            send(operator, &ImportPart::Abandon).await?;
            say("the import is given up, and the cluster is empty");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let held = match (args.source.from, args.source.connect) {
        (Some(from), _) => {
            let logs = (!args.without_logs).then(|| args.logs.as_ref().unwrap_or(&from));
            stored::read(&from, logs.map(PathBuf::as_path))?
        }
        (None, Some(address)) => live::read(&address, args.auth.as_deref()).await?,
        (None, None) => anyhow::bail!("say where from: --from DIR or --connect HOST:PORT"),
    };
    if let Some(path) = held.nodes.keys().find(|path| is_at_or_below(path, layout::ROTA)) {
        anyhow::bail!(
            "{path} stands where Rota keeps its own: rename or delete /rota there first. Nothing was changed"
        );
    }
    let taken = Taken { nodes: held.nodes.len(), sessions: held.sessions.len(), zxid: held.zxid };
    send(operator, &ImportPart::Begin).await?;
    if let Err(error) = send_all(operator, held).await {
        return Err(match send(operator, &ImportPart::Abandon).await {
            Ok(()) => error.context("the import was given up, and the cluster is empty again"),
            Err(_) => error.context(
                "the import stands half done: begin it again, or give it up with `rota import abandon`",
            ),
        });
    }
    operator.output.document(&taken, |Taken { nodes, sessions, zxid }| {
        format!("took over {nodes} nodes and {sessions} sessions, up to write 0x{zxid:x}\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn send_all(operator: &Operator, held: Held) -> anyhow::Result<()> {
    let zxid = held.zxid;
    for part in parts(held) {
        send(operator, &part).await?;
    }
    send(operator, &ImportPart::End { zxid }).await
}

async fn send(operator: &Operator, part: &ImportPart) -> anyhow::Result<()> {
    let body = operator.ask(Method::POST, "/v1/import", Some(part), Idempotency::Unsafe).await?;
    body.parse::<Value>()?;
    Ok(())
}

/// In portions, sessions first, parents before children.
fn parts(held: Held) -> Vec<ImportPart> {
    let sessions = held.sessions.iter().map(|(id, timeout_ms)| ImportSession {
        session: format!("{id:016x}"),
        password: password(*id),
        timeout_ms: u32::try_from(*timeout_ms).unwrap_or(0).max(1),
    });
    let sessions: Vec<ImportSession> = sessions.collect();
    let more = |some: &[ImportSession]| ImportPart::More { sessions: some.to_vec(), nodes: Vec::new() };
    let mut parts: Vec<ImportPart> = sessions.chunks(PART_NODES_MAX).map(more).collect();
    let (mut nodes, mut bytes) = (Vec::new(), 0);
    for (path, node) in held.nodes {
        bytes += path.len() + node.data.as_ref().map_or(0, bytes::Bytes::len);
        nodes.push(import(path, node));
        if bytes >= PART_BYTES_MAX || nodes.len() >= PART_NODES_MAX {
            parts.push(ImportPart::More { sessions: Vec::new(), nodes: std::mem::take(&mut nodes) });
            bytes = 0;
        }
    }
    parts.push(ImportPart::More { sessions: Vec::new(), nodes });
    parts
}

fn import(path: String, node: Node) -> ImportNode {
    let is_open = Acl::new(node.acl.clone()).is_open();
    ImportNode {
        path,
        data: node.data.map(|data| data.iter().map(|byte| format!("{byte:02x}")).collect()),
        owner: node.owner,
        acl: (!is_open).then(|| node.acl.into_iter().map(acl).collect()),
        stamps: node.stamps,
    }
}

fn acl(entry: AclEntry) -> AclBody {
    AclBody { scheme: entry.who.scheme, id: entry.who.id, perms: entry.perms }
}

/// The password that ZooKeeper gives a session follows from its id: so its client can
/// go on with it here (`ZooKeeperServer.generatePasswd`, `java.util.Random`).
fn password(session: u64) -> String {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;
    let mut seed = (session ^ 0xB341_5C00 ^ MULTIPLIER) & MASK;
    let mut bytes = Vec::with_capacity(16);
    while bytes.len() < 16 {
        seed = seed.wrapping_mul(MULTIPLIER).wrapping_add(0xB) & MASK;
        let number = u32::try_from(seed >> 16).unwrap_or(0);
        bytes.extend(number.to_le_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
