//! What a living cluster of ZooKeeper shows to a client.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{
    Auth, Body, ConnectRequest, ConnectResponse, ErrorCode, OpCode, PathWatch, ReplyHeader, Request,
    RequestHeader, XID_EVENT, frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use rota_protocol::zk::disk::Node;

use super::stored::Held;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What helps against what is hidden.
const AS_WHOM: &str =
    "say who may see it, as with --auth digest:USER:PASSWORD of its super user, whose password must be right";
/// Longer than any answer.
const PACKET_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Copies what a server shows. Nodes that sessions own are left out: their sessions
/// are not known here.
///
/// # Errors
/// When it cannot be reached, or does not show something.
pub(super) async fn read(address: &str, auth: Option<&str>) -> anyhow::Result<Held> {
    if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        bail!("--connect {address}: expected HOST:PORT");
    }
    let mut client = Client::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
    if let Some((scheme, proof)) =
        auth.map(|auth| auth.split_once(':').context("--auth is SCHEME:PROOF")).transpose()?
    {
        let proof = Some(Bytes::copy_from_slice(proof.as_bytes()));
        let auth = Auth { auth_type: 0, scheme: scheme.to_owned(), auth: proof };
        client.ask(Request::Auth(auth)).await?.context("the server does not know that user")?;
    }
    let mut held = Held::default();
    let mut open = vec!["/".to_owned()];
    while let Some(path) = open.pop() {
        let Some(Body::NamesStat(names, stat)) = client.ask(children(&path)).await? else { continue };
        if stat.ephemeral_owner != 0 {
            continue;
        }
        let Some(Body::DataStat(data, stat)) = client.ask(data(&path)).await? else { continue };
        let acl = match client.ask(Request::GetAcl(path.clone())).await? {
            Some(Body::AclStat(acl, _)) => acl,
            // It went meanwhile.
            _ => continue,
        };
        if acl.iter().any(|entry| entry.who.scheme == "digest" && entry.who.id.ends_with(":x")) {
            bail!("{path}: the server hides digests in its access control list: {AS_WHOM}");
        }
        let slash = if path == "/" { "" } else { "/" };
        open.extend(names.iter().map(|name| format!("{path}{slash}{name}")));
        held.zxid = held.zxid.max(client.zxid);
        held.nodes.insert(path, Node { data, acl, owner: 0, stamps: stat.stamps() });
    }
    Ok(held)
}

fn children(path: &str) -> Request {
    Request::GetChildren2(PathWatch { path: path.to_owned(), watch: false })
}

fn data(path: &str) -> Request {
    Request::GetData(PathWatch { path: path.to_owned(), watch: false })
}

struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    xid: i32,
    zxid: u64,
}

impl Client {
    async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, buffer: BytesMut::new(), xid: 0, zxid: 0 };
        let hello = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout_ms: 30_000,
            session: 0,
            password: Some(Bytes::from_static(&[0; 16])),
            read_only: Some(true),
        };
        client.send(|to| hello.write(to)).await?;
        let greeting = client.packet().await.and_then(|mut packet| Ok(ConnectResponse::read(&mut packet)?));
        let greeting = greeting.context("what answers there is no server of ZooKeeper that serves")?;
        if greeting.session == 0 {
            bail!("it gives no session");
        }
        Ok(client)
    }

    /// `None` for a node that went away meanwhile.
    async fn ask(&mut self, request: Request) -> anyhow::Result<Option<Body>> {
        self.xid += 1;
        let (op, xid) = (request.op(), if request.op() == OpCode::Auth { -4 } else { self.xid });
        self.send(|to| {
            RequestHeader { xid, op: op.number() }.write(to);
            request.write(to);
        })
        .await?;
        loop {
            let mut packet = self.packet().await?;
            let header = ReplyHeader::read(&mut packet)?;
            if header.xid == XID_EVENT {
                continue;
            }
            self.zxid = self.zxid.max(header.zxid);
            return match ErrorCode::from_number(header.error) {
                Some(ErrorCode::Ok) => Ok(Some(Body::read(op, &mut packet)?)),
                Some(ErrorCode::NoNode | ErrorCode::AuthFailed) => Ok(None),
                Some(ErrorCode::NoAuth) => bail!("the server does not show everything (NoAuth): {AS_WHOM}"),
                _ => bail!("{request:?}: error {}", header.error),
            };
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut)) -> anyhow::Result<()> {
        let mut out = BytesMut::new();
        frame::put(&mut out, write);
        Ok(self.stream.write_all(&out).await?)
    }

    async fn packet(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(packet) = frame::take(&mut self.buffer, PACKET_BYTES_MAX)? {
                return Ok(packet);
            }
            let read = tokio::time::timeout(ANSWER_TIMEOUT, self.stream.read_buf(&mut self.buffer)).await;
            if read.context("it does not answer")?? == 0 {
                bail!("it ended the connection");
            }
        }
    }
}
