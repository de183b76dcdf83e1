//! Free ports on loopback.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below the range that the system gives to outgoing connections (from
/// 32768 on Linux). One out of that range can be taken by a connection while the
/// server that had it is down, and then the server cannot come back.
const RANGE: std::ops::Range<u32> = 12_000..32_000;

/// A port that nobody listens on, and that no other call of this process gets.
///
/// # Panics
/// When every port is taken.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let size = RANGE.end - RANGE.start;
    // Test processes that run at one time begin at different places.
    let start = std::process::id().wrapping_mul(611);
    for _ in 0..size {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        let port = u16::try_from(RANGE.start + offset).expect("the range ends below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {RANGE:?} is free");
}
