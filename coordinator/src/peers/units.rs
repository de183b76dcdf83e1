//! Sends this server's units to the leader, wherever it is, in order, as often
//! as it takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rota_protocol::peer::Class;
use tokio::sync::watch;

use super::{Frames, Peers, flush};
use crate::outbox::Outbox;
use crate::raft::{Leadership, ProposerQueue};

/// Most bytes of units taken from the outbox at once.
const PORTION_BYTES_MAX: usize = 1024 * 1024;
/// Units that were sent and are not applied after this time are sent again: a
/// leader can lose them without its connections breaking.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Pause before a leader that could not be reached is dialled again.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Moves units from the outbox to the leader's proposer.
pub(crate) struct UnitSender {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) peers: Peers,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// This server's own proposer.
    pub(crate) proposer: ProposerQueue,
}

enum Sink {
    Own(ProposerQueue),
    Remote(Box<Frames>),
}

impl UnitSender {
    pub(crate) async fn run(mut self) {
        loop {
            let leader = *self.leadership.borrow_and_update();
            let sink = match leader {
                Leadership::Unknown => None,
                Leadership::Own { .. } => {
                    let mut own = self.proposer.clone();
                    own.losses.mark_unchanged();
                    Some(Sink::Own(own))
                }
                Leadership::Other { leader } => match self.peers.connect(leader, Class::Units).await {
                    Ok(frames) => Some(Sink::Remote(Box::new(frames))),
                    Err(error) => {
                        tracing::debug!(leader, %error, "cannot reach the leader to submit");
                        None
                    }
                },
            };
            match sink {
                Some(sink) => self.feed(sink).await,
                None => self.pause(leader).await,
            }
            if self.leadership.has_changed().is_err() {
                // Nobody tells any more who leads: the server is stopping.
                return;
            }
        }
    }

    async fn pause(&mut self, leader: Leadership) {
        let changed = self.leadership.changed();
        if leader == Leadership::Unknown {
            drop(changed.await);
        } else {
            drop(tokio::time::timeout(RETRY_AFTER, changed).await);
        }
    }

    /// Sends from the first unresolved unit on, until the leader changes, the
    /// connection ends, or something must be sent again.
    async fn feed(&mut self, mut sink: Sink) {
        let mut cursor = 0;
        loop {
            let (units, next) = self.outbox.after(cursor, PORTION_BYTES_MAX);
            cursor = next;
            if !units.is_empty() && sink.send(units).await.is_err() {
                return;
            }
            let stalled = async {
                match self.outbox.len() {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep(RESEND_AFTER).await,
                }
            };
            tokio::select! {
                () = self.outbox.changed() => {
                    if self.outbox.take_resend() {
                        return;
                    }
                }
                changed = self.leadership.changed() => {
                    drop(changed);
                    return;
                }
                () = sink.ended() => return,
                () = stalled => return,
            }
        }
    }
}

impl Sink {
    async fn send(&mut self, units: Vec<Bytes>) -> Result<(), ()> {
        match self {
            Self::Own(proposer) => {
                for unit in units {
                    proposer.units.send(unit).await.map_err(drop)?;
                }
            }
            Self::Remote(frames) => {
                for unit in units {
                    frames.feed(unit).await.map_err(drop)?;
                }
                flush(frames).await.map_err(drop)?;
            }
        }
        Ok(())
    }

    /// Returns when what was sent may be lost.
    async fn ended(&mut self) {
        match self {
            Self::Own(proposer) => drop(proposer.losses.changed().await),
            Self::Remote(frames) => while let Some(Ok(_)) = frames.next().await {},
        }
    }
}
