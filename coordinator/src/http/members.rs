//! `/v1/pools/{pool}/members`: who works, and on what.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rota_core::pool::{
    Bucket, Handoff, Member, MemberEntry, Owner, OwnerAction, PoolView, Row, RowEntry, check_name, layout,
    to_json,
};
use rota_core::state::{Actor, CreateMode, Op, Refusal, SessionId};
use rota_protocol::http::{Assignment, Code, ErrorBody, Grant, JoinPool, MemberBody, OfGrant, Peer};
use rota_protocol::peer::{LatestReport, PoolReports};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Params, ReadParams, Session, Shared, poll_deadline};
use super::pools::{with_pool, with_pool_after_catch_up};
use crate::service::{RequestKind, Service, ServiceError};

/// How often a change is tried again when another came in between.
const ATTEMPTS: usize = 5;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_members, join))
        .routes(routes!(show_member, leave))
        .routes(routes!(drain, undrain))
        .routes(routes!(assignment))
        .routes(routes!(release))
        .routes(routes!(step_down))
        .routes(routes!(ready))
}

/// List a pool's members, with what they said of their work.
#[utoipa::path(get, path = "/v1/pools/{pool}/members", tag = "members", params(("pool" = String, Path), ReadParams),
    responses((status = 200, body = Vec<MemberBody>), (status = "default", body = ErrorBody)))]
async fn list_members(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<Vec<MemberBody>>> {
    read.ready(&service).await?;
    with_pool(&service, &pool, |_| Ok(()))?;
    // What members said is a courtesy: the list is there without a leader too.
    let member_reports = service.reports_of(&pool).await.unwrap_or_default();
    Ok(Json(describe_members(&service, &pool, member_reports, |_| true, RequestKind::Read).await?))
}

/// Describes the members whose names match `filter`, off the state lock.
pub(super) async fn describe_members(
    service: &Service,
    pool: &str,
    said: PoolReports,
    filter: impl Fn(&str) -> bool + Send + 'static,
    answers: RequestKind,
) -> ApiResult<Vec<MemberBody>> {
    let view = with_pool(service, pool, |view| Ok(view.clone()))?;
    let describe = move || {
        let selected = view.members.iter().filter(|(name, _)| filter(name));
        selected.map(|(name, entry)| describe(&view, name, entry, &said)).collect()
    };
    Ok(service.compute(answers, describe).await?)
}

fn describe(view: &PoolView, name: &str, entry: &MemberEntry, said: &PoolReports) -> MemberBody {
    let member_reports = said.members.get(name).map(|member_reports| LatestReport::clone(member_reports));
    let mut member_reports = member_reports.unwrap_or_default();
    let mut stuck = said.stuck.get(name).cloned().unwrap_or_default();
    member_reports.progress.retain(|bucket, _| is_owned(view, bucket, name));
    member_reports.loads.retain(|bucket, _| is_owned(view, bucket, name));
    member_reports.lags.retain(|bucket, _| is_owned(view, bucket, name));
    stuck.retain(|bucket| is_owned(view, bucket, name));
    let (mut buckets, mut primaries) = (0, 0);
    for (_, row) in view.held_by(name) {
        let place = row.row.owners.iter().position(|owner| owner.member == name);
        buckets += u32::from(place.is_some());
        primaries += u32::from(place == Some(0));
    }
    MemberBody {
        name: name.to_owned(),
        member: entry.member.clone(),
        joined: entry.joined,
        session: entry.session.map(|s| s.to_string()),
        buckets,
        primaries,
        load: member_reports.load,
        progress: member_reports.progress,
        loads: member_reports.loads,
        lags: member_reports.lags,
        stuck,
    }
}

/// What a member said of a bucket counts while it owns it or prepares to.
fn is_owned(view: &PoolView, bucket: &str, member: &str) -> bool {
    view.rows.get(&Bucket::new(bucket)).is_some_and(|entry| entry.row.mentions(member))
}

/// The operation by which a member joins a pool.
pub(super) fn join_op(pool: &str, body: &JoinPool) -> ApiResult<Op> {
    check_name(&body.name)?;
    let member = body.member();
    member.check()?;
    Ok(Op::create(layout::member(pool, &body.name), to_json(&member), CreateMode::Ephemeral))
}

/// Join a pool, in the name of a session. The member goes with its session.
#[utoipa::path(post, path = "/v1/pools/{pool}/members", tag = "members", params(("pool" = String, Path)),
    request_body = JoinPool,
    responses((status = 201, body = MemberBody), (status = "default", body = ErrorBody)))]
