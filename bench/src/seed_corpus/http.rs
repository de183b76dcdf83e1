//! Seeds of the targets `http_body` and `client_table`: HTTP requests and responses.

use std::time::Duration;

use anyhow::Context;
use http::Method;
use rota_client::{Client, ClientError, Idempotency};
use rota_protocol::http::MemberReport;
use serde_json::{Value, json};

/// An HTTP/1.1 message: its first line and its body.
pub(super) struct Message<'a> {
    pub(super) first_line: &'a str,
    pub(super) body: &'a [u8],
}

/// Sends at least one body of each kind.
pub(super) async fn generate_traffic(client: &Client) -> anyhow::Result<()> {
    let session = client.open_session(Duration::from_secs(4)).await?;
    let send = async |method: Method, path: &str, body: Value| {
        let sent: Result<Value, ClientError> =
            session.request(method, path, Some(&body), Idempotency::Safe).await;
        sent.map(drop).with_context(|| path.to_owned())
    };
    let hashed = json!({"name": "hashed", "kind": "hashed", "buckets": 8, "replicas": 2, "handoff": "warm", "rejoin_grace_ms": 1000,
        "spread": "zone", "require": {"disk": "ssd"}, "max_rebalances_per_minute": 4, "balance": "load"});
    send(Method::POST, "/v1/pools", hashed).await?;
    send(Method::POST, "/v1/pools", json!({"name": "named", "kind": "named", "strategy": "ring"})).await?;
    send(Method::PUT, "/v1/pools/hashed", json!({"max_concurrent_moves": 7, "paused": false, "replicas": 1}))
        .await?;
    let member = json!({"name": "m", "address": "127.0.0.1:1", "weight": 2, "zone": "z", "labels": {"disk": "ssd"},
        "capacity": 9});
    send(Method::POST, "/v1/pools/hashed/members", member).await?;
    let item = json!({"name": "i", "persistent": true, "address": "127.0.0.1:1", "labels": {"app": "a"}, "weight": 3, "prefer": {"disk": "ssd"}});
    send(Method::POST, "/v1/pools/named/items", item).await?;
    send(Method::PUT, "/v1/pools/hashed/members", json!({"members": ["m"], "weight": 3, "cordoned": false}))
        .await?;
    let preview = json!({"pool": {"replicas": 2}, "join": [{"name": "n", "labels": {"disk": "ssd"}}], "gone": ["m"],
        "change": [{"members": ["m"], "draining": true}]});
    send(Method::POST, "/v1/pools/hashed/plan", preview).await?;
    let node = json!({"data": "68", "encoding": "hex", "mode": "persistent_sequential", "ttl_ms": 60_000,
        "acl": [{"perms": 31, "scheme": "world", "id": "anyone"}]});
    send(Method::POST, "/v1/nodes/seed", node).await?;
    send(Method::POST, "/v1/nodes/other", json!({"data": "a"})).await?;
    send(Method::PUT, "/v1/nodes/other", json!({"data": "b", "version": 0})).await?;
    let ops = json!({"ops": [{"op": "check", "path": "/other", "version": 1}, {"op": "create", "path": "/new", "data": "x"},
        {"op": "set", "path": "/new", "data": "y"}, {"op": "delete", "path": "/new"}]});
    send(Method::POST, "/v1/multi", ops).await?;
    session.report(MemberReport {
        pool: "hashed".to_owned(),
        member: "m".to_owned(),
        load: Some(0.5),
        progress: [("0".to_owned(), "half".to_owned())].into(),
        loads: [("0".to_owned(), 3.5)].into(),
        lags: [("0".to_owned(), 12.0)].into(),
    });
    // These requests are refused (the cluster is not empty; no grant is held), but recorded.
    let node = json!({"path": "/a", "data": "68", "owner": 0, "stamps": {"czxid": 1, "mzxid": 2, "pzxid": 2,
        "ctime_ms": 3, "mtime_ms": 4, "version": 1, "aversion": 0, "child_creations": 0}});
    let sessions = json!([{"session": "0000000000000007", "password": "00".repeat(16), "timeout_ms": 9000}]);
    for (method, path, body) in [
        (Method::POST, "/v1/import", json!({"step": "more", "sessions": sessions, "nodes": [node]})),
        (Method::PUT, "/v1/pools/hashed/checkpoints/0", json!({"fence": 1, "data": "at 7", "replaces": 0})),
        (Method::POST, "/v1/pools/hashed/buckets/0/release", json!({"fence": 1})),
    ] {
        let refused = send(method, path, body).await.expect_err("it cannot be done");
        let code = refused.downcast_ref::<ClientError>().and_then(ClientError::code);
        anyhow::ensure!(code.is_some_and(|code| code.status() < 500), "{refused:#}");
    }
    for _ in 0..2 {
        let _: Value = client.get("/v1/pools/hashed/table").await?;
        // The report is sent with the next keep-alive.
        tokio::time::sleep(session.timeout() / 3).await;
    }
    session.close().await?;
    Ok(())
}

/// The kind of a request's body in the target `http_body`.
pub(super) fn kind(first_line: &str) -> Option<u8> {
    let mut words = first_line.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    Some(match (method, &parts[..]) {
        ("POST", ["multi"]) => 0,
        ("POST", ["nodes", ..]) => 1,
        ("PUT", ["nodes", ..]) => 2,
        ("POST", ["pools"]) => 3,
        ("PUT", ["pools", _]) => 4,
        ("POST", ["pools", _, "members"]) => 5,
        ("POST", ["pools", _, "items"]) => 6,
        ("PUT", ["pools", _, "checkpoints", _]) => 7,
        ("PUT", ["pools", _, "members"]) => 8,
        ("POST", ["import"]) => 9,
        ("POST", ["pools", _, "plan"]) => 10,
        ("POST", ["sessions", _, "keep-alive"]) => 11,
        ("POST", ["sessions"] | ["pools", _, "buckets", ..]) => 12,
        _ => return None,
    })
}

/// The messages of a connection in one direction.
pub(super) fn messages(mut stream: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while let Some(end) = stream.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
        let Ok(head) = std::str::from_utf8(&stream[..end]) else { break };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok()).flatten()
        });
        let rest = &stream[end + 4..];
        let Some(body) = rest.get(..length.unwrap_or(0)) else { break };
        messages.push(Message { first_line: head.lines().next().unwrap_or_default(), body });
        stream = &rest[body.len()..];
    }
    messages
}
