//! How a server comes to its cluster and stays in it: it makes a new one together with the
//! servers of `--peers`, compares what it was started with with the cluster that it belongs to,
//! says where it is reached, and finds out when it is not wanted any more.

mod bootstrap;
mod flags;
mod upkeep;

pub(crate) use bootstrap::{Bootstrap, initial_members_digest};
pub(crate) use flags::{Flags, own_address};
pub(crate) use upkeep::Upkeep;
