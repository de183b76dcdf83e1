//! The bodies of answers. Which one an answer has follows from the request; an
//! answer that names an error has none.

use bytes::{Bytes, BytesMut};
use rota_core::state::{AclEntry, Stat};

use super::code::{OP_ERROR, OpCode};
use super::jute::{DecodeError, Record};
use super::records::{ClientInfo, MultiHeader};

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// None.
    Nothing,
    /// `create`, `sync`.
    Path(String),
    /// `create2`, `createContainer`, `createTTL`.
    PathStat(String, Stat),
    /// `exists`, `setData`, `setACL`, `check`.
    Stat(Stat),
    /// `getData`, `reconfig`.
    DataStat(Option<Bytes>, Stat),
    /// `getACL`.
    AclStat(Vec<AclEntry>, Stat),
    /// `getChildren`, `getEphemerals`.
    Names(Vec<String>),
    /// `getChildren2`.
    NamesStat(Vec<String>, Stat),
    /// `getAllChildrenNumber`; also the error code 0 that `addWatch` answers.
    Number(i32),
    /// `whoAmI`.
    Clients(Vec<ClientInfo>),
    /// `multi`, `multiRead`.
    Parts(Vec<Part>),
}

/// The answer to one part of a multi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The path of the new node.
    Create(String),
    /// Its path and Stat.
    Create2(String, Stat),
    /// The node is gone.
    Delete,
    /// Its new Stat.
    SetData(Stat),
    /// The version is as it should be.
    Check,
    /// A node's data and Stat.
    GetData(Option<Bytes>, Stat),
    /// The names of its children.
    GetChildren(Vec<String>),
    /// An error's number; 0 for a part that would have succeeded.
    Error(i32),
}

impl Body {
    /// Appends the body.
    pub fn write(&self, to: &mut BytesMut) {
        match self {
            Self::Nothing => {}
            Self::Path(path) => path.write(to),
            Self::PathStat(path, stat) => {
                path.write(to);
                stat.write(to);
            }
            Self::Stat(stat) => stat.write(to),
            Self::DataStat(data, stat) => {
                data.write(to);
                stat.write(to);
            }
            Self::AclStat(acl, stat) => {
                acl.write(to);
                stat.write(to);
            }
            Self::Names(names) => names.write(to),
            Self::NamesStat(names, stat) => {
                names.write(to);
                stat.write(to);
            }
            Self::Number(number) => number.write(to),
            Self::Clients(clients) => clients.write(to),
            Self::Parts(parts) => {
                parts.iter().for_each(|part| part.write(to));
                MultiHeader { op: -1, done: true, error: -1 }.write(to);
            }
        }
    }

    /// Reads the body of a successful answer to a request of this kind.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(op: OpCode, from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match op {
            OpCode::Create | OpCode::Sync => Self::Path(String::read(from)?),
            OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Self::PathStat(String::read(from)?, Stat::read(from)?)
            }
            OpCode::Exists | OpCode::SetData | OpCode::SetAcl => Self::Stat(Stat::read(from)?),
            OpCode::GetData | OpCode::Reconfig => Self::DataStat(Option::read(from)?, Stat::read(from)?),
            OpCode::GetAcl => Self::AclStat(Vec::read(from)?, Stat::read(from)?),
            OpCode::GetChildren | OpCode::GetEphemerals => Self::Names(Vec::read(from)?),
            OpCode::GetChildren2 => Self::NamesStat(Vec::read(from)?, Stat::read(from)?),
            OpCode::GetAllChildrenNumber | OpCode::AddWatch => Self::Number(i32::read(from)?),
            OpCode::WhoAmI => Self::Clients(Vec::read(from)?),
            OpCode::Multi | OpCode::MultiRead => Self::Parts(Part::read_all(from)?),
            OpCode::Delete
            | OpCode::DeleteContainer
            | OpCode::Ping
            | OpCode::Auth
            | OpCode::SetWatches
            | OpCode::SetWatches2
            | OpCode::CheckWatches
            | OpCode::RemoveWatches
            | OpCode::CloseSession
            | OpCode::Check
            | OpCode::Sasl => Self::Nothing,
        })
    }
}

impl Part {
    fn op(&self) -> i32 {
        match self {
            Self::Create(_) => OpCode::Create.number(),
            Self::Create2(..) => OpCode::Create2.number(),
            Self::Delete => OpCode::Delete.number(),
            Self::SetData(_) => OpCode::SetData.number(),
            Self::Check => OpCode::Check.number(),
            Self::GetData(..) => OpCode::GetData.number(),
            Self::GetChildren(_) => OpCode::GetChildren.number(),
            Self::Error(_) => OP_ERROR,
        }
    }

    fn write(&self, to: &mut BytesMut) {
        let error = if let Self::Error(error) = self { *error } else { 0 };
        MultiHeader { op: self.op(), done: false, error }.write(to);
        match self {
            Self::Create(path) => path.write(to),
            Self::Create2(path, stat) => {
                path.write(to);
                stat.write(to);
            }
            Self::Delete | Self::Check => {}
            Self::SetData(stat) => stat.write(to),
            Self::GetData(data, stat) => {
                data.write(to);
                stat.write(to);
            }
            Self::GetChildren(names) => names.write(to),
            Self::Error(error) => error.write(to),
        }
    }

    fn read_all(from: &mut Bytes) -> Result<Vec<Self>, DecodeError> {
        let mut parts = Vec::new();
        loop {
            let header = MultiHeader::read(from)?;
            if header.done {
                return Ok(parts);
            }
            parts.push(Self::read(header.op, from)?);
        }
    }

    fn read(op: i32, from: &mut Bytes) -> Result<Self, DecodeError> {
        if op == OP_ERROR {
            return Ok(Self::Error(i32::read(from)?));
        }
        Ok(match OpCode::from_number(op) {
            Some(OpCode::Create) => Self::Create(String::read(from)?),
            Some(OpCode::Create2) => Self::Create2(String::read(from)?, Stat::read(from)?),
            Some(OpCode::Delete) => Self::Delete,
            Some(OpCode::SetData) => Self::SetData(Stat::read(from)?),
            Some(OpCode::Check) => Self::Check,
            Some(OpCode::GetData) => Self::GetData(Option::read(from)?, Stat::read(from)?),
            Some(OpCode::GetChildren) => Self::GetChildren(Vec::read(from)?),
            _ => return Err(DecodeError::Unknown(op)),
        })
    }
}
