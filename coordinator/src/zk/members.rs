//! `/zookeeper/config`, which says who belongs to the cluster, and `reconfig`, which
//! changes it. Rota's servers have one port for each other where ZooKeeper's have
//! two: the first one counts, the second is kept as it was given.
//! Source: `QuorumPeer.QuorumServer`, `PrepRequestProcessor.java` (`OpCode.reconfig`).

use std::collections::BTreeMap;
use std::fmt;

use rota_core::state::{Actor, CONFIG, Faces, Identity, Op, OpReply, Reply, State, perms};
use rota_protocol::peer::{Membership, MembershipChange};
use rota_protocol::zk::{Body, ErrorCode, Reconfig};

use crate::desk::DeskError;
use crate::replica::Applied;
use crate::service::{Service, ServiceError};

/// A server as the configuration names it: `HOST:PORT:PORT[:ROLE];[HOST:]PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spec {
    host: String,
    peer_port: u16,
    election_port: u16,
    votes: bool,
    client: Option<String>,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.votes { "participant" } else { "observer" };
        write!(f, "{}:{}:{}:{role}", self.host, self.peer_port, self.election_port)?;
        self.client.iter().try_for_each(|client| write!(f, ";{client}"))
    }
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
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
        let (peer_port, election_port) = (peer.parse().ok()?, election.parse().ok()?);
        (!host.is_empty()).then_some(Self { host, peer_port, election_port, votes, client })
    }

    fn peer_address(&self) -> String {
        format!("{}:{}", self.host, self.peer_port)
    }

    fn of_member(peer_address: &str, votes: bool, faces: Option<&Faces>) -> Option<Self> {
        let (host, port) = peer_address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let client = faces.and_then(|faces| faces.zookeeper.clone());
        Some(Self { host: host.to_owned(), peer_port: port, election_port: port, votes, client })
    }
}

/// The servers that a configuration names.
fn parse(text: &str) -> Option<BTreeMap<u64, Spec>> {
    let servers = text.split([',', '\n']).map(str::trim).filter(|line| !line.is_empty());
    servers.filter(|line| !line.starts_with("version=")).map(server).collect()
}

/// `server.ID=SPEC`
fn server(line: &str) -> Option<(u64, Spec)> {
    let (name, spec) = line.split_once('=')?;
    let id = name.trim().strip_prefix("server.")?.parse().ok()?;
    Some((id, Spec::parse(spec.trim())?))
}

/// The configuration of this moment: what is said of a server already stays, as far
/// as it is true.
fn render(membership: &Membership, state: &State, at: u64, said: &BTreeMap<u64, Spec>) -> String {
    let mut text = String::new();
    for (id, endpoint) in &membership.servers {
        let address = &endpoint.peer_address;
        let votes = membership.configs.iter().any(|config| config.contains(id));
        let known = said.get(id).filter(|spec| spec.peer_address() == *address).cloned();
        let faces = state.faces(*id);
        let Some(mut spec) = known.or_else(|| Spec::of_member(address, votes, faces)) else { continue };
        spec.votes = votes;
        if let Some(zookeeper) = faces.and_then(|faces| faces.zookeeper.clone()) {
            spec.client = Some(zookeeper);
        }
        text.push_str(&format!("server.{id}={spec}\n"));
    }
    // ZooKeeper's version of a configuration: what a conditional change names.
    text.push_str(&format!("version={at:x}"));
    text
}

fn said(state: &State) -> String {
    let node = state.tree().get(CONFIG);
    node.map(|node| String::from_utf8_lossy(node.bytes()).into_owned()).unwrap_or_default()
}

/// What `/zookeeper/config` should say, if it says something else.
pub(crate) fn correction(applied: &Applied) -> Option<Op> {
    let before = said(&applied.state);
    let at = applied.membership_index();
    let text = render(applied.membership(), &applied.state, at, &parse(&before).unwrap_or_default());
    (text != before).then(|| Op::set(CONFIG.to_owned(), text.into(), None))
}

