//! The one body of every error answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, for programs. Codes are stable; messages are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: a parameter, header or body is not what it should be.
    BadRequest,
    /// 400: the body is not the JSON that is expected here.
    BadJson,
    /// 400: the path breaks a rule for paths.
    BadPath,
    /// 400: the name breaks a rule for names.
    BadName,
    /// 400: a pool's spec is out of bounds.
    BadSpec,
    /// 400: a member or item is out of bounds.
    BadMember,
    /// 403: the session's password is wrong.
    BadPassword,
    /// 403: only the owner, through its session, may do this.
    NotOwner,
    /// 403: the node's access control list does not allow it.
    NoAuth,
    /// 403: a hard quota would be exceeded.
    QuotaExceeded,
    /// 403: this part of the tree is changed through another endpoint.
    Reserved,
    /// 404: there is no such endpoint.
    NoEndpoint,
    /// 404: there is no node at the path.
    NoNode,
    /// 404: there is no pool of that name.
    NoPool,
    /// 404: the pool has no such member.
    NoMember,
    /// 404: the pool has no such item.
    NoItem,
    /// 404: the pool has no such bucket.
    NoBucket,
    /// 404: the bucket has no checkpoint.
    NoCheckpoint,
    /// 404: the cluster has no such server.
    NoServer,
    /// 405: the endpoint does not know the method.
    BadMethod,
    /// 409: a node, pool, member, item or server of that name exists.
    Exists,
    /// 409: the version is another one.
    BadVersion,
    /// 409: the grant has ended: the bucket's fence is another one.
    StaleFence,
    /// 409: the node has children.
    NotEmpty,
    /// 409: an ephemeral node cannot have children.
    NoChildrenForEphemerals,
    /// 409: a pool's kind and its number of buckets are fixed for its life.
    Fixed,
    /// 409: the pool is being deleted.
    Deleting,
    /// 409: the cluster cannot do that now.
    Conflict,
    /// 410: the session is gone: open a new one.
    SessionExpired,
    /// 413: the body is too large.
    TooLarge,
    /// 503: too much is waiting already: try again after a pause.
    Overloaded,
    /// 503: no leader is known now: try again.
    NoLeader,
    /// 503: this server belongs to no cluster yet, was removed from it, or has lost data:
    /// ask another.
    NotServing,
    /// 503: the write was sent and not answered in time; it may yet take effect.
    OutcomeUnknown,
    /// 503: the answer was not there in time: try again.
    Timeout,
    /// No server said this, but the command line: no server was reached, and a write
    /// may or may not have been carried out.
    Unreachable,
    /// 500: a fault of the server; its log says more.
    Internal,
}

impl Code {
    /// The HTTP status that goes with the code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest
            | Self::BadJson
            | Self::BadPath
            | Self::BadName
            | Self::BadSpec
            | Self::BadMember => 400,
            Self::BadPassword | Self::NotOwner | Self::NoAuth | Self::QuotaExceeded | Self::Reserved => 403,
            Self::NoEndpoint
            | Self::NoNode
            | Self::NoPool
            | Self::NoMember
            | Self::NoItem
            | Self::NoBucket
            | Self::NoCheckpoint
            | Self::NoServer => 404,
            Self::BadMethod => 405,
            Self::Exists
            | Self::BadVersion
            | Self::StaleFence
            | Self::NotEmpty
            | Self::NoChildrenForEphemerals
            | Self::Fixed
            | Self::Deleting
            | Self::Conflict => 409,
            Self::SessionExpired => 410,
            Self::TooLarge => 413,
            Self::Overloaded
            | Self::NoLeader
            | Self::NotServing
            | Self::OutcomeUnknown
            | Self::Timeout
            | Self::Unreachable => 503,
            Self::Internal => 500,
        }
    }
}

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable, for programs.
    pub code: Code,
    /// For people: what is wrong and what to do.
    pub message: String,
    /// What belongs to the code: `path`, `version`, `fence`, `index` of an
    /// operation in a multi.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
}

impl ErrorBody {
    /// An error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: serde_json::Value::Null }
    }

    /// The same error with details.
    #[must_use]
    pub fn with(mut self, details: serde_json::Value) -> Self {
        self.details = details;
        self
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
