//! What can go wrong between a client and the cluster.

use rota_protocol::http::{Code, ErrorBody};

/// Why a request has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// A server answered, and the answer is no.
    #[error("{0}")]
    Refused(ErrorBody),
    /// No server could be reached in time. The request was not carried out, or,
    /// if it was one that may be repeated, not known to be.
    #[error("no coordinator answers ({servers}): {cause}")]
    Unreachable {
        /// The servers that were tried.
        servers: String,
        /// What happened with the last of them.
        cause: String,
        /// All of them refused connections for as long as the client bears with that
        /// ([`crate::Client::with_refused_deadline`]).
        all_refused: bool,
    },
    /// The connection ended after a request that must not be repeated was sent.
    #[error("the connection ended before the answer: the request may have been carried out")]
    OutcomeUnknown,
    /// What came back is not an answer of a Rota server.
    #[error("not an answer of a Rota coordinator: {0}")]
    BadAnswer(String),
    /// The address of a server is not one.
    #[error("{0:?} is not the address of a server: expected HOST:PORT")]
    BadAddress(String),
    /// The request itself cannot be sent, to no server.
    #[error("the request cannot be sent: {0}")]
    BadRequest(String),
    /// The session has ended.
    #[error("the session has ended")]
    SessionEnded,
    /// The copy of the table on disk cannot be used.
    #[error("the copy of the table at {path} cannot be used: {cause}")]
    Store {
        /// Where it is.
        path: String,
        /// Why.
        cause: String,
    },
}

impl ClientError {
    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(body) => Some(body.code),
            _ => None,
        }
    }

    /// Whether the coordinators could not be reached, so that what is known of
    /// old is the best there is.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || matches!(self.code(), Some(Code::NoLeader | Code::NotServing | Code::Timeout))
    }
}
