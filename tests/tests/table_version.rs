//! The table's version on a user's own data path: whoever is behind pulls by itself, though the
//! server that it follows hangs.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use rota_client::{
    Client, HEADER_TABLE_VERSION, SendTableVersion, ServeTableVersion, TableCache, version_in,
};
use rota_tests::{Cluster, LIVENESS, Pool, eventually};
use tower_layer::Layer;
use tower_service::Service;

/// Answers with the version that it is told.
#[derive(Clone)]
struct Peer(u64);

impl Service<Request<()>> for Peer {
    type Response = Response<Option<u64>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let mut response = Response::new(version_in(request.headers()));
        response.headers_mut().insert(HEADER_TABLE_VERSION, HeaderValue::from(self.0));
        ready(Ok(response))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_behind_pulls_by_itself() {
    let mut cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "cache", 8, Duration::from_secs(10)).await;
    let _a = pool.join("a").await;
    pool.is_shared_by(&["a"], 8).await;
    // It asks the first that answers, and goes on there.
    let follower = cluster.ids().into_iter().find(|id| *id != 1).unwrap();
    let order = [follower, 1].map(|id| cluster.http(id));
    let table = TableCache::open(Client::new(order).unwrap(), "cache", None).await.unwrap();
    let before = table.version();
    cluster.pause(follower);
    let _b = pool.join("b").await;
    pool.is_shared_by(&["a", "b"], 8).await;
    let newest = eventually("the table is another", LIVENESS, async || {
        let others = Client::new([cluster.http(1)])?;
        let now: rota_protocol::http::TableBody = others.get(&pool.path("table?consistent=true")).await?;
        anyhow::ensure!(now.version > before);
        Ok(now.version)
    })
    .await;

    // A server of the data that knows it says so, and the client's table is pulled.
    let mut caller = SendTableVersion::new(table.clone()).layer(Peer(newest));
    let response = caller.call(Request::new(())).await.unwrap();
    assert!(response.into_body().is_some_and(|said| said >= before), "it says what it knows");
    let reached = tokio::time::timeout(LIVENESS, table.reached(newest)).await.expect("it is pulled");
    assert!(reached.version >= newest && reached.rows.values().any(|row| row.owners[0].member == "b"));

    // A server of the data that is behind its client waits for its own table.
    let mut server = ServeTableVersion::new(table.clone()).layer(Peer(0));
    let mut request = Request::new(());
    request.headers_mut().insert(HEADER_TABLE_VERSION, HeaderValue::from(newest));
    let response = server.call(request).await.unwrap();
    assert_eq!(version_in(response.headers()), Some(table.version()));
    assert!(table.version() >= newest);
    // What there is not is not waited for beyond its patience.
    let patient = ServeTableVersion::new(table.clone()).with_timeout(Duration::from_millis(50));
    let mut request = Request::new(());
    request.headers_mut().insert(HEADER_TABLE_VERSION, HeaderValue::from(u64::MAX));
    let response = patient.layer(Peer(0)).call(request).await.unwrap();
    assert_eq!(version_in(response.headers()), Some(table.version()));
    cluster.resume(follower);

    // Whoever says so again and again does not keep the table from what there is.
    let told = table.clone();
    let tells = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for more in 0.. {
            pace.tick().await;
            told.hint(u64::MAX / 2 + more);
        }
    });
    let before = table.version();
    let _c = pool.join("c").await;
    let mut followed = table.clone();
    let is_followed = async {
        while table.version() <= before {
            followed.changed().await;
        }
    };
    tokio::time::timeout(LIVENESS, is_followed).await.expect("the table follows");
    tells.abort();
}
