//! Access control: who a client is, what a node allows, and the comparison of
//! the two. Rules: ZooKeeper's `PrepRequestProcessor.fixupACL`,
//! `ZooKeeperServer.checkACL` and the authentication providers, of 3.9.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// What a permission allows, as bits that are added up.
pub mod perms {
    /// Read the data, list the children.
    pub const READ: i32 = 1;
    /// Replace the data.
    pub const WRITE: i32 = 2;
    /// Create a child.
    pub const CREATE: i32 = 4;
    /// Delete a child.
    pub const DELETE: i32 = 8;
    /// Replace the list itself.
    pub const ADMIN: i32 = 16;
    /// Everything.
    pub const ALL: i32 = 31;
}

/// Who somebody is, in one of the schemes `world`, `auth`, `digest`, `ip`,
/// `x509` and `super`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The scheme.
    pub scheme: String,
    /// Within the scheme: for `digest` the user and the digest of user and
    /// password, for `ip` an address or a network.
    pub id: String,
}

/// What one identity may do with a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AclEntry {
    /// A sum of [`perms`].
    pub perms: i32,
    /// To whom it is given.
    pub who: Identity,
}

/// A node's access control list: what is not allowed by an entry is refused. A
/// clone costs O(1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl(Option<Arc<[AclEntry]>>);

/// Entries of one list: each is looked at whenever somebody wants something.
const ENTRIES_MAX: usize = 1024;
/// Bytes of all of its entries' ids.
const BYTES_MAX: usize = 256 * 1024;

/// A list that cannot stand on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidAcl;

impl Identity {
    /// An identity.
    #[must_use]
    pub fn new(scheme: &str, id: &str) -> Self {
        Self { scheme: scheme.to_owned(), id: id.to_owned() }
    }

    /// Everybody.
    #[must_use]
    pub fn anyone() -> Self {
        Self::new("world", "anyone")
    }

    /// Who may do everything.
    #[must_use]
    pub fn superuser() -> Self {
        Self::new("super", "")
    }

    fn is_anyone(&self) -> bool {
        self.scheme == "world" && self.id == "anyone"
    }

    fn is_super(&self) -> bool {
        self.scheme == "super"
    }

    /// Whether it can stand in a node's list.
    fn is_valid(&self) -> bool {
        match self.scheme.as_str() {
            "world" => self.is_anyone(),
            "digest" => is_pair(&self.id),
            "ip" => Network::parse(&self.id).is_some(),
            "x509" => is_distinguished_name(&self.id),
            _ => false,
        }
    }

    /// Whether a client that is `self` is meant by `entry`.
    fn matches(&self, entry: &Identity) -> bool {
        if self.scheme != entry.scheme {
            return false;
        }
        match self.scheme.as_str() {
            "ip" => Network::parse(&entry.id).zip(self.id.parse().ok()).is_some_and(|(n, a)| n.contains(a)),
            _ => self.id == entry.id,
        }
    }

    /// Whether it says that somebody has proved who they are: an address does not.
    fn is_proof(&self) -> bool {
        matches!(self.scheme.as_str(), "digest" | "x509")
    }
}

impl Acl {
    /// The list that allows everybody everything.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// A list of these entries as they stand.
    #[must_use]
    pub fn new(entries: Vec<AclEntry>) -> Self {
        match &entries[..] {
            [only] if only.perms == perms::ALL && only.who.is_anyone() => Self::open(),
            _ => Self(Some(entries.into())),
        }
    }

    /// One that allows everybody `perms` and nobody anything else.
    #[must_use]
    pub fn for_anyone(perms: i32) -> Self {
        Self::new(vec![AclEntry { perms, who: Identity::anyone() }])
    }

    /// A number for what it says; 0 for the open one.
    pub(super) fn digest(&self) -> u64 {
        let Some(entries) = &self.0 else { return 0 };
        let mut hash = Xxh3::new();
        hash.update(&(entries.len() as u64).to_le_bytes());
        for entry in entries.iter() {
            hash.update(&entry.perms.to_le_bytes());
            hash.update(entry.who.scheme.as_bytes());
            hash.update(&[0]);
            hash.update(entry.who.id.as_bytes());
            hash.update(&[0]);
        }
        hash.digest()
    }

    /// Bytes that the list takes, about.
    pub(super) fn bytes(&self) -> usize {
        let texts = |entry: &AclEntry| entry.who.scheme.len() + entry.who.id.len();
        self.0.iter().flat_map(|entries| entries.iter()).map(|e| size_of::<AclEntry>() + texts(e)).sum()
    }

