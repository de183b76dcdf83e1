//! Everything that a client can ask, decoded from a packet and encoded into one.

use bytes::{Bytes, BytesMut};

use super::code::OpCode;
use super::jute::{DecodeError, Record};
use super::records::{
    Auth, Create, CreateTtl, MultiHeader, PathNumber, PathVersion, PathWatch, Reconfig, SetAcl, SetData,
    SetWatches, SetWatches2,
};

/// What kind of node a create makes. Source: `CreateMode.java`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CreateFlag {
    /// Lives until deleted.
    Persistent = 0,
    /// Dies with its session.
    Ephemeral = 1,
    /// Lives until deleted, with a number in its name.
    PersistentSequential = 2,
    /// Dies with its session, with a number in its name.
    EphemeralSequential = 3,
    /// Removed when its last child is gone.
    Container = 4,
    /// Removed when it went without change or children for a time.
    PersistentWithTtl = 5,
    /// As that, with a number in its name.
    PersistentSequentialWithTtl = 6,
}

impl CreateFlag {
    /// The one with this number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        [
            Self::Persistent,
            Self::Ephemeral,
            Self::PersistentSequential,
            Self::EphemeralSequential,
            Self::Container,
            Self::PersistentWithTtl,
            Self::PersistentSequentialWithTtl,
        ]
        .into_iter()
        .find(|flag| *flag as i32 == number)
    }

    /// Whether a node of this kind has a time to live.
    #[must_use]
    pub fn has_ttl(self) -> bool {
        matches!(self, Self::PersistentWithTtl | Self::PersistentSequentialWithTtl)
    }
}

/// One change inside a multi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MultiOp {
    /// Answers the path.
    Create(Create),
    /// Answers path and Stat.
    Create2(Create),
    /// A container.
    CreateContainer(Create),
    /// A node with a time to live.
    CreateTtl(CreateTtl),
    /// Remove a node.
    Delete(PathVersion),
    /// Replace its data.
    SetData(SetData),
    /// Only compare its version.
    Check(PathVersion),
}

/// One read inside a `multiRead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOp {
    /// A node's data.
    GetData(PathWatch),
    /// The names of its children.
    GetChildren(PathWatch),
}

/// A client's request, but the first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As their operations: see `OpCode`.
pub enum Request {
    Create(Create),
    Create2(Create),
    CreateContainer(Create),
    CreateTtl(CreateTtl),
    Delete(PathVersion),
    DeleteContainer(String),
    SetData(SetData),
    SetAcl(SetAcl),
    Multi(Vec<MultiOp>),
    Reconfig(Reconfig),
    Exists(PathWatch),
    GetData(PathWatch),
    GetChildren(PathWatch),
    GetChildren2(PathWatch),
    GetAcl(String),
    GetEphemerals(String),
    GetAllChildrenNumber(String),
    MultiRead(Vec<ReadOp>),
    Sync(String),
    Ping,
    WhoAmI,
    Auth(Auth),
    SetWatches(SetWatches),
    SetWatches2(SetWatches2),
    AddWatch(PathNumber),
    CheckWatches(PathNumber),
    RemoveWatches(PathNumber),
    CloseSession,
}

