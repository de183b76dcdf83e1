//! What a handler is given: the right to work on one bucket, until it is
//! cancelled.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rota_client::{Client, ClientError, Repeat, Session};
use rota_core::pool::Item;
use rota_protocol::http::{CheckpointBody, CheckpointPut, Code, MemberReport};
use tokio_util::sync::CancellationToken;

/// The right to work on a bucket. Clones share it.
#[derive(Debug, Clone)]
pub struct Lease {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    session: Session,
    pool: String,
    member: String,
    bucket: String,
    fence: u64,
    item: Option<Item>,
    cancelled: CancellationToken,
}

impl Lease {
    pub(crate) fn new(
        session: Session,
        (pool, member): (&str, &str),
        grant: &rota_protocol::http::Grant,
        cancelled: CancellationToken,
    ) -> Self {
        let inner = Inner {
            session,
            pool: pool.to_owned(),
            member: member.to_owned(),
            bucket: grant.bucket.clone(),
            fence: grant.fence,
            item: grant.item.clone(),
            cancelled,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.inner.pool
    }

    /// The member that works.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.inner.member
    }

    /// The bucket: a number in a hashed pool, an item's name in a named one.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.inner.bucket
    }

    /// The fence of the grant: larger than that of every earlier one of the
    /// bucket. Stores that remember the largest one they have seen, and refuse
    /// smaller ones, are safe from owners that do not know that they no longer
    /// are.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.inner.fence
    }

    /// What the item says, in a named pool.
    #[must_use]
    pub fn item(&self) -> Option<&Item> {
        self.inner.item.as_ref()
    }

    /// Returns when the work must stop: the bucket is to go to another, or
    /// nobody confirms any more that it is this worker's. A handler then puts
    /// down where it is and returns. In the second case it is ended soon after,
    /// whether it has returned or not.
    pub async fn cancelled(&self) {
        self.inner.cancelled.cancelled().await;
    }

    /// Whether the work must stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.is_cancelled()
    }

    /// For passing on to others who must stop as well.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.inner.cancelled.clone()
    }

    /// Sleeps, but not longer than the lease lasts.
    pub async fn sleep(&self, duration: Duration) {
        // Either end is as good.
        drop(tokio::time::timeout(duration, self.cancelled()).await);
    }

    /// Where the bucket's work stands, as its last owner put it down.
    ///
    /// # Errors
    /// When no coordinator answers.
    pub async fn read_checkpoint(&self) -> Result<Option<String>, ClientError> {
        let path = self.checkpoint_path();
        let read = self.inner.session.client().get::<CheckpointBody>(&path).await;
        match read {
            Ok(checkpoint) => Ok(Some(checkpoint.data)),
            Err(error) if error.code() == Some(Code::NoCheckpoint) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts down where the work stands. Once this has returned, whoever owns the
    /// bucket next begins there.
    ///
    /// # Errors
    /// When the grant has ended (the lease is then cancelled), or no coordinator
    /// answers.
    pub async fn write_checkpoint(&self, position: String) -> Result<(), ClientError> {
        let body = CheckpointPut { fence: self.fence(), data: position };
        let path = self.checkpoint_path();
        let client = self.inner.session.client();
        // Two writes of the same position by the same owner are as one.
        let written: Result<CheckpointBody, _> =
            client.request(Method::PUT, &path, Some(&body), &[], Repeat::Safe).await;
        if let Err(error) = &written
            && matches!(error.code(), Some(Code::StaleFence | Code::NoBucket))
        {
            self.inner.cancelled.cancel();
        }
        written.map(drop)
    }

    /// Says how the work goes, for whoever looks. It may be lost.
    pub fn progress(&self, text: impl Into<String>) {
        self.inner.session.report(MemberReport {
            pool: self.inner.pool.clone(),
            member: self.inner.member.clone(),
            load: None,
            progress: [(self.inner.bucket.clone(), text.into())].into(),
        });
    }

    fn checkpoint_path(&self) -> String {
        Client::path(["v1", "pools", self.pool(), "checkpoints", self.bucket()])
    }
}
