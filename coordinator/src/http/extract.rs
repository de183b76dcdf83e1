//! What handlers take from a request, with errors in our own form.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rota_core::state::{Actor, Node, Refusal};
use rota_protocol::http::{Code, HEADER_SESSION, WAIT_MS_MAX};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::error::ApiError;
use crate::service::{Credentials, Service};

/// The service that all handlers share.
pub(crate) type Shared = Arc<Service>;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, service: &Shared) -> Result<Self, ApiError> {
        let limit = service.config.limits.body_bytes_max;
        match axum::Json::<T>::from_request(request, service).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                Err(ApiError::new(Code::BadJson, "the header content-type must be application/json"))
            }
            Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ApiError::new(Code::TooLarge, format!("the body is longer than {limit} bytes")))
            }
            Err(error) => Err(ApiError::new(Code::BadJson, error.body_text())),
        }
    }
}

/// Names from the request's path.
pub(crate) struct Names<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Shared) -> Result<Self, ApiError> {
        let names = Path::<T>::from_request_parts(parts, service).await;
        let bad = |e: PathRejection| ApiError::new(Code::BadPath, e.body_text());
        names.map(|Path(names)| Self(names)).map_err(bad)
    }
}

/// Parameters from the request's query.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Shared) -> Result<Self, ApiError> {
        let params = Query::<T>::from_request_parts(parts, service).await;
        let bad = |e: QueryRejection| ApiError::new(Code::BadRequest, e.body_text());
        params.map(|Query(params)| Self(params)).map_err(bad)
    }
}

/// The session in whose name a request is made. It lives and is the client's, or
/// the request would not have come so far. `None` without the header.
pub(crate) struct Session(pub(crate) Option<Credentials>);

impl Session {
    /// The session, for what cannot be done without one.
    pub(crate) fn needed(&self) -> Result<Credentials, ApiError> {
        let message =
            format!("this needs a session: open one and send the header {HEADER_SESSION}: ID:PASSWORD");
        self.0.ok_or_else(|| ApiError::new(Code::BadRequest, message))
    }
}

impl FromRequestParts<Shared> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _service: &Shared) -> Result<Self, ApiError> {
        credentials(&parts.headers).map(Self)
    }
}

/// Who makes a request, as far as the tree is concerned.
pub(crate) struct Caller(pub(crate) Actor);

impl Caller {
    /// Whether the caller may do one of `perms` with a node.
    pub(crate) fn check(&self, path: &str, node: &Node, perms: i32) -> Result<(), ApiError> {
        match node.acl.allows(perms, self.0.identities()) {
            true => Ok(()),
            false => Err(Refusal::NoAuth { path: path.to_owned() }.into()),
        }
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, service: &Shared) -> Result<Self, ApiError> {
        let session = credentials(&parts.headers)?.map(|who| who.session);
        let identities = match password(&parts.headers)? {
            Some(user_password) => service.authority.of_password(&user_password),
            None => Vec::new(),
        };
        Ok(Self(Actor::client(session, identities)))
    }
}

/// `user:password`, as the header `authorization` says it by the scheme Basic.
fn password(headers: &HeaderMap) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let encoded = value.to_str().ok().and_then(|value| value.strip_prefix("Basic "));
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded.trim()).ok());
    let message = "the header authorization must be of the scheme Basic, with USER:PASSWORD in base64";
    decoded.map(Some).ok_or_else(|| ApiError::new(Code::BadRequest, message))
}

/// What the header `rota-session` says.
pub(crate) fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>, ApiError> {
    let Some(value) = headers.get(HEADER_SESSION) else { return Ok(None) };
    let parse = || {
        let (session, password) = value.to_str().ok()?.split_once(':')?;
        Some(Credentials { session: session.parse().ok()?, password: password.parse().ok()? })
    };
    let message = format!("the header {HEADER_SESSION} must be ID:PASSWORD, 16 and 32 hexadecimal digits");
    parse().map(Some).ok_or_else(|| ApiError::new(Code::BadRequest, message))
}

/// Parameters of reads.
#[derive(Debug, Clone, Copy, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadParams {
    /// See every write that was acknowledged before, on whichever server.
    #[serde(default)]
    pub(crate) consistent: bool,
}

impl ReadParams {
    pub(crate) async fn ready(self, service: &Service) -> Result<(), ApiError> {
        if self.consistent {
            service.catch_up().await?;
        }
        Ok(())
    }
}

/// When a long poll that waits for `wait_ms` must answer.
pub(crate) fn poll_deadline(wait_ms: u64) -> Result<Instant, ApiError> {
    if wait_ms > WAIT_MS_MAX {
        return Err(ApiError::new(Code::BadRequest, format!("wait_ms is {wait_ms}: at most {WAIT_MS_MAX}")));
    }
    Ok(Instant::now() + Duration::from_millis(wait_ms))
}
