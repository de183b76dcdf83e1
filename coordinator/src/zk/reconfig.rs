//! `reconfig`, which changes the cluster's membership.
//! Source: `PrepRequestProcessor.java` (`OpCode.reconfig`).

use std::collections::{BTreeMap, BTreeSet};

use rota_core::state::{Actor, CONFIG, Identity, OpReply, Refusal, Reply, State, perms};
use rota_protocol::peer::{CallError, Membership, MembershipChange};
use rota_protocol::zk::{Body, ErrorCode, Reconfig};

use super::configuration::{self, Spec, parse};
use crate::desk::DeskError;
use crate::service::{Service, ServiceError};

/// A change of the configuration that a client requested.
struct Wanted {
    changes: Vec<MembershipChange>,
    specs: BTreeMap<u64, Spec>,
}

const BAD: ErrorCode = ErrorCode::BadArguments;

/// Derives the membership changes that a request asks for.
fn wanted(request: &Reconfig, state: &State, membership: &Membership) -> Result<Wanted, ErrorCode> {
    let is_member = |id: &u64| membership.servers.contains_key(id);
    let (joining, leaving): (BTreeMap<u64, Spec>, BTreeSet<u64>) = match &request.new_members {
        None => {
            let leaving = request.leaving.as_deref().unwrap_or_default();
            let leaving = leaving.split(',').map(str::trim).filter(|id| !id.is_empty());
            // As ZooKeeper, where a number that is none is an error of its own.
            let leaving: Result<Vec<i64>, _> = leaving.map(str::parse).collect();
            let leaving = leaving.map_err(|_| ErrorCode::MarshallingError)?;
            let joining = parse(request.joining.as_deref().unwrap_or_default());
            // No server has a negative number.
            (joining.ok_or(BAD)?, leaving.into_iter().filter_map(|id| id.try_into().ok()).collect())
        }
        Some(all) => {
            let all = parse(all).filter(|all| !all.is_empty()).ok_or(BAD)?;
            let leaving = membership.servers.keys().filter(|id| !all.contains_key(id)).copied().collect();
            (all, leaving)
        }
    };
    let mut changes = Vec::new();
    for (server, spec) in &joining {
        let client = spec.client.as_ref().ok_or(BAD)?;
        let votes = membership.configs.iter().any(|config| config.contains(server));
        match membership.servers.get(server) {
            // A server's addresses and its loss of a vote are a removal and an addition.
            Some(known) if known.peer_address != spec.peer_address() || votes && !spec.votes => {
                return Err(BAD);
            }
            Some(_) if !configuration::is_client_port(state, *server, client) => return Err(BAD),
            Some(_) if votes => continue,
            Some(_) => {}
            None => {
                changes.push(MembershipChange::AddLearner {
                    server: *server,
                    peer_address: spec.peer_address(),
                    // As ZooKeeper, which adds servers that do not answer.
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

/// Applies a change to the servers and whether each votes.
fn apply(roles: &mut BTreeMap<u64, bool>, change: &MembershipChange) {
    match change {
        MembershipChange::AddLearner { server, .. } => drop(roles.insert(*server, false)),
        MembershipChange::Promote(server) => drop(roles.insert(*server, true)),
        MembershipChange::Remove(server) => drop(roles.remove(server)),
        MembershipChange::UpdateEndpoint { .. } => {}
    }
}

/// Whether the request follows the present configuration.
fn check_version(request: &Reconfig, state: &State) -> Result<(), ErrorCode> {
    let current = configuration::version(&configuration::text(state)).unwrap_or(0);
    match request.current {
        -1 => Ok(()),
        asked if u64::try_from(asked) == Ok(current) => Ok(()),
        _ => Err(ErrorCode::BadVersion),
    }
}

/// Carries out a `reconfig`, and returns the new configuration. Nothing changes if no majority of
/// the servers that are to vote answers.
pub(super) async fn reconfig(
    service: &Service,
    request: Reconfig,
    identities: &[Identity],
) -> Result<Body, ErrorCode> {
    service.catch_up().await.map_err(|error| code(&error))?;
    let (Wanted { mut changes, specs }, mut roles) = {
        let applied = service.replica.read();
        check_version(&request, &applied.state)?;
        let wanted = wanted(&request, &applied.state, applied.membership())?;
        let node = applied.state.tree().get(CONFIG).ok_or(ErrorCode::NoNode)?;
        if !node.acl.allows(perms::WRITE, identities) {
            return Err(ErrorCode::NoAuth);
        }
        // Another change is under way: the configuration does not name its members yet.
        if request.current != -1 && configuration::correction(&applied).is_some() {
            return Err(ErrorCode::ReconfigInProgress);
        }
        (wanted, applied.membership().roles())
    };
    let known: BTreeSet<u64> = roles.keys().copied().collect();
    let mut planned = roles.clone();
    changes.iter().for_each(|change| apply(&mut planned, change));
    let voters: BTreeSet<u64> = planned.into_iter().filter_map(|(id, votes)| votes.then_some(id)).collect();
    if voters.is_empty() {
        return Err(BAD);
    }
    // Servers that join are waited for when they get their votes.
    if changes.iter().any(|change| matches!(change, MembershipChange::Remove(_))) {
        let voters = voters.intersection(&known).copied().collect();
        service.desk.check_voters(voters).await.map_err(|error| code(&error.into()))?;
    }
    let own = MembershipChange::Remove(service.config.server);
    let removes_own = changes.contains(&own);
    changes.retain(|change| *change != own);
    let is_unchanged = changes.is_empty() && !removes_own;
    change_all(service, changes, &mut roles).await.map_err(|error| code(&error))?;
    // A server that is removed cannot write any more. It writes the new configuration first, so that
    // its client gets an answer.
    let without = removes_own.then_some(service.config.server);
    let body = write_config(service, &specs, without, is_unchanged.then_some(&request)).await?;
    if removes_own && let Err(error) = change_all(service, vec![own], &mut roles).await {
        let error = code(&error);
        // The members' configuration again.
        write_config(service, &specs, None, None).await?;
        return Err(error);
    }
    Ok(body)
}

/// Brings the node up to date, and returns its text and Stat. A `request` that changes no members
/// must follow the configuration that it replaces.
async fn write_config(
    service: &Service,
    specs: &BTreeMap<u64, Spec>,
    without: Option<u64>,
    request: Option<&Reconfig>,
) -> Result<Body, ErrorCode> {
    loop {
        service.catch_up().await.map_err(|error| code(&error))?;
        let next = {
            let applied = service.replica.read();
            request.map_or(Ok(()), |request| check_version(request, &applied.state))?;
            let Some(next) = configuration::next(&applied, specs.clone(), without) else {
                let node = applied.state.tree().get(CONFIG).ok_or(ErrorCode::NoNode)?;
                return Ok(Body::DataStat(node.data.clone(), node.stat()));
            };
            next
        };
        match service.op(Actor::rota(None), next.op()).await {
            Ok(Reply::Op(OpReply::Set { stat })) => return Ok(Body::DataStat(Some(next.text.into()), stat)),
            // The leader has corrected it meanwhile.
            Err(ServiceError::Refused(Refusal::BadVersion { .. })) => {}
            Ok(_) => return Err(ErrorCode::SystemError),
            Err(error) => return Err(code(&error)),
        }
    }
}

/// Makes the changes one after the other, each only if the members are those of `roles`, which it
/// keeps up to date. When one fails, the servers that were added before it are removed again.
async fn change_all(
    service: &Service,
    changes: Vec<MembershipChange>,
    roles: &mut BTreeMap<u64, bool>,
) -> Result<(), ServiceError> {
    let mut added = Vec::new();
    for change in changes {
        let adds = match &change {
            MembershipChange::AddLearner { server, .. } => Some(*server),
            _ => None,
        };
        if let Err(error) = service.change_membership(change.clone(), Some(roles.clone())).await {
            for server in added {
                // Its data directory may be added again: it never took part.
                let removed = service.desk.change_membership(MembershipChange::Remove(server), None).await;
                if let Err(error) = removed {
                    tracing::warn!(server, %error, "rollback of a reconfig failed: the server remains an observer");
                }
            }
            return Err(error);
        }
        apply(roles, &change);
        added.extend(adds);
    }
    Ok(())
}

fn code(error: &ServiceError) -> ErrorCode {
    tracing::warn!(%error, "reconfig failed");
    match error {
        ServiceError::Desk(DeskError::Refused(CallError::MembershipChanged)) => ErrorCode::ReconfigInProgress,
        ServiceError::Desk(DeskError::Refused(_)) => ErrorCode::NewConfigNoQuorum,
        _ => ErrorCode::OperationTimeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_protocol::peer::{ClusterId, ServerEndpoint};

    #[test]
    fn what_is_asked_for_is_what_differs() {
        let membership = Membership {
            configs: vec![[1, 2].into()],
            servers: [(1, "a:1"), (2, "b:1"), (3, "c:1")]
                .map(|(id, at)| (id, ServerEndpoint { peer_address: at.to_owned(), disk: None }))
                .into(),
            cluster_id: Some(ClusterId(1)),
        };
        let state = State::default();
        let ask = |joining: &str, leaving: &str, new_members: &str| {
            let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let [joining, leaving, new_members] = [joining, leaving, new_members].map(given);
            let request = Reconfig { joining, leaving, new_members, current: -1 };
            wanted(&request, &state, &membership).map(|wanted| wanted.changes)
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
        assert_eq!(ask("", "2, 2,-1", "").unwrap(), [MembershipChange::Remove(2)]);
    }
}
