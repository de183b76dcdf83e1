//! A pool's table in memory, followed as it changes, with a copy on disk that
//! answers while every coordinator is away.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rota_core::pool::{Bucket, Owner, bucket_of_key};
use rota_protocol::http::{Code, HEADER_MIN_ZXID, RowBody, TableBody};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::client::{Client, Idempotency};
use crate::error::ClientError;
use crate::store::DiskCopy;
use crate::task::restart_on_panic;

/// How long one poll waits, in milliseconds.
const WAIT_MS: u64 = 20_000;
/// How long the first look at a table waits for a coordinator, when there is a
/// copy on disk to fall back to.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a table is looked for of which somebody says that there is one.
const PULL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a version that no server has is ignored.
const NOT_FOUND_FOR: Duration = Duration::from_secs(10);
/// Pause after a poll that failed.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Pause after a poll that found no pool.
const RETRY_GONE_AFTER: Duration = Duration::from_secs(5);

/// A pool's table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The zxid of the last change to any row.
    pub version: u64,
    /// The number of buckets, if the pool is hashed.
    pub hashed: Option<u32>,
    /// The rows, by bucket.
    pub rows: BTreeMap<Bucket, RowBody>,
    /// Addresses of members.
    pub addresses: BTreeMap<String, String>,
}

/// Who owns a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerOfKey {
    /// The key's bucket.
    pub bucket: Bucket,
    /// The bucket's primary.
    pub member: String,
    /// The primary's address; empty if it gave none.
    pub address: String,
    /// The fence of its grant.
    pub fence: u64,
}

impl Table {
    /// The bucket of a key; `None` in a named pool.
    #[must_use]
    pub fn bucket_of_key(&self, key: &[u8]) -> Option<Bucket> {
        self.hashed.map(|buckets| Bucket::number(bucket_of_key(key, buckets)))
    }

    /// Who owns a key; `None` in a named pool, and for a bucket that is vacant.
    #[must_use]
    pub fn owner_of_key(&self, key: &[u8]) -> Option<OwnerOfKey> {
        self.owner_of(&self.bucket_of_key(key)?)
    }

    /// Who owns a bucket.
    #[must_use]
    pub fn owner_of(&self, bucket: &Bucket) -> Option<OwnerOfKey> {
        let row = self.rows.get(bucket)?;
        let member = row.owners.first()?.member.clone();
        let address = self.addresses.get(&member).cloned().unwrap_or_default();
        Some(OwnerOfKey { bucket: bucket.clone(), member, address, fence: row.fence })
    }

    /// Takes in what a server sent, and says what that changed. What is older
    /// than the table changes nothing.
    pub(crate) fn take(&mut self, body: TableBody) -> Change {
        if body.version < self.version {
            return Change::Rows { changed: Vec::new(), removed: Vec::new() };
        }
        let change = Change::of(&body);
        if body.whole {
            self.rows.clear();
        }
        self.version = body.version;
        self.hashed = body.hashed;
        for bucket in &body.removed {
            self.rows.remove(&Bucket::new(bucket));
        }
        for row in body.rows {
            self.rows.insert(Bucket::new(&row.bucket), row);
        }
        self.addresses.extend(body.addresses);
        let named: std::collections::BTreeSet<&String> =
            self.rows.values().flat_map(named).map(|owner| &owner.member).collect();
        self.addresses.retain(|member, _| named.contains(member));
        change
    }
}

/// Everybody that a row names.
fn named(row: &RowBody) -> impl Iterator<Item = &Owner> {
    row.owners.iter().chain(&row.preparing)
}

/// Which rows an answer changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// All of them.
    Whole,
    /// Some.
    Rows {
        /// New or changed.
        changed: Vec<Bucket>,
        /// Gone.
        removed: Vec<Bucket>,
    },
}

impl Change {
    fn of(body: &TableBody) -> Self {
        if body.whole {
            return Self::Whole;
        }
        Self::Rows {
            changed: body.rows.iter().map(|row| Bucket::new(&row.bucket)).collect(),
            removed: body.removed.iter().map(|bucket| Bucket::new(bucket)).collect(),
        }
    }
}

/// Where a table comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A coordinator confirmed it then, by this process's clock.
    Coordinator {
        /// When.
        at: Instant,
    },
    /// From the disk; a coordinator confirmed it so long before it was read.
    Disk {
        /// How old it was when it was read.
        age: Duration,
        /// When it was read.
        read_at: Instant,
    },
}

impl Source {
    /// How long ago a coordinator confirmed the table.
    #[must_use]
    pub fn age(&self) -> Duration {
        match self {
            Self::Coordinator { at } => at.elapsed(),
            Self::Disk { age, read_at } => *age + read_at.elapsed(),
        }
    }
}

