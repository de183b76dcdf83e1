//! The worker's own output, written by a thread of its own: whoever reads it may
//! be slow, or not read at all, and leases must be kept meanwhile.

use std::io::Write;
use std::sync::OnceLock;

use tokio::sync::mpsc;

/// Lines that wait to be written. When they do, the commands' output is not read
/// any further, and the commands wait in turn.
const WAITING_MAX: usize = 1024;

/// Passes a line on, once there is room, and takes it away then. Nothing is lost
/// when this is dropped before it is done.
pub(super) async fn pass(line: &mut Option<Vec<u8>>) {
    // An error means that the thread is gone, and with it the output.
    let permit = writer().reserve().await;
    if let (Ok(permit), Some(line)) = (permit, line.take()) {
        permit.send(line);
    }
}

fn writer() -> &'static mpsc::Sender<Vec<u8>> {
    static WRITER: OnceLock<mpsc::Sender<Vec<u8>>> = OnceLock::new();
    WRITER.get_or_init(|| {
        let (sender, lines) = mpsc::channel(WAITING_MAX);
        let spawned = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || write(lines));
        if let Err(error) = spawned {
            tracing::error!(%error, "the commands' output cannot be passed on");
        }
        sender
    })
}

fn write(mut lines: mpsc::Receiver<Vec<u8>>) {
    let mut broken = false;
    while let Some(line) = lines.blocking_recv() {
        // Once nobody reads it, it is dropped: the work goes on.
        if broken {
            continue;
        }
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
            tracing::warn!(%error, "the commands' output is dropped from now on");
            broken = true;
        }
    }
}
