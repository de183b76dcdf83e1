//! Every error leaves as one body with a stable code (see
//! `docs/http.md`).

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rota_core::path::check_path;
use rota_core::pool::{MemberError, NameError, SpecError};
use rota_core::state::Refusal;
use rota_protocol::http::{Code, ErrorBody};
use rota_protocol::peer::CallError;
use serde_json::json;

use crate::desk::DeskError;
use crate::service::ServiceError;

/// An error on its way to a client.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) ErrorBody);

/// What a handler returns.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(ErrorBody::new(code, message))
    }

    pub(crate) fn no_pool(pool: &str) -> Self {
        Self::new(Code::NoPool, format!("there is no pool {pool:?}: `rota pool list` shows those there are"))
    }

    pub(crate) fn no_member(pool: &str, member: &str) -> Self {
        Self::new(Code::NoMember, format!("pool {pool:?} has no member {member:?}"))
    }

    pub(crate) fn no_bucket(pool: &str, bucket: &str) -> Self {
        Self::new(Code::NoBucket, format!("pool {pool:?} has no bucket {bucket:?}"))
    }

    pub(crate) fn stale_fence(bucket: &str, given: u64, current: u64) -> Self {
        let message =
            format!("the grant of bucket {bucket:?} with fence {given} has ended: stop working on it");
        Self(ErrorBody::new(Code::StaleFence, message).with(json!({"fence": current, "given": given})))
    }

    pub(crate) fn other_checkpoint(bucket: &str, expected: u64, zxid: u64) -> Self {
        let message = format!(
            "the checkpoint of bucket {bucket:?} is that of zxid {zxid}, not of {expected}: read it again \
             before replacing it"
        );
        Self(ErrorBody::new(Code::BadVersion, message).with(json!({"zxid": zxid, "expected": expected})))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let refusal = name_bad_path(refusal);
        let message = refusal.to_string();
        let index = match &refusal {
            Refusal::Multi { index, .. } => Some(*index),
            _ => None,
        };
        let (code, mut details) = describe(refusal.cause());
        if let (Some(index), Some(map)) = (index, details.as_object_mut()) {
            map.insert("index".to_owned(), json!(index));
        }
        Self(ErrorBody::new(code, message).with(details))
    }
}

/// ZooKeeper looks for a node before it looks whether there can be one; who asks over
/// HTTP is told what is wrong with the path.
fn name_bad_path(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::NoNode { path } => match check_path(&path) {
            Ok(()) => Refusal::NoNode { path },
            Err(cause) => Refusal::BadPath { path, cause },
        },
        Refusal::Multi { index, cause } => Refusal::Multi { index, cause: Box::new(name_bad_path(*cause)) },
        other => other,
    }
}

/// The code and details of a refusal.
fn describe(refusal: &Refusal) -> (Code, serde_json::Value) {
    match refusal {
        Refusal::NoNode { path } => (Code::NoNode, json!({"path": path})),
        Refusal::NodeExists { path } => (Code::Exists, json!({"path": path})),
        Refusal::BadVersion { path, expected, actual } => {
            (Code::BadVersion, json!({"path": path, "expected": expected, "version": actual}))
        }
        Refusal::StaleFence { path, given, current } => {
            (Code::StaleFence, json!({"path": path, "given": given, "fence": current}))
        }
        Refusal::NotEmpty { path } => (Code::NotEmpty, json!({"path": path})),
        Refusal::NoChildrenForEphemerals { path } => (Code::NoChildrenForEphemerals, json!({"path": path})),
        Refusal::SessionExpired { session } => {
            (Code::SessionExpired, json!({"session": session.to_string()}))
        }
        Refusal::SessionExists { session } => (Code::Exists, json!({"session": session.to_string()})),
        Refusal::SessionMoved { session } => (Code::Conflict, json!({"session": session.to_string()})),
        Refusal::BadPassword { session } => (Code::BadPassword, json!({"session": session.to_string()})),
        Refusal::SessionNeeded => (Code::BadRequest, json!({})),
        Refusal::NoAuth { path } => (Code::NoAuth, json!({"path": path})),
        Refusal::QuotaExceeded { path } => (Code::QuotaExceeded, json!({"path": path})),
        Refusal::InvalidAcl { path } | Refusal::BadContent { path, .. } => {
            (Code::BadRequest, json!({"path": path}))
        }
        Refusal::BadTtl { ttl_ms } => (Code::BadRequest, json!({"ttl_ms": ttl_ms})),
        Refusal::NotDue { path } => (Code::Conflict, json!({"path": path})),
        Refusal::Reserved { path, .. } => (Code::Reserved, json!({"path": path})),
        Refusal::Permanent { path } => (Code::Reserved, json!({"path": path})),
        Refusal::BadPath { path, .. } => (Code::BadPath, json!({"path": path})),
        Refusal::Importing | Refusal::NotImporting => (Code::Conflict, json!({})),
        Refusal::BadZxid { .. } => (Code::BadRequest, json!({})),
        Refusal::NotEmptyCluster { nodes } => (Code::Conflict, json!({"nodes": nodes})),
        Refusal::Multi { cause, .. } => describe(cause),
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Refused(refusal) => refusal.into(),
            ServiceError::Overloaded | ServiceError::Busy => {
                Self::new(Code::Overloaded, format!("{message}: try again after a pause"))
            }
            ServiceError::OutcomeUnknown => {
                Self::new(Code::OutcomeUnknown, format!("{message}: read before trying again"))
            }
            ServiceError::Timeout => Self::new(Code::Timeout, format!("{message}: try again")),
            ServiceError::Desk(DeskError::NoLeader) => {
                Self::new(Code::NoLeader, "no leader answers now: is a majority of the servers running?")
            }
            ServiceError::Desk(DeskError::OutcomeUnknown) => {
                Self::new(Code::OutcomeUnknown, format!("{message}: look at /v1/cluster before trying again"))
            }
            ServiceError::Desk(DeskError::Refused(refused)) => refused.into(),
            ServiceError::RandomSource(_) | ServiceError::Failed(_) => Self::new(Code::Internal, message),
        }
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        let code = match error {
            CallError::NotLeader => Code::NoLeader,
            CallError::SessionExpired => Code::SessionExpired,
            CallError::BadPassword => Code::BadPassword,
            CallError::NoServer(_) => Code::NoServer,
            CallError::ServerExists(_) => Code::Exists,
            CallError::MembershipChanged | CallError::Refused(_) => Code::Conflict,
        };
        Self::new(code, message)
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::new(Code::BadName, error.to_string())
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let code = match error {
            SpecError::BucketsFixed | SpecError::KindFixed => Code::Fixed,
            _ => Code::BadSpec,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MemberError> for ApiError {
    fn from(error: MemberError) -> Self {
        Self::new(Code::BadMember, error.to_string())
    }
}
