//! The collector: pulls the sources that it owns and writes each record once
//! below a directory.
//!
//! ```text
//!   agent ──fetch──► pull ──lines──► sink ──► <dir>/<app>/<host>/<file>
//!                      │
//!                 checkpoint ──► coordinator (refused if the grant has ended)
//! ```
//!
//! [`pull`] says in which order things are written, [`sink`] why no earlier
//! owner can spoil an output.

pub mod checkpoint;
mod delivery;
pub mod fetch;
pub mod gaps;
mod handler;
mod late;
mod lines;
pub mod pull;
mod run;
pub mod sink;

pub use run::{CollectorConfig, CollectorError, run};
