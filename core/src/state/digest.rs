//! Shares of the state's digest besides the nodes'. Shares are added up, so that the digest
//! follows every change in constant time. Batches tell digests, and snapshots are checked by
//! them: another formula is a new format of both.

use xxhash_rust::xxh3::xxh3_64;

use super::session::{Session, SessionId};
use super::{Faces, Submitted};

/// Tells what a share is of.
#[derive(Clone, Copy)]
enum Kind {
    Session = 1,
    Submitted = 2,
    Faces = 3,
}

fn share(kind: Kind, numbers: &[u64], texts: &[&[u8]]) -> u64 {
    let mut bytes = vec![kind as u8];
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    for text in texts {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(*text);
    }
    xxh3_64(&bytes)
}

impl Session {
    /// This session's share. Its ephemeral nodes are in the tree's.
    pub(super) fn digest(&self, id: SessionId) -> u64 {
        let numbers = [id.0, u64::from(self.timeout_ms), self.opened, u64::from(self.connection)];
        share(Kind::Session, &numbers, &[&self.password.0])
    }
}

/// The share of what a server submitted last.
pub(super) fn of_submitted(server: u64, unit: Submitted) -> u64 {
    share(Kind::Submitted, &[server, unit.boot, unit.seq], &[])
}

/// The share of how clients reach a server.
pub(super) fn of_faces(server: u64, faces: &Faces) -> u64 {
    let zookeeper = faces.zookeeper.as_deref();
    let numbers = [server, u64::from(zookeeper.is_some())];
    share(Kind::Faces, &numbers, &[faces.http.as_bytes(), zookeeper.unwrap_or_default().as_bytes()])
}
