//! `/v1/cluster`: who belongs to it, who leads.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rota_core::state::Command;
use rota_protocol::http::{AddServer, Cluster, Code, ErrorBody, Role, Server, SnapshotTaken, TransferLeader};
use rota_protocol::peer::MembershipChange;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Params, ReadParams, Shared};
use crate::service::{Service, ServiceError};

/// How long a snapshot may take before the request gives up waiting for it.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before a server says again how it is reached.
const ANNOUNCE_AGAIN_AFTER: Duration = Duration::from_millis(200);

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(add))
        .routes(routes!(promote))
        .routes(routes!(remove))
        .routes(routes!(transfer))
        .routes(routes!(snapshot))
}

/// Show the cluster.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", params(ReadParams),
    responses((status = 200, body = Cluster), (status = "default", body = ErrorBody)))]
async fn show(State(service): State<Shared>, Params(read): Params<ReadParams>) -> ApiResult<Json<Cluster>> {
    // One that does not serve says so here, with what it knows.
    if service.states.unavailable().is_none() {
        read.ready(&service).await?;
    }
    Ok(Json(describe(&service).await))
}

async fn describe(service: &Service) -> Cluster {
    let leader = service.group.recent_leader().await;
    let applied = service.replica.read();
    let membership = applied.membership();
    let servers = membership.servers.iter().map(|(id, endpoint)| {
        let votes = membership.configs.iter().any(|config| config.contains(id));
        let role = match votes {
            _ if leader == Some(*id) => Role::Leader,
            true => Role::Follower,
            false => Role::Learner,
        };
        let endpoints = applied.state.server_endpoints(*id);
        Server {
            id: *id,
            role,
            peer_address: endpoint.peer_address.clone(),
            http_address: endpoints.map(|endpoints| endpoints.http.clone()),
            zookeeper_address: endpoints.and_then(|endpoints| endpoints.zookeeper.clone()),
            disk_id: endpoint.disk.map(|disk| disk.to_string()),
            fault: service.group.fault_of(*id),
        }
    });
    Cluster {
        cluster: service.config.cluster.clone(),
        cluster_id: service.group.cluster_id().map(|id| id.to_string()),
        server: service.config.server,
        not_serving: service.states.unavailable(),
        leader,
        term: service.group.term(),
        zxid: applied.state.zxid(),
        digest: format!("{:016x}", applied.state.digest()),
        servers: servers.collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Add a server, as a learner: it is given the log and has no vote.
#[utoipa::path(post, path = "/v1/cluster/servers", tag = "cluster", request_body = AddServer,
    responses((status = 201, body = Cluster), (status = "default", body = ErrorBody)))]
async fn add(
    State(service): State<Shared>,
    Body(body): Body<AddServer>,
) -> ApiResult<(StatusCode, Json<Cluster>)> {
    let colon = body.peer_address.rsplit_once(':');
    if body.id == 0 || colon.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        let message = "a server needs a number from 1 and a peer_address HOST:PORT";
        return Err(ApiError::new(Code::BadRequest, message));
    }
    service.catch_up().await?;
    let change =
        MembershipChange::AddLearner { server: body.id, peer_address: body.peer_address, force: body.force };
    service.change_membership(change, None).await?;
    service.catch_up().await?;
    Ok((StatusCode::CREATED, Json(describe(&service).await)))
}

/// Give a learner a vote.
#[utoipa::path(post, path = "/v1/cluster/servers/{server}/promote", tag = "cluster",
    params(("server" = u64, Path)),
    responses((status = 200, body = Cluster), (status = "default", body = ErrorBody)))]
async fn promote(State(service): State<Shared>, Names(server): Names<u64>) -> ApiResult<Json<Cluster>> {
    service.change_membership(MembershipChange::Promote(server), None).await?;
    service.catch_up().await?;
    Ok(Json(describe(&service).await))
}

/// Take a server out of the cluster.
#[utoipa::path(delete, path = "/v1/cluster/servers/{server}", tag = "cluster", params(("server" = u64, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn remove(State(service): State<Shared>, Names(server): Names<u64>) -> ApiResult<StatusCode> {
    {
        let applied = service.replica.read();
        let voters = applied.membership().configs.iter().flatten().filter(|id| **id != server).count();
        if voters == 0 && applied.membership().servers.contains_key(&server) {
            return Err(ApiError::new(
                Code::Conflict,
                format!("server {server} is the last voter: it cannot be removed"),
            ));
        }
    }
    service.change_membership(MembershipChange::Remove(server), None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Move the leadership to a server.
#[utoipa::path(post, path = "/v1/cluster/leader", tag = "cluster", request_body = TransferLeader,
    responses((status = 200, body = Cluster), (status = "default", body = ErrorBody)))]
async fn transfer(
    State(service): State<Shared>,
    Body(body): Body<TransferLeader>,
) -> ApiResult<Json<Cluster>> {
    service.desk.transfer_to(body.server).await.map_err(ServiceError::from)?;
    service.catch_up().await?;
    Ok(Json(describe(&service).await))
}

/// Take a snapshot of the answering server's state.
#[utoipa::path(post, path = "/v1/cluster/snapshot", tag = "cluster",
    responses((status = 200, body = SnapshotTaken), (status = "default", body = ErrorBody)))]
async fn snapshot(State(service): State<Shared>) -> ApiResult<Json<SnapshotTaken>> {
    let taken = service.group.snapshot(SNAPSHOT_TIMEOUT).await;
    let index = taken.map_err(|e| ApiError::new(Code::Conflict, e.to_string()))?;
    Ok(Json(SnapshotTaken { server: service.config.server, index }))
}

/// Says how clients reach this server, once a leader takes it.
pub(crate) async fn advertise(service: Shared) {
    let (server, endpoints) = (service.config.server, service.config.endpoints());
    while service.replica.read().state.server_endpoints(server) != Some(&endpoints) {
        let announce = Command::Announce { server, endpoints: endpoints.clone() };
        if let Err(error) = service.write(announce).await {
            tracing::debug!(%error, "announcing how this server is reached");
            tokio::time::sleep(ANNOUNCE_AGAIN_AFTER).await;
        }
    }
}
