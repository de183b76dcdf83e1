//! Sends this server's units to the leader, wherever it is, in order, as often
//! as it takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use rota_protocol::peer::StreamKind;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Frames, Peers, flush};
use crate::outbox::Outbox;
use crate::raft::{Leadership, ProposerQueue};

/// Most bytes of units taken from the outbox at once.
const PORTION_BYTES_MAX: usize = 1024 * 1024;
/// When no unit was applied for this time, they are sent again: a
/// leader can lose them without its connections breaking.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How long a portion may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a leader that could not be reached, or lost something, is sent to
/// again; doubled as long as no unit is applied, up to [`RETRY_AFTER_MAX`].
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// Longest such pause.
const RETRY_AFTER_MAX: Duration = Duration::from_millis(320);

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

/// Why sending ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    LeaderChanged,
    /// Something may be lost: it is sent again from the first unresolved unit on.
    Again,
}

impl UnitSender {
    pub(crate) async fn run(mut self) {
        // The first unit that was unresolved at the last pause, and the pause.
        let mut paused = (None, RETRY_AFTER);
        loop {
            let leader = *self.leadership.borrow_and_update();
            let sink = match leader {
                Leadership::Unknown => None,
                Leadership::Own { .. } => {
                    let mut own = self.proposer.clone();
                    own.losses.mark_unchanged();
                    Some(Sink::Own(own))
                }
                Leadership::Other { leader } => match self.peers.connect(leader, StreamKind::Units).await {
                    Ok(frames) => Some(Sink::Remote(Box::new(frames))),
                    Err(error) => {
                        tracing::debug!(leader, %error, "cannot reach the leader to submit");
                        None
                    }
                },
            };
            let again = match sink {
                Some(sink) => self.feed(sink).await == Fed::Again,
                None => true,
            };
            if again {
                paused = next_pause(paused, self.outbox.front());
                self.pause(leader, paused.1).await;
            }
            if self.leadership.has_changed().is_err() {
                // Nobody tells any more who leads: the server is stopping.
                return;
            }
        }
    }

    async fn pause(&mut self, leader: Leadership, pause: Duration) {
        let changed = self.leadership.changed();
        if leader == Leadership::Unknown {
            drop(changed.await);
        } else {
            drop(tokio::time::timeout(pause, changed).await);
        }
    }

    /// Sends from the first unresolved unit on, until the leader changes, the
    /// connection ends, or something must be sent again.
    async fn feed(&mut self, mut sink: Sink) -> Fed {
        let mut cursor = 0;
        let mut front = self.outbox.front();
        let mut moved_at = Instant::now();
        loop {
            let (units, next) = self.outbox.after(cursor, PORTION_BYTES_MAX);
            cursor = next;
            if !units.is_empty() {
                tokio::select! {
                    sent = sink.send(units) => if sent.is_err() { return Fed::Again },
                    // A leader that hangs takes nothing, and is replaced.
                    _ = self.leadership.changed() => return Fed::LeaderChanged,
                }
                continue;
            }
            let first = self.outbox.front();
            if first != front {
                (front, moved_at) = (first, Instant::now());
            }
            let stalled = async {
                match front {
                    Some(_) => tokio::time::sleep_until(moved_at + RESEND_AFTER).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.outbox.changed() => {
                    if self.outbox.take_resend() {
                        return Fed::Again;
                    }
                }
                _ = self.leadership.changed() => return Fed::LeaderChanged,
                () = sink.ended() => return Fed::Again,
                () = stalled => {
                    if self.outbox.front() == front {
                        return Fed::Again;
                    }
                }
            }
        }
    }
}

/// The pause before the next try, when `front` is the first unresolved unit now.
fn next_pause((front_then, pause): (Option<u64>, Duration), front: Option<u64>) -> (Option<u64>, Duration) {
    match front_then == front && front.is_some() {
        true => (front, (pause * 2).min(RETRY_AFTER_MAX)),
        false => (front, RETRY_AFTER),
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
                let send = async {
                    for unit in units {
                        frames.feed(unit).await?;
                    }
                    flush(frames).await
                };
                tokio::time::timeout(SEND_TIMEOUT, send).await.map_err(drop)?.map_err(drop)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_unit_is_applied() {
        let mut paused = (None, RETRY_AFTER);
        let mut pauses = |front| {
            paused = next_pause(paused, front);
            paused.1.as_millis()
        };
        assert_eq!([(); 7].map(|()| pauses(Some(4))), [20, 40, 80, 160, 320, 320, 320]);
        assert_eq!(pauses(Some(5)), 20);
        assert_eq!([(); 3].map(|()| pauses(None)), [20, 20, 20], "nothing waits");
    }
}
