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
use crate::raft::{Leadership, ProposerQueue};
use crate::write_queue::WriteQueue;

/// Most bytes of units taken from the write queue at once.
const PORTION_BYTES_MAX: usize = 1024 * 1024;
/// When no unit was applied for this time, they are sent again: a
/// leader can lose them without its connections breaking.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How long a portion may take to leave.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a leader that could not be reached, or lost something, is sent to
/// again; doubled as long as no unit is applied, up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Largest backoff.
const BACKOFF_MAX: Duration = Duration::from_millis(320);

/// Moves units from the write queue to the leader's proposer.
pub(crate) struct BatchForwarder {
    pub(crate) write_queue: Arc<WriteQueue>,
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
enum SendState {
    LeaderChanged,
    /// Something may be lost: it is sent again from the first unresolved unit on.
    Again,
}

impl BatchForwarder {
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::default();
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
                Some(sink) => self.feed(sink).await == SendState::Again,
                None => true,
            };
            if again {
                let pause = backoff.next(leader, self.write_queue.front());
                self.pause(leader, pause).await;
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
    async fn feed(&mut self, mut sink: Sink) -> SendState {
        let mut cursor = 0;
        let mut front = self.write_queue.front();
        let mut moved_at = Instant::now();
        loop {
            let (units, next) = self.write_queue.after(cursor, PORTION_BYTES_MAX);
            cursor = next;
            if !units.is_empty() {
                tokio::select! {
                    sent = sink.send(units) => if sent.is_err() { return SendState::Again },
                    // A leader that hangs takes nothing, and is replaced.
                    _ = self.leadership.changed() => return SendState::LeaderChanged,
                }
                continue;
            }
            let first = self.write_queue.front();
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
                () = self.write_queue.changed() => {
                    if self.write_queue.next_to_resend() {
                        return SendState::Again;
                    }
                }
                _ = self.leadership.changed() => return SendState::LeaderChanged,
                () = sink.ended() => return SendState::Again,
                () = stalled => {
                    if self.write_queue.front() == front {
                        return SendState::Again;
                    }
                }
            }
        }
    }
}

/// Backoff before units are sent again: doubled each time, until the leader changes or a unit is
/// applied.
#[derive(Debug, Default)]
struct Backoff {
    last: Option<(Leadership, Option<u64>, Duration)>,
}

impl Backoff {
    /// The pause before the next try, when `front` is the first unresolved unit.
    fn next(&mut self, leader: Leadership, front: Option<u64>) -> Duration {
        let pause = match self.last {
            Some((last_leader, last_front, pause))
                if last_leader == leader && last_front == front && front.is_some() =>
            {
                (pause * 2).min(BACKOFF_MAX)
            }
            _ => BACKOFF_MIN,
        };
        self.last = Some((leader, front, pause));
        pause
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
    fn backoff_doubles_until_a_unit_is_applied_or_the_leader_changes() {
        let mut backoff = Backoff::default();
        let mut next = |leader, front| backoff.next(Leadership::Other { leader }, front).as_millis();
        assert_eq!([(); 7].map(|()| next(1, Some(4))), [20, 40, 80, 160, 320, 320, 320]);
        assert_eq!([next(2, Some(4)), next(2, Some(4))], [20, 40], "another leader");
        assert_eq!([next(2, Some(5)), next(2, Some(5))], [20, 40], "a unit was applied");
        assert_eq!([(); 3].map(|()| next(2, None)), [20, 20, 20], "nothing waits");
    }
}
