//! The table's version on a user's own data path, as in Tair: servers say with each reply which
//! version of the table they know, clients with each request; whoever is behind pulls, and nobody
//! has to ask the coordinator for every request.
//!
//! ```no_run
//! # use rota_client::{SendTableVersion, ServeTableVersion, TableCache};
//! # use tower_layer::Layer;
//! # fn example<S, C>(table: TableCache, server: S, client: C) {
//! // Around a server of the data, axum's Router or any other tower service:
//! let server = ServeTableVersion::new(table.clone()).layer(server);
//! // Around its HTTP client:
//! let client = SendTableVersion::new(table).layer(client);
//! # }
//! ```

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::table::TableCache;

/// Header of requests and responses on a user's own data path: the version of the table that the
/// sender knows.
pub const HEADER_TABLE_VERSION: HeaderName = HeaderName::from_static("rota-table-version");
/// How long a server that is behind its client waits until its own table is as new, unless told
/// otherwise.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The version that the sender of these headers knows, if it says one.
#[must_use]
pub fn version_in(headers: &HeaderMap) -> Option<u64> {
    headers.get(HEADER_TABLE_VERSION)?.to_str().ok()?.parse().ok()
}

fn write_header(headers: &mut HeaderMap, version: u64) {
    headers.insert(HEADER_TABLE_VERSION, HeaderValue::from(version));
}

/// For servers of the data: says the table's version with each response. A request of somebody
/// who knows a newer one waits until this server does, too, or for its patience.
#[derive(Debug, Clone)]
pub struct ServeTableVersion {
    table: TableCache,
    patience: Duration,
}

impl ServeTableVersion {
    /// Says the version of `table`.
    #[must_use]
    pub fn new(table: TableCache) -> Self {
        Self { table, patience: SEND_TIMEOUT }
    }

    /// Waits at most so long for a table that a client says there is.
    #[must_use]
    pub fn with_timeout(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }
}

impl<S> Layer<S> for ServeTableVersion {
    type Service = ServesTableVersion<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServesTableVersion { inner, how: self.clone() }
    }
}

/// What [`ServeTableVersion`] makes.
#[derive(Debug, Clone)]
pub struct ServesTableVersion<S> {
    inner: S,
    how: ServeTableVersion,
}

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S, B, R> Service<Request<B>> for ServesTableVersion<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Boxed<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The clone is not ready; the one that is is called.
        let unready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, unready);
        let ServeTableVersion { table, patience } = self.how.clone();
        Box::pin(async move {
            if let Some(version) = version_in(request.headers()).filter(|version| table.is_behind(*version)) {
                // Too late is as good as it gets: whoever serves must check its fences anyway.
                drop(tokio::time::timeout(patience, table.reached(version)).await);
            }
            let mut response = inner.call(request).await?;
            write_header(response.headers_mut(), table.version());
            Ok(response)
        })
    }
}

/// For clients of the data: says the table's version with each request, and has the table pulled
/// as soon as a server knows a newer one.
#[derive(Debug, Clone)]
pub struct SendTableVersion {
    table: TableCache,
}

impl SendTableVersion {
    /// Says the version of `table`.
    #[must_use]
    pub fn new(table: TableCache) -> Self {
        Self { table }
    }
}

impl<S> Layer<S> for SendTableVersion {
    type Service = SendsTableVersion<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SendsTableVersion { inner, table: self.table.clone() }
    }
}

/// What [`SendTableVersion`] makes.
#[derive(Debug, Clone)]
pub struct SendsTableVersion<S> {
    inner: S,
    table: TableCache,
}

impl<S, B, R> Service<Request<B>> for SendsTableVersion<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Boxed<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        write_header(request.headers_mut(), self.table.version());
        let (table, response) = (self.table.clone(), self.inner.call(request));
        Box::pin(async move {
            let response = response.await?;
            if let Some(version) = version_in(response.headers()) {
                table.hint(version);
            }
            Ok(response)
        })
    }
}
