//! The requests of a connection that are not answered yet, and its output, under one lock.

use std::collections::VecDeque;

use bytes::BytesMut;
use rota_core::Zxid;
use rota_core::state::Identity;
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{
    Body, ErrorCode, EventType, ReplyHeader, STATE_SYNC_CONNECTED, WatcherEvent, XID_EVENT, frame,
};
use tokio::time::Instant;

use super::OUT_BYTES_MAX;
use crate::zk::pending::{Pending, PendingRequest};
use crate::zk::stats::Counts;

pub(super) struct Inner {
    pub(super) identities: Vec<Identity>,
    pub(super) pending: VecDeque<PendingRequest>,
    /// Of what they were asked with.
    pub(super) pending_bytes: usize,
    /// How many of them are a sync, or work of somebody's, that is not done.
    pub(super) unready: usize,
    /// How many of them are reads.
    pub(super) reads_behind: usize,
    pub(super) out: BytesMut,
    /// Bytes of the longest answer in it.
    pub(super) out_longest: usize,
    pub(super) counts: Counts,
    /// When its last packet came.
    pub(super) heard_at: Instant,
}

impl Inner {
    /// Whether too much waits to leave. The longest answer does not count: it may be longer than
    /// that alone.
    pub(super) fn is_out_full(&self) -> bool {
        self.out.len() - self.out_longest > OUT_BYTES_MAX
    }

    pub(super) fn put_pending(&mut self, bytes: usize, pending: Pending) {
        self.pending_bytes += bytes;
        self.pending.push_back(PendingRequest { at: Instant::now(), bytes, pending });
    }

    pub(super) fn put_answer(&mut self, xid: i32, zxid: Zxid, answer: &Result<Body, ErrorCode>) {
        frame::put(&mut self.out, |to| {
            let error = answer.as_ref().err().map_or(0, |code| code.number());
            ReplyHeader { xid, zxid, error }.write(to);
            if let Ok(body) = answer {
                body.write(to);
            }
        });
    }

    pub(super) fn put_event(&mut self, event_type: EventType, path: &str, zxid: Zxid) {
        frame::put(&mut self.out, |to| {
            ReplyHeader { xid: XID_EVENT, zxid, error: 0 }.write(to);
            let (event_type, state) = (event_type.number(), STATE_SYNC_CONNECTED);
            WatcherEvent { event_type, state, path: path.to_owned() }.write(to);
        });
        self.counts.sent += 1;
    }
}
