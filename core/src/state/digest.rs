//! Digests of the state outside the tree. The state digest is the wrapping sum of its components'
//! digests, so every change updates it in constant time. Batches and snapshots carry it: changing
//! the formula changes both formats.

use xxhash_rust::xxh3::xxh3_64;

use super::session::{Session, SessionId};
use super::{ServerEndpoints, Submitted};

/// Domain separation tag.
#[derive(Clone, Copy)]
enum DigestDomain {
    Session = 1,
    Submitted = 2,
    Endpoints = 3,
}

fn component_digest(domain: DigestDomain, numbers: &[u64], texts: &[&[u8]]) -> u64 {
    let mut bytes = vec![domain as u8];
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    for text in texts {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(*text);
    }
    xxh3_64(&bytes)
}

impl Session {
    /// Digest of a session. Its ephemeral nodes are covered by the tree's.
    pub(super) fn digest(&self, id: SessionId) -> u64 {
        let numbers = [id.0, u64::from(self.timeout_ms), self.opened, u64::from(self.connection)];
        component_digest(DigestDomain::Session, &numbers, &[&self.password.0])
    }
}

/// Digest of the last unit that a server submitted.
pub(super) fn submitted_digest(server: u64, unit: Submitted) -> u64 {
    component_digest(DigestDomain::Submitted, &[server, unit.boot, unit.seq], &[])
}

/// Digest of the endpoints of a server.
pub(super) fn endpoints_digest(server: u64, endpoints: &ServerEndpoints) -> u64 {
    let zookeeper = endpoints.zookeeper.as_deref();
    let numbers = [server, u64::from(zookeeper.is_some())];
    component_digest(
        DigestDomain::Endpoints,
        &numbers,
        &[endpoints.http.as_bytes(), zookeeper.unwrap_or_default().as_bytes()],
    )
}
