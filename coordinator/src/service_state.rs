//! Whether this server belongs to its cluster and may serve clients. One that does
//! not belong to it (yet), was removed from it, or has lost data serves no reads,
//! ends its clients' connections and takes no part in replication.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rota_protocol::peer::{RefusalReason, Refused};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::Identity;

/// Whether this server may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServiceState {
    /// It belongs to no cluster yet; for people, what it waits for.
    NotMember(String),
    /// It belongs to a cluster.
    Member,
    /// It must not take part any more, and why.
    OutOfService(Refused),
}

/// A handle on the state. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ServiceStates {
    sender: Arc<watch::Sender<ServiceState>>,
    identity: Arc<Identity>,
    /// When another server last said that this one belongs to its cluster, and what to do.
    claim: Arc<Mutex<Option<(Instant, String)>>>,
}

impl ServiceStates {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        let waits = ServiceState::NotMember("this server has not joined a cluster yet".to_owned());
        Self { sender: Arc::new(watch::Sender::new(waits)), identity, claim: Arc::default() }
    }

    /// Returns when this server must not take part any more.
    pub(crate) async fn out_of_service(&self) {
        let mut states = self.sender.subscribe();
        let is_out = |state: &ServiceState| matches!(state, ServiceState::OutOfService(_));
        // The sender lives as long as this handle does.
        drop(states.wait_for(is_out).await);
    }

    /// Why this server must not serve, if it must not.
    pub(crate) fn unavailable(&self) -> Option<String> {
        match &*self.sender.borrow() {
            ServiceState::Member => None,
            ServiceState::NotMember(waits_for) => Some(waits_for.clone()),
            ServiceState::OutOfService(refused) => Some(refused.message.clone()),
        }
    }

    /// Whether it takes no part any more.
    pub(crate) fn is_out_of_service(&self) -> bool {
        matches!(&*self.sender.borrow(), ServiceState::OutOfService(_))
    }

    /// It belongs to its cluster now.
    pub(crate) fn joined(&self) {
        self.sender.send_if_modified(|state| {
            let joins = matches!(state, ServiceState::NotMember(_));
            if joins {
                *state = ServiceState::Member;
            }
            joins
        });
    }

    /// Another server says that this one, which belongs to no cluster, is a member of its cluster
    /// that was emptied. It is only a hint, since anybody can say so.
    pub(crate) fn claimed(&self, why: &str) {
        *self.lock_claim() = Some((Instant::now(), why.to_owned()));
        self.waits_for(format!("this server is new to its cluster: {why}"));
    }

    /// What another server said so within `time`.
    pub(crate) fn claim_within(&self, time: Duration) -> Option<String> {
        let claim = self.lock_claim();
        claim.as_ref().filter(|(at, _)| at.elapsed() < time).map(|(_, why)| why.clone())
    }

    fn lock_claim(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.claim.lock().expect("no code panics while it holds this")
    }

    /// What it waits for before it belongs to a cluster.
    pub(crate) fn waits_for(&self, what: String) {
        self.sender.send_if_modified(|state| match state {
            ServiceState::NotMember(before) if *before != what => {
                *before = what;
                true
            }
            _ => false,
        });
    }

    /// It must not take part from now on, nor after a restart.
    pub(crate) fn take_out_of_service(&self, why: &Refused) {
        let first = self.sender.send_if_modified(|state| {
            let first = !matches!(state, ServiceState::OutOfService(_));
            if first {
                *state = ServiceState::OutOfService(why.clone());
            }
            first
        });
        if !first {
            return;
        }
        match why.reason {
            // An operator has asked for it.
            RefusalReason::Removed => tracing::warn!("out of service: {}", why.message),
            reason => tracing::error!(?reason, "out of service: {}", why.message),
        }
        let noted = match why.reason {
            // What a pristine server was told binds it to nothing.
            RefusalReason::DiallingDiskReplaced if self.identity.cluster_id().is_none() => Ok(()),
            _ => self.identity.mark_out_of_service(&why.message),
        };
        if let Err(error) = noted {
            tracing::error!(%error, "cannot record that this server is out of service");
        }
    }
}
