//! ZooKeeper's wire protocol, as the clients of ZooKeeper 3.9 speak it.
//!
//! ```text
//! socket ─► serve ─► connection ─► reads: at once, of what is applied here
//!              ▲          │        writes: outbox ─► leader ─► applied here ─┐
//!              └── out ◄──┴────────── answers in the order of the requests ◄─┘
//! ```
//!
//! A connection's answers leave in the order of its requests. A read that follows
//! a write of the same connection is answered in the moment in which the write is
//! applied here, and so sees just what a client that waits would see. Events are
//! put into a connection's output while the write that causes them is applied:
//! before that write's answer, and before any answer that shows its effect.

mod connection;
mod handshake;
mod hub;
mod pulse;
mod reads;
mod serve;
mod stats;
mod syncs;
mod words;
mod writes;

use std::sync::Arc;

pub(crate) use hub::Hub;
use pulse::Pulse;
pub(crate) use pulse::run as run_pulse;
pub(crate) use serve::accept;
use syncs::Syncs;
pub(crate) use syncs::run as run_syncs;
pub(crate) use words::ALL as ALL_WORDS;

use crate::service::Service;

/// What connections work with.
pub(crate) struct Zk {
    service: Arc<Service>,
    hub: Arc<Hub>,
    pulse: Pulse,
    syncs: Syncs,
}

impl Zk {
    /// Whether this server serves only those who read.
    fn is_read_only(&self) -> bool {
        false
    }

    pub(crate) fn new(service: Arc<Service>, hub: Arc<Hub>) -> Self {
        Self { service, hub, pulse: Pulse::default(), syncs: Syncs::default() }
    }
}
