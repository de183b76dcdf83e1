//! A harness for tests of real processes: servers and workers from their command
//! lines, killed, stopped and paused by signals, asked over HTTP, and judged by
//! what they wrote down.
//!
//! Nothing here waits for luck: whoever waits polls until a deadline
//! ([`eventually()`]) and says at the end what it saw last. Every child process is
//! killed when the value that started it is dropped.

mod binary;
mod call;
mod certificates;
mod cluster;
mod command;
mod delay_proxy;
mod eventually;
mod histories;
mod load;
mod ports;
mod process;
mod process_limit;
mod python;
mod rng;
mod tcp_proxy;
mod views;
mod workers;
pub mod zk;

pub use binary::rota;
pub use call::{Answer, Call, EventStream, Http, NoAnswer, Outcome, raw};
pub use certificates::Certificates;
pub use cluster::{Cluster, LIVENESS, Settings};
pub use command::{Ran, command, run};
pub use delay_proxy::{ConnectionTrace, DelayProxies, Traces};
pub use eventually::eventually;
pub use histories::{Fate, Histories, Idle, Stint};
pub use load::{Load, Mark, Record};
pub use ports::free_port;
pub use process::Process;
pub use process_limit::Turn;
pub use python::{kazoo_sources, python};
pub use rng::Rng;
pub use tcp_proxy::Gate;
pub use workers::{ExecWorker, Hold, Pool};
