//! `/zookeeper/config`: the members of the cluster, in the format of ZooKeeper's own classes
//! (`QuorumMaj`, `QuorumPeer.QuorumServer`).
//!
//! Rota's servers have one port for each other where ZooKeeper's have two: the first one counts.
//! The second is kept as `reconfig` gave it; otherwise it is the next one that clients do not
//! use, since the two must differ. A server is listed once it has announced its client addresses.
//!
//! Each text has a version of its own, which grows: [`next`] makes it greater than the last, and
//! is written only in place of the text that it was made from.

use std::collections::BTreeMap;
use std::fmt;

use rota_core::state::{CONFIG, Op, ServerEndpoints, State};
use rota_protocol::peer::{Membership, ServerEndpoint};

use crate::replica::Applied;

/// A server as the configuration names it: `HOST:PORT:PORT[:ROLE];[HOST:]PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    host: String,
    peer_port: u16,
    election_port: u16,
    pub(super) votes: bool,
    pub(super) client: Option<String>,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.votes { "participant" } else { "observer" };
        write!(f, "{}:{}:{}:{role}", self.host, self.peer_port, self.election_port)?;
        self.client.iter().try_for_each(|client| write!(f, ";{client}"))
    }
}

impl Spec {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (server, client) = match text.split_once(';') {
            Some((server, client)) => (server, Some(client.trim())),
            None => (text, None),
        };
        // An address of version 6 stands in brackets and has colons itself.
        let (host, rest) = match server.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once("]:")?;
                (format!("[{host}]"), rest)
            }
            None => server.split_once(':').map(|(host, rest)| (host.to_owned(), rest))?,
        };
        let parts: Vec<&str> = rest.split(':').collect();
        let (peer, election, role) = match parts[..] {
            [peer, election] => (peer, election, "participant"),
            [peer, election, role] => (peer, election, role),
            _ => return None,
        };
        let votes = match role.to_ascii_lowercase().as_str() {
            "participant" => true,
            "observer" => false,
            _ => return None,
        };
        let client = match client {
            Some(client) if client.contains(':') => {
                client.rsplit_once(':')?.1.parse::<u16>().ok()?;
                Some(client.to_owned())
            }
            Some(port) => Some(format!("0.0.0.0:{}", port.parse::<u16>().ok()?)),
            None => None,
        };
        let (peer_port, election_port): (u16, u16) = (peer.parse().ok()?, election.parse().ok()?);
        // ZooKeeper refuses a configuration in which they are the same.
        (!host.is_empty() && peer_port != election_port).then_some(Self {
            host,
            peer_port,
            election_port,
            votes,
            client,
        })
    }

    pub(super) fn peer_address(&self) -> String {
        format!("{}:{}", self.host, self.peer_port)
    }

    fn of_member(peer_address: &str, votes: bool, endpoints: &ServerEndpoints) -> Option<Self> {
        let (host, port) = peer_address.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let client = endpoints.zookeeper.clone();
        let client_port = client.as_deref().and_then(|client| client.rsplit_once(':')?.1.parse().ok());
        let is_free = |other: &u16| *other != port && Some(*other) != client_port;
        let election_port = (port..=u16::MAX).chain(1..port).find(is_free)?;
        Some(Self { host: host.to_owned(), peer_port: port, election_port, votes, client })
    }
}

/// The servers that a configuration names.
pub(super) fn parse(text: &str) -> Option<BTreeMap<u64, Spec>> {
    let servers =
        text.split([',', '\n']).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    servers.filter(|line| !line.starts_with("version=")).map(server).collect()
}

/// `server.ID=SPEC`
fn server(line: &str) -> Option<(u64, Spec)> {
    let (name, spec) = line.split_once('=')?;
    let id = name.trim().strip_prefix("server.")?.parse().ok()?;
    Some((id, Spec::parse(spec.trim())?))
}

/// The specs of the current members. An existing spec in `known` stays while its address is right.
fn servers(membership: &Membership, state: &State, known: &BTreeMap<u64, Spec>) -> BTreeMap<u64, Spec> {
    let spec = |(id, endpoint): (&u64, &ServerEndpoint)| {
        let address = &endpoint.peer_address;
        let votes = membership.configs.iter().any(|config| config.contains(id));
        let endpoints = state.server_endpoints(*id);
        let known = known.get(id).filter(|spec| spec.peer_address() == *address).cloned();
        let mut spec = known.or_else(|| Spec::of_member(address, votes, endpoints?))?;
        spec.votes = votes;
        if let Some(zookeeper) = endpoints.and_then(|endpoints| endpoints.zookeeper.clone()) {
            spec.client = Some(zookeeper);
        }
        Some((*id, spec))
    };
    membership.servers.iter().filter_map(spec).collect()
}