/// A change that was asked for.
struct Wanted {
    changes: Vec<MembershipChange>,
    specs: BTreeMap<u64, Spec>,
}

const BAD: ErrorCode = ErrorCode::BadArguments;

/// What a request means, given who belongs to the cluster.
fn wanted(request: &Reconfig, membership: &Membership) -> Result<Wanted, ErrorCode> {
    let is_member = |id: &u64| membership.servers.contains_key(id);
    let (joining, leaving): (BTreeMap<u64, Spec>, Vec<u64>) = match &request.new_members {
        None => {
            let leaving = request.leaving.as_deref().unwrap_or_default();
            let leaving = leaving.split(',').map(str::trim).filter(|id| !id.is_empty());
            let leaving: Option<Vec<u64>> = leaving.map(|id| id.parse().ok()).collect();
            let joining = parse(request.joining.as_deref().unwrap_or_default());
            // As ZooKeeper, where a number that is none is an error of its own.
            (joining.ok_or(BAD)?, leaving.ok_or(ErrorCode::MarshallingError)?)
        }
        Some(all) => {
            let all = parse(all).filter(|all| !all.is_empty()).ok_or(BAD)?;
            let gone = membership.servers.keys().filter(|id| !all.contains_key(id)).copied().collect();
            (all, gone)
        }
    };
    let mut changes = Vec::new();
    for (server, spec) in &joining {
        spec.client.as_ref().ok_or(BAD)?;
        let votes = membership.configs.iter().any(|config| config.contains(server));
        match membership.servers.get(server) {
            // A server's address and its loss of a vote are a removal and an addition.
            Some(known) if known.peer_address != spec.peer_address() || votes && !spec.votes => {
                return Err(BAD);
            }
            Some(_) if votes => continue,
            Some(_) => {}
            None => {
                changes.push(MembershipChange::AddLearner {
                    server: *server,
                    peer_address: spec.peer_address(),
                    // As ZooKeeper, which adds whom it is told to add.
                    force: true,
                });
            }
        }
        if spec.votes {
            changes.push(MembershipChange::Promote(*server));
        }
    }
    changes.extend(leaving.into_iter().filter(is_member).map(MembershipChange::Remove));
    Ok(Wanted { changes, specs: joining })
}

/// Does what `reconfig` asks for, and says what the configuration is then.
pub(super) async fn reconfig(
    service: &Service,
    request: Reconfig,
    identities: &[Identity],
) -> Result<Body, ErrorCode> {
    let Wanted { changes, specs } = {
        let applied = service.replica.read();
        let current = format!("version={:x}", request.current);
        if request.current != -1 && !said(&applied.state).ends_with(&current) {
            return Err(ErrorCode::BadVersion);
        }
        let wanted = wanted(&request, applied.membership())?;
        let node = applied.state.tree().get(CONFIG).ok_or(ErrorCode::NoNode)?;
        if !node.acl.allows(perms::WRITE, identities) {
            return Err(ErrorCode::NoAuth);
        }
        let came_back = wanted.changes.iter().find_map(|change| match change {
            MembershipChange::AddLearner { server, .. } => applied.state.faces(*server).map(|_| *server),
            _ => None,
        });
        if let Some(server) = came_back {
            tracing::warn!(server, "the cluster has had this server before: a number is never used again");
            return Err(BAD);
        }
        wanted
    };
    change_all(service, changes).await.map_err(|error| code(&error))?;
    service.catch_up().await.map_err(|error| code(&error))?;
    let text = {
        let applied = service.replica.read();
        let mut said = parse(&said(&applied.state)).unwrap_or_default();
        said.extend(specs);
        render(applied.membership(), &applied.state, applied.membership_index(), &said)
    };
    let write = Op::set(CONFIG.to_owned(), text.clone().into(), None);
    match service.op(Actor::rota(None), write).await.map_err(|error| code(&error))? {
        Reply::Op(OpReply::Set { stat }) => Ok(Body::DataStat(Some(text.into()), stat)),
        _ => Err(ErrorCode::SystemError),
    }
}

