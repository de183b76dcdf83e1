//! Applies committed entries to the replica, and makes and takes snapshots.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use rota_core::state::{State, snapshot};
use rota_protocol::peer::SnapshotHead;

use super::types::{TypeConfig, log_id_out, membership_out, meta_in, meta_out};
use crate::low_priority;
use crate::replica::Replica;
use crate::store::{SnapshotFile, SnapshotStore, SnapshotWriter, StoreError};

/// A snapshot as it passes between the store, Raft and the network.
#[derive(Debug)]
pub(crate) struct SnapshotData {
    pub(crate) file: SnapshotFile,
    /// Set for one that was received: it is verified and not yet kept.
    pub(crate) received: Option<Box<Received>>,
}

/// A snapshot that another server sent.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) writer: SnapshotWriter,
    pub(crate) state: State,
}

/// The state machine of one server.
pub(crate) struct StateMachine {
    replica: Arc<Replica>,
    snapshots: SnapshotStore,
}

impl StateMachine {
    /// Loads the newest snapshot into the replica. Raft then applies what the
    /// log has beyond it.
    ///
    /// # Errors
    /// When the snapshot is damaged.
    pub(crate) fn open(replica: Arc<Replica>, snapshots: SnapshotStore) -> Result<Self, StoreError> {
        if let Some(file) = snapshots.newest()? {
            replica.restore(file.load()?, file.head);
        }
        Ok(Self { replica, snapshots })
    }

    /// Returns how many commands were refused.
    fn apply_entry(&self, entry: EntryOf<TypeConfig>) -> io::Result<u32> {
        let at = log_id_out(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => self.replica.apply_blank(at),
            EntryPayload::Membership(m) => self.replica.apply_membership(at, membership_out(&m)),
            EntryPayload::Normal(batch) => return self.replica.apply_batch(at, batch.0),
        }
        Ok(0)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        let meta = meta_in(self.replica.head())?;
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let refused = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                responder.send(refused);
            }
        }
        self.replica.publish_progress();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (state, head, covered) = self.replica.snapshot_view();
        Builder {
            state,
            head,
            covered,
            snapshots: self.snapshots.clone(),
            replica: Arc::clone(&self.replica),
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        data: SnapshotData,
    ) -> io::Result<()> {
        let snapshots = self.snapshots.clone();
        let (file, state) = tokio::task::spawn_blocking(move || match data.received {
            Some(received) => Ok::<_, io::Error>((snapshots.keep(received.writer)?, received.state)),
            None => snapshots.adopt(&data.file),
        })
        .await??;
        self.replica.restore(state, file.head);
        self.replica.publish_progress();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        match self.snapshots.newest().map_err(io::Error::other)? {
            Some(file) => Ok(Some(as_snapshot(file)?)),
            None => Ok(None),
        }
    }
}

fn as_snapshot(file: SnapshotFile) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
    let meta = meta_in(file.head.clone())?;
    Ok(openraft::storage::Snapshot { meta, snapshot: SnapshotData { file, received: None } })
}

/// Writes a snapshot while the machine goes on applying: the view that it holds
/// shares what has not changed since.
pub(crate) struct Builder {
    state: State,
    head: SnapshotHead,
    /// Bytes of batches that this snapshot is the first one to cover.
    covered: u64,
    snapshots: SnapshotStore,
    replica: Arc<Replica>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        // Nothing of the view stays here: it lets go of all that has changed since, which may
        // be much.
        let state = std::mem::take(&mut self.state);
        let (head, snapshots) = (self.head.clone(), self.snapshots.clone());
        let began = std::time::Instant::now();
        let file = low_priority::run_at_low_priority(move || {
            let mut writer = snapshots.writer(head)?;
            for block in snapshot::encode(&state) {
                writer.write(&block)?;
            }
            snapshots.keep(writer)
        })
        .await??;
        self.replica.snapshot_taken(self.covered);
        self.replica.timings().snapshot.record(began.elapsed());
        tracing::info!(path = %file.path.display(), took_ms = began.elapsed().as_millis(), "snapshot taken");
        as_snapshot(file)
    }
}

/// What a snapshot holds, for sending it with the sender's vote.
pub(crate) fn head_of(
    snapshot: &SnapshotOf<TypeConfig, SnapshotData>,
    vote: rota_protocol::peer::Vote,
) -> SnapshotHead {
    meta_out(&snapshot.meta, vote)
}
