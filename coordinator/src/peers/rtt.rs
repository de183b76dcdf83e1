//! Round trips to other servers, measured by pings over the connections that carry
//! votes. They say how many entries a far network needs under way, and how long an
//! election must wait there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use rota_protocol::peer::Call;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Peers, RpcClient};

/// Pause between two pings of a server.
const PING_PERIOD: Duration = Duration::from_secs(1);
/// Round trips that are remembered of each server.
const SAMPLES_MAX: usize = 16;

/// What was measured lately.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips {
    samples: Mutex<BTreeMap<u64, VecDeque<Duration>>>,
}

impl RoundTrips {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, VecDeque<Duration>>> {
        self.samples.lock().expect("no code panics while it holds this")
    }

    /// Notes a round trip to a server.
    pub(crate) fn note(&self, server: u64, took: Duration) {
        let mut samples = self.lock();
        let of_server = samples.entry(server).or_default();
        if of_server.len() == SAMPLES_MAX {
            of_server.pop_front();
        }
        of_server.push_back(took);
    }

    /// Forgets servers that are not members any more.
    pub(super) fn retain(&self, is_member: impl Fn(&u64) -> bool) {
        self.lock().retain(|server, _| is_member(server));
    }

    /// The shortest of the last round trips to a server: the network's delay, without what
    /// busy servers add to it.
    pub(crate) fn shortest(&self, server: u64) -> Option<Duration> {
        self.lock().get(&server).and_then(|of_server| of_server.iter().min().copied())
    }

    /// How far a majority of these voters is away, the asking server among them at no distance:
    /// what an entry takes at least to be committed. Servers that were not measured count as near.
    pub(crate) fn to_majority(&self, others: impl Iterator<Item = u64>) -> Duration {
        let mut distances: Vec<Duration> =
            others.map(|server| self.shortest(server).unwrap_or_default()).collect();
        distances.sort();
        // Of 2n or 2n + 1 voters, n others make a majority with this one.
        let needed = distances.len().div_ceil(2);
        needed.checked_sub(1).map_or(Duration::ZERO, |at| distances[at])
    }

    /// How far the farthest of the servers is away.
    pub(crate) fn longest(&self) -> Duration {
        let samples = self.lock();
        samples.values().filter_map(|of_server| of_server.iter().min().copied()).max().unwrap_or_default()
    }
}

/// Pings every other server now and then, until the server stops.
pub(crate) async fn measure(peers: Peers, caller: RpcClient, server: u64) {
    let mut period = interval(PING_PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        let others = peers.endpoints().into_keys().filter(|id| *id != server);
        let pings = others.map(|id| {
            let (peers, caller) = (&peers, &caller);
            async move {
                let sent_at = Instant::now();
                if caller.call(id, Call::Ping).await.is_ok() {
                    peers.round_trips().note(id, sent_at.elapsed());
                }
            }
        });
        futures::future::join_all(pings).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_as_far_as_the_server_that_completes_it() {
        let trips = RoundTrips::default();
        let ms = Duration::from_millis;
        assert_eq!(trips.to_majority([2, 3].into_iter()), ms(0));
        for (server, took) in [(2, 9), (2, 5), (2, 30), (3, 50), (4, 80), (5, 90)] {
            trips.note(server, ms(took));
        }
        assert_eq!(trips.shortest(2), Some(ms(5)));
        assert_eq!(trips.to_majority([].into_iter()), ms(0));
        assert_eq!(trips.to_majority([2].into_iter()), ms(5));
        assert_eq!(trips.to_majority([2, 3].into_iter()), ms(5));
        assert_eq!(trips.to_majority([2, 3, 4].into_iter()), ms(50));
        assert_eq!(trips.to_majority([2, 3, 4, 5].into_iter()), ms(50));
        assert_eq!(trips.longest(), ms(90));
        trips.retain(|server| *server == 2);
        assert_eq!(trips.longest(), ms(5));
        for _ in 0..SAMPLES_MAX {
            trips.note(2, ms(70));
        }
        assert_eq!(trips.shortest(2), Some(ms(70)), "the delay has grown");
    }
}
