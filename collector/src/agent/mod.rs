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

pub mod classify;
pub mod confirm;
mod copies;
mod discover;
pub mod follow;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gap_list;
pub mod glob;
mod hints;
mod http_reply;
pub mod identity;
pub mod index;
mod listen;
mod listing;
#[cfg(test)]
mod loss_tests;
mod maintain;
mod open_files;
mod plan_read;
mod read;
mod readers;
mod record;
pub mod register;
pub mod rooted_fs;
mod run;
mod scan;
pub mod serve;
mod settle;
pub mod shared;
pub mod source;
mod table;
#[cfg(test)]
mod test_bench;
mod unseen;
mod watch;

pub use run::{Agent, AgentConfig, AgentError, AgentOptions, SCAN_INTERVAL_DEFAULT, run};
