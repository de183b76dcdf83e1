//! The pool whose items are the sources. Whoever comes first, an agent or a
//! collector, makes it.

use hyper::Method;
use rota_client::{Client, ClientError, Idempotency};
use rota_protocol::http::{Code, PoolBody, PoolCreate, PoolKind};

/// Makes the named pool `name`, unless there is one of that name.
///
/// # Errors
/// When the answer is no, or no coordinator answers.
pub async fn ensure(client: &Client, name: &str) -> Result<(), ClientError> {
    match client.get::<PoolBody>(&Client::path(["v1", "pools", name])).await {
        Err(error) if error.code() == Some(Code::NoPool) => {}
        found => return found.map(drop),
    }
    let pool = PoolCreate { name: name.to_owned(), kind: PoolKind::Named, ..PoolCreate::default() };
    let made: Result<PoolBody, _> =
        client.request(Method::POST, "/v1/pools", Some(&pool), &[], Idempotency::Safe).await;
    match made {
        // Somebody else was quicker.
        Err(error) if error.code() == Some(Code::Exists) => Ok(()),
        made => made.map(drop),
    }
}
