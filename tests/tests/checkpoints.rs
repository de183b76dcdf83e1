//! Checkpoints travel with the bucket, and only its owner can write them.

use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::{
    Assignment, CheckpointBody, CheckpointPut, Code, Encoding, JoinPool, MemberBody, MultiOp, MultiRequest,
    NodeBody, OfGrant, OpenSession, RowBody, SessionOpened,
};
use rota_tests::{Call, Cluster, LIVENESS, Pool, eventually};
use rota_worker::{Handler, HandlerError, Lease};

/// A member that does everything by hand.
struct ByHand {
    session: SessionOpened,
}

impl ByHand {
    async fn join(cluster: &Cluster, pool: &Pool, name: &str) -> Self {
        let body = OpenSession { timeout_ms: Some(60_000) };
        let session: SessionOpened = cluster.ask(1, Call::post("/v1/sessions", &body)).await.ok().unwrap();
        let this = Self { session };
        let join = JoinPool { name: name.into(), ..JoinPool::default() };
        let _: MemberBody =
            cluster.ask(1, this.named(Call::post(&pool.path("members"), &join))).await.ok().unwrap();
        this
    }

    fn named(&self, call: Call) -> Call {
        call.header("rota-session", &format!("{}:{}", self.session.session, self.session.password))
    }

    async fn end(&self, cluster: &Cluster) {
        let path = format!("/v1/sessions/{}", self.session.session);
        assert_eq!(cluster.ask(1, self.named(Call::delete(&path))).await.status, 204);
    }
}

/// The fence of the bucket's grant, once `member` has it.
async fn granted(cluster: &Cluster, pool: &Pool, bucket: &str, member: &str) -> u64 {
    let path = pool.path(&format!("buckets/{bucket}?consistent=true"));
    eventually(&format!("{member} gets bucket {bucket}"), LIVENESS, async || {
        let row: RowBody = cluster.send(2, Call::get(&path)).await?.ok()?;
        ensure!(row.owners.first().is_some_and(|owner| owner.member == member), "{row:?}");
        Ok(row.fence)
    })
    .await
}

fn put(pool: &Pool, bucket: &str, fence: u64, data: &str) -> Call {
    put_for(pool, bucket, fence, data, None)
}

