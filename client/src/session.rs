//! A session that is kept alive, on whatever server answers.
//!
//! The lease: a session is certain to live until its timeout, less a margin for
//! clocks that run at different rates, after the last keep-alive that was
//! answered was *sent*. When that time is over, it has lapsed: nobody has said
//! that the session is gone, but work that must not be done twice has to stop.
//! If a keep-alive is answered later after all, the session is as it was. The time is that of
//! [`BootInstant`]: a machine that was suspended finds its lease over when it wakes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use rota_protocol::http::{
    Code, HEADER_SESSION, ItemCreate, KeepAlive, KeptAlive, MemberReport, OpenSession, SessionOpened,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::{Client, Idempotency};
use crate::clock::BootInstant;
use crate::error::ClientError;
use crate::task::spawn_vital;

/// A keep-alive is sent this often in a timeout.
const KEEP_ALIVES_PER_TIMEOUT: u32 = 5;
/// Whatever timeout somebody resumes a session with, keep-alives are not sent more often.
const PERIOD_MIN: Duration = Duration::from_millis(10);
/// The part of the timeout that is left unused, for clocks that run at
/// different rates: 2 %. Clocks of healthy machines differ by 0.05 %.
const CLOCK_MARGIN_PART: u32 = 50;
/// Pause after a keep-alive that no server answered.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What is known of a session's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// It lives, at least until then.
    Held {
        /// By a clock that counts while the machine is suspended.
        until: BootInstant,
    },
    /// It may have ended: no server has answered for too long.
    Lapsed,
    /// It has ended: a server said so, or it was closed.
    Ended,
}

/// An open session. It is kept alive until it is closed or dropped.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
    _keeper: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    id: String,
    credentials: String,
    timeout: Duration,
    lease: watch::Sender<LeaseState>,
    /// What [`Session::deadline`] returns, in nanoseconds since the boot. Written while `lease` is
    /// locked, so that both tell the same.
    deadline_ns: AtomicU64,
    reports: Mutex<BTreeMap<(String, String), MemberReport>>,
}

impl Client {
    /// Opens a session and keeps it alive. The server brings the timeout within
    /// its bounds.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn open_session(&self, timeout: Duration) -> Result<Session, ClientError> {
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let body = OpenSession { timeout_ms: Some(timeout_ms) };
        let sent_at = BootInstant::now();
        // Opening twice leaves one that expires by itself.
        let opened: SessionOpened =
            self.request(Method::POST, "/v1/sessions", Some(&body), &[], Idempotency::Safe).await?;
        Ok(Session::keep(self.clone(), &opened, sent_at))
    }
}

impl Session {
    /// Takes over a session that was opened elsewhere: its id and password are
    /// all that is needed, on any server. It counts as lapsed until the first
    /// keep-alive is answered.
    #[must_use]
    pub fn resume(client: Client, opened: &SessionOpened) -> Self {
        let timeout = Duration::from_millis(u64::from(opened.timeout_ms));
        Self::keep(client, opened, BootInstant::now() - timeout)
    }

    fn keep(client: Client, opened: &SessionOpened, sent_at: BootInstant) -> Self {
        let timeout = Duration::from_millis(u64::from(opened.timeout_ms));
        let shared = Arc::new(Shared {
            client,
            credentials: format!("{}:{}", opened.session, opened.password),
            id: opened.session.clone(),
            timeout,
            lease: watch::Sender::new(LeaseState::Lapsed),
            deadline_ns: AtomicU64::new(0),
            reports: Mutex::default(),
        });
        shared.renew(sent_at);
        let stop = CancellationToken::new();
        let guard = Arc::new(stop.clone().drop_guard());
        // It ends with the last handle on the session.
        let (keeper, last) = (Arc::clone(&shared), Arc::clone(&shared));
        let keep = async move {
            tokio::select! {
                () = keep_alive(&keeper, sent_at) => {}
                () = lapse(&keeper) => {}
                // Closed, or a request in its name heard that it is gone.
                () = ended(&keeper) => {}
                () = stop.cancelled() => {}
            }
        };
        // Nobody keeps the session alive any more, whatever has ended the task: those who work
        // under its lease must not believe in it.
        spawn_vital("session keep-alive", keep, move || last.end());
        Self { shared, _keeper: guard }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The timeout that the server granted.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// The client that it was opened with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// What is known of the session's life, and what will be.
    #[must_use]
    pub fn lease(&self) -> watch::Receiver<LeaseState> {
        self.shared.lease.subscribe()
    }

    /// Until when the session is certain to live, as far as is known now: every answered keep-alive
    /// puts it off. It is past when the lease has lapsed, and when the session has ended.
    #[must_use]
    pub fn deadline(&self) -> BootInstant {
        BootInstant::from_nanos(self.shared.deadline_ns.load(Ordering::Acquire))
    }

    /// Returns when the session has ended. It may have lapsed and come back
    /// before.
    pub async fn ended(&self) {
        ended(&self.shared).await;
    }

    /// Has the next keep-alive carry what a member has to say.
    pub fn report(&self, report: MemberReport) {
        let mut reports = self.shared.reports.lock().expect("no code panics while it holds this");
        let key = (report.pool.clone(), report.member.clone());
        match reports.get_mut(&key) {
            Some(waiting) => waiting.extend(report),
            None => drop(reports.insert(key, report)),
        }
    }

    /// Makes a request in the session's name.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn request<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        repeat: Idempotency,
    ) -> Result<T, ClientError> {
        self.request_by(&self.shared.client, method, path, body, repeat).await
    }

