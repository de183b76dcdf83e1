//! Sessions: a client's lease on being considered alive, and the ephemeral
//! nodes that die with it. Liveness itself is not kept here: the leader holds
//! the deadlines in memory and ends a session by a command.

use std::fmt;
use std::str::FromStr;

use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use crate::Zxid;
use crate::path::NodePath;

/// Identity of a session. Never 0; printed as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// What a client must show, with the id, to use a session: 16 random bytes,
/// printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password(pub [u8; 16]);

/// A session as it is replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What the client must show to use it.
    pub password: Password,
    /// How long it outlives the last sign of its client.
    pub timeout_ms: u32,
    /// When it was opened.
    pub opened: Zxid,
    /// Counts the connections that it went on with.
    pub connection: u32,
    /// The ephemeral nodes it owns.
    pub ephemerals: OrdSet<NodePath>,
}

/// A text that is not a session id or password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} hexadecimal digits")]
pub struct HexError {
    digits: usize,
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text, 16).map(|n| Self(n as u64))
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for Password {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        parse_hex(text, 32).map(|n| Self(n.to_be_bytes()))
    }
}

/// A password is a secret: it does not appear in logs.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

fn parse_hex(text: &str, digits: usize) -> Result<u128, HexError> {
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(HexError { digits });
    }
    u128::from_str_radix(text, 16).map_err(|_| HexError { digits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_passwords_round_trip_as_text() {
        let id = SessionId(0x00ab_cdef_0123_4567);
        assert_eq!(id.to_string().parse(), Ok(id));
        let password = Password([7; 16]);
        assert_eq!(password.to_string().parse(), Ok(password));
        assert!("12".parse::<SessionId>().is_err());
        assert!("+000000000000001".parse::<SessionId>().is_err());
        assert_eq!(format!("{password:?}"), "Password(..)");
    }
}