/// Does all of it, or as good as nothing: of servers that were added, none stays if
/// something after it is not done.
async fn change_all(service: &Service, changes: Vec<MembershipChange>) -> Result<(), ServiceError> {
    let mut added = Vec::new();
    for change in changes {
        let adds = match &change {
            MembershipChange::AddLearner { server, .. } => Some(*server),
            _ => None,
        };
        if let Err(error) = service.change_membership(change).await {
            for server in added {
                if let Err(error) = service.change_membership(MembershipChange::Remove(server)).await {
                    tracing::warn!(server, %error, "a server that was added for nothing stays as an observer");
                }
            }
            return Err(error);
        }
        added.extend(adds);
    }
    Ok(())
}

fn code(error: &ServiceError) -> ErrorCode {
    tracing::warn!(%error, "a change of the cluster that a client of ZooKeeper asked for was not made");
    match error {
        ServiceError::Desk(DeskError::Refused(_)) => ErrorCode::NewConfigNoQuorum,
        _ => ErrorCode::OperationTimeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_protocol::peer::{ClusterId, ServerEndpoint};

    #[test]
    fn servers_are_named_as_zookeeper_names_them() {
        for (given, shown) in [
            ("server.100=0.0.0.0:1:2:observer;0.0.0.0:3", "0.0.0.0:1:2:observer;0.0.0.0:3"),
            ("server.1=h:2888:3888;2181", "h:2888:3888:participant;0.0.0.0:2181"),
            ("server.1=[::1]:2888:3888;[::1]:2181", "[::1]:2888:3888:participant;[::1]:2181"),
        ] {
            assert_eq!(server(given).unwrap().1.to_string(), shown);
        }
        for bad in
            ["some thing", "server.x=h:1:2;3", "server.1=h:1;2", "server.1=h:1:2:king;3", "server.1=h:1:2;x"]
        {
            assert_eq!(server(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_what_differs() {
        let membership = Membership {
            configs: vec![[1, 2].into()],
            servers: [(1, "a:1"), (2, "b:1"), (3, "c:1")]
                .map(|(id, at)| (id, ServerEndpoint { peer_address: at.to_owned(), disk: None }))
                .into(),
            cluster_id: Some(ClusterId(1)),
        };
        let ask = |joining: &str, leaving: &str, new_members: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let [joining, leaving, new_members] = [joining, leaving, new_members].map(given);
            wanted(&Reconfig { joining, leaving, new_members, current: -1 }, &membership).map(|w| w.changes)
        };
        let learner = MembershipChange::AddLearner { server: 4, peer_address: "d:1".into(), force: true };
        let adds = ask("server.4=d:1:2:participant;3,server.1=a:1:2;3", "9", "");
        assert_eq!(adds.unwrap(), [learner.clone(), MembershipChange::Promote(4)]);
        assert_eq!(
            ask("server.4=d:1:2:observer;3", "3", "").unwrap(),
            [learner, MembershipChange::Remove(3)]
        );
        assert_eq!(ask("server.3=c:1:2;3", "", "").unwrap(), [MembershipChange::Promote(3)]);
        let all = "server.1=a:1:2;3,server.2=b:1:2;3";
        assert_eq!(ask("", "", all).unwrap(), [MembershipChange::Remove(3)]);
        assert_eq!(ask("server.1=elsewhere:1:2;3", "", ""), Err(BAD));
        assert_eq!(ask("server.1=a:1:2:observer;3", "", ""), Err(BAD));
        assert_eq!(ask("server.4=d:1:2", "", ""), Err(BAD), "without an address for clients");
        assert_eq!(ask("", "one", ""), Err(ErrorCode::MarshallingError));
    }
}
