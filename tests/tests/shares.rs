//! Buckets that are shared by load, owners that are stuck, members that take another's place.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use rota_core::pool::{Balance, Reason, WhenStuck};
use rota_protocol::http::{
    Code, HistoryBody, JoinPool, KeepAlive, MemberBody, MemberReport, PoolChange, PoolKind, Previewed,
};
use rota_tests::{Call, Cluster, LIVENESS, Pool, eventually};
use rota_worker::{Handler, HandlerError, Lease};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(3);

/// Says how busy its buckets keep it: bucket 0 very, the others little.
struct Busy;

impl Handler for Busy {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        while !lease.is_cancelled() {
            lease.load(if lease.bucket() == "0" { 70.0 } else { 10.0 });
            lease.lag(3.0);
            lease.sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// Says how far it is, unless it is the bucket in which it hangs.
struct Hangs;

impl Handler for Hangs {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        for step in 0.. {
            if lease.is_cancelled() {
                break;
            }
            let hangs = lease.bucket() == "1" && lease.member() == "a";
            lease.progress(if hangs { "at 7".to_owned() } else { format!("at {step}") });
            lease.sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

async fn member(cluster: &Cluster, pool: &Pool, name: &str) -> anyhow::Result<MemberBody> {
    cluster.send(1, Call::get(&pool.path(&format!("members/{name}?consistent=true")))).await?.ok()
}

async fn reasons(cluster: &Cluster, pool: &Pool, bucket: &str) -> Vec<Reason> {
    let path = pool.path(&format!("buckets/{bucket}/history?consistent=true"));
    let told: HistoryBody = cluster.ask(1, Call::get(&path)).await.ok().unwrap();
    told.events.iter().map(|event| event.reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_shared_by_load_evens_it_out() {
    let cluster = Cluster::start(3).await;
    let settings = PoolChange { buckets: Some(8), balance: Some(Balance::Load), ..PoolChange::default() };
    let pool = Pool::create(&cluster, "busy", PoolKind::Hashed, settings, TIMEOUT).await;
    let _a = pool.join_with("a", Busy).await;
    let _b = pool.join_with("b", Busy).await;
    // 70 is as much as seven times 10.
    let owner_of_0 = eventually("bucket 0 is alone, the others are not", LIVENESS, async || {
        let rows = pool.table().await?.rows;
        let owners: Vec<&str> =
            rows.iter().filter_map(|row| Some(row.owners.first()?.member.as_str())).collect();
        let alone = owners.iter().filter(|owner| Some(*owner) == owners.first()).count();
        ensure!(owners.len() == 8 && alone == 1, "{owners:?}");
        Ok(owners[0].to_owned())
    })
    .await;
    let other = if owner_of_0 == "a" { "b" } else { "a" };
    pool.has_shares(&[(owner_of_0.as_str(), 1), (other, 7)], &[]).await;
    eventually("its owner says how busy it is", LIVENESS, async || {
        let busy = member(&cluster, &pool, &owner_of_0).await?;
        ensure!(busy.lags == BTreeMap::from([("0".to_owned(), 3.0)]), "{busy:?}");
        ensure!(busy.loads.get("0").is_some_and(|load| *load > 60.0), "{busy:?}");
        Ok(())
    })
    .await;
    let moved = [reasons(&cluster, &pool, "0").await, reasons(&cluster, &pool, "3").await].concat();
    assert!(moved.contains(&Reason::Load), "{moved:?}");
    pool.histories().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_says_nothing_new_is_shown_and_left() {
    let cluster = Cluster::start(3).await;
    let settings = PoolChange { buckets: Some(4), stuck_ms: Some(Some(1_500)), ..PoolChange::default() };
    let pool = Pool::create(&cluster, "slow", PoolKind::Hashed, settings, TIMEOUT).await;
    let _a = pool.join_with("a", Hangs).await;
    let _b = pool.join_with("b", Hangs).await;
    pool.is_shared_by(&["a", "b"], 4).await;
    eventually("a is seen to hang in bucket 1, and in no other", LIVENESS, async || {
        let a = member(&cluster, &pool, "a").await?;
        ensure!(a.stuck == ["1"], "{a:?}");
        ensure!(member(&cluster, &pool, "b").await?.stuck.is_empty());
        Ok(())
    })
    .await;
    assert!(reasons(&cluster, &pool, "1").await.iter().all(|reason| *reason != Reason::Stuck), "only shown");
    let change = PoolChange { when_stuck: Some(WhenStuck::Move), ..PoolChange::default() };
    let _: serde_json::Value = cluster.ask(2, Call::put("/v1/pools/slow", &change)).await.ok().unwrap();
    eventually("bucket 1 is b's", LIVENESS, async || {
        let row = pool.table().await?.rows.into_iter().find(|row| row.bucket == "1");
        ensure!(
            row.as_ref().is_some_and(|row| row.owners.first().is_some_and(|o| o.member == "b")),
            "{row:?}"
        );
        Ok(())
    })
    .await;
    assert!(reasons(&cluster, &pool, "1").await.contains(&Reason::Stuck));
    pool.histories().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_the_place_of_another() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "swap", 9, TIMEOUT).await;
    let join = |name: &str| JoinPool { name: name.to_owned(), ..JoinPool::default() };
    let _a = pool.join_as(join("a"), rota_tests::Hold).await;
    let _b = pool.join_as(join("b"), rota_tests::Hold).await;
    let _c = pool.join_as(join("c"), rota_tests::Hold).await;
    pool.is_shared_by(&["a", "b", "c"], 9).await;
    let before = pool.table().await.unwrap();
    let _d = pool.join_as(JoinPool { cordoned: true, ..join("d") }, rota_tests::Hold).await;
    let _ = cluster
        .ask(1, Call::post(&pool.path("members/b/replace"), &json!({"by": "b"})))
        .await
        .refused(Code::BadRequest, &["own"]);
    let _ = cluster
        .ask(1, Call::post(&pool.path("members/b/replace"), &json!({"by": "x"})))
        .await
        .refused(Code::NoMember, &["x"]);
    let dry = ["--output", "json", "replace", "swap", "b", "--by", "d", "--dry-run"];
    let shown: Previewed = cluster.operate(&dry).await.json().unwrap();
    assert_eq!((shown.plan.report.moves, shown.plan.report.moves_lower_bound), (3, 3));
    assert!(
        shown
            .plan
            .pending
            .iter()
            .all(|the| (the.from.as_deref(), the.to.as_deref()) == (Some("b"), Some("d")))
    );
    assert_eq!(pool.table().await.unwrap(), before, "it was only shown");
    let ran = cluster.operate(&["replace", "swap", "b", "--by", "d"]).await;
    assert_eq!(ran.code, Some(0), "{} {}", ran.out, ran.err);
    pool.has_shares(&[("a", 3), ("c", 3), ("d", 3)], &[]).await;
    for (was, now) in before.rows.iter().zip(&pool.table().await.unwrap().rows) {
        let (was, now) = (&was.owners[0].member, &now.owners[0].member);
        assert_eq!(now, if was == "b" { "d" } else { was });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_members_report_has_bounds() {
    let cluster = Cluster::start(1).await;
    let opened: rota_protocol::http::SessionOpened =
        cluster.ask(1, Call::post("/v1/sessions", &json!({}))).await.ok().unwrap();
    let path = format!("/v1/sessions/{}/keep-alive", opened.session);
    let secret = format!("{}:{}", opened.session, opened.password);
    let report = |loads: &[(&str, f64)]| MemberReport {
        pool: "p".to_owned(),
        member: "m".to_owned(),
        loads: loads.iter().map(|(bucket, load)| ((*bucket).to_owned(), *load)).collect(),
        ..MemberReport::default()
    };
    for load in [-1.0, 1e300] {
        let body = KeepAlive { reports: vec![report(&[("7", load)])] };
        let call = Call::post(&path, &body).header("rota-session", &secret);
        let _ = cluster.ask(1, call).await.refused(Code::BadRequest, &["loads of bucket \"7\"", "1e9"]);
    }
    let body = json!({"reports": [{"pool": "p", "member": "m", "load": 1e300}]});
    let call = Call::post(&path, &body).header("rota-session", &secret);
    let _ = cluster.ask(1, call).await.refused(Code::BadRequest, &["load is"]);
}
