//! Replication: everything that knows the Raft library. The rest of the server
//! sees [`RaftNode`], which takes batches of commands and says who leads, and
//! [`crate::replica::Replica`], which holds what has been applied.

mod election_timer;
mod elections;
mod membership;
mod network;
mod node;
mod proposer;
mod service;
mod state_machine;
pub(crate) mod types;
mod validation;

pub(crate) use elections::Elections;
pub(crate) use membership::is_loopback;
pub(crate) use network::NetworkFactory;
pub use node::RaftNodeError;
pub(crate) use node::{Leadership, ProposeError, RaftNode};
pub(crate) use proposer::{Proposer, ProposerQueue};
pub(crate) use service::{PeerService, serve_peer};
pub(crate) use state_machine::StateMachine;
