//! Planned events: what is shown before is what happens, by name and by label; who may
//! have what; and what a drain waits for.

use std::collections::BTreeMap;
use std::time::Duration;

use rota_core::pool::{Labels, ShortageReason};
use rota_protocol::http::{Code, JoinPool, MemberBody, PlanBody, PoolBody, Previewed};
use rota_tests::{Call, Cluster, Hold, Pool, command};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(10);

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn member(name: &str, pairs: &[(&str, &str)]) -> JoinPool {
    JoinPool { name: name.to_owned(), labels: labels(pairs), ..JoinPool::default() }
}

async fn preview(cluster: &Cluster, pool: &Pool, asked: serde_json::Value) -> Previewed {
    cluster.ask(2, Call::post(&pool.path("plan"), &asked)).await.ok().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_that_is_shown_is_the_plan_that_runs() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "planned", 12, TIMEOUT).await;
    let _a = pool.join_as(member("a", &[("rack", "7")]), Hold).await;
    let _b = pool.join_as(member("b", &[("rack", "7")]), Hold).await;
    let _c = pool.join_as(member("c", &[]), Hold).await;
    pool.is_shared_by(&["a", "b", "c"], 12).await;
    let before = pool.table().await.unwrap();

    let change = json!({"labels": {"rack": "7"}, "draining": true});
    let shown = preview(&cluster, &pool, json!({"change": [change]})).await;
    assert_eq!((shown.plan.report.moves, shown.plan.report.moves_lower_bound), (8, 8));
    let shares: BTreeMap<&str, u32> = shown.shares.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(shares, BTreeMap::from([("a", 0), ("b", 0), ("c", 12)]));
    assert_eq!(shown.plan.pending.len(), 8);
    assert_eq!(pool.table().await.unwrap(), before, "it was only shown");
    let untouched: PlanBody =
        cluster.ask(1, Call::get(&pool.path("plan?consistent=true"))).await.ok().unwrap();
    assert_eq!(untouched.number + 1, shown.plan.number);

    let changed: Vec<MemberBody> =
        cluster.ask(3, Call::put(&pool.path("members"), &change)).await.ok().unwrap();
    assert!(
        changed.iter().map(|m| m.name.as_str()).eq(["a", "b"]) && changed.iter().all(|m| m.member.draining)
    );
    pool.has_shares(&[("c", 12)], &[]).await;
    let ran: PlanBody = cluster.ask(1, Call::get(&pool.path("plan?consistent=true"))).await.ok().unwrap();
    assert_eq!((ran.number, ran.done as usize), (shown.plan.number, shown.plan.pending.len()));
    let now = pool.table().await.unwrap();
    for the in &shown.plan.pending {
        let owner = |rows: &[rota_protocol::http::RowBody]| {
            rows.iter().find(|row| row.bucket == the.bucket.as_str()).unwrap().owners[0].member.clone()
        };
        assert_eq!((Some(owner(&before.rows)), Some(owner(&now.rows))), (the.from.clone(), the.to.clone()));
    }
    pool.histories().check();
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_capacities_and_cordons_hold_and_a_drain_says_what_it_waits_for() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "asking", 8, TIMEOUT).await;
    let change = json!({"require": {"exit": "b"}});
    let _: PoolBody = cluster.ask(1, Call::put("/v1/pools/asking", &change)).await.ok().unwrap();
    let _other = pool.join_as(member("other", &[("exit", "a")]), Hold).await;
    let _first = pool.join_as(member("first", &[("exit", "b")]), Hold).await;
    pool.has_shares(&[("first", 8)], &[]).await;

    // It says why nothing moves, and has moved nothing.
    let servers = cluster.addresses().join(",");
    let drain = ["drain", "asking", "first", "--timeout", "500ms", "--servers", &servers];
    command(&drain).await.failed(&["first", "8 buckets", "exit=b"]);
    let shown: Previewed = cluster.ask(1, Call::post(&pool.path("plan"), &json!({}))).await.ok().unwrap();
    let short = &shown.plan.report.short;
    assert_eq!((short.len(), short[0].buckets, short[0].reason), (1, 8, ShortageReason::NoMemberWithLabels));
    assert_eq!(short[0].require, labels(&[("exit", "b")]));

    // Somebody who can comes, but takes five at most; the others stay, drained or not.
    let second = JoinPool { capacity: Some(5), ..member("second", &[("exit", "b")]) };
    let _second = pool.join_as(second, Hold).await;
    pool.has_shares(&[("first", 3), ("second", 5)], &[]).await;
    let undo = command(&["drain", "asking", "first", "--undo", "--servers", &servers]).await;
    assert_eq!(undo.code, Some(0), "{undo:?}");
    pool.has_shares(&[("first", 4), ("second", 4)], &[]).await;

    // Cordoned it keeps what it has, whoever else goes.
    let cordon = command(&["cordon", "asking", "second", "--servers", &servers]).await;
    assert!(cordon.code == Some(0) && cordon.out.contains("cordoned"), "{cordon:?}");
    let gone: Previewed =
        cluster.ask(1, Call::post(&pool.path("plan"), &json!({"gone": ["first"]}))).await.ok().unwrap();
    assert_eq!(gone.shares["second"], 4);
    assert_eq!(gone.plan.report.short[0].reason, ShortageReason::Capacity);

    // What means nothing is refused.
    let bad = [
        (json!({"members": ["first"]}), Code::BadRequest, "draining"),
        (json!({"weight": 2}), Code::NoMember, "members or labels"),
        (json!({"members": ["nobody"], "weight": 2}), Code::NoMember, "nobody"),
        (json!({"labels": {"exit": "c"}, "weight": 2}), Code::NoMember, "labels"),
        (json!({"members": ["first"], "weight": 0}), Code::BadMember, "weight"),
        (json!({"members": ["first"], "weight": 1e300}), Code::BadJson, "weight"),
    ];
    for (body, code, naming) in bad {
        let _ = cluster.ask(1, Call::put(&pool.path("members"), &body)).await.refused(code, &[naming]);
    }
    let bad = [
        (json!({"join": [{"name": "first"}]}), Code::Exists, "first"),
        (json!({"pool": {"buckets": 9}}), Code::Fixed, "buckets"),
    ];
    for (body, code, naming) in bad {
        let _ = cluster.ask(1, Call::post(&pool.path("plan"), &body)).await.refused(code, &[naming]);
    }
    pool.histories().check();
}
