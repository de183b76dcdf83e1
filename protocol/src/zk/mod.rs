//! ZooKeeper's wire protocol, version 3.9, both ends of it: functions between
//! bytes and values. No sockets, no decisions.
//!
//! A stream is packets ([`frame`]). The first each way is about the session
//! ([`connect`]); then requests with a header go one way, and answers, in the
//! order of the requests, the other, with events in between.

mod code;
mod connect;
pub mod disk;
pub mod frame;
pub mod jute;
mod records;
mod reply;
mod request;

pub use code::{
    AddWatchMode, ErrorCode, EventType, OpCode, STATE_SYNC_CONNECTED, WatcherType, XID_AUTH, XID_EVENT,
    XID_PING, XID_SET_WATCHES,
};
pub use connect::{ConnectRequest, ConnectResponse};
pub use records::{
    Auth, ClientInfo, Create, CreateTtl, MultiHeader, PathNumber, PathVersion, PathWatch, Reconfig,
    ReplyHeader, RequestHeader, SetAcl, SetData, SetWatches, SetWatches2, WatcherEvent,
};
pub use reply::{Body, Part};
pub use request::{CreateFlag, MultiOp, ReadOp, Request};
