//! The coordinator: one server of a Rota cluster.
//!
//! ```text
//! HTTP ──► service ──► write queue ──► leader's proposer ──► Raft ──► machine ──► replica
//!             ▲                                                                │
//!             └──────────────── answered at this server's own apply ───────────┘
//! ```
//!
//! [`server`] is the composition root: it builds everything from the [`mod@env`]
//! it is given and stops it in order.

mod auth;
mod cluster_clock;
pub mod config;
mod connections;
mod controllers;
mod desk;
pub mod env;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod http_watches;
mod low_priority;
mod member_reports;
mod members;
pub mod metrics;
mod peers;
mod raft;
mod replica;
pub mod server;
mod service;
mod service_state;
mod session_leases;
mod store;
mod suspension;
mod tasks;
mod timings;
mod write_queue;
mod zk;

pub use auth::{digest, is_digest};
pub use http::openapi;
pub use store::StoreError;
pub use zk::{Tls, TlsError};
