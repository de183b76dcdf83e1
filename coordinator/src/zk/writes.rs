//! What clients change, as the commands of the core, and what those bring about as
//! ZooKeeper's answers. Source: ZooKeeper's `PrepRequestProcessor.java` and
//! `FinalRequestProcessor.java`.

use rota_core::state::{Actor, Command, CreateMode, Op, OpReply, Refusal, Reply};
use rota_protocol::zk::{
    Body, Create, CreateFlag, CreateTtl, ErrorCode, MultiOp, Part, PathVersion, Request,
};

use crate::write_queue::Outcome;

/// What the answer to a write looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReplyFormat {
    /// Nothing but a header.
    Nothing,
    /// The path of what was made.
    Path,
    /// Its path and Stat.
    PathStat,
    /// The Stat of what was changed or looked at.
    Stat,
    /// An error, for an operation that is switched off.
    Unimplemented,
    /// Several of these, one for each operation.
    Multi(Vec<ReplyFormat>),
    /// As `Nothing`; then the connection ends.
    CloseSession,
}

/// What is done about a request.
pub(super) enum WriteRequest {
    /// The cluster does this, and the answer looks like that.
    Write(Command, ReplyFormat),
    /// It is answered at once.
    Refused(Result<Body, ErrorCode>),
    /// It is no write.
    Other(Request),
}

/// What a client asks for with `request`. `ttl_nodes`: whether nodes with a time to live can be made.
pub(super) fn decode_write(by: impl FnOnce() -> Actor, request: Request, ttl_nodes: bool) -> WriteRequest {
    let (op, shape) = match request {
        Request::Create(create) => (make(create, plain_mode), ReplyFormat::Path),
        Request::Create2(create) => (make(create, plain_mode), ReplyFormat::PathStat),
        Request::CreateContainer(create) => (make(create, container_mode), ReplyFormat::PathStat),
        // As ZooKeeper without `extendedTypesEnabled`.
        Request::CreateTtl(create) if !ttl_nodes && has_ttl(&create) => {
            return WriteRequest::Refused(Err(ErrorCode::Unimplemented));
        }
        Request::CreateTtl(create) => (make_with_ttl(create), ReplyFormat::PathStat),
        Request::Delete(PathVersion { path, version }) => {
            (Op::Delete { path, version: wanted(version) }, ReplyFormat::Nothing)
        }
        Request::DeleteContainer(path) => (Op::Reap { path }, ReplyFormat::Nothing),
        Request::SetData(r) => {
            (Op::SetData { path: r.path, data: r.data, version: wanted(r.version) }, ReplyFormat::Stat)
        }
        Request::SetAcl(r) => {
            (Op::SetAcl { path: r.path, acl: r.acl, version: wanted(r.version) }, ReplyFormat::Stat)
        }
        Request::Multi(ops) => {
            let (ops, shapes) = ops.into_iter().map(|op| part(op, ttl_nodes)).unzip();
            return WriteRequest::Write(Command::Multi { by: by(), ops }, ReplyFormat::Multi(shapes));
        }
        Request::CloseSession => {
            let by = by();
            let (Some(session), Some(connection)) = (by.session, by.connection) else {
                return WriteRequest::Other(Request::CloseSession);
            };
            return WriteRequest::Write(
                Command::ExpireSession { session, connection },
                ReplyFormat::CloseSession,
            );
        }
        other => return WriteRequest::Other(other),
    };
    WriteRequest::Write(Command::Write { by: by(), op }, shape)
}

/// The answer to a multi whose operation `index` is refused with `code`.
fn refused_parts(len: usize, index: usize, code: ErrorCode) -> Body {
    let code = |at: usize| match at.cmp(&index) {
        std::cmp::Ordering::Less => ErrorCode::Ok,
        std::cmp::Ordering::Equal => code,
        std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency,
    };
    Body::Parts((0..len).map(|at| Part::Error(code(at).number())).collect())
}

fn has_ttl(request: &CreateTtl) -> bool {
    CreateFlag::from_number(request.create.flags).is_some_and(CreateFlag::has_ttl)
}

