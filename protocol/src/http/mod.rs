//! Bodies of the HTTP API. The OpenAPI document is made from these types, so
//! their doc comments are what API users read.

mod assignment;
mod change;
mod checkpoint;
mod cluster;
mod error;
mod import;
mod node;
mod pool;
mod session;

pub use assignment::{Assignment, Grant, OfGrant, Peer};
pub use change::{MembersChange, PlanPreview, Previewed};
pub use checkpoint::{CheckpointBody, CheckpointPut};
pub use cluster::{AddServer, Cluster, Role, Server, SnapshotTaken, TransferLeader};
pub use error::{Code, ErrorBody};
pub use import::{ImportNode, ImportPart, ImportSession};
pub use node::{AclBody, Children, EventBody, EventKindBody, NodeRead};
pub use node::{
    Data, Encoding, Missed, Mode, MultiOp, MultiReply, MultiRequest, NodeBody, NodeCreate, NodeSet, NodeStat,
};
pub use pool::{
    HistoryBody, ItemBody, ItemCreate, JoinPool, MemberBody, OwnerOfKey, PlanBody, PoolBody, PoolChange,
    PoolCreate, PoolKind, Replace, RowBody, TableBody,
};
pub use session::{FAILED, KeepAlive, KeptAlive, MemberReport, OpenSession, SessionBody, SessionOpened};

/// Header of a request: `<session id>:<password>`, in whose name it is made.
pub const HEADER_SESSION: &str = "rota-session";
/// Header of every answer: the last write that the answering server had
/// applied. A client that sends it back in [`HEADER_MIN_ZXID`] never sees time
/// run backwards, whichever server it asks next.
pub const HEADER_ZXID: &str = "rota-zxid";
/// Header of a request: wait until this write is applied before answering.
pub const HEADER_MIN_ZXID: &str = "rota-min-zxid";
/// Longest time, in milliseconds, that a long poll may ask to wait.
pub const WAIT_MS_MAX: u64 = 60_000;
