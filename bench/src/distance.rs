//! Servers that are far from each other: what others send one of them passes through a proxy that
//! holds it up, both ways. Connections themselves are made at once, one round trip sooner than
//! they would be.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Largest part that is passed on at once, in bytes.
const PART_BYTES_MAX: usize = 64 * 1024;
/// Parts of one direction that are on their way.
const PARTS_MAX: usize = 4096;

/// Proxies of so many servers. They end when this is dropped.
pub struct Distance {
    one_way: Duration,
    proxies: JoinSet<()>,
}

impl Distance {
    pub fn new(one_way: Duration) -> Self {
        Self { one_way, proxies: JoinSet::new() }
    }

    /// A port on loopback that leads to `port`, from afar.
    pub fn to(&mut self, port: u16) -> anyhow::Result<u16> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let proxy = listener.local_addr()?.port();
        let one_way = self.one_way;
        self.proxies.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(pass(near, port, one_way));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(proxy)
    }
}

async fn pass(near: TcpStream, port: u16, one_way: Duration) {
    let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
        return;
    }
    let ((near_out, near_in), (far_out, far_in)) = (near.into_split(), far.into_split());
    // Either end's death is the other's.
    tokio::select! {
        () = delayed(near_out, far_in, one_way) => {}
        () = delayed(far_out, near_in, one_way) => {}
    }
}

/// Passes on what comes, each part so much later than it came.
async fn delayed(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, by: Duration) {
    let (parts, mut arrived) = mpsc::channel::<(Instant, Vec<u8>)>(PARTS_MAX);
    let take = async move {
        loop {
            let mut part = vec![0; PART_BYTES_MAX];
            match from.read(&mut part).await {
                Ok(0) | Err(_) => return,
                Ok(len) => part.truncate(len),
            }
            if parts.send((Instant::now() + by, part)).await.is_err() {
                return;
            }
        }
    };
    let give = async {
        while let Some((at, part)) = arrived.recv().await {
            sleep_until(at).await;
            if to.write_all(&part).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_arrives_later_and_in_order() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = echo.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = echo.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            tokio::io::copy(&mut from, &mut to).await
        });
        let one_way = Duration::from_millis(30);
        let mut distance = Distance::new(one_way);
        let proxy = distance.to(port).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy)).await.unwrap();
        let began = Instant::now();
        stream.write_all(b"first").await.unwrap();
        stream.write_all(b"second").await.unwrap();
        let mut said = [0; 11];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"firstsecond");
        assert!(began.elapsed() >= 2 * one_way);
    }
}