/// Whether clients reach a server at the port of `client`, as far as the server has announced it.
pub(super) fn is_client_port(state: &State, server: u64, client: &str) -> bool {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    let announced = state.server_endpoints(server).and_then(|endpoints| endpoints.zookeeper.clone());
    announced.is_none_or(|announced| port(&announced) == port(client))
}

/// The node's text.
pub(super) fn text(state: &State) -> String {
    let node = state.tree().get(CONFIG);
    node.map(|node| String::from_utf8_lossy(node.bytes()).into_owned()).unwrap_or_default()
}

/// The version in a text.
pub(super) fn version(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("version="))?;
    u64::from_str_radix(line, 16).ok()
}

/// A text to be written in place of the present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NextConfig {
    pub(super) text: String,
    /// The node's data version that the text was made from.
    data_version: i32,
}

impl NextConfig {
    pub(crate) fn op(&self) -> Op {
        Op::set(CONFIG.to_owned(), self.text.clone().into(), Some(self.data_version))
    }
}

/// The text that the node should have, if it has another. `asked` are specs that replace those in the
/// node; `without` is a server that is about to be removed.
pub(super) fn next(
    applied: &Applied,
    asked: BTreeMap<u64, Spec>,
    without: Option<u64>,
) -> Option<NextConfig> {
    let (state, before) = (&applied.state, text(&applied.state));
    let before_servers = parse(&before).unwrap_or_default();
    let mut known = before_servers.clone();
    known.extend(asked);
    let mut servers = servers(applied.membership(), state, &known);
    without.inspect(|server| drop(servers.remove(server)));
    let is_same = before_servers == servers && version(&before).is_some_and(|version| version > 0);
    if is_same {
        return None;
    }
    // ZooKeeper's is the zxid of the change; this one is near it, and never the last one's.
    let version = (state.zxid() + 1).max(version(&before).unwrap_or(0) + 1);
    let mut text: String = servers.iter().map(|(id, spec)| format!("server.{id}={spec}\n")).collect();
    text.push_str(&format!("version={version:x}"));
    let data_version = state.tree().get(CONFIG).map_or(0, |node| node.stat().version);
    Some(NextConfig { text, data_version })
}

/// The text that the node should have, if it has another.
pub(crate) fn correction(applied: &Applied) -> Option<NextConfig> {
    next(applied, BTreeMap::new(), None)
}

/// The version of the node's text; `None` in a new cluster.
pub(crate) fn configuration_version(applied: &Applied) -> Option<u64> {
    version(&text(&applied.state))
}

/// Whether all servers have announced their client addresses.
pub(crate) fn all_have_faces(applied: &Applied) -> bool {
    let mut servers = applied.membership().servers.keys();
    servers.all(|server| applied.state.server_endpoints(*server).is_some())
}

/// Whether the node lists all servers, with their client addresses.
pub(super) fn is_complete(applied: &Applied) -> bool {
    configuration_version(applied).is_some() && all_have_faces(applied) && correction(applied).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_as_zookeeper_names_them() {
        for (given, shown) in [
            ("server.100=0.0.0.0:1:2:observer;0.0.0.0:3", "0.0.0.0:1:2:observer;0.0.0.0:3"),
            ("server.1=h:2888:3888;2181", "h:2888:3888:participant;0.0.0.0:2181"),
            ("server.1=[::1]:2888:3888;[::1]:2181", "[::1]:2888:3888:participant;[::1]:2181"),
        ] {
            assert_eq!(server(given).unwrap().1.to_string(), shown);
        }
        for bad in [
            "some thing",
            "server.x=h:1:2;3",
            "server.1=h:1;2",
            "server.1=h:1:2:king;3",
            "server.1=h:1:2;x",
            "server.1=h:7720:7720;2181",
        ] {
            assert_eq!(server(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_member_has_two_ports_that_differ() {
        let endpoints = ServerEndpoints { http: "h:1".into(), zookeeper: Some("h:2181".into()) };
        for (address, shown) in [
            ("h:7720", "h:7720:7721:participant;h:2181"),
            ("h:65535", "h:65535:1:participant;h:2181"),
            ("h:2180", "h:2180:2182:participant;h:2181"),
            ("[::1]:7720", "[::1]:7720:7721:participant;h:2181"),
        ] {
            assert_eq!(Spec::of_member(address, true, &endpoints).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn versions_are_hexadecimal() {
        assert_eq!(version("server.1=h:1:2;3\nversion=1f"), Some(31));
        assert_eq!([version(""), version("version=x")], [None, None]);
    }
}