/// A table that follows its pool. Clones share it.
#[derive(Debug, Clone)]
pub struct TableCache {
    state: watch::Receiver<(Arc<Table>, Source)>,
    announced: Arc<watch::Sender<AnnouncedVersion>>,
    _follower: Arc<DropGuard>,
}

/// What others have said of a table's version.
#[derive(Debug, Clone, Copy, Default)]
struct AnnouncedVersion {
    /// The newest that there is said to be.
    newest: u64,
    /// One that no server had, and when it was looked for.
    not_found: Option<(u64, Instant)>,
}

impl AnnouncedVersion {
    /// Whether no server had a version a moment ago. `known` is the table's version: servers may
    /// have had the missing one since.
    fn was_not_found(&self, version: u64, known: u64) -> bool {
        let is_recent = |missing: u64, at: Instant| known < missing && at.elapsed() < NOT_FOUND_FOR;
        self.not_found.is_some_and(|(missing, at)| version >= missing && is_recent(missing, at))
    }
}

impl TableCache {
    /// Takes a pool's table, from a coordinator or, when none answers within a
    /// second, from the copy in the directory `disk`; and follows it. With no
    /// directory nothing is kept on disk.
    ///
    /// # Errors
    /// When there is no such pool; when no coordinator answers and there is no
    /// copy; when another process has the copy open.
    pub async fn open(client: Client, pool: &str, disk: Option<&Path>) -> Result<Self, ClientError> {
        let disk = disk.map(DiskCopy::open).transpose()?;
        let copy = disk.as_ref().and_then(|disk| disk.load(pool));
        let mut table = Table::default();
        let first = match &copy {
            Some(_) => poll(&client.with_deadline(FIRST_LOOK_TIMEOUT), pool, None, 0).await,
            None => poll(&client, pool, None, 0).await,
        };
        let source = match (first, copy) {
            (Ok(body), _) => {
                let change = table.take(body);
                if let Some(disk) = &disk {
                    disk.save(pool, &table, &change);
                }
                Source::Coordinator { at: Instant::now() }
            }
            (Err(error), Some((kept, age))) if error.is_unreachable() => {
                tracing::warn!(pool, age_s = age.as_secs(), %error, "the table is from the disk");
                table = kept;
                Source::Disk { age, read_at: Instant::now() }
            }
            (Err(error), _) => return Err(error),
        };
        let (sender, state) = watch::channel((Arc::new(table), source));
        let stop = CancellationToken::new();
        let guard = Arc::new(stop.clone().drop_guard());
        let pool = pool.to_owned();
        let announced = Arc::new(watch::Sender::new(AnnouncedVersion::default()));
        let follower = Arc::new((client, pool, disk, sender, Arc::clone(&announced)));
        // Ends with the last handle on the table.
        tokio::spawn(async move {
            let follow = || {
                let follower = Arc::clone(&follower);
                async move {
                    let (client, pool, disk, state, announced) = &*follower;
                    follow(client, pool, disk.as_ref(), state, announced).await;
                }
            };
            tokio::select! {
                () = restart_on_panic("table", follow) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Self { state, announced, _follower: guard })
    }

    /// The version of the table as it is known now.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.borrow().0.version
    }

    /// Whether the table is older than an announced version. A version that no server had, and any
    /// later one, does not count for ten seconds: its announcement was wrong.
    #[must_use]
    pub fn is_behind(&self, version: u64) -> bool {
        let known = self.version();
        known < version && !self.announced.borrow().was_not_found(version, known)
    }

    /// Somebody knows this version of the table: if it is newer than the cache's, it is pulled at
    /// once, from another server than the one that has not said it.
    pub fn hint(&self, version: u64) {
        if self.is_behind(version) {
            self.announced.send_if_modified(|announced| {
                let is_news = announced.newest < version;
                announced.newest = version.max(announced.newest);
                is_news
            });
        }
    }

    /// Pulls until the table is at least of this version, and returns it.
    pub async fn reached(&self, version: u64) -> Arc<Table> {
        self.hint(version);
        let mut state = self.state.clone();
        let reached = state.wait_for(|(table, _)| table.version >= version).await;
        match reached.map(|state| Arc::clone(&state.0)) {
            Ok(table) => table,
            // The follower is gone: nothing newer will come.
            Err(_) => std::future::pending().await,
        }
    }

    /// The table as it is known now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Table> {
        Arc::clone(&self.state.borrow().0)
    }

    /// Where it comes from, and with it how old it is.
    #[must_use]
    pub fn source(&self) -> Source {
        self.state.borrow().1
    }

    /// Returns when the table or its source has changed since this was last
    /// called.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn poll(
    client: &Client,
    pool: &str,
    since: Option<u64>,
    wait_ms: u64,
) -> Result<TableBody, ClientError> {
    let since = since.map(|version| format!("&since={version}")).unwrap_or_default();
    let path = format!("{}?wait_ms={wait_ms}{since}", Client::path(["v1", "pools", pool, "table"]));
    client.long_poll(&path, Duration::from_millis(wait_ms)).await
}

