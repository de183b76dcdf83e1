//! The runtime in which work is done: a worker joins a pool, and a handler runs
//! for every bucket that it owns, with a [`Lease`] that ends when the ownership
//! does. In pools whose buckets have several owners, or whose handoff is warm, it
//! also prepares and follows: see [`Handler`].
//!
//! ```no_run
//! use std::time::Duration;
//! use rota_worker::{Handler, HandlerError, JoinOptions, Lease, Worker};
//!
//! struct Fetch;
//!
//! impl Handler for Fetch {
//!     async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
//!         let mut position: u64 = lease.read_checkpoint().await?.map_or(Ok(0), |p| p.parse())?;
//!         while !lease.is_cancelled() {
//!             position += 1; // the work
//!             lease.write_checkpoint(position.to_string()).await?;
//!             lease.progress(format!("at {position}"));
//!             lease.sleep(Duration::from_secs(1)).await;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = rota_client::Client::new(["127.0.0.1:7710"])?;
//! let worker = Worker::join(client, JoinOptions::new("mail", "worker-1"), Fetch).await?;
//! tokio::signal::ctrl_c().await?;
//! worker.leave().await;
//! # Ok(()) }
//! ```

mod deadline;
pub mod exec;
#[cfg(test)]
mod fake_coordinator;
mod guard;
mod history;
mod lease;
mod runner;
mod work;
mod worker;

pub use rota_client::BootInstant;
pub use rota_core::pool::Role;
pub use rota_protocol::http::Peer;

pub use guard::{HeldPastDeadline, LeaseGuard, LeaseOver};
pub use history::{History, HistoryEvent, monotonic_ns};
pub use lease::Lease;
pub use worker::{Ended, Handler, HandlerError, JoinOptions, Worker};
