//! A gate between a client and the servers: what goes through can be cut off, and let through
//! again. It knows nothing of what is said.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards connections to servers, one gate for each, while it is open.
#[derive(Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    addresses: Vec<String>,
    _forwarders: JoinSet<()>,
}

impl Gate {
    /// Opens a gate before each of the servers.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn before(servers: &[String]) -> Self {
        let open = Arc::new(watch::Sender::new(true));
        let (mut addresses, mut forwarders) = (Vec::new(), JoinSet::new());
        for server in servers {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            addresses.push(listener.local_addr().expect("it is bound").to_string());
            forwarders.spawn(forward(listener, server.clone(), Arc::clone(&open)));
        }
        Self { open, addresses, _forwarders: forwarders }
    }

    /// Where to connect to instead of the servers.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Cuts everything off: connections break, and new ones break at once.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets new connections through again.
    pub fn reopen(&self) {
        self.open.send_replace(true);
    }
}

async fn forward(listener: TcpListener, server: String, open: Arc<watch::Sender<bool>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        let (server, mut open) = (server.clone(), open.subscribe());
        if !*open.borrow_and_update() {
            continue;
        }
        connections.spawn(async move {
            let through = async {
                let mut server = TcpStream::connect(server).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            };
            tokio::select! {
                // However it ends, it has ended.
                _ = through => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
