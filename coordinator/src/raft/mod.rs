//! Replication: everything that knows the Raft library. The rest of the server
//! sees [`Group`], which takes batches of commands and says who leads, and
//! [`crate::replica::Replica`], which holds what has been applied.

mod election_timer;
mod elections;
mod group;
mod machine;
mod membership;
mod network;
mod proposer;
mod service;
pub(crate) mod types;
mod validation;

pub(crate) use elections::Elections;
pub use group::GroupError;
pub(crate) use group::{Group, Leadership, ProposeError};
pub(crate) use machine::Machine;
pub(crate) use membership::is_loopback;
pub(crate) use network::NetworkFactory;
pub(crate) use proposer::{Proposer, ProposerQueue};
pub(crate) use service::{PeerService, serve_peer};
