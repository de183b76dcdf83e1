//! `reconfig`, which changes the cluster's membership.
//! Source: `PrepRequestProcessor.java` (`OpCode.reconfig`).

use std::collections::BTreeMap;

use rota_core::state::{Actor, CONFIG, Identity, OpReply, Refusal, Reply, perms};
use rota_protocol::peer::{Membership, MembershipChange};
use rota_protocol::zk::{Body, ErrorCode, Reconfig};

use super::configuration::{self, Spec, parse};
use crate::desk::DeskError;
use crate::service::{Service, ServiceError};

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

/// Carries out a `reconfig`, and returns the new configuration.
pub(super) async fn reconfig(
    service: &Service,
    request: Reconfig,
    identities: &[Identity],
) -> Result<Body, ErrorCode> {
    let Wanted { mut changes, specs } = {
        let applied = service.replica.read();
        let current = configuration::version(&configuration::text(&applied.state)).unwrap_or(0);
        if request.current != -1 && u64::try_from(request.current).ok() != Some(current) {
            return Err(ErrorCode::BadVersion);
        }
        let wanted = wanted(&request, applied.membership())?;
        let node = applied.state.tree().get(CONFIG).ok_or(ErrorCode::NoNode)?;
        if !node.acl.allows(perms::WRITE, identities) {
            return Err(ErrorCode::NoAuth);
        }
        wanted
    };
    let own = MembershipChange::Remove(service.config.server);
    let removes_own = changes.contains(&own);
    changes.retain(|change| *change != own);
    change_all(service, changes).await.map_err(|error| code(&error))?;
    // A server that is removed cannot write any more. It writes the new configuration first, so that
    // its client gets an answer.
    let without = removes_own.then_some(service.config.server);
    let body = write_config(service, &specs, without).await?;
    if removes_own {
        change_all(service, vec![own]).await.map_err(|error| code(&error))?;
    }
    Ok(body)
}

/// Brings the node up to date, and returns its text and Stat.
async fn write_config(
    service: &Service,
    specs: &BTreeMap<u64, Spec>,
    without: Option<u64>,
) -> Result<Body, ErrorCode> {
    loop {
        service.catch_up().await.map_err(|error| code(&error))?;
        let next = {
            let applied = service.replica.read();
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
                // Its data directory may be added again: it has been a member for nothing.
                if let Err(error) = service.desk.change_membership(MembershipChange::Remove(server)).await {
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