/// Asks one server after the other for a table that is at least of a version.
async fn pull(
    client: &Client,
    pool: &str,
    since: Option<u64>,
    newest: u64,
) -> Result<TableBody, ClientError> {
    let since = since.map(|version| version.to_string());
    let path = Client::query(&Client::path(["v1", "pools", pool, "table"]), [("since", since)]);
    let at_least = [(HEADER_MIN_ZXID, newest.to_string())];
    // Whoever said that there is one may be wrong.
    let client = client.with_deadline(PULL_TIMEOUT).with_attempt_timeout(PULL_TIMEOUT / 4);
    client.request(Method::GET, &path, None::<&()>, &at_least, Idempotency::Safe).await
}

async fn follow(
    client: &Client,
    pool: &str,
    disk: Option<&DiskCopy>,
    state: &watch::Sender<(Arc<Table>, Source)>,
    announced: &watch::Sender<AnnouncedVersion>,
) {
    let mut announcements = announced.subscribe();
    let mut gone = false;
    loop {
        let (known, source) = state.borrow().clone();
        // A table from the disk may be of another life of the cluster: begin anew.
        let since = matches!(source, Source::Coordinator { .. }).then_some(known.version);
        let mut polling = pin!(poll(client, pool, since, WAIT_MS));
        let polled = loop {
            let newest = announced.borrow().newest;
            if newest <= known.version {
                tokio::select! {
                    polled = &mut polling => break polled,
                    Ok(()) = announcements.changed() => continue,
                }
            }
            let pulled = tokio::select! {
                polled = &mut polling => break polled,
                // A server that is behind itself would have us wait: asked anew, another may answer.
                pulled = pull(client, pool, since, newest) => pulled,
            };
            if pulled.as_ref().map_or(0, |body| body.version) < newest {
                // There may be none: an earlier one, or one that is announced since, counts again.
                announced.send_if_modified(|announced| {
                    announced.not_found = Some((newest, Instant::now()));
                    announced.newest = if announced.newest == newest { 0 } else { announced.newest };
                    false
                });
            }
            if pulled.is_ok() {
                break pulled;
            }
        };
        match polled {
            Ok(body) => {
                gone = false;
                // An older one is not sent, except by another life of the cluster.
                let is_anew = since.is_none_or(|since| body.whole && body.version < since);
                let mut table = if is_anew { Table::default() } else { (*known).clone() };
                let change = table.take(body);
                if let Some(disk) = disk {
                    disk.save(pool, &table, &change);
                }
                state.send_replace((Arc::new(table), Source::Coordinator { at: Instant::now() }));
            }
            Err(error) if error.code() == Some(Code::NoPool) => {
                if !gone {
                    tracing::warn!(pool, "the pool is gone: its last table stays");
                }
                gone = true;
                tokio::time::sleep(RETRY_GONE_AFTER).await;
            }
            Err(_) => tokio::time::sleep(RETRY_AFTER).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(bucket: &str, member: &str, fence: u64) -> RowBody {
        let owners = vec![Owner::new(member, 1)];
        RowBody { bucket: bucket.into(), owners, fence, version: 1, ..RowBody::default() }
    }

    #[test]
    fn deltas_add_up_and_old_answers_change_nothing() {
        let mut table = Table::default();
        let whole = TableBody {
            version: 5,
            whole: true,
            hashed: Some(2),
            rows: vec![row("0", "a", 4), row("1", "b", 5)],
            removed: vec![],
            addresses: [("a".to_owned(), "h:1".to_owned()), ("b".to_owned(), String::new())].into(),
        };
        table.take(whole.clone());
        let delta = TableBody {
            version: 8,
            whole: false,
            rows: vec![row("0", "b", 8)],
            removed: vec!["1".into()],
            addresses: BTreeMap::new(),
            ..TableBody::default()
        };
        table.take(delta);
        assert_eq!((table.version, table.rows.len(), table.addresses.len()), (8, 1, 1));
        table.take(whole);
        assert_eq!(table.version, 8);
        assert_eq!(table.owner_of(&Bucket::number(0)).unwrap().member, "b");
    }

    #[test]
    fn a_key_finds_its_owner() {
        let rows = (0..4).map(|n| (Bucket::number(n), row(&n.to_string(), "a", 1))).collect();
        let table = Table { hashed: Some(4), rows, ..Table::default() };
        assert_eq!(table.owner_of_key(b"k").unwrap().member, "a");
        let named = Table { hashed: None, ..table };
        assert_eq!(named.owner_of_key(b"k"), None);
    }
}
