//! What crosses a wire, as values: bodies of the HTTP API and messages between
//! servers. No sockets and no decisions here.

pub mod http;
pub mod peer;
