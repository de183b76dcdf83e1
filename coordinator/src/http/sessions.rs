//! `/v1/sessions`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rota_core::state::{Command, SessionId};
use rota_protocol::http::{
    Code, ErrorBody, KeepAlive, KeptAlive, MemberReport, OpenSession, SessionBody, SessionOpened,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Params, ReadParams, Session, Shared};
use crate::service::Credentials;

/// What a client gets that does not ask for a timeout.
const TIMEOUT_MS_DEFAULT: u32 = 10_000;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(open, list)).routes(routes!(show, close)).routes(routes!(keep_alive))
}

/// Open a session.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = OpenSession,
    responses((status = 201, body = SessionOpened), (status = "default", body = ErrorBody)))]
async fn open(
    State(service): State<Shared>,
    Body(body): Body<OpenSession>,
) -> ApiResult<(StatusCode, Json<SessionOpened>)> {
    let (who, timeout_ms) = service.open_session(body.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT)).await?;
    let opened =
        SessionOpened { session: who.session.to_string(), password: who.password.to_string(), timeout_ms };
    Ok((StatusCode::CREATED, Json(opened)))
}

/// List the sessions that live.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(ReadParams),
    responses((status = 200, body = Vec<SessionBody>), (status = "default", body = ErrorBody)))]
async fn list(
    State(service): State<Shared>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<Vec<SessionBody>>> {
    read.ready(&service).await?;
    let applied = service.replica.read();
    Ok(Json(applied.state.sessions().map(|(id, session)| body(id, session)).collect()))
}

/// Show a session.
#[utoipa::path(get, path = "/v1/sessions/{session}", tag = "sessions",
    params(("session" = String, Path), ReadParams),
    responses((status = 200, body = SessionBody), (status = "default", body = ErrorBody)))]
async fn show(
    State(service): State<Shared>,
    Names(id): Names<String>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<SessionBody>> {
    let id = parse(&id)?;
    read.ready(&service).await?;
    let applied = service.replica.read();
    match applied.state.session(id) {
        Some(session) => Ok(Json(body(id, session))),
        None => Err(rota_core::state::Refusal::SessionExpired { session: id }.into()),
    }
}

/// Close a session: its ephemeral nodes go with it.
#[utoipa::path(delete, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn close(
    State(service): State<Shared>,
    Names(id): Names<String>,
    session: Session,
) -> ApiResult<StatusCode> {
    let who = own(&id, session.needed()?)?;
    service.write(Command::CloseSession { session: who.session }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The endpoint that is a sign of life by itself.
pub(super) const KEEP_ALIVE: &str = "/v1/sessions/{session}/keep-alive";

/// Keep a session alive, and report progress. Once this is answered, the
/// session lives for its timeout, counted from when the request was sent.
#[utoipa::path(post, path = "/v1/sessions/{session}/keep-alive", tag = "sessions",
    params(("session" = String, Path)), request_body = KeepAlive,
    responses((status = 200, body = KeptAlive), (status = "default", body = ErrorBody)))]
async fn keep_alive(
    State(service): State<Shared>,
    Names(id): Names<String>,
    session: Session,
    Body(body): Body<KeepAlive>,
) -> ApiResult<Json<KeptAlive>> {
    let who = own(&id, session.needed()?)?;
    if let Some(fault) = body.reports.iter().find_map(MemberReport::fault) {
        return Err(ApiError::new(Code::BadRequest, fault));
    }
    let timeout_ms = service.keep_alive(who, body.reports).await?;
    Ok(Json(KeptAlive { timeout_ms }))
}

fn parse(id: &str) -> ApiResult<SessionId> {
    id.parse().map_err(|e| ApiError::new(Code::BadRequest, format!("{id:?} is not a session's id: {e}")))
}

/// The session in the header must be the one in the path.
fn own(id: &str, who: Credentials) -> ApiResult<Credentials> {
    if parse(id)? == who.session {
        Ok(who)
    } else {
        Err(ApiError::new(Code::NotOwner, "the header rota-session names another session"))
    }
}

fn body(id: SessionId, session: &rota_core::state::Session) -> SessionBody {
    SessionBody {
        session: id.to_string(),
        timeout_ms: session.timeout_ms,
        opened: session.opened,
        ephemerals: session.ephemerals.iter().map(ToString::to_string).collect(),
    }
}