    /// Reads, in the session's name, what a server is asked to hold back for up to
    /// `wait` while there is no news.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn long_poll<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<T, ClientError> {
        let client = self.shared.client.with_answer_time(wait);
        self.request_by(&client, Method::GET, path, None::<&()>, Idempotency::Safe).await
    }

    async fn request_by<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        body: Option<&B>,
        repeat: Idempotency,
    ) -> Result<T, ClientError> {
        let result = client.request(method, path, body, &self.shared.header(), repeat).await;
        if let Err(ClientError::Refused(error)) = &result
            && error.code == Code::SessionExpired
        {
            self.shared.end();
        }
        result
    }

    /// Adds an item to a named pool, or replaces it. Unless it says that it is
    /// persistent, it goes with the session.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn put_item(&self, pool: &str, item: &ItemCreate) -> Result<(), ClientError> {
        let path = Client::path(["v1", "pools", pool, "items"]);
        let _: serde_json::Value = self.request(Method::POST, &path, Some(item), Idempotency::Safe).await?;
        Ok(())
    }

    /// Deletes an item. One that is not there is as good.
    ///
    /// # Errors
    /// When the answer is no, or no server answers.
    pub async fn remove_item(&self, pool: &str, item: &str) -> Result<(), ClientError> {
        let path = Client::path(["v1", "pools", pool, "items", item]);
        let removed = self.request::<(), ()>(Method::DELETE, &path, None, Idempotency::Safe).await;
        match removed {
            Err(error) if matches!(error.code(), Some(Code::NoItem | Code::NoNode)) => Ok(()),
            other => other,
        }
    }

    /// Closes the session: its ephemeral nodes go with it.
    ///
    /// # Errors
    /// When no server answers; the session then ends with its timeout.
    pub async fn close(self) -> Result<(), ClientError> {
        let path = Client::path(["v1", "sessions", self.id()]);
        let closed = self.request::<(), ()>(Method::DELETE, &path, None, Idempotency::Safe).await;
        self.shared.end();
        match closed {
            Err(error) if error.code() == Some(Code::SessionExpired) => Ok(()),
            other => other,
        }
    }
}

impl Shared {
    fn header(&self) -> [(&'static str, String); 1] {
        [(HEADER_SESSION, self.credentials.clone())]
    }

    /// A keep-alive that was sent then has been answered. A session that has ended stays so.
    fn renew(&self, sent_at: BootInstant) {
        let until = sent_at + lease_of(self.timeout);
        self.lease.send_if_modified(|state| {
            if *state == LeaseState::Ended {
                return false;
            }
            self.deadline_ns.store(until.as_nanos(), Ordering::Release);
            // The answer took longer than the lease, or the machine was suspended meanwhile.
            *state = if until.is_past() { LeaseState::Lapsed } else { LeaseState::Held { until } };
            true
        });
    }

    /// The session has ended: whatever its lease was, it is over.
    fn end(&self) {
        self.lease.send_if_modified(|state| {
            if *state == LeaseState::Ended {
                return false;
            }
            self.deadline_ns.fetch_min(BootInstant::now().as_nanos(), Ordering::Release);
            *state = LeaseState::Ended;
            true
        });
    }

    fn take_reports(&self) -> Vec<MemberReport> {
        let mut reports = self.reports.lock().expect("no code panics while it holds this");
        std::mem::take(&mut *reports).into_values().collect()
    }
}

/// How long a session is certain to live after a keep-alive was sent.
fn lease_of(timeout: Duration) -> Duration {
    timeout - timeout / CLOCK_MARGIN_PART
}

/// Sends keep-alives until the session has ended.
async fn keep_alive(shared: &Shared, opened_at: BootInstant) {
    let period = (shared.timeout / KEEP_ALIVES_PER_TIMEOUT).max(PERIOD_MIN);
    let path = Client::path(["v1", "sessions", &shared.id, "keep-alive"]);
    // A server that hangs must not cost the session: others are asked in time.
    let client =
        shared.client.with_deadline(period).with_attempt_timeout(period / 2).with_answer_time(Duration::ZERO);
    let mut due = opened_at + period;
    loop {
        due.reached().await;
        let body = KeepAlive { reports: shared.take_reports() };
        let sent_at = BootInstant::now();
        let answer: Result<KeptAlive, ClientError> =
            client.request(Method::POST, &path, Some(&body), &shared.header(), Idempotency::Safe).await;
        due = match answer {
            // The answer may be to an earlier try than the last: count from the first.
            Ok(_) => {
                shared.renew(sent_at);
                sent_at + period
            }
            Err(ClientError::Refused(error))
                if matches!(error.code, Code::SessionExpired | Code::BadPassword) =>
            {
                tracing::warn!(session = shared.id, code = %error.code, "the session has ended");
                shared.end();
                return;
            }
            Err(error) => {
                tracing::debug!(session = shared.id, %error, "no server answered a keep-alive");
                BootInstant::now() + RETRY_AFTER
            }
        };
    }
}

/// Returns when the session has ended.
async fn ended(shared: &Shared) {
    // The sender lives as long as what is borrowed here.
    drop(shared.lease.subscribe().wait_for(|state| *state == LeaseState::Ended).await);
}

/// Takes note when the lease's time is over.
async fn lapse(shared: &Shared) {
    let mut lease = shared.lease.subscribe();
    loop {
        let LeaseState::Held { until } = *lease.borrow_and_update() else {
            drop(lease.changed().await);
            continue;
        };
        tokio::select! {
            () = until.reached() => {}
            _ = lease.changed() => continue,
        }
        let lapsed = shared.lease.send_if_modified(|now| {
            let is_over = *now == LeaseState::Held { until };
            if is_over {
                *now = LeaseState::Lapsed;
            }
            is_over
        });
        if lapsed {
            tracing::warn!(session = shared.id, "no coordinator has answered for the session's timeout");
        }
    }
}

#[cfg(test)]
mod tests;
