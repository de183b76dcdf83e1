//! The records that requests and answers are made of.
//! Source: `zookeeper.jute` of 3.9.

use bytes::{Bytes, BytesMut};
use rota_core::state::{AclEntry, Identity, Stat};

use super::jute::{DecodeError, Record, records};

impl Record for Stat {
    const LEN_MIN: usize = 68;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self {
            czxid: u64::read(from)?,
            mzxid: u64::read(from)?,
            ctime_ms: u64::read(from)?,
            mtime_ms: u64::read(from)?,
            version: i32::read(from)?,
            cversion: i32::read(from)?,
            aversion: i32::read(from)?,
            ephemeral_owner: u64::read(from)?,
            data_length: i32::read(from)?.cast_unsigned(),
            num_children: i32::read(from)?.cast_unsigned(),
            pzxid: u64::read(from)?,
        })
    }

    fn write(&self, to: &mut BytesMut) {
        self.czxid.write(to);
        self.mzxid.write(to);
        self.ctime_ms.write(to);
        self.mtime_ms.write(to);
        self.version.write(to);
        self.cversion.write(to);
        self.aversion.write(to);
        self.ephemeral_owner.write(to);
        self.data_length.cast_signed().write(to);
        self.num_children.cast_signed().write(to);
        self.pzxid.write(to);
    }
}

impl Record for Identity {
    const LEN_MIN: usize = 8;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        let scheme = String::read(from)?;
        // ZooKeeper does not look at the id of some schemes, and kazoo writes an empty text as none.
        Ok(Self { scheme, id: Option::<String>::read(from)?.unwrap_or_default() })
    }

    fn write(&self, to: &mut BytesMut) {
        self.scheme.write(to);
        self.id.write(to);
    }
}

impl Record for AclEntry {
    const LEN_MIN: usize = 12;

    fn read(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(Self { perms: i32::read(from)?, who: Identity::read(from)? })
    }

    fn write(&self, to: &mut BytesMut) {
        self.perms.write(to);
        self.who.write(to);
    }
}

records! {
    /// Before every request but the first.
    RequestHeader {
        /// The client's number for it, or a reserved one.
        xid: i32,
        /// The operation's number.
        op: i32,
    }

    /// Before every answer but the first, and before every event.
    ReplyHeader {
        /// The request's number, or a reserved one.
        xid: i32,
        /// The last write that the server has applied.
        zxid: u64,
        /// 0, or an [`ErrorCode`](super::ErrorCode)'s number.
        error: i32,
    }

    /// What happened to a watched node.
    WatcherEvent {
        /// An [`EventType`](super::EventType)'s number.
        event_type: i32,
        /// Always [`STATE_SYNC_CONNECTED`](super::STATE_SYNC_CONNECTED).
        state: i32,
        /// The node.
        path: String,
    }

    /// `create`, `create2`, `createContainer`.
    Create {
        /// Where.
        path: String,
        /// The node's data.
        data: Option<Bytes>,
        /// Who may do what with it.
        acl: Vec<AclEntry>,
        /// A [`CreateFlag`](super::CreateFlag)'s number.
        flags: i32,
    }

    /// `createTTL`.
    CreateTtl {
        /// As `create`.
        create: Create,
        /// How long the node may go without change or children, in milliseconds.
        ttl_ms: i64,
    }

    /// `delete`, `check`, and others that need no more.
    PathVersion {
        /// The node.
        path: String,
        /// The version that it must have, or -1.
        version: i32,
    }

    /// `exists`, `getData`, `getChildren`, `getChildren2`.
    PathWatch {
        /// The node.
        path: String,
        /// Whether to watch it.
        watch: bool,
    }

    /// `setData`.
    SetData {
        /// The node.
        path: String,
        /// Its new data.
        data: Option<Bytes>,
        /// The version that it must have, or -1.
        version: i32,
    }

    /// `setACL`.
    SetAcl {
        /// The node.
        path: String,
        /// Its new list.
        acl: Vec<AclEntry>,
        /// The version that its list must have, or -1.
        version: i32,
    }

    /// `addWatch`, `checkWatches`, `removeWatches`.
    PathNumber {
        /// The node.
        path: String,
        /// An [`AddWatchMode`](super::AddWatchMode)'s or a
        /// [`WatcherType`](super::WatcherType)'s number.
        number: i32,
    }

    /// `auth`.
    Auth {
        /// 0 so far.
        auth_type: i32,
        /// The scheme, as `digest`.
        scheme: String,
        /// What proves it, as `user:password`.
        auth: Option<Bytes>,
    }

    /// `reconfig`.
    Reconfig {
        /// Servers to be added or changed, separated by commas.
        joining: Option<String>,
        /// Numbers of servers to be taken out, separated by commas.
        leaving: Option<String>,
        /// All servers, separated by commas, instead of the two above.
        new_members: Option<String>,
        /// The configuration that this one is to follow, or -1.
        current: i64,
    }

    /// `setWatches`: what a client watched where it was connected before.
    SetWatches {
        /// The last write that it has seen.
        seen: u64,
        /// Watched for their data.
        data: Vec<String>,
        /// Watched for being created.
        exist: Vec<String>,
        /// Watched for their children.
        children: Vec<String>,
    }

    /// `setWatches2`.
    SetWatches2 {
        /// As `setWatches`.
        one_shot: SetWatches,
        /// Watched until taken away.
        persistent: Vec<String>,
        /// Watched, with all below them, until taken away.
        recursive: Vec<String>,
    }

    /// One way in which the server knows a client.
    ClientInfo {
        /// The scheme, as `digest`.
        scheme: String,
        /// The user, without what is secret.
        user: String,
    }

    /// Before each part of a multi and of its answer.
    MultiHeader {
        /// The operation's number; -1 for an error, and in the last one.
        op: i32,
        /// Whether nothing follows.
        done: bool,
        /// The error's number; -1 where there is none to be told.
        error: i32,
    }
}
