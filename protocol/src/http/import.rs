//! Filling an empty cluster over HTTP.

use bytes::Bytes;
use rota_core::state::{Import, ImportedNode, ImportedSession, NodeKind, Password, SessionId, Stamps};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::node::{AclBody, Data, Encoding, HexDataError};

/// A part of an import.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImportPart {
    /// It begins. The cluster must be empty, or full of an import that broke off.
    Begin,
    /// More of it.
    More {
        /// Sessions; each before its nodes.
        #[serde(default)]
        sessions: Vec<ImportSession>,
        /// Nodes; parents before children.
        nodes: Vec<ImportNode>,
    },
    /// That was all.
    End {
        /// The last write of the other cluster.
        zxid: u64,
    },
    /// It is given up: the cluster is empty again.
    Abandon,
}

/// A session of the other cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportSession {
    /// Its id: 16 hexadecimal digits.
    pub session: String,
    /// Its password: 32 hexadecimal digits.
    pub password: String,
    /// Its timeout in milliseconds.
    pub timeout_ms: u32,
}

/// A node of the other cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportNode {
    /// Where it stands.
    pub path: String,
    /// Its data in hexadecimal digits; left out for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What ZooKeeper stores as its `ephemeralOwner`.
    #[serde(default)]
    pub owner: u64,
    /// Its access control list; left out for the open one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<AclBody>>,
    /// Its changes: `czxid`, `mzxid`, `pzxid`, `ctime_ms`, `mtime_ms`, `version` and
    /// `aversion` as in its Stat, and `child_creations`: how many children were ever
    /// created.
    #[schema(value_type = Object)]
    pub stamps: Stamps,
}

/// A part that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Data are no hexadecimal digits.
    #[error("the data of {path}: {cause}")]
    Data {
        /// Of which node.
        path: String,
        /// What is wrong.
        cause: HexDataError,
    },
    /// A session's id or password is none.
    #[error("{0:?} is not a session's id or password")]
    Session(String),
}

impl TryFrom<ImportPart> for Import {
    type Error = ImportError;

    fn try_from(part: ImportPart) -> Result<Self, ImportError> {
        Ok(match part {
            ImportPart::Begin => Self::Begin,
            ImportPart::Abandon => Self::Abandon,
            ImportPart::End { zxid } => Self::End { zxid },
            ImportPart::More { sessions, nodes } => Self::More {
                sessions: sessions.into_iter().map(session).collect::<Result<_, _>>()?,
                nodes: nodes.into_iter().map(node).collect::<Result<_, _>>()?,
            },
        })
    }
}

fn session(session: ImportSession) -> Result<ImportedSession, ImportError> {
    let id: Result<SessionId, _> = session.session.parse();
    let password: Result<Password, _> = session.password.parse();
    Ok(ImportedSession {
        session: id.map_err(|_| ImportError::Session(session.session))?,
        password: password.map_err(|_| ImportError::Session(session.password))?,
        timeout_ms: session.timeout_ms,
    })
}

fn node(node: ImportNode) -> Result<ImportedNode, ImportError> {
    let data = node.data.map(|data| Data { data, encoding: Encoding::Hex }.into_bytes()).transpose();
    let data = data.map_err(|cause| ImportError::Data { path: node.path.clone(), cause })?;
    Ok(ImportedNode {
        path: node.path,
        data: data.map(Bytes::from),
        kind: NodeKind::of_ephemeral_owner(node.owner),
        acl: node.acl.map(|acl| acl.into_iter().map(Into::into).collect()),
        stamps: node.stamps,
    })
}