    /// Whether it allows everybody everything.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> Vec<AclEntry> {
        match &self.0 {
            Some(entries) => entries.to_vec(),
            None => vec![AclEntry { perms: perms::ALL, who: Identity::anyone() }],
        }
    }

    /// Whether somebody who is all of `identities` may do one of `wanted`.
    #[must_use]
    pub fn allows(&self, wanted: i32, identities: &[Identity]) -> bool {
        let Some(entries) = &self.0 else { return true };
        // ZooKeeper takes a node without any entry for an open one.
        entries.is_empty()
            || identities.iter().any(Identity::is_super)
            || entries.iter().filter(|entry| entry.perms & wanted != 0).any(|entry| {
                entry.who.is_anyone() || identities.iter().any(|identity| identity.matches(&entry.who))
            })
    }

    /// What somebody may see of it who may read the node and not replace the list:
    /// no digests.
    #[must_use]
    pub fn masked(&self) -> Vec<AclEntry> {
        let mut entries = self.entries();
        for entry in entries.iter_mut().filter(|entry| entry.who.scheme == "digest") {
            let user = entry.who.id.split(':').next().unwrap_or_default();
            entry.who.id = format!("{user}:x");
        }
        entries
    }

    /// The list that a client who is all of `identities` means by `asked`: without
    /// repetitions, and with `auth` standing for whoever the client has proved to be.
    pub(super) fn resolve(asked: &[AclEntry], identities: &[Identity]) -> Result<Self, InvalidAcl> {
        if let [only] = asked
            && only.perms == perms::ALL
            && only.who.is_anyone()
        {
            return Ok(Self::open());
        }
        if asked.len() > ENTRIES_MAX {
            return Err(InvalidAcl);
        }
        let mut bytes = 0;
        let mut entries: Vec<AclEntry> = Vec::with_capacity(asked.len());
        let mut seen = BTreeSet::new();
        for entry in asked {
            if !seen.insert(entry) {
                continue;
            }
            let before = entries.len();
            if entry.who.scheme == "auth" {
                let own = identities.iter().filter(|identity| identity.is_proof());
                entries.extend(own.map(|who| AclEntry { perms: entry.perms, who: who.clone() }));
                if entries.len() == before {
                    return Err(InvalidAcl);
                }
            } else if entry.who.is_valid() {
                entries.push(entry.clone());
            } else {
                return Err(InvalidAcl);
            }
            // One that stands for the client may stand for many.
            bytes += entries[before..].iter().map(|entry| entry.who.id.len()).sum::<usize>();
            if entries.len() > ENTRIES_MAX || bytes > BYTES_MAX {
                return Err(InvalidAcl);
            }
        }
        if entries.is_empty() { Err(InvalidAcl) } else { Ok(Self::new(entries)) }
    }
}

/// `user:digest`
fn is_pair(id: &str) -> bool {
    // Java's split drops empty parts at the end.
    let parts: Vec<&str> = id.trim_end_matches(':').split(':').collect();
    parts.len() == 2
}

/// `CN=somebody,O=somewhere`: every part has a name and a value.
fn is_distinguished_name(id: &str) -> bool {
    let (mut escaped, mut quoted) = (false, false);
    let splits = |c: char| {
        let splits = matches!(c, ',' | '+' | ';') && !escaped && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        splits
    };
    let parts: Vec<&str> = id.split(splits).collect();
    !escaped
        && !quoted
        && parts.into_iter().all(|part| {
            part.split_once('=').is_some_and(|(name, _)| {
                let name = name.trim();
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            })
        })
}

