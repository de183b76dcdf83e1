//! The HTTP face: any server takes any request.
//!
//! Handlers look at this server's replica, or have the service write; they
//! decide nothing. Bodies are [`rota_protocol::http`]'s.

mod checkpoints;
mod cluster;
mod error;
mod extract;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod history;
mod import;
mod items;
mod member_admin;
mod members;
mod nodes;
mod operations;
mod pools;
mod serve;
mod sessions;
mod summaries;
mod table;

pub(crate) use summaries::SummaryCache;
pub(crate) use table::TableCache;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{Stream, StreamExt};
use rota_protocol::http::{Code, HEADER_MIN_ZXID, HEADER_SESSION, HEADER_ZXID, WAIT_MS_MAX};
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use error::ApiError;
use extract::Shared;

pub(crate) use cluster::advertise;
pub(crate) use operations::{install_recorder, sort_observations};
pub(crate) use serve::serve;

use crate::service::Credentials;

/// A request, long poll or not, is ended after this.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(WAIT_MS_MAX + 15_000);

#[derive(OpenApi)]
#[openapi(info(
    title = "Rota",
    description = "Hands out work: pools, members, buckets and their owners, on a replicated tree of nodes. \
                   Every answer has the header `rota-zxid`, the last write that it is based on. The path of a node \
                   stands in the request's path as it is, with its slashes; one that ends in a slash makes a \
                   sequential node with a bare number.",
    license(name = "MIT OR Apache-2.0")
))]
struct Document;

/// What all endpoints have in common.
fn whole_document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let what = "In whose name a request is made: ID:PASSWORD, as opening the session answered.";
    let header = ApiKey::Header(ApiKeyValue::with_description(HEADER_SESSION, what));
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("session", SecurityScheme::ApiKey(header));
    document.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new("session", std::iter::empty::<String>()),
    ]);
    document
}

/// Completes what the handlers say of themselves: the headers that every request
/// may have, and the path of a node, which OpenAPI has no template for.
fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let min_zxid = ParameterBuilder::new()
        .name(HEADER_MIN_ZXID)
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "Answer from a state that has this write at least: the `rota-zxid` of an earlier answer.",
        ))
        .schema(Some(Object::with_type(Type::Integer)))
        .build();
    document.paths.paths = std::mem::take(&mut document.paths.paths)
        .into_iter()
        .map(|(path, mut item)| {
            item.parameters.get_or_insert_default().push(RefOr::T(min_zxid.clone()));
            (path.replace("{*path}", "{path}"), item)
        })
        .collect();
    document
}

fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(whole_document())
        .merge(cluster::router())
        .merge(sessions::router())
        .merge(nodes::router())
        .merge(pools::router())
        .merge(member_admin::router())
        .merge(history::router())
        .merge(members::router())
        .merge(items::router())
        .merge(table::router())
        .merge(checkpoints::router())
        .merge(import::router())
}

/// The OpenAPI document of the HTTP API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    complete(described().into_openapi())
}

/// All routes of one server.
pub(crate) fn router(service: Shared) -> Router {
    let (router, document) = described().split_for_parts();
    // As it is sent: each connection has its own copy of the routes and of what is in them.
    let document = Bytes::from(complete(document).to_json().expect("the document has no fallible part"));
    let document = ([(CONTENT_TYPE, "application/json")], document);
    router
        .route("/v1/openapi.json", get(move || std::future::ready(document.clone())))
        .merge(operations::router())
        .fallback(no_endpoint)
        .method_not_allowed_fallback(bad_method)
        .layer(from_fn_with_state(Arc::clone(&service), middleware))
        .with_state(service)
}

async fn no_endpoint(request: Request) -> ApiError {
    let path = request.uri().path();
    ApiError::new(Code::NoEndpoint, format!("there is no endpoint {path}: see /v1/openapi.json"))
}

async fn bad_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(Code::BadMethod, format!("{path} does not know {method}: see /v1/openapi.json"))
}

/// The middleware of every request: limits the body's size, waits for the zxid that the client has
/// seen, renews its session, enforces the timeout, records metrics, and adds the zxid that this
/// server has applied. One layer does it all, because each layer copies the routes below it for
/// every request.
async fn middleware(State(service): State<Shared>, mut request: Request, next: Next) -> Response {
    DefaultBodyLimit::max(service.config.limits.body_bytes_max).apply(&mut request);
    let route: Arc<str> = request.extensions().get::<MatchedPath>().map_or("none", |p| p.as_str()).into();
    let route = metrics::SharedString::from_shared(route);
    let began = tokio::time::Instant::now();
    let is_read = request.method() == Method::GET;
    let answer = async {
        // What the headers say is taken out first: a request's body cannot be shared.
        let (seen, who) = (min_zxid(&request), extract::credentials(request.headers()));
        match check_preconditions(&service, seen, who, &route).await {
            // What waits for changes does not wait for those of a cluster that has gone on without
            // this server.
            Ok(()) => tokio::select! {
                biased;
                response = next.run(request) => response,
                () = service.states.out_of_service(), if !ALWAYS_SERVED.contains(&&*route) => {
                    let why = service.states.unavailable().unwrap_or_default();
                    ApiError::new(Code::NotServing, why).into_response()
                }
            },
            Err(error) => error.into_response(),
        }
    };
    let mut response = tokio::time::timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| {
        let code = if is_read { Code::Timeout } else { Code::OutcomeUnknown };
        ApiError::new(code, "the request took too long").into_response()
    });
    let zxid = service.replica.read().state.zxid();
    if let Ok(value) = HeaderValue::from_str(&zxid.to_string()) {
        response.headers_mut().insert(HEADER_ZXID, value);
    }
    let status: StatusCode = response.status();
    metrics::counter!(crate::metrics::REQUESTS, "route" => route.clone(), "status" => status.as_str().to_owned())
        .increment(1);
    metrics::histogram!(crate::metrics::REQUEST_SECONDS, "route" => route)
        .record(began.elapsed().as_secs_f64());
    response
}

/// A stream of events, for as long as this server belongs to its cluster.
fn while_in_service<S: Stream>(service: &Shared, events: S) -> impl Stream<Item = S::Item> + use<S> {
    let states = service.states.clone();
    events.take_until(Box::pin(async move { states.out_of_service().await }))
}

/// Endpoints that a server answers which does not serve otherwise.
const ALWAYS_SERVED: [&str; 5] = ["/v1/cluster", "/v1/openapi.json", "/metrics", "/healthz", "/readyz"];

async fn check_preconditions(
    service: &Shared,
    seen: Result<u64, ApiError>,
    who: Result<Option<Credentials>, ApiError>,
    route: &str,
) -> Result<(), ApiError> {
    if let Some(why) = service.states.unavailable()
        && !ALWAYS_SERVED.contains(&route)
    {
        return Err(ApiError::new(Code::NotServing, why));
    }
    // Boxed to keep rarely used futures out of every request's future.
    match seen? {
        0 => {}
        zxid => Box::pin(service.reach(zxid)).await?,
    }
    match who? {
        Some(who) if route != sessions::KEEP_ALIVE => {
            Box::pin(service.keep_alive(who, Vec::new())).await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn min_zxid(request: &Request) -> Result<u64, ApiError> {
    let Some(value) = request.headers().get(HEADER_MIN_ZXID) else { return Ok(0) };
    let number = value.to_str().ok().and_then(|v| v.parse().ok());
    number.ok_or_else(|| {
        ApiError::new(Code::BadRequest, format!("the header {HEADER_MIN_ZXID} must be a number"))
    })
}