async fn join(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    session: Session,
    Body(body): Body<JoinPool>,
) -> ApiResult<(StatusCode, Json<MemberBody>)> {
    let who = session.needed()?;
    let op = join_op(&pool, &body)?;
    check_living(&service, &pool).await?;
    match service.op(Actor::rota(Some(who.session)), op).await {
        Err(ServiceError::Refused(Refusal::NodeExists { .. })) => {
            let message = format!(
                "pool {pool:?} has a member {:?}: each needs a name of its own; one that died is free when its session's timeout is over",
                body.name
            );
            return Err(ApiError::new(Code::Exists, message));
        }
        Err(ServiceError::Refused(Refusal::NoNode { .. })) => return Err(ApiError::no_pool(&pool)),
        other => other?,
    };
    let joined = member_body(&service, &pool, &body.name, &PoolReports::default())?;
    Ok((StatusCode::CREATED, Json(joined)))
}

pub(super) async fn check_living(service: &Service, pool: &str) -> ApiResult<()> {
    with_pool_after_catch_up(service, pool, |view| match view.spec.deleting {
        true => Err(ApiError::new(Code::Deleting, format!("pool {pool:?} is being deleted"))),
        false => Ok(()),
    })
    .await
}

fn member_body(service: &Service, pool: &str, member: &str, said: &PoolReports) -> ApiResult<MemberBody> {
    with_pool(service, pool, |view| {
        let entry = view.members.get(member).ok_or_else(|| ApiError::no_member(pool, member))?;
        Ok(describe(view, member, entry, said))
    })
}

/// Show a member.
#[utoipa::path(get, path = "/v1/pools/{pool}/members/{member}", tag = "members",
    params(("pool" = String, Path), ("member" = String, Path), ReadParams),
    responses((status = 200, body = MemberBody), (status = "default", body = ErrorBody)))]
async fn show_member(
    State(service): State<Shared>,
    Names((pool, member)): Names<(String, String)>,
    Params(read): Params<ReadParams>,
) -> ApiResult<Json<MemberBody>> {
    read.ready(&service).await?;
    let member_reports = service.reports_of(&pool).await.unwrap_or_default();
    Ok(Json(member_body(&service, &pool, &member, &member_reports)?))
}

/// Leave a pool. Whoever leaves must have stopped working on its buckets: they
/// are granted to others at once. Only the member itself can.
#[utoipa::path(delete, path = "/v1/pools/{pool}/members/{member}", tag = "members",
    params(("pool" = String, Path), ("member" = String, Path)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn leave(
    State(service): State<Shared>,
    Names((pool, member)): Names<(String, String)>,
    session: Session,
) -> ApiResult<StatusCode> {
    let who = session.needed()?;
    check_kept_by(&service, &pool, &member, who.session).await?;
    let op = Op::Delete { path: layout::member(&pool, &member), version: None };
    service.op(Actor::rota(Some(who.session)), op).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check_kept_by(service: &Service, pool: &str, member: &str, session: SessionId) -> ApiResult<()> {
    with_pool_after_catch_up(service, pool, |view| {
        let entry = view.members.get(member).ok_or_else(|| ApiError::no_member(pool, member))?;
        if entry.session == Some(session) {
            return Ok(());
        }
        let message =
            format!("member {member:?} of pool {pool:?} is kept by another session; `rota drain` empties it");
        Err(ApiError::new(Code::NotOwner, message))
    })
    .await
}

/// Drain a member: its buckets pass to the others, and it gets no more.
#[utoipa::path(post, path = "/v1/pools/{pool}/members/{member}/drain", tag = "members",
    params(("pool" = String, Path), ("member" = String, Path)),
    responses((status = 200, body = MemberBody), (status = "default", body = ErrorBody)))]