impl Request {
    /// Reads the body of a request of this kind. Bytes after it are ignored, as
    /// ZooKeeper ignores them.
    ///
    /// # Errors
    /// When the body is not one of this kind, or the server knows none
    /// ([`OpCode::Sasl`]).
    pub fn read(op: OpCode, from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match op {
            OpCode::Create => Self::Create(Create::read(from)?),
            OpCode::Create2 => Self::Create2(Create::read(from)?),
            OpCode::CreateContainer => Self::CreateContainer(Create::read(from)?),
            OpCode::CreateTtl => Self::CreateTtl(CreateTtl::read(from)?),
            OpCode::Delete => Self::Delete(PathVersion::read(from)?),
            OpCode::DeleteContainer => Self::DeleteContainer(String::read(from)?),
            OpCode::SetData => Self::SetData(SetData::read(from)?),
            OpCode::SetAcl => Self::SetAcl(SetAcl::read(from)?),
            OpCode::Multi => Self::Multi(read_parts(from, MultiOp::read)?),
            OpCode::Reconfig => Self::Reconfig(Reconfig::read(from)?),
            OpCode::Exists => Self::Exists(PathWatch::read(from)?),
            OpCode::GetData => Self::GetData(PathWatch::read(from)?),
            OpCode::GetChildren => Self::GetChildren(PathWatch::read(from)?),
            OpCode::GetChildren2 => Self::GetChildren2(PathWatch::read(from)?),
            OpCode::GetAcl => Self::GetAcl(String::read(from)?),
            OpCode::GetEphemerals => Self::GetEphemerals(String::read(from)?),
            OpCode::GetAllChildrenNumber => Self::GetAllChildrenNumber(String::read(from)?),
            OpCode::MultiRead => Self::MultiRead(read_parts(from, ReadOp::read)?),
            OpCode::Sync => Self::Sync(String::read(from)?),
            OpCode::Ping => Self::Ping,
            OpCode::WhoAmI => Self::WhoAmI,
            OpCode::Auth => Self::Auth(Auth::read(from)?),
            OpCode::SetWatches => Self::SetWatches(SetWatches::read(from)?),
            OpCode::SetWatches2 => Self::SetWatches2(SetWatches2::read(from)?),
            OpCode::AddWatch => Self::AddWatch(PathNumber::read(from)?),
            OpCode::CheckWatches => Self::CheckWatches(PathNumber::read(from)?),
            OpCode::RemoveWatches => Self::RemoveWatches(PathNumber::read(from)?),
            OpCode::CloseSession => Self::CloseSession,
            OpCode::Sasl | OpCode::Check => return Err(DecodeError::Unknown(op.number())),
        })
    }

    /// Appends the body.
    pub fn write(&self, to: &mut BytesMut) {
        match self {
            Self::Create(r) | Self::Create2(r) | Self::CreateContainer(r) => r.write(to),
            Self::CreateTtl(r) => r.write(to),
            Self::Delete(r) => r.write(to),
            Self::SetData(r) => r.write(to),
            Self::SetAcl(r) => r.write(to),
            Self::Multi(ops) => write_parts(ops, to, MultiOp::write),
            Self::Reconfig(r) => r.write(to),
            Self::Exists(r) | Self::GetData(r) | Self::GetChildren(r) | Self::GetChildren2(r) => r.write(to),
            Self::DeleteContainer(path)
            | Self::GetAcl(path)
            | Self::GetEphemerals(path)
            | Self::GetAllChildrenNumber(path)
            | Self::Sync(path) => path.write(to),
            Self::MultiRead(ops) => write_parts(ops, to, ReadOp::write),
            Self::Auth(r) => r.write(to),
            Self::SetWatches(r) => r.write(to),
            Self::SetWatches2(r) => r.write(to),
            Self::AddWatch(r) | Self::CheckWatches(r) | Self::RemoveWatches(r) => r.write(to),
            Self::Ping | Self::WhoAmI | Self::CloseSession => {}
        }
    }

    /// Which operation it is.
    #[must_use]
    pub fn op(&self) -> OpCode {
        match self {
            Self::Create(_) => OpCode::Create,
            Self::Create2(_) => OpCode::Create2,
            Self::CreateContainer(_) => OpCode::CreateContainer,
            Self::CreateTtl(_) => OpCode::CreateTtl,
            Self::Delete(_) => OpCode::Delete,
            Self::DeleteContainer(_) => OpCode::DeleteContainer,
            Self::SetData(_) => OpCode::SetData,
            Self::SetAcl(_) => OpCode::SetAcl,
            Self::Multi(_) => OpCode::Multi,
            Self::Reconfig(_) => OpCode::Reconfig,
            Self::Exists(_) => OpCode::Exists,
            Self::GetData(_) => OpCode::GetData,
            Self::GetChildren(_) => OpCode::GetChildren,
            Self::GetChildren2(_) => OpCode::GetChildren2,
            Self::GetAcl(_) => OpCode::GetAcl,
            Self::GetEphemerals(_) => OpCode::GetEphemerals,
            Self::GetAllChildrenNumber(_) => OpCode::GetAllChildrenNumber,
            Self::MultiRead(_) => OpCode::MultiRead,
            Self::Sync(_) => OpCode::Sync,
            Self::Ping => OpCode::Ping,
            Self::WhoAmI => OpCode::WhoAmI,
            Self::Auth(_) => OpCode::Auth,
            Self::SetWatches(_) => OpCode::SetWatches,
            Self::SetWatches2(_) => OpCode::SetWatches2,
            Self::AddWatch(_) => OpCode::AddWatch,
            Self::CheckWatches(_) => OpCode::CheckWatches,
            Self::RemoveWatches(_) => OpCode::RemoveWatches,
            Self::CloseSession => OpCode::CloseSession,
        }
    }
}