fn put_for(pool: &Pool, bucket: &str, fence: u64, data: &str, replaces: Option<u64>) -> Call {
    let body = CheckpointPut { fence, data: data.into(), replaces, encoding: Encoding::Utf8 };
    Call::put(&pool.path(&format!("checkpoints/{bucket}")), &body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_owners_checkpoint_is_refused() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "work", 1, Duration::from_secs(10)).await;
    let first = ByHand::join(&cluster, &pool, "first").await;
    let old = granted(&cluster, &pool, "0", "first").await;
    let read = Call::get(&pool.path("checkpoints/0?consistent=true"));
    let _ = cluster.ask(1, read.clone()).await.refused(Code::NoCheckpoint, &["\"0\"", "work"]);
    for id in cluster.ids() {
        let written: CheckpointBody =
            cluster.ask(id, put(&pool, "0", old, &format!("at {id}"))).await.ok().unwrap();
        assert_eq!(written.data, format!("at {id}"));
    }

    let second = ByHand::join(&cluster, &pool, "second").await;
    first.end(&cluster).await;
    let current = granted(&cluster, &pool, "0", "second").await;
    assert!(current > old, "fences grow: {old}, {current}");
    for id in cluster.ids() {
        let error = cluster.ask(id, put(&pool, "0", old, "late")).await.refused(Code::StaleFence, &["\"0\""]);
        assert_eq!(error.details["fence"], current, "{error:?}");
        assert_eq!(error.details["given"], old, "{error:?}");
        let found: CheckpointBody = cluster.ask(id, read.clone()).await.ok().unwrap();
        assert_eq!(found.data, "at 3", "what the owner put down is for its successor");
    }
    // Nor can a fence be guessed ahead.
    let ahead = cluster.ask(1, put(&pool, "0", current + 1, "early")).await.refused(Code::StaleFence, &[]);
    assert_eq!(ahead.details["fence"], current);
    let _: CheckpointBody = cluster.ask(1, put(&pool, "0", current, "second's")).await.ok().unwrap();
    let _ = cluster.ask(1, put(&pool, "7", current, "x")).await.refused(Code::NoBucket, &["\"7\""]);

    // The kernel itself refuses it, for whoever speaks its language.
    let multi = |fence| MultiRequest {
        ops: vec![
            MultiOp::CheckFence { path: "/rota/pools/work/buckets/0".into(), fence },
            MultiOp::Set {
                path: "/rota/pools/work/checkpoints/0".into(),
                data: "by multi".into(),
                encoding: Encoding::Utf8,
                version: None,
            },
        ],
    };
    let error = cluster.ask(3, Call::post("/v1/multi", &multi(old))).await.refused(Code::StaleFence, &[]);
    assert_eq!((error.details["index"].as_u64(), error.details["fence"].as_u64()), (Some(0), Some(current)));
    assert_eq!(cluster.ask(3, Call::post("/v1/multi", &multi(current))).await.status, 200);
    let node: NodeBody =
        cluster.ask(3, Call::get("/v1/nodes/rota/pools/work/checkpoints/0")).await.ok().unwrap();
    assert_eq!(node.data.unwrap().data, "by multi");
    second.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_delayed_on_its_way_does_not_replace_a_newer_one() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "work", 1, Duration::from_secs(10)).await;
    let owner = ByHand::join(&cluster, &pool, "owner").await;
    let fence = granted(&cluster, &pool, "0", "owner").await;
    let at = |data: &str, replaces| put_for(&pool, "0", fence, data, Some(replaces));
    let refused = async |call: Call, there: u64| {
        for id in cluster.ids() {
            let error = cluster.ask(id, call.clone()).await.refused(Code::BadVersion, &["\"0\""]);
            assert_eq!(error.details["zxid"], there, "{error:?}");
        }
    };
    let first: CheckpointBody = cluster.ask(1, at("10", 0)).await.ok().unwrap();
    refused(at("10", 0), first.zxid).await;
    let second: CheckpointBody = cluster.ask(2, at("20", first.zxid)).await.ok().unwrap();
    assert!(second.zxid > first.zxid);
    // The request that put down 10 comes once more, and so does the one after it.
    refused(at("10", 0), second.zxid).await;
    refused(at("20", first.zxid), second.zxid).await;
    let read = Call::get(&pool.path("checkpoints/0?consistent=true"));
    let found: CheckpointBody = cluster.ask(3, read).await.ok().unwrap();
    assert_eq!((found.data.as_str(), found.zxid), ("20", second.zxid));
    // One whose grant has ended is told that, whatever it wants to replace.
    for replaces in [0, second.zxid] {
        let stale = put_for(&pool, "0", fence - 1, "5", Some(replaces));
        let _ = cluster.ask(1, stale).await.refused(Code::StaleFence, &["\"0\""]);
    }
    owner.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_any_bytes_and_outlives_its_item() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::named(&cluster, "things", Duration::from_secs(10)).await;
    let owner = ByHand::join(&cluster, &pool, "owner").await;
    // Often enough that a row is let go between a look at it and the write.
    for name in (0..10).map(|number| format!("a{number}")) {
        let item = serde_json::json!({"name": name, "persistent": true});
        assert_eq!(cluster.ask(1, Call::post(&pool.path("items"), &item)).await.status, 201);
        let path = pool.path("members/owner/assignment");
        let fence = eventually("the item is granted", LIVENESS, async || {
            let assignment: Assignment = cluster.send(1, Call::get(&path)).await?.ok()?;
            ensure!(assignment.grants.len() == 1, "{assignment:?}");
            Ok(assignment.grants[0].fence)
        })
        .await;
        let at = pool.path(&format!("checkpoints/{name}"));
        let body = CheckpointPut { fence, data: "ff00fe".into(), replaces: Some(0), encoding: Encoding::Hex };
        let _: CheckpointBody = cluster.ask(1, Call::put(&at, &body)).await.ok().unwrap();
        let found: CheckpointBody = cluster.ask(1, Call::get(&at)).await.ok().unwrap();
        assert_eq!((found.data.as_str(), found.encoding), ("ff00fe", Encoding::Hex));

        let _ = cluster.ask(1, Call::delete(&at)).await.refused(Code::Conflict, &["owner"]);
        assert_eq!(cluster.ask(1, Call::delete(&pool.path(&format!("items/{name}")))).await.status, 204);
        let release = Call::post(&pool.path(&format!("buckets/{name}/release")), &OfGrant { fence });
        assert_eq!(cluster.ask(1, owner.named(release)).await.status, 204);
        eventually("the row is gone, and the checkpoint can be deleted", LIVENESS, async || {
            let deleted = cluster.send(1, Call::delete(&at)).await?;
            ensure!(deleted.status == 204, "{}", deleted.text());
            Ok(())
        })
        .await;
        let _ = cluster.ask(1, Call::delete(&at)).await.refused(Code::NoCheckpoint, &[&name]);
    }
    owner.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_is_told_to_the_session_that_keeps_the_member() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "work", 1, Duration::from_secs(10)).await;
    let owner = ByHand::join(&cluster, &pool, "owner").await;
    let other = ByHand::join(&cluster, &pool, "other").await;
    let ask = Call::get(&pool.path("members/owner/assignment"));
    let own: Assignment = cluster.ask(1, owner.named(ask.clone())).await.ok().unwrap();
    let _ = cluster.ask(1, other.named(ask.clone())).await.refused(Code::NotOwner, &["another session"]);
    owner.end(&cluster).await;
    // Its name is free, and taken by another: the old one is not told of it.
    let _: MemberBody = cluster
        .ask(
            1,
            other.named(Call::post(
                &pool.path("members"),
                &JoinPool { name: "owner".into(), ..JoinPool::default() },
            )),
        )
        .await
        .ok()
        .unwrap();
    let _ = cluster.ask(1, owner.named(ask.clone())).await.refused(Code::SessionExpired, &[]);
    let now: Assignment = cluster.ask(1, other.named(ask)).await.ok().unwrap();
    assert!(now.joined > own.joined);
    other.end(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_releases_and_leaves() {
    let cluster = Cluster::start(1).await;
    let pool = Pool::hashed(&cluster, "work", 1, Duration::from_secs(10)).await;
    let owner = ByHand::join(&cluster, &pool, "owner").await;
    let fence = granted_at_one(&cluster, &pool).await;
    let other = ByHand::join(&cluster, &pool, "other").await;
    let release = |fence| Call::post(&pool.path("buckets/0/release"), &OfGrant { fence });
    let _ = cluster.ask(1, other.named(release(fence))).await.refused(Code::NotOwner, &["\"0\""]);
    let _ = cluster.ask(1, release(fence)).await.refused(Code::BadRequest, &["rota-session"]);
    let stale = cluster.ask(1, owner.named(release(fence - 1))).await.refused(Code::StaleFence, &[]);
    assert_eq!(stale.details["fence"], fence);
    let leave = Call::delete(&pool.path("members/owner"));
    let _ = cluster.ask(1, other.named(leave.clone())).await.refused(Code::NotOwner, &["\"owner\""]);
    assert_eq!(cluster.ask(1, owner.named(leave)).await.status, 204);
    eventually("the other gets the bucket", LIVENESS, async || {
        let path = pool.path("members/other/assignment");
        let assignment: Assignment = cluster.send(1, Call::get(&path)).await?.ok()?;
        ensure!(assignment.grants.len() == 1 && assignment.grants[0].fence > fence, "{assignment:?}");
        Ok(())
    })
    .await;
}

async fn granted_at_one(cluster: &Cluster, pool: &Pool) -> u64 {
    eventually("the bucket is granted", LIVENESS, async || {
        let row: RowBody = cluster.send(1, Call::get(&pool.path("buckets/0"))).await?.ok()?;
        ensure!(!row.owners.is_empty(), "{row:?}");
        Ok(row.fence)
    })
    .await
}

/// Counts on from the checkpoint, as fast as it can be put down.
struct Count;

impl Handler for Count {
    async fn run(&self, lease: Lease) -> Result<(), HandlerError> {
        let mut position: u64 = lease.read_checkpoint().await?.map_or(Ok(0), |p| p.parse())?;
        while !lease.is_cancelled() {
            position += 1;
            lease.write_checkpoint(position.to_string()).await?;
            lease.progress(format!("at {position}"));
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_goes_on_where_the_last_one_was() {
    let cluster = Cluster::start(3).await;
    let pool = Pool::hashed(&cluster, "count", 4, Duration::from_secs(5)).await;
    let read = |bucket: usize| Call::get(&pool.path(&format!("checkpoints/{bucket}?consistent=true")));
    let mut at = [0_u64; 4];
    let mut worker = pool.join_with("w0", Count).await;
    for round in 1..=4 {
        for (bucket, at) in at.iter_mut().enumerate() {
            *at = eventually("the count goes on and never back", LIVENESS, async || {
                let checkpoint: CheckpointBody = cluster.send(1, read(bucket)).await?.ok()?;
                let now: u64 = checkpoint.data.parse()?;
                assert!(now >= *at, "bucket {bucket} went back from {at} to {now}");
                ensure!(now > *at + 20, "at {now}");
                Ok(now)
            })
            .await;
        }
        let next = pool.join_with(&format!("w{round}"), Count).await;
        worker.leave().await;
        worker = next;
    }
    pool.histories().check();
    let member = eventually("progress is told", LIVENESS, async || {
        let members = pool.members().await?;
        ensure!(members.len() == 1 && members[0].progress.len() == 4, "{members:?}");
        Ok(members[0].clone())
    })
    .await;
    assert!(member.progress.values().all(|text| text.starts_with("at ")), "{member:?}");
}