async fn drain(
    State(service): State<Shared>,
    Names((pool, member)): Names<(String, String)>,
) -> ApiResult<Json<MemberBody>> {
    set_draining(&service, &pool, &member, true).await
}

/// Let a drained member work again.
#[utoipa::path(delete, path = "/v1/pools/{pool}/members/{member}/drain", tag = "members",
    params(("pool" = String, Path), ("member" = String, Path)),
    responses((status = 200, body = MemberBody), (status = "default", body = ErrorBody)))]
async fn undrain(
    State(service): State<Shared>,
    Names((pool, member)): Names<(String, String)>,
) -> ApiResult<Json<MemberBody>> {
    set_draining(&service, &pool, &member, false).await
}

async fn set_draining(
    service: &Service,
    pool: &str,
    member: &str,
    draining: bool,
) -> ApiResult<Json<MemberBody>> {
    let mut attempts = 0..ATTEMPTS;
    loop {
        let (next, version) = with_pool_after_catch_up(service, pool, |view| {
            let entry = view.members.get(member).ok_or_else(|| ApiError::no_member(pool, member))?;
            // Who is taken back has no successor; a worker that leaves while it is replaced keeps it.
            let successor = entry.member.successor.clone().filter(|_| draining);
            Ok((Member { draining, successor, ..entry.member.clone() }, entry.version))
        })
        .await?;
        let op = Op::set(layout::member(pool, member), to_json(&next), Some(version));
        match service.op(Actor::rota(None), op).await {
            Err(ServiceError::Refused(Refusal::BadVersion { .. })) if attempts.next().is_some() => {}
            Err(ServiceError::Refused(Refusal::NoNode { .. })) => {
                return Err(ApiError::no_member(pool, member));
            }
            other => {
                other?;
                return Ok(Json(member_body(service, pool, member, &PoolReports::default())?));
            }
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PollParams {
    /// The version that the client has.
    since: Option<u64>,
    /// How long to wait for a newer one, in milliseconds.
    #[serde(default)]
    wait_ms: u64,
}

/// What a member owns, and what it is asked to release: by long poll. In the name
/// of a session, it is told of a member that this session keeps only.
#[utoipa::path(get, path = "/v1/pools/{pool}/members/{member}/assignment", tag = "members",
    params(("pool" = String, Path), ("member" = String, Path), PollParams),
    responses((status = 200, body = Assignment), (status = "default", body = ErrorBody)))]
async fn assignment(
    State(service): State<Shared>,
    Names((pool, member)): Names<(String, String)>,
    session: Session,
    Params(poll): Params<PollParams>,
) -> ApiResult<Json<Assignment>> {
    let who = session.0.map(|who| who.session);
    let deadline = poll_deadline(poll.wait_ms)?;
    service.reach(poll.since.unwrap_or(0)).await?;
    with_pool(&service, &pool, |view| assignment_of(view, &member, who))?;
    let mut changes = service.replica.subscribe_member(&pool, &member);
    let (first, changed) = with_pool(&service, &pool, |view| {
        Ok((assignment_of(view, &member, who)?, view.changed_for(&member)))
    })?;
    // What has changed for others is no news.
    if poll.since.is_none_or(|since| since < changed) {
        return Ok(Json(first));
    }
    let mut last = first;
    while let Ok(Ok(())) = tokio::time::timeout_at(deadline, changes.changed()).await {
        let next = with_pool(&service, &pool, |view| assignment_of(view, &member, who))?;
        let same = next == Assignment { version: next.version, ..last.clone() };
        last = next;
        if !same {
            break;
        }
    }
    Ok(Json(last))
}

fn assignment_of(view: &PoolView, member: &str, who: Option<SessionId>) -> ApiResult<Assignment> {
    let entry = view.members.get(member).ok_or_else(|| ApiError::no_member(&view.name, member))?;
    if who.is_some_and(|who| entry.session != Some(who)) {
        let message = format!("member {member:?} of pool {:?} is kept by another session now", view.name);
        return Err(ApiError::new(Code::NotOwner, message));
    }
    let grants = view.held_by(member).filter_map(|(bucket, row)| {
        let (role, own) = row.row.role_of(member, entry.joined)?;
        let item = view.items.get(bucket.as_str()).cloned();
        Some(Grant {
            bucket: bucket.to_string(),
            fence: own.fence,
            role,
            peers: peers(view, &row.row, member),
            item,
        })
    });
    let asked: Vec<_> = view.held_moves(member).collect();
    let asked_to = |promote: bool| {
        let due = asked.iter().filter(move |mv| mv.promote == promote && view.is_due(mv));
        due.map(|mv| mv.bucket.to_string()).collect()
    };
    Ok(Assignment {
        joined: entry.joined,
        version: view.changed,
        grants: grants.collect(),
        release: asked_to(false),
        step_down: asked_to(true),
        leaving: leaving(view, member, &entry.member, asked.len()),
        draining: entry.member.draining,
        rejoin_grace_ms: view.spec.rejoin_grace_ms,
        on_lease_expiry: view.spec.on_lease_expiry,
    })
}

/// How many of a member's buckets are to pass on; `asked`: so many of the plan's moves are. In a
/// warm pool others copy what a member has that is emptied, though their turn has not come yet.
fn leaving(view: &PoolView, name: &str, member: &Member, asked: usize) -> u32 {
    let spec = &view.spec;
    let can_take = |(other, entry): (&String, &MemberEntry)| {
        other != name && !entry.member.draining && entry.member.has_labels(&spec.affinity.require)
    };
    let is_copied = member.draining && spec.handoff == Handoff::Warm && !spec.paused;
    let can_pass_on = || view.plan.report.short.is_empty() && view.members.iter().any(can_take);
    let count = match is_copied && can_pass_on() {
        true => view.held_count(name),
        false => asked as u64,
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The others that own a bucket or prepare to. Where buckets have one owner and pass on without
/// preparation there are none, and nobody is to be woken by the next one.
fn peers(view: &PoolView, row: &Row, member: &str) -> Vec<Peer> {
    let named = row.owners.iter().chain(&row.preparing).filter(|owner| owner.member != member);
    let peer = |owner: &Owner| {
        let (role, _) = row.role_of(&owner.member, owner.joined)?;
        let address = view.members.get(&owner.member)?.member.address.clone();
        Some(Peer { member: owner.member.clone(), address, role })
    };
    named.filter_map(peer).collect()
}

/// Let go of a bucket. Whoever does must have stopped working on it: another leads
/// it at once.
#[utoipa::path(post, path = "/v1/pools/{pool}/buckets/{bucket}/release", tag = "members",
    params(("pool" = String, Path), ("bucket" = String, Path)), request_body = OfGrant,
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn release(
    State(service): State<Shared>,
    Names(names): Names<(String, String)>,
    session: Session,
    Body(body): Body<OfGrant>,
) -> ApiResult<StatusCode> {
    apply_owner_action(&service, names, session, body.fence, OwnerAction::Release).await
}

/// Lead a bucket no longer, but go on as a backup. Whoever does must have stopped
/// leading: another leads at once.
#[utoipa::path(post, path = "/v1/pools/{pool}/buckets/{bucket}/step-down", tag = "members",
    params(("pool" = String, Path), ("bucket" = String, Path)), request_body = OfGrant,
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn step_down(
    State(service): State<Shared>,
    Names(names): Names<(String, String)>,
    session: Session,
    Body(body): Body<OfGrant>,
) -> ApiResult<StatusCode> {
    apply_owner_action(&service, names, session, body.fence, OwnerAction::StepDown).await
}

/// Own a bucket: the member was preparing, and has all that it takes.
#[utoipa::path(post, path = "/v1/pools/{pool}/buckets/{bucket}/ready", tag = "members",
    params(("pool" = String, Path), ("bucket" = String, Path)), request_body = OfGrant,
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn ready(
    State(service): State<Shared>,
    Names(names): Names<(String, String)>,
    session: Session,
    Body(body): Body<OfGrant>,
) -> ApiResult<StatusCode> {
    apply_owner_action(&service, names, session, body.fence, OwnerAction::Ready).await
}

/// A session's member does something with a row that names it. Others may change the row
/// meanwhile.
async fn apply_owner_action(
    service: &Service,
    (pool, bucket): (String, String),
    session: Session,
    fence: u64,
    action: OwnerAction,
) -> ApiResult<StatusCode> {
    let who = session.needed()?.session;
    let path = layout::row(&pool, &bucket);
    let mut attempts = 0..ATTEMPTS;
    loop {
        let (zxid, row) =
            with_pool_after_catch_up(service, &pool, |view| row_after(view, &bucket, who, fence, action))
                .await?;
        let ops = vec![
            Op::CheckFence { path: path.clone(), fence: zxid },
            Op::set(path.clone(), to_json(&row), None),
        ];
        match service.multi(Actor::rota(Some(who)), ops).await {
            Err(ServiceError::Refused(refusal)) if matches!(refusal.cause(), Refusal::StaleFence { .. }) => {
                if attempts.next().is_none() {
                    let message = format!("the row of bucket {bucket:?} changes all the time: try again");
                    return Err(ApiError::new(Code::Overloaded, message));
                }
                service.catch_up().await?;
            }
            other => return other.map(|_| StatusCode::NO_CONTENT).map_err(ApiError::from),
        }
    }
}

/// The row that follows from what a session's member does, and the zxid of the one that there is.
fn row_after(
    view: &PoolView,
    bucket: &str,
    who: SessionId,
    fence: u64,
    action: OwnerAction,
) -> ApiResult<(u64, Row)> {
    let entry = view.rows.get(&Bucket::new(bucket)).ok_or_else(|| ApiError::no_bucket(&view.name, bucket))?;
    let mut named = entry.row.owners.iter().chain(&entry.row.preparing);
    let Some(own) = named.find(|owner| owner.fence == fence && is_kept_by(view, owner, who)) else {
        // Of those that it names, perhaps one is the session's.
        let mut named = entry.row.owners.iter().chain(&entry.row.preparing);
        return Err(match named.find(|owner| is_kept_by(view, owner, who)) {
            Some(own) => ApiError::stale_fence(bucket, fence, own.fence),
            None if entry.fence() != fence => ApiError::stale_fence(bucket, fence, entry.fence()),
            None => {
                let message = format!("bucket {bucket:?} belongs to another session's member");
                ApiError::new(Code::NotOwner, message)
            }
        });
    };
    if action == OwnerAction::Release && is_last_of_warm(view, entry, own) {
        let message = format!(
            "nobody else has bucket {bucket:?} yet: {:?} lets go when its successor is ready",
            own.member
        );
        return Err(ApiError::new(Code::Conflict, message));
    }
    let done = entry.row.apply_action(own, action, view.spec.replicas as usize);
    let cannot = || {
        let role = entry.row.role_of(&own.member, own.joined).map(|(role, _)| role);
        let message = format!(
            "member {:?} cannot do that with bucket {bucket:?}: its role is {role:?}, and there are {} owners",
            own.member,
            entry.row.owners.len()
        );
        ApiError::new(Code::Conflict, message)
    };
    Ok((entry.zxid, done.ok_or_else(cannot)?))
}

/// Whether it is the only owner of a bucket that passes on warm, and is not asked to let go: its
/// successor may have died a moment ago.
fn is_last_of_warm(view: &PoolView, entry: &RowEntry, own: &Owner) -> bool {
    let is_alone = view.spec.handoff == Handoff::Warm && entry.row.owners.len() == 1;
    let is_asked = || {
        let mut moves = view.held_moves(&own.member);
        moves.any(|mv| mv.fence == own.fence && !mv.promote && view.is_due(mv))
    };
    is_alone && entry.row.primary().is_some_and(|primary| primary.is_same(own)) && !is_asked()
}

fn is_kept_by(view: &PoolView, owner: &Owner, who: SessionId) -> bool {
    let member = view.members.get(&owner.member);
    member.is_some_and(|entry| entry.session == Some(who) && entry.joined == owner.joined)
}
