//! Planned events: changes of members by the operator, and what would come of them.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use rota_core::assign::preview;
use rota_core::pool::{MemberEntry, PoolView, check_name, layout, to_json};
use rota_core::state::{Actor, Op, Refusal};
use rota_protocol::http::{
    Code, ErrorBody, MemberBody, MembersChange, PlanBody, PlanPreview, Previewed, Replace,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::{Body, Names, Shared};
use super::members::describe_members;
use super::pools::{self, with_pool, with_pool_after_catch_up};
use crate::member_reports::planner_inputs;
use crate::service::{RequestKind, Service, ServiceError};

/// How often a change is tried again when another came in between.
const ATTEMPTS: usize = 5;

pub(super) fn router() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(change_members))
        .routes(routes!(replace))
        .routes(routes!(preview_plan))
}

/// Change members, all at once: drain or cordon them, give them another weight or
/// capacity.
#[utoipa::path(put, path = "/v1/pools/{pool}/members", tag = "members", params(("pool" = String, Path)),
    request_body = MembersChange,
    responses((status = 200, body = Vec<MemberBody>), (status = "default", body = ErrorBody)))]
async fn change_members(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Body(change): Body<MembersChange>,
) -> ApiResult<Json<Vec<MemberBody>>> {
    if change.is_empty() {
        let message = "nothing is to be changed: give draining, cordoned, weight or capacity";
        return Err(ApiError::new(Code::BadRequest, message));
    }
    Ok(Json(change_all(&service, &pool, &[change]).await?))
}

/// Have a member take another's place: that one is emptied, and what it has passes on to its
/// successor, as far as that is its fair share.
#[utoipa::path(post, path = "/v1/pools/{pool}/members/{member}/replace", tag = "members",
    params(("pool" = String, Path), ("member" = String, Path)), request_body = Replace,
    responses((status = 200, body = Vec<MemberBody>), (status = "default", body = ErrorBody)))]
async fn replace(
    State(service): State<Shared>,
    Names((pool, member)): Names<(String, String)>,
    Body(body): Body<Replace>,
) -> ApiResult<Json<Vec<MemberBody>>> {
    if member == body.by {
        return Err(ApiError::new(Code::BadRequest, "a member cannot take its own place: name another"));
    }
    Ok(Json(change_all(&service, &pool, &MembersChange::replacing(&member, &body.by)).await?))
}

/// Makes changes, all in one write. Returns the members that they meant.
async fn change_all(service: &Service, pool: &str, changes: &[MembersChange]) -> ApiResult<Vec<MemberBody>> {
    let mut attempts = 0..ATTEMPTS;
    let names = loop {
        let (names, ops) = with_pool_after_catch_up(service, pool, |view| {
            let (mut names, mut ops) = (BTreeSet::new(), Vec::new());
            for change in changes {
                for (name, entry) in selected(view, change)? {
                    let member = change.applied(&entry.member);
                    member.check()?;
                    let path = layout::member(pool, &name);
                    ops.push(Op::set(path, to_json(&member), Some(entry.version)));
                    names.insert(name);
                }
            }
            Ok((names, ops))
        })
        .await?;
        match service.multi(Actor::rota(None), ops).await {
            Err(ServiceError::Refused(refusal))
                if matches!(refusal.cause(), Refusal::BadVersion { .. } | Refusal::NoNode { .. })
                    && attempts.next().is_some() => {}
            other => {
                other?;
                break names;
            }
        }
    };
    describe_members(service, pool, Default::default(), move |name| names.contains(name), RequestKind::Write)
        .await
}

/// The members that are meant.
pub(super) fn selected(view: &PoolView, change: &MembersChange) -> ApiResult<Vec<(String, MemberEntry)>> {
    if let Some(missing) = change.members.iter().find(|name| !view.members.contains_key(*name)) {
        return Err(ApiError::no_member(&view.name, missing));
    }
    let selected = view.members.iter().filter(|(name, entry)| change.selects(name, &entry.member));
    let selected: Vec<_> = selected.map(|(name, entry)| (name.clone(), entry.clone())).collect();
    if selected.is_empty() {
        let message = match change.labels.is_empty() {
            true => "no member is meant: give members or labels".to_owned(),
            false => format!("no member of pool {:?} has all of the labels", view.name),
        };
        return Err(ApiError::new(Code::NoMember, message));
    }
    Ok(selected)
}

/// Show what would come of changes, without making them: the very plan that would run
/// next if they were made now, and how many buckets each member would have in the end.
#[utoipa::path(post, path = "/v1/pools/{pool}/plan", tag = "pools", params(("pool" = String, Path)),
    request_body = PlanPreview,
    responses((status = 200, body = Previewed), (status = "default", body = ErrorBody)))]
async fn preview_plan(
    State(service): State<Shared>,
    Names(pool): Names<String>,
    Body(asked): Body<PlanPreview>,
) -> ApiResult<Json<Previewed>> {
    service.catch_up().await?;
    let view = with_pool(&service, &pool, |view| {
        let mut view = view.clone();
        apply_hypothetical(&mut view, &asked)?;
        Ok(view)
    })?;
    let tree = service.replica.read().state.tree().clone();
    let said = service.reports_of(&pool).await?;
    // Large pools take long enough to hold up heartbeats.
    let planned = service.compute(RequestKind::Read, move || {
        let known = planner_inputs(&view, &said, said.now_ms);
        preview(&tree, &view, &known).map(|plan| (view, plan))
    });
    let (view, preview) = planned.await?.map_err(|fault| ApiError::new(Code::Internal, fault.to_string()))?;
    let pending = preview.plan.moves.iter().filter(|mv| view.is_pending(mv)).cloned().collect();
    let plan = PlanBody::new(&preview.plan, pending);
    Ok(Json(Previewed { plan, shares: preview.shares, primaries: preview.primaries }))
}

pub(super) fn apply_hypothetical(view: &mut PoolView, asked: &PlanPreview) -> ApiResult<()> {
    if let Some(change) = &asked.pool {
        let next = pools::changed(&view.name, &view.spec, view.spec_version, change)?;
        view.spec.check_change(&next)?;
        view.assume_spec(next);
    }
    for change in &asked.change {
        for (name, entry) in selected(view, change)? {
            let member = change.applied(&entry.member);
            member.check()?;
            view.assume_member_changed(&name, member);
        }
    }
    for name in &asked.gone {
        if !view.assume_member_left(name) {
            return Err(ApiError::no_member(&view.name, name));
        }
    }
    for join in &asked.join {
        check_name(&join.name)?;
        if view.members.contains_key(&join.name) {
            let message = format!("pool {:?} has a member {:?} already", view.name, join.name);
            return Err(ApiError::new(Code::Exists, message));
        }
        let member = join.member();
        member.check()?;
        view.assume_member_joined(&join.name, member);
    }
    Ok(())
}
