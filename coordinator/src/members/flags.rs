//! What a server that belongs to a cluster was started with, against that cluster. `--peers`
//! only makes new clusters: one that names others is an operator's error that would otherwise
//! end in two clusters of one name.

use std::collections::BTreeMap;

use rota_protocol::peer::Membership;

use crate::raft::is_loopback;

/// What a server was started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flags<'a> {
    /// The server.
    pub(crate) server: u64,
    /// `--peers`, this server included; empty without.
    pub(crate) initial_members: &'a BTreeMap<u64, String>,
    /// Where it is reached by others, as far as its flags say.
    pub(crate) peer_address: Option<&'a str>,
}

/// Compares flags with the cluster. Returns the server's own address, if it is another than the
/// cluster knows. `was_member` says which servers were members before.
///
/// # Errors
/// What does not fit, and what to do.
pub(crate) fn own_address(
    flags: &Flags<'_>,
    membership: &Membership,
    was_member: impl Fn(u64) -> bool,
) -> Result<Option<String>, String> {
    let cluster_id = membership.cluster_id.unwrap_or_default();
    let only_bootstrap = "--peers only makes a new cluster, and is not needed after that";
    for (id, address) in flags.initial_members.iter().filter(|(id, _)| **id != flags.server) {
        match membership.servers.get(id) {
            Some(known) if known.peer_address == *address => {}
            Some(known) => {
                return Err(format!(
                    "--peers says that server {id} is at {address}, and cluster {cluster_id} knows it at {}: start \
                     this server without --peers. {only_bootstrap}; a server that has moved says so itself, by its --peer",
                    known.peer_address
                ));
            }
            None if was_member(*id) => {
                tracing::warn!(server = *id, "--peers names a server that was removed: {only_bootstrap}");
            }
            None => {
                let members: Vec<String> = membership.servers.keys().map(ToString::to_string).collect();
                return Err(format!(
                    "--peers names server {id}, and this server belongs to cluster {cluster_id}, whose servers are {}: \
                     {only_bootstrap}. Start this server without it; to add server {id}, start that one with --join and an \
                     empty --data, then run `rota cluster add {id} {address}` and `rota cluster promote {id}`",
                    members.join(", ")
                ));
            }
        }
    }
    let Some(own) = flags.peer_address else { return Ok(None) };
    let Some(known) = membership.servers.get(&flags.server) else { return Ok(None) };
    if known.peer_address == own {
        return Ok(None);
    }
    let others = membership.servers.iter().filter(|(id, _)| **id != flags.server);
    if is_loopback(own) && others.into_iter().any(|(_, at)| !is_loopback(&at.peer_address)) {
        return Err(format!(
            "the other servers reach this one at {}, and it would be at {own}, which is its own machine alone: start it \
             with --peer HOST:PORT at an address that they can reach",
            known.peer_address
        ));
    }
    Ok(Some(own.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_protocol::peer::{ClusterId, ServerEndpoint};

    fn members(servers: &[(u64, &str)]) -> Membership {
        let endpoint = |at: &str| ServerEndpoint { peer_address: at.to_owned(), disk: None };
        Membership {
            configs: vec![servers.iter().map(|(id, _)| *id).collect()],
            servers: servers.iter().map(|(id, at)| (*id, endpoint(at))).collect(),
            cluster_id: Some(ClusterId(7)),
        }
    }

    fn compare(
        peers: &[(u64, &str)],
        own: Option<&str>,
        members: &Membership,
    ) -> Result<Option<String>, String> {
        let initial_members = peers.iter().map(|(id, at)| (*id, (*at).to_owned())).collect();
        let flags = Flags { server: 1, initial_members: &initial_members, peer_address: own };
        own_address(&flags, members, |id| id == 9)
    }

    #[test]
    fn flags_that_fit_are_accepted_and_others_are_refused_with_a_remedy() {
        let three = members(&[(1, "10.0.0.1:1"), (2, "10.0.0.2:1"), (3, "10.0.0.3:1")]);
        let all = [(1, "10.0.0.1:1"), (2, "10.0.0.2:1"), (3, "10.0.0.3:1")];
        assert_eq!(compare(&all, Some("10.0.0.1:1"), &three), Ok(None));
        assert_eq!(compare(&[], None, &three), Ok(None));
        assert_eq!(compare(&all[..2], Some("10.0.0.1:1"), &three), Ok(None), "added since");
        assert_eq!(compare(&[(1, "10.0.0.1:1"), (9, "x:1")], None, &three), Ok(None), "removed since");
        let unknown = compare(&[(1, "10.0.0.1:1"), (4, "d:1")], None, &three).unwrap_err();
        assert!(unknown.contains("rota cluster add 4 d:1") && unknown.contains("--join"), "{unknown}");
        let moved = compare(&[(2, "elsewhere:1")], None, &three).unwrap_err();
        assert!(moved.contains("without --peers"), "{moved}");
    }

    #[test]
    fn one_server_does_not_grow_to_three_by_its_flags() {
        let one = members(&[(1, "127.0.0.1:7720")]);
        let peers = [(1, "10.0.0.1:7720"), (2, "10.0.0.2:7720"), (3, "10.0.0.3:7720")];
        assert!(compare(&peers, Some("10.0.0.1:7720"), &one).unwrap_err().contains("--join"));
    }

    #[test]
    fn another_own_address_is_a_change_unless_nobody_could_reach_it() {
        let one = members(&[(1, "127.0.0.1:7720")]);
        assert_eq!(compare(&[], Some("10.0.0.1:7720"), &one), Ok(Some("10.0.0.1:7720".to_owned())));
        assert_eq!(compare(&[], Some("127.0.0.1:9"), &one), Ok(Some("127.0.0.1:9".to_owned())));
        let two = members(&[(1, "10.0.0.1:7720"), (2, "10.0.0.2:7720")]);
        let alone = compare(&[], Some("127.0.0.1:7720"), &two).unwrap_err();
        assert!(alone.contains("10.0.0.1:7720") && alone.contains("--peer"), "{alone}");
    }
}
