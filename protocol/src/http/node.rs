//! Nodes over HTTP.

use rota_core::state::{AclEntry, CreateMode, Event, EventKind, Identity, Stat};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node's data as it stands in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Data {
    /// The data, encoded as `encoding` says.
    #[serde(default)]
    pub data: String,
    /// How.
    #[serde(default)]
    pub encoding: Encoding,
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As text. Answers use it whenever the bytes are UTF-8.
    #[default]
    Utf8,
    /// Two hexadecimal digits a byte.
    Hex,
}

/// Hexadecimal digits that are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("data is not hexadecimal: expected an even number of digits 0-9 and a-f")]
pub struct HexDataError;

impl Data {
    /// The bytes that this stands for.
    ///
    /// # Errors
    /// When the encoding is hexadecimal and the text is not.
    pub fn into_bytes(self) -> Result<Vec<u8>, HexDataError> {
        match self.encoding {
            Encoding::Utf8 => Ok(self.data.into_bytes()),
            Encoding::Hex => from_hex(&self.data).ok_or(HexDataError),
        }
    }
}

impl From<&[u8]> for Data {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { data: text.to_owned(), encoding: Encoding::Utf8 },
            Err(_) => {
                let data = bytes.iter().map(|b| format!("{b:02x}")).collect();
                Self { data, encoding: Encoding::Hex }
            }
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// ZooKeeper's Stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStat {
    /// zxid of the write that created the node.
    pub czxid: u64,
    /// zxid of the last change of the data.
    pub mzxid: u64,
    /// zxid of the last creation or removal of a child.
    pub pzxid: u64,
    /// Creation, in milliseconds since 1970.
    pub ctime_ms: u64,
    /// Last change of the data, in milliseconds since 1970.
    pub mtime_ms: u64,
    /// Changes of the data.
    pub version: i32,
    /// Creations and removals of children.
    pub cversion: i32,
    /// Changes of the access control list.
    pub aversion: i32,
    /// The session that owns an ephemeral node: 16 hexadecimal digits, all 0
    /// for a persistent node.
    #[schema(value_type = String)]
    #[serde(with = "hex_id")]
    pub ephemeral_owner: u64,
    /// Bytes of data.
    pub data_length: u32,
    /// Children now.
    pub num_children: u32,
}

mod hex_id {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(id: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{id:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = String::deserialize(d)?;
        u64::from_str_radix(&text, 16).map_err(de::Error::custom)
    }
}

impl From<Stat> for NodeStat {
    fn from(stat: Stat) -> Self {
        Self {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            pzxid: stat.pzxid,
            ctime_ms: stat.ctime_ms,
            mtime_ms: stat.mtime_ms,
            version: stat.version,
            cversion: stat.cversion,
            aversion: stat.aversion,
            ephemeral_owner: stat.ephemeral_owner,
            data_length: stat.data_length,
            num_children: stat.num_children,
        }
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeBody {
    /// Its path.
    pub path: String,
    /// Its data; absent in the answers to writes.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// Its Stat.
    pub stat: NodeStat,
}

/// The children of a node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Children {
    /// The parent's path.
    pub path: String,
    /// The parent's Stat.
    pub stat: NodeStat,
    /// Their names, in order.
    pub children: Vec<String>,
    /// There are more: ask again with `after` set to the last name.
    pub more: bool,
}

/// What reading a node answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum NodeRead {
    /// With `children=true`.
    Children(Children),
    /// Without.
    Node(NodeBody),
}

/// Kind of a node to be created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Lives until deleted.
    #[default]
    Persistent,
    /// As `persistent`, with a number added to its name.
    PersistentSequential,
    /// Lives at most as long as the session in whose name it is created.
    Ephemeral,
    /// As `ephemeral`, with a number added to its name.
    EphemeralSequential,
    /// Removed some time after its last child is gone.
    Container,
}

impl Mode {
    /// The kernel's kind; `None` for a time to live that does not go with it.
    #[must_use]
    pub fn with_ttl(self, ttl_ms: Option<u64>) -> Option<CreateMode> {
        Some(match (self, ttl_ms) {
            (Self::Persistent, None) => CreateMode::Persistent,
            (Self::PersistentSequential, None) => CreateMode::PersistentSequential,
            (Self::Persistent, Some(ttl_ms)) => CreateMode::PersistentWithTtl { ttl_ms },
            (Self::PersistentSequential, Some(ttl_ms)) => CreateMode::PersistentSequentialWithTtl { ttl_ms },
            (Self::Ephemeral, None) => CreateMode::Ephemeral,
            (Self::EphemeralSequential, None) => CreateMode::EphemeralSequential,
            (Self::Container, None) => CreateMode::Container,
            (Self::Ephemeral | Self::EphemeralSequential | Self::Container, Some(_)) => return None,
        })
    }
}

