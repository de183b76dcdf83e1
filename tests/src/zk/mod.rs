//! ZooKeeper's protocol from the client's side, real ZooKeeper servers, and the
//! comparison of the two: the same script is played to both, and what they answer
//! must be the same.

mod client;
mod lasting;
mod lockstep;
mod peer;
mod random;
mod script;
mod transcript;

pub use client::{Raw, Received, Session};
pub use lasting::{Lasting, create, get, path, set, text};
pub use lockstep::{Target, compare, play_alone};
pub use peer::{Release, Tuning, ZooKeeper};
pub use random::random_script;
pub use script::{Scenario, scenarios};
