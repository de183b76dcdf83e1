//! ZooKeeper's numbers: operations, errors, the reserved numbers of packets.
//! Sources: `ZooDefs.java`, `KeeperException.java`, `ClientCnxn.java` of 3.9.

/// Declares a set of numbers as an enum.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$code_doc:meta])* $code:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum $name {
            $($(#[$code_doc])* $code = $number,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$code),*];

            /// Its number on the wire.
            #[must_use]
            pub fn number(self) -> i32 {
                self as i32
            }

            /// The one with this number.
            #[must_use]
            pub fn from_number(number: i32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$code),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// An operation that a client can ask for.
    OpCode {
        /// Make a node; answers its path.
        Create = 1,
        /// Remove a node.
        Delete = 2,
        /// A node's Stat.
        Exists = 3,
        /// A node's data.
        GetData = 4,
        /// Replace a node's data.
        SetData = 5,
        /// A node's access control list.
        GetAcl = 6,
        /// Replace a node's access control list.
        SetAcl = 7,
        /// The names of a node's children.
        GetChildren = 8,
        /// Let what follows see everything that was acknowledged before.
        Sync = 9,
        /// A sign of life.
        Ping = 11,
        /// The names of a node's children, and its Stat.
        GetChildren2 = 12,
        /// Only compare a node's version.
        Check = 13,
        /// Several changes, all or none.
        Multi = 14,
        /// Make a node; answers its path and Stat.
        Create2 = 15,
        /// Change who belongs to the cluster.
        Reconfig = 16,
        /// Is there such a watch?
        CheckWatches = 17,
        /// Take away watches.
        RemoveWatches = 18,
        /// Make a container.
        CreateContainer = 19,
        /// Remove a container that is empty, or a node whose time is over.
        DeleteContainer = 20,
        /// Make a node that goes when it was not changed for a time.
        CreateTtl = 21,
        /// Several reads.
        MultiRead = 22,
        /// Show who the client is.
        Auth = 100,
        /// Watch again, after a reconnection.
        SetWatches = 101,
        /// SASL, which this server does not know.
        Sasl = 102,
        /// The session's ephemeral nodes below a path.
        GetEphemerals = 103,
        /// How many nodes stand below a path.
        GetAllChildrenNumber = 104,
        /// Watch again, after a reconnection, persistent watches too.
        SetWatches2 = 105,
        /// Put a persistent watch.
        AddWatch = 106,
        /// As whom does the server know the client?
        WhoAmI = 107,
        /// End the session.
        CloseSession = -11,
    }
}

impl OpCode {
    /// Its name in `cons`, as in ZooKeeper's `FinalRequestProcessor`.
    #[must_use]
    pub fn abbreviation(self) -> &'static str {
        match self {
            Self::Create | Self::Create2 | Self::CreateContainer | Self::CreateTtl => "CREA",
            Self::Delete | Self::DeleteContainer => "DELE",
            Self::Exists => "EXIS",
            Self::GetData => "GETD",
            Self::SetData => "SETD",
            Self::GetAcl => "GETA",
            Self::SetAcl => "SETA",
            Self::GetChildren | Self::GetChildren2 => "GETC",
            Self::Sync => "SYNC",
            Self::Ping => "PING",
            Self::Check => "CHEC",
            Self::Multi => "MULT",
            Self::MultiRead => "MLTR",
            Self::Reconfig => "RECO",
            Self::CheckWatches => "CHKW",
            Self::RemoveWatches => "REMW",
            Self::SetWatches => "SETW",
            Self::SetWatches2 => "STW2",
            Self::AddWatch => "ADDW",
            Self::GetEphemerals => "GETE",
            Self::GetAllChildrenNumber => "GETACN",
            Self::WhoAmI => "HOMI",
            Self::CloseSession => "CLOS",
            Self::Auth | Self::Sasl => "NA",
        }
    }
}

codes! {
    /// Why an operation was refused.
    ErrorCode {
        /// It was not.
        Ok = 0,
        /// Anything of the server's own.
        SystemError = -1,
        /// An operation of a multi was not tried, since an earlier one was refused.
        RuntimeInconsistency = -2,
        /// The server could not read the request.
        MarshallingError = -5,
        /// The operation is not known.
        Unimplemented = -6,
        /// It was not answered in time.
        OperationTimeout = -7,
        /// An argument is wrong.
        BadArguments = -8,
        /// A change of the cluster would leave it without a quorum.
        NewConfigNoQuorum = -13,
        /// Another change of the cluster is under way.
        ReconfigInProgress = -14,
        /// There is no such node.
        NoNode = -101,
        /// The client may not do this.
        NoAuth = -102,
        /// The version is another.
        BadVersion = -103,
        /// The parent is ephemeral.
        NoChildrenForEphemerals = -108,
        /// There is a node already.
        NodeExists = -110,
        /// The node has children.
        NotEmpty = -111,
        /// The session is over.
        SessionExpired = -112,
        /// The access control list is wrong.
        InvalidAcl = -114,
        /// The client is not who it says it is.
        AuthFailed = -115,
        /// The session has moved to another connection.
        SessionMoved = -118,
        /// The server is read-only now.
        NotReadOnly = -119,
        /// There is no such watch.
        NoWatcher = -121,
        /// Changes of the cluster are not allowed this way.
        ReconfigDisabled = -123,
        /// A quota would be exceeded.
        QuotaExceeded = -125,
        /// The server has too much to do.
        ThrottledOp = -127,
    }
}

codes! {
    /// What happened to a node, as a watch tells it.
    EventType {
        /// It was created.
        NodeCreated = 1,
        /// It was deleted.
        NodeDeleted = 2,
        /// Its data was replaced.
        NodeDataChanged = 3,
        /// A child was created or deleted.
        NodeChildrenChanged = 4,
    }
}

codes! {
    /// Which watches are meant, where they are checked or removed.
    WatcherType {
        /// Those that `getChildren` left.
        Children = 1,
        /// Those that `exists` and `getData` left.
        Data = 2,
        /// All.
        Any = 3,
        /// Persistent ones of one node.
        Persistent = 4,
        /// Persistent ones of a node and all below it.
        PersistentRecursive = 5,
    }
}

codes! {
    /// How `addWatch` watches.
    AddWatchMode {
        /// One node, until it is taken away.
        Persistent = 0,
        /// A node and all below it, until it is taken away.
        PersistentRecursive = 1,
    }
}

/// Number of the packet that carries an event.
pub const XID_EVENT: i32 = -1;
/// Number of a ping and its answer.
pub const XID_PING: i32 = -2;
/// Number of an `auth` and its answer.
pub const XID_AUTH: i32 = -4;
/// Number of a `setWatches` and its answer.
pub const XID_SET_WATCHES: i32 = -8;
/// The state that every event names: the client is connected.
pub const STATE_SYNC_CONNECTED: i32 = 3;
/// The operation that an error stands for inside a multi's answer.
pub(super) const OP_ERROR: i32 = -1;