fn part(op: MultiOp, ttl_nodes: bool) -> (Op, ReplyFormat) {
    match op {
        MultiOp::Create(create) => make_by_flags(create, ReplyFormat::Path),
        MultiOp::Create2(create) => make_by_flags(create, ReplyFormat::PathStat),
        MultiOp::CreateContainer(create) => make_by_flags(without_owner(create), ReplyFormat::PathStat),
        // It fails where the operations before it do not.
        MultiOp::CreateTtl(request) if !ttl_nodes && has_ttl(&request) => {
            (make(request.create, |_| BAD_MODE), ReplyFormat::Unimplemented)
        }
        MultiOp::CreateTtl(request) => match CreateFlag::from_number(request.create.flags) {
            Some(flag) if !flag.has_ttl() => make_by_flags(request.create, ReplyFormat::Path),
            _ => (make_with_ttl(request), ReplyFormat::PathStat),
        },
        MultiOp::Delete(PathVersion { path, version }) => {
            (Op::Delete { path, version: wanted(version) }, ReplyFormat::Nothing)
        }
        MultiOp::SetData(r) => {
            (Op::SetData { path: r.path, data: r.data, version: wanted(r.version) }, ReplyFormat::Stat)
        }
        MultiOp::Check(PathVersion { path, version }) => {
            (Op::Check { path, version: wanted(version) }, ReplyFormat::Nothing)
        }
    }
}

fn make(create: Create, mode: impl FnOnce(i32) -> CreateMode) -> Op {
    let Create { path, data, acl, flags } = create;
    Op::Create { path, data, mode: mode(flags), acl: Some(acl) }
}

/// In a multi the flags alone say what is made, whatever the operation's name
/// (`MultiOperationRecord.java`).
fn make_by_flags(create: Create, shape: ReplyFormat) -> (Op, ReplyFormat) {
    match CreateFlag::from_number(create.flags) {
        Some(CreateFlag::Container) => (make(create, container_mode), ReplyFormat::PathStat),
        _ => (make(create, plain_mode), shape),
    }
}

/// In ZooKeeper, a container with another flag belongs to no session.
fn without_owner(create: Create) -> Create {
    let flags = match CreateFlag::from_number(create.flags) {
        Some(CreateFlag::Ephemeral) => CreateFlag::Persistent as i32,
        Some(CreateFlag::EphemeralSequential) => CreateFlag::PersistentSequential as i32,
        _ => create.flags,
    };
    Create { flags, ..create }
}

fn make_with_ttl(request: CreateTtl) -> Op {
    let ttl_ms = u64::try_from(request.ttl_ms).unwrap_or(0);
    make(request.create, |flags| match CreateFlag::from_number(flags) {
        Some(CreateFlag::PersistentWithTtl) => CreateMode::PersistentWithTtl { ttl_ms },
        Some(CreateFlag::PersistentSequentialWithTtl) => CreateMode::PersistentSequentialWithTtl { ttl_ms },
        // Without a time, another flag brings the real servers down.
        _ => BAD_MODE,
    })
}

/// A mode that is refused where the flags of a create are looked at.
const BAD_MODE: CreateMode = CreateMode::PersistentWithTtl { ttl_ms: 0 };

fn plain_mode(flags: i32) -> CreateMode {
    match CreateFlag::from_number(flags) {
        // A container is one by the operation, not by the flag: with another one the
        // real server makes a node that stays.
        Some(CreateFlag::Persistent | CreateFlag::Container) => CreateMode::Persistent,
        Some(CreateFlag::Ephemeral) => CreateMode::Ephemeral,
        Some(CreateFlag::PersistentSequential) => CreateMode::PersistentSequential,
        Some(CreateFlag::EphemeralSequential) => CreateMode::EphemeralSequential,
        Some(CreateFlag::PersistentWithTtl | CreateFlag::PersistentSequentialWithTtl) | None => BAD_MODE,
    }
}