/// Reads parts, each after a header, until a header says that nothing follows.
fn read_parts<T>(
    from: &mut Bytes,
    read: impl Fn(i32, &mut Bytes) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut parts = Vec::new();
    loop {
        let header = MultiHeader::read(from)?;
        if header.done {
            return Ok(parts);
        }
        parts.push(read(header.op, from)?);
    }
}

fn write_parts<T>(parts: &[T], to: &mut BytesMut, write: impl Fn(&T, &mut BytesMut)) {
    for part in parts {
        write(part, to);
    }
    MultiHeader { op: -1, done: true, error: -1 }.write(to);
}

fn write_part<R: Record>(op: OpCode, record: &R, to: &mut BytesMut) {
    MultiHeader { op: op.number(), done: false, error: -1 }.write(to);
    record.write(to);
}

/// ZooKeeper takes a multi for damaged if a create in it has flags that need a time to live, or
/// that are unknown (`Op.Create`, since 3.9).
fn read_create_without_ttl(from: &mut Bytes) -> Result<Create, DecodeError> {
    let create = Create::read(from)?;
    match CreateFlag::from_number(create.flags) {
        Some(flag) if !flag.has_ttl() => Ok(create),
        _ => Err(DecodeError::Unknown(create.flags)),
    }
}

impl MultiOp {
    fn read(op: i32, from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match OpCode::from_number(op) {
            Some(OpCode::Create) => Self::Create(read_create_without_ttl(from)?),
            Some(OpCode::Create2) => Self::Create2(read_create_without_ttl(from)?),
            Some(OpCode::CreateContainer) => Self::CreateContainer(read_create_without_ttl(from)?),
            Some(OpCode::CreateTtl) => Self::CreateTtl(CreateTtl::read(from)?),
            Some(OpCode::Delete) => Self::Delete(PathVersion::read(from)?),
            Some(OpCode::SetData) => Self::SetData(SetData::read(from)?),
            Some(OpCode::Check) => Self::Check(PathVersion::read(from)?),
            _ => return Err(DecodeError::Unknown(op)),
        })
    }

    fn write(&self, to: &mut BytesMut) {
        match self {
            Self::Create(r) => write_part(OpCode::Create, r, to),
            Self::Create2(r) => write_part(OpCode::Create2, r, to),
            Self::CreateContainer(r) => write_part(OpCode::CreateContainer, r, to),
            Self::CreateTtl(r) => write_part(OpCode::CreateTtl, r, to),
            Self::Delete(r) => write_part(OpCode::Delete, r, to),
            Self::SetData(r) => write_part(OpCode::SetData, r, to),
            Self::Check(r) => write_part(OpCode::Check, r, to),
        }
    }
}

impl ReadOp {
    fn read(op: i32, from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match OpCode::from_number(op) {
            Some(OpCode::GetData) => Self::GetData(PathWatch::read(from)?),
            Some(OpCode::GetChildren) => Self::GetChildren(PathWatch::read(from)?),
            _ => return Err(DecodeError::Unknown(op)),
        })
    }

    fn write(&self, to: &mut BytesMut) {
        match self {
            Self::GetData(r) => write_part(OpCode::GetData, r, to),
            Self::GetChildren(r) => write_part(OpCode::GetChildren, r, to),
        }
    }
}
