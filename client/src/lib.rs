//! The client of a Rota cluster: requests that find a server, sessions that are
//! kept alive across servers, a table that outlives the coordinators, and
//! streams of events that say when they may have missed one.
//!
//! ```no_run
//! # async fn example() -> Result<(), rota_client::ClientError> {
//! use rota_client::{Client, TableCache};
//!
//! let client = Client::new(["127.0.0.1:7710", "127.0.0.1:7711"])?;
//! let table = TableCache::open(client, "mail", None).await?;
//! if let Some(owner) = table.snapshot().owner_of_key(b"alice@example.org") {
//!     println!("{} at {}", owner.member, owner.address);
//! }
//! # Ok(()) }
//! ```

mod budget;
mod client;
mod clock;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod path;
mod session;
mod store;
mod table;
mod task;
mod transport;
mod version;
mod watch;

pub use client::{Client, Idempotency};
pub use clock::BootInstant;
pub use error::ClientError;
pub use session::{LeaseState, Session};
pub use table::{OwnerOfKey, Source, Table, TableCache};
pub use version::{
    HEADER_TABLE_VERSION, SendTableVersion, SendsTableVersion, ServeTableVersion, ServesTableVersion,
    version_in,
};
pub use watch::{WatchItem, WatchStream};
