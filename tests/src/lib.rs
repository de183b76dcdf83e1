//! A harness for tests of real processes: servers and workers from their command
//! lines, killed, stopped and paused by signals, asked over HTTP, and judged by
//! what they wrote down.
//!
//! Nothing here waits for luck: whoever waits polls until a deadline
//! ([`eventually`]) and says at the end what it saw last. Every child process is
//! killed when the value that started it is dropped.

mod binary;
mod call;
mod certificates;
mod chance;
mod cluster;
mod command;
mod delay_proxy;
mod gate;
mod histories;
mod load;
mod patience;
mod ports;
mod process;
mod python;
mod turn;
mod views;
mod workers;
pub mod zk;

pub use binary::rota;
pub use call::{Answer, Call, EventStream, Http, NoAnswer, Outcome, raw};
pub use certificates::Certificates;
pub use chance::Chance;
pub use cluster::{Cluster, LIVENESS, Settings};
pub use command::{Ran, command, run};
pub use delay_proxy::{ConnectionTrace, DelayProxies, Traces};
pub use gate::Gate;
pub use histories::{Fate, Histories, Idle, Stint};
pub use load::{Load, Mark, Record};
pub use patience::eventually;
pub use ports::free_port;
pub use process::Process;
pub use python::{kazoo_sources, python};
pub use turn::Turn;
pub use workers::{ExecWorker, Hold, Pool};
