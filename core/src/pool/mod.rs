//! What the nodes below `/rota/pools` mean.
//!
//! ```text
//! /rota/pools/<pool>                       Spec
//! /rota/pools/<pool>/members/<member>      Member    (ephemeral)
//! /rota/pools/<pool>/items/<item>          Item      (named pools; ephemeral or persistent)
//! /rota/pools/<pool>/buckets/<bucket>      Row       (changes exactly when an owner does)
//! /rota/pools/<pool>/plan                  Plan
//! /rota/pools/<pool>/away/<member>         Away      (while rows wait for it)
//! /rota/pools/<pool>/history/<number>      HistorySegment   (a bounded number of them)
//! /rota/pools/<pool>/checkpoints/<bucket>  a position: bytes, written only by the owner
//! ```
//!
//! Their data is JSON: these types are read by programs in any language, through
//! HTTP or a ZooKeeper client. Fields are only ever added, with a default.

mod bucket;
mod decoded_writes;
mod entry;
pub(crate) mod guard;
pub mod history;
mod labels;
pub mod layout;
mod member;
mod plan;
mod pools;
mod row;
mod spec;
mod table;
mod view;
mod what_if;

pub use bucket::{Bucket, bucket_of_key};
pub use decoded_writes::DecodedWrites;
pub use entry::{AwaitingRejoinEntry, Causes, MemberEntry, RowEntry};
pub use labels::{Affinity, Labels};
pub use layout::{NAME_LEN_MAX, NameError, check_name};
pub use member::{AwaitingRejoin, Item, Member, MemberError, WEIGHT_MAX};
pub use plan::{Blocked, Move, Plan, Reason, Report, Shortage, ShortageReason};
pub use pools::{ChangeSet, Pools};
pub use row::{Owner, OwnerAction, Role, Row};
pub use spec::{
    BUCKETS_DEFAULT, BUCKETS_MAX, Balance, Handoff, Kind, MAX_CONCURRENT_MOVES_DEFAULT, OnLeaseExpiry, Spec,
    SpecError, Spread, Strategy, WhenStuck,
};
pub use table::{Delta, TableIndex};
pub use view::{AffectedMembers, PoolView};

/// Reads a node's JSON.
///
/// # Errors
/// When the bytes are not JSON of that type.
pub fn from_json<T: serde::de::DeserializeOwned>(data: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(data)
}

/// A node's data: `value` as JSON.
#[must_use]
pub fn to_json<T: serde::Serialize>(value: &T) -> bytes::Bytes {
    bytes::Bytes::from(serde_json::to_vec(value).expect("these types have no fallible part"))
}
