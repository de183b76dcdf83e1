//! ZooKeeper's wire protocol, as the clients of ZooKeeper 3.9 speak it.
//!
//! ```text
//! socket ─► serve ─► connection ─► reads: at once, of what is applied here
//!              ▲          │        writes: write queue ─► leader ─► applied here ─┐
//!              └── out ◄──┴────────── answers in the order of the requests ◄─┘
//! ```
//!
//! A connection's answers leave in the order of its requests. A read that follows
//! a write of the same connection is answered in the moment in which the write is
//! applied here, and so sees just what a client that waits would see. Events are
//! put into a connection's output while the write that causes them is applied:
//! before that write's answer, and before any answer that shows its effect.

mod configuration;
mod connection;
mod four_letter_words;
mod handshake;
mod pending;
mod ping_batcher;
mod reads;
mod reconfig;
mod registry;
mod serve;
mod serving_mode;
mod stats;
mod syncs;
mod tls;
mod writes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rota_core::Zxid;

pub(crate) use configuration::{all_have_faces, configuration_version, correction};
pub(crate) use four_letter_words::ALL as ALL_WORDS;
use ping_batcher::PingBatcher;
pub(crate) use ping_batcher::run as run_pulse;
pub(crate) use registry::ConnectionRegistry;
pub(crate) use serve::accept;
use serving_mode::ServingMode;
pub(crate) use serving_mode::run as run_standing;
use syncs::Syncs;
pub(crate) use syncs::run as run_syncs;
pub use tls::{Tls, TlsError};

use crate::service::Service;
use crate::tasks::Tasks;

/// What connections work with.
pub(crate) struct Zk {
    service: Arc<Service>,
    registry: Arc<ConnectionRegistry>,
    ping_batcher: PingBatcher,
    syncs: Syncs,
    serving_mode: ServingMode,
    /// How many `reconfig` requests of this server's clients are in progress.
    reconfigs: Arc<AtomicUsize>,
    /// Whether clients need not wait for a complete configuration any more.
    is_configured: AtomicBool,
    tasks: Tasks,
    tickets: AtomicU64,
}

/// The zxid that a client says it has seen: a signed number on the wire, and negative ones are before
/// the first.
fn zxid_seen(number: u64) -> Zxid {
    i64::try_from(number).map_or(0, i64::cast_unsigned)
}

impl Zk {
    /// A number that nothing else has here.
    fn next_ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether this server serves any clients.
    fn is_serving(&self) -> bool {
        self.service.states.unavailable().is_none()
            && (!self.serving_mode.is_cut_off() || self.is_read_only())
    }

    /// Whether this server serves only read-only clients.
    fn is_read_only(&self) -> bool {
        self.service.config.zookeeper.read_only && self.serving_mode.is_cut_off()
    }

    pub(crate) fn new(service: Arc<Service>, registry: Arc<ConnectionRegistry>, tasks: Tasks) -> Self {
        Self {
            service,
            registry,
            ping_batcher: PingBatcher::default(),
            syncs: Syncs::default(),
            serving_mode: ServingMode::default(),
            reconfigs: Arc::default(),
            is_configured: AtomicBool::new(false),
            tasks,
            tickets: AtomicU64::new(0),
        }
    }
}
