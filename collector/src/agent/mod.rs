//! The agent: finds an application's log files, follows them through rotation
//! and truncation, and serves their bytes.
//!
//! ```text
//!   watch ──hints──► follow ──► table ◄── serve ◄──HTTP── collectors
//!                      │         │  ▲
//!                    index       │  └── confirm ◄──checkpoints── coordinator
//!                                └───── register ──items──────────►
//! ```
//!
//! [`follow`] finds out what became of files, and nobody else does; [`serve`]
//! answers readers from what is known, and believes nothing that they say;
//! [`confirm`] reads what is collected for good; [`register`] keeps the pool's items
//! what the table says. Each part can be away or slow without the others noticing
//! more than delay.

mod adopt;
mod answer;
#[cfg(test)]
mod bench;
pub mod beneath;
pub mod confirm;
mod copies;
pub mod follow;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gap_list;
pub mod glob;
mod hints;
pub mod identity;
pub mod index;
pub mod judge;
mod listen;
mod listing;
#[cfg(test)]
mod loss_tests;
mod open_files;
mod read;
mod readers;
mod record;
pub mod register;
mod reply;
mod run;
pub mod serve;
mod settle;
pub mod shared;
pub mod source;
mod survey;
mod table;
mod tend;
mod unseen;
mod watch;

pub use run::{Agent, AgentConfig, AgentError, AgentOptions, SCAN_INTERVAL_DEFAULT, run};