/// It is a container whatever else the flag says, if it is one; but there are no
/// containers with a number in their name.
fn container_mode(flags: i32) -> CreateMode {
    match CreateFlag::from_number(flags) {
        Some(CreateFlag::Persistent | CreateFlag::Ephemeral | CreateFlag::Container) => CreateMode::Container,
        _ => BAD_MODE,
    }
}

/// -1 stands for any version.
fn wanted(version: i32) -> Option<i32> {
    (version != -1).then_some(version)
}

/// What a client is answered.
pub(super) fn answer(shape: &ReplyFormat, outcome: Outcome) -> Result<Body, ErrorCode> {
    match (outcome, shape) {
        (Ok(Reply::Op(reply)), shape) => Ok(body(shape, reply)),
        (Ok(Reply::Multi(replies)), ReplyFormat::Multi(shapes)) => {
            let parts = replies.into_iter().zip(shapes).map(|(reply, shape)| done(shape, reply));
            Ok(Body::Parts(parts.collect()))
        }
        (Ok(_), _) => Ok(Body::Nothing),
        (Err(Refusal::Multi { index, cause }), ReplyFormat::Multi(shapes)) => {
            let code = match shapes.get(index) {
                Some(ReplyFormat::Unimplemented) => ErrorCode::Unimplemented,
                _ => code(&cause),
            };
            Ok(refused_parts(shapes.len(), index, code))
        }
        (Err(refusal), _) => Err(code(&refusal)),
    }
}

fn body(shape: &ReplyFormat, reply: OpReply) -> Body {
    match (shape, reply) {
        (ReplyFormat::Path, OpReply::Created { path, .. }) => Body::Path(path),
        (ReplyFormat::PathStat, OpReply::Created { path, stat }) => Body::PathStat(path, stat),
        (ReplyFormat::Stat, OpReply::Set { stat } | OpReply::Checked { stat }) => Body::Stat(stat),
        _ => Body::Nothing,
    }
}

fn done(shape: &ReplyFormat, reply: OpReply) -> Part {
    match (shape, reply) {
        (ReplyFormat::Path, OpReply::Created { path, .. }) => Part::Create(path),
        (_, OpReply::Created { path, stat }) => Part::Create2(path, stat),
        (_, OpReply::Set { stat }) => Part::SetData(stat),
        (_, OpReply::Deleted) => Part::Delete,
        (_, OpReply::Checked { .. } | OpReply::Ensured) => Part::Check,
    }
}

/// ZooKeeper's number for a refusal.
pub(super) fn code(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::NoNode { .. } => ErrorCode::NoNode,
        Refusal::NodeExists { .. } => ErrorCode::NodeExists,
        Refusal::BadVersion { .. } | Refusal::StaleFence { .. } => ErrorCode::BadVersion,
        Refusal::NotEmpty { .. } => ErrorCode::NotEmpty,
        Refusal::NoChildrenForEphemerals { .. } => ErrorCode::NoChildrenForEphemerals,
        Refusal::SessionExpired { .. } | Refusal::BadPassword { .. } => ErrorCode::SessionExpired,
        Refusal::SessionMoved { .. } => ErrorCode::SessionMoved,
        Refusal::NoAuth { .. } | Refusal::Reserved { .. } => ErrorCode::NoAuth,
        // Only for a while, but longer than it is worth to try again at once.
        Refusal::Importing
        | Refusal::NotImporting
        | Refusal::BadZxid { .. }
        | Refusal::NotEmptyCluster { .. } => ErrorCode::NotReadOnly,
        Refusal::InvalidAcl { .. } => ErrorCode::InvalidAcl,
        Refusal::QuotaExceeded { .. } => ErrorCode::QuotaExceeded,
        Refusal::BadTtl { .. }
        | Refusal::NotDue { .. }
        | Refusal::BadContent { .. }
        | Refusal::Permanent { .. }
        | Refusal::BadPath { .. } => ErrorCode::BadArguments,
        Refusal::SessionExists { .. } | Refusal::SessionNeeded => ErrorCode::SystemError,
        Refusal::Multi { cause, .. } => code(cause),
    }
}
