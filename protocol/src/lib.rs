//! What crosses a wire, as values: bodies of the HTTP API, ZooKeeper's protocol,
//! and messages between servers. No sockets and no decisions here.

pub mod http;
pub mod peer;
pub mod zk;
