//! A client that watches one node, or changes it: of ZooKeeper and Rota, or of etcd.

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use rota_tests::zk::{Raw, create, get, set};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Ask, Codec, Frames};
use crate::systems::Kind;

const PATH: &str = "/watched";
const TIMEOUT_MS: i32 = 30_000;

pub enum Client {
    Zookeeper(Box<Raw>),
    Etcd(Box<Etcd>),
}

impl Client {
    pub async fn connect(kind: Kind, address: &str) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Rota | Kind::Zookeeper => {
                Self::Zookeeper(Box::new(Raw::connect_patiently(address, None, TIMEOUT_MS).await))
            }
            Kind::Etcd => Self::Etcd(Box::new(Etcd::connect(address).await?)),
            Kind::RotaHttp => bail!("nobody watches over HTTP here"),
        })
    }

    /// Makes the node that is watched.
    pub async fn make(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Zookeeper(raw) => {
                let xid = raw.send(&create(PATH, "", 0)).await?;
                raw.answer(xid).await?.context("the connection is gone")?;
            }
            Self::Etcd(etcd) => {
                etcd.put("").await?;
                etcd.until(|frames, from, to| Ok(frames.answer(from, to)?.is_some())).await?;
            }
        }
        Ok(())
    }

    /// Sends a change, and waits for nothing.
    pub async fn change(&mut self, data: &str) -> anyhow::Result<()> {
        match self {
            Self::Zookeeper(raw) => drop(raw.send(&set(PATH, data)).await?),
            Self::Etcd(etcd) => etcd.put(data).await?,
        }
        Ok(())
    }

    /// Watches the node, if it does not: a watch of ZooKeeper is for one event.
    pub async fn watch(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Zookeeper(raw) => {
                let xid = raw.send(&get(PATH, true)).await?;
                let (header, _) = raw.answer(xid).await?.context("the connection is gone")?;
                ensure!(header.error == 0, "the node cannot be read");
            }
            Self::Etcd(etcd) if etcd.watches => {}
            Self::Etcd(etcd) => {
                etcd.frames.watch(PATH.as_bytes(), &mut etcd.out);
                etcd.until(Frames::told).await?;
                etcd.watches = true;
            }
        }
        Ok(())
    }

    /// Waits for an event.
    pub async fn hear(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Zookeeper(raw) => {
                if raw.events.pop_front().is_none() {
                    raw.receive().await?.context("the connection is gone")?;
                    raw.events.clear();
                }
                Ok(())
            }
            Self::Etcd(etcd) => etcd.until(Frames::told).await,
        }
    }
}

/// A connection to etcd.
pub struct Etcd {
    stream: TcpStream,
    frames: Frames,
    read: BytesMut,
    out: BytesMut,
    watches: bool,
}

impl Etcd {
    async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut frames, mut out) = (Frames::default(), BytesMut::new());
        frames.hello(&mut out);
        Ok(Self { stream, frames, read: BytesMut::new(), out, watches: false })
    }

    async fn put(&mut self, data: &str) -> anyhow::Result<()> {
        self.frames.ask(Ask::Create { path: PATH.as_bytes(), value: data.as_bytes() }, &mut self.out);
        self.stream.write_all_buf(&mut self.out).await?;
        Ok(())
    }

    /// Reads until `found` finds what it looks for, and answers what must be answered.
    async fn until(
        &mut self,
        mut found: impl FnMut(&mut Frames, &mut BytesMut, &mut BytesMut) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            let is_found = found(&mut self.frames, &mut self.read, &mut self.out)?;
            self.stream.write_all_buf(&mut self.out).await?;
            if is_found {
                return Ok(());
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the server closed the connection");
        }
    }
}
