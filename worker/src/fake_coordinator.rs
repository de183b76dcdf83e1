//! For tests: a coordinator that is a few lines of HTTP. It opens a session, keeps it alive, and
//! says yes to everything, until it is told to be silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rota_client::{Client, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A session of this timeout, at a coordinator that answers as one does until it is to be silent.
pub(crate) async fn session(timeout_ms: u32) -> (Session, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new([listener.local_addr().unwrap().to_string()]).unwrap();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while connection.read(&mut request).await.is_ok_and(|read| read > 0) {
                    if silent.load(Ordering::Relaxed) {
                        return;
                    }
                    let body = format!(r#"{{"session":"5f","password":"00","timeout_ms":{timeout_ms}}}"#);
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if connection.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let session = client.open_session(Duration::from_millis(u64::from(timeout_ms))).await.unwrap();
    (session, is_silent)
}