/// An address, or all addresses that begin alike; written as ZooKeeper takes it since 3.9.4
/// (`IPAuthenticationProvider.java`).
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = parse_v4(address).or_else(|| parse_v6(address))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(width), |bits| bits.parse().ok().filter(|bits| *bits <= width))?;
        Some(Self { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Other than Rust's, with zeros in front.
fn parse_v4(text: &str) -> Option<IpAddr> {
    let parts: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
    let parts: [u8; 4] = parts?.try_into().ok()?;
    Some(IpAddr::from(parts))
}

/// Other than Rust's, without an address of version 4 at the end.
fn parse_v6(text: &str) -> Option<IpAddr> {
    let address: Ipv6Addr = text.parse().ok().filter(|_| !text.contains('.'))?;
    Some(IpAddr::V6(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(perms: i32, scheme: &str, id: &str) -> AclEntry {
        AclEntry { perms, who: Identity::new(scheme, id) }
    }

    #[test]
    fn what_no_entry_allows_is_refused() {
        let acl = Acl::new(vec![
            entry(perms::READ, "world", "anyone"),
            entry(perms::WRITE, "digest", "u:d"),
            entry(perms::CREATE, "ip", "10.1.0.0/16"),
        ]);
        let user = [Identity::new("digest", "u:d")];
        assert!(acl.allows(perms::READ, &[]));
        assert!(!acl.allows(perms::WRITE, &[Identity::new("digest", "u:e")]));
        assert!(acl.allows(perms::WRITE, &user));
        assert!(!acl.allows(perms::CREATE | perms::DELETE, &user));
        assert!(acl.allows(perms::CREATE, &[Identity::new("ip", "10.1.2.3")]));
        assert!(!acl.allows(perms::CREATE, &[Identity::new("ip", "10.2.2.3")]));
        assert!(acl.allows(perms::ADMIN, &[Identity::superuser()]));
        assert!(Acl::open().allows(perms::ADMIN, &[]));
    }

    #[test]
    fn networks_hold_addresses_of_their_own_version() {
        let has = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse::<IpAddr>().unwrap())
        };
        assert!(has("2001:db8::/32", "2001:db8:1::7") && !has("2001:db8::/32", "2001:db9::7"));
        assert!(has("::1", "::1") && !has("::1", "::2"));
        assert!(has("::/0", "fe80::1") && !has("::/0", "127.0.0.1"));
        assert!(has("0.0.0.0/0", "10.1.1.1") && !has("0.0.0.0/0", "::1"));
        assert!(has("10.1.0.0/16", "10.1.2.3") && !has("10.1.0.0/16", "10.2.2.3"));
    }

    #[test]
    fn auth_stands_for_whoever_the_client_has_proved_to_be() {
        let who = [Identity::new("ip", "1.2.3.4"), Identity::new("digest", "u:d")];
        let meant = Acl::resolve(&[entry(perms::ALL, "auth", "")], &who).unwrap();
        assert_eq!(meant.entries(), [entry(perms::ALL, "digest", "u:d")]);
        assert_eq!(Acl::resolve(&[entry(perms::ALL, "auth", "")], &who[..1]), Err(InvalidAcl));
    }

    #[test]
    fn what_stands_for_the_client_counts_as_often_as_it_stands_there() {
        let asked: Vec<AclEntry> = (0..100).map(|n| entry(1, "auth", &n.to_string())).collect();
        let names = |n: usize, len: usize| -> Vec<Identity> {
            (0..n).map(|n| Identity::new("digest", &format!("{n}{}:d", "u".repeat(len)))).collect()
        };
        assert!(Acl::resolve(&asked, &names(10, 10)).is_ok());
        assert_eq!(Acl::resolve(&asked, &names(11, 10)), Err(InvalidAcl), "1,100 entries");
        assert_eq!(Acl::resolve(&asked, &names(1, BYTES_MAX / 100)), Err(InvalidAcl));
    }

    #[test]
    fn lists_that_mean_nothing_are_refused() {
        for (scheme, id) in [
            ("world", "someone"),
            ("digest", "user"),
            ("digest", "a:b:c"),
            ("ip", "300.1.1.1"),
            ("ip", "1.1.1.1/33"),
            ("x509", "nobody"),
            ("x509", "CN=\"a"),
            ("x509", "CN=a\\"),
            ("sasl", "kerberos"),
        ] {
            assert_eq!(Acl::resolve(&[entry(1, scheme, id)], &[]), Err(InvalidAcl), "{scheme}:{id}");
        }
        assert_eq!(Acl::resolve(&[], &[]), Err(InvalidAcl));
        let many = |n| (0..n).map(|n| entry(1, "digest", &format!("u{n}:d"))).collect::<Vec<_>>();
        assert!(Acl::resolve(&many(ENTRIES_MAX), &[]).is_ok());
        assert_eq!(Acl::resolve(&many(ENTRIES_MAX + 1), &[]), Err(InvalidAcl));
        for name in ["CN=a\\,b, O=c", "CN=\"a,b\",O=c"] {
            assert!(Acl::resolve(&[entry(1, "x509", name)], &[]).is_ok(), "{name}");
        }
        let twice = [entry(1, "world", "anyone"), entry(1, "world", "anyone")];
        assert_eq!(Acl::resolve(&twice, &[]).unwrap().entries().len(), 1);
    }

    #[test]
    fn digests_are_not_shown_to_readers() {
        let acl = Acl::new(vec![entry(perms::ALL, "digest", "u:secret")]);
        assert_eq!(acl.masked(), [entry(perms::ALL, "digest", "u:x")]);
    }

    #[test]
    fn networks() {
        let has = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        assert!(has("0.0.0.0/0", "9.9.9.9"));
        assert!(has("127.0.0.1", "127.0.0.1") && !has("127.0.0.1", "127.0.0.2"));
        assert!(has("192.168.4.0/22", "192.168.7.255") && !has("192.168.4.0/22", "192.168.8.0"));
    }
}