/// What one identity may do with a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AclBody {
    /// `world`, `auth`, `digest`, `ip` or `x509`.
    pub scheme: String,
    /// Within the scheme: `anyone`, nothing, `user:digest`, an address or network, a
    /// distinguished name.
    pub id: String,
    /// A sum of 1 (read), 2 (write), 4 (create), 8 (delete) and 16 (admin).
    pub perms: i32,
}

impl From<AclBody> for AclEntry {
    fn from(body: AclBody) -> Self {
        Self { perms: body.perms, who: Identity { scheme: body.scheme, id: body.id } }
    }
}

/// Creates a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeCreate {
    /// Its data.
    #[serde(default)]
    pub data: String,
    /// How the data is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// Its kind.
    #[serde(default)]
    pub mode: Mode,
    /// Remove it when it went so many milliseconds without children and without a
    /// change of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Who may do what with it. Absent: everybody everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Vec<AclBody>>,
}

/// Replaces a node's data.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSet {
    /// The new data.
    #[serde(default)]
    pub data: String,
    /// How the data is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// The version that the node must have.
    #[serde(default)]
    pub version: Option<i32>,
}

/// Several operations, all or none of which take effect.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MultiRequest {
    /// The operations, each of which sees what those before it did.
    pub ops: Vec<MultiOp>,
}

/// One operation of a multi.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum MultiOp {
    /// Make a node.
    Create {
        /// Its path.
        path: String,
        /// Its data.
        #[serde(default)]
        data: String,
        /// How the data is written.
        #[serde(default)]
        encoding: Encoding,
        /// Its kind.
        #[serde(default)]
        mode: Mode,
        /// Remove it when it went so many milliseconds without children and without a
        /// change of its data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
        /// Who may do what with it. Absent: everybody everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        acl: Option<Vec<AclBody>>,
    },
    /// Remove a node.
    Delete {
        /// Its path.
        path: String,
        /// The version it must have.
        #[serde(default)]
        version: Option<i32>,
    },
    /// Replace a node's data.
    Set {
        /// Its path.
        path: String,
        /// The new data.
        #[serde(default)]
        data: String,
        /// How the data is written.
        #[serde(default)]
        encoding: Encoding,
        /// The version it must have.
        #[serde(default)]
        version: Option<i32>,
    },
    /// Only check that a node exists.
    Check {
        /// Its path.
        path: String,
        /// The version it must have.
        #[serde(default)]
        version: Option<i32>,
    },
    /// Only check that a node's last change is this one.
    CheckFence {
        /// Its path.
        path: String,
        /// The `mzxid` it must have.
        fence: u64,
    },
}

/// The answers to a multi's operations, in order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MultiReply {
    /// For a create or a set, the node's path and Stat; else nothing.
    pub results: Vec<Option<NodeBody>>,
}

/// What happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKindBody {
    /// It was created.
    Created,
    /// It was deleted.
    Deleted,
    /// Its data was replaced.
    DataChanged,
    /// A child was created or deleted.
    ChildrenChanged,
}

/// One change of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventBody {
    /// The write that caused it.
    pub zxid: u64,
    /// What happened.
    pub kind: EventKindBody,
    /// To which node.
    pub path: String,
}

impl From<&Event> for EventBody {
    fn from(event: &Event) -> Self {
        let kind = match event.kind {
            EventKind::Created => EventKindBody::Created,
            EventKind::Deleted => EventKindBody::Deleted,
            EventKind::DataChanged => EventKindBody::DataChanged,
            EventKind::ChildrenChanged => EventKindBody::ChildrenChanged,
        };
        Self { zxid: event.zxid, kind, path: event.path.to_string() }
    }
}

/// What a watcher missed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// The events, in order.
    pub events: Vec<EventBody>,
    /// Watch on from here.
    pub through: u64,
    /// There may have been more events than the server remembers: read the
    /// nodes anew.
    pub missed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_json() {
        for bytes in [&b""[..], b"plain", "\u{e9}".as_bytes(), &[0xff, 0x00, 0x7f]] {
            let json = serde_json::to_string(&Data::from(bytes)).unwrap();
            let back: Data = serde_json::from_str(&json).unwrap();
            assert_eq!(back.into_bytes().unwrap(), bytes);
        }
        let odd = Data { data: "abc".into(), encoding: Encoding::Hex };
        assert_eq!(odd.into_bytes(), Err(HexDataError));
    }
}
