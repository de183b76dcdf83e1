//! Bad requests: each is refused with its status, its code, and a message that
//! names what is wrong.

use http::Method;
use rota_protocol::http::{Code, NodeBody, NodeCreate, OpenSession, PoolBody, SessionOpened};
use rota_tests::{Call, Cluster, raw};
use serde_json::{Value, json};

/// A request, and how it must be refused: the code, and what the message names.
type Case<'a> = (Call, Code, &'a [&'a str]);

async fn refuses(cluster: &Cluster, cases: impl IntoIterator<Item = Case<'_>>) {
    let mut faults = Vec::new();
    for (call, code, naming) in cases {
        let asked = format!("{call:?}");
        let answer = cluster.ask(1, call).await;
        let outcome = std::panic::catch_unwind(|| drop(answer.refused(code, naming)));
        if let Err(panic) = outcome {
            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            faults.push(format!("{asked}\n    must be {code:?} naming {naming:?}: {said}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn hashed(cluster: &Cluster, name: &str) {
    let body = json!({"name": name, "kind": "hashed", "buckets": 8});
    let _: PoolBody = cluster.ask(1, Call::post("/v1/pools", &body)).await.ok().unwrap();
}

async fn session(cluster: &Cluster) -> String {
    let body = OpenSession { timeout_ms: Some(60_000) };
    let opened: SessionOpened = cluster.ask(1, Call::post("/v1/sessions", &body)).await.ok().unwrap();
    format!("{}:{}", opened.session, opened.password)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_pool_is_named_by_every_endpoint() {
    let cluster = Cluster::start(1).await;
    let session = session(&cluster).await;
    let at = |rest: &str| format!("/v1/pools/nowhere{rest}");
    let reads = [
        "",
        "/plan",
        "/members",
        "/members/m",
        "/members/m/assignment",
        "/buckets/0",
        "/items",
        "/items/i",
        "/table",
        "/owner?key=k",
        "/checkpoints/0",
    ];
    let mut calls: Vec<Call> = reads.iter().map(|rest| Call::get(&at(rest))).collect();
    calls.extend([
        Call::delete(&at("")),
        Call::put(&at(""), &json!({"max_concurrent_moves": 1})),
        Call::post(&at("/members"), &json!({"name": "m"})),
        Call::delete(&at("/members/m")),
        Call::put(&at("/members"), &json!({"members": ["m"], "weight": 2})),
        Call::post(&at("/plan"), &json!({})),
        Call::post(&at("/members/m/drain"), &json!({})),
        Call::delete(&at("/members/m/drain")),
        Call::post(&at("/buckets/0/release"), &json!({"fence": 1})),
        Call::post(&at("/items"), &json!({"name": "i"})),
        Call::delete(&at("/items/i")),
        Call::put(&at("/checkpoints/0"), &json!({"fence": 1, "data": ""})),
    ]);
    let named = |call: Call| (call.header("rota-session", &session), Code::NoPool, &["\"nowhere\""][..]);
    refuses(&cluster, calls.into_iter().map(named)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_members_and_items_have_bounds() {
    let cluster = Cluster::start(1).await;
    hashed(&cluster, "work").await;
    let _: PoolBody = cluster
        .ask(1, Call::post("/v1/pools", &json!({"name": "things", "kind": "named"})))
        .await
        .ok()
        .unwrap();
    let session = session(&cluster).await;
    let make = |body: Value| Call::post("/v1/pools", &body);
    let join = |body: Value| Call::post("/v1/pools/work/members", &body).header("rota-session", &session);
    let pool = |name: &str| json!({"name": name, "kind": "hashed"});
    refuses(
        &cluster,
        [
            (
                make(json!({"name": "p", "kind": "hashed", "buckets": 0})),
                Code::BadSpec,
                &["buckets is 0", "from 1"][..],
            ),
            (make(json!({"name": "p", "kind": "hashed", "buckets": 100_001})), Code::BadSpec, &["100001"]),
            (
                make(json!({"name": "p", "kind": "hashed", "max_concurrent_moves": 0})),
                Code::BadSpec,
                &["max_concurrent_moves is 0"],
            ),
            (
                make(json!({"name": "p", "kind": "named", "buckets": 4})),
                Code::BadSpec,
                &["leave out buckets"],
            ),
            (make(json!({"name": "p", "kind": "hashed", "replicas": 0})), Code::BadSpec, &["replicas is 0"]),
            (make(json!({"name": "p", "kind": "hashed", "replicas": 8})), Code::BadSpec, &["1 to 7"]),
            (make(json!({"name": "p", "kind": "hashed", "replicas": "x"})), Code::BadJson, &["replicas"]),
            (
                make(json!({"name": "p", "kind": "hashed", "max_unavailable": 0})),
                Code::BadSpec,
                &["max_unavailable is 0"],
            ),
            (
                make(json!({"name": "p", "kind": "hashed", "rejoin_grace_ms": 86_400_001})),
                Code::BadSpec,
                &["a day"],
            ),
            (
                make(json!({"name": "p", "kind": "hashed", "when_stuck": "move"})),
                Code::BadSpec,
                &["stuck_ms", "--stuck-after"],
            ),
            (
                make(json!({"name": "p", "kind": "hashed", "balance": "load", "strategy": "ring"})),
                Code::BadSpec,
                &["balanced"],
            ),
            (
                make(json!({"name": "p", "kind": "hashed", "handoff": "hot"})),
                Code::BadJson,
                &["handoff", "hot"],
            ),
            (make(json!({"name": "p", "kind": "hashed", "strategy": "odd"})), Code::BadJson, &["ring"]),
            (
                make(json!({"name": "p", "kind": "hashed", "stuck_ms": 10})),
                Code::BadSpec,
                &["stuck_ms is 10"],
            ),
            (
                make(json!({"name": "p", "kind": "hashed", "imbalance_threshold_percent": 1})),
                Code::BadSpec,
                &["3 to"],
            ),
            (make(json!({"name": "p", "kind": "hashed", "version": 1})), Code::BadSpec, &["version"]),
            (make(json!({"name": "p", "kind": "hashed", "odd": 1})), Code::BadJson, &["odd"]),
            (make(json!({"name": "p", "kind": "odd"})), Code::BadJson, &["kind", "odd"]),
            (make(json!({"name": "p", "kind": "hashed", "buckets": -1})), Code::BadJson, &["buckets"]),
            (make(json!({"name": "p"})), Code::BadJson, &["kind"]),
            (make(pool("")), Code::BadName, &["name"]),
            (make(pool("..")), Code::BadName, &["'..'"]),
            (make(pool("a/b")), Code::BadName, &["'/'"]),
            (make(pool("a\nb")), Code::BadName, &["'\\n'"]),
            (make(pool(&"x".repeat(256))), Code::BadName, &["255"]),
            (make(pool("work")), Code::Exists, &["\"work\""]),
            (Call::put("/v1/pools/work", &json!({"buckets": 16})), Code::Fixed, &["buckets", "fixed"]),
            (Call::put("/v1/pools/work", &json!({"buckets": 0})), Code::BadSpec, &["buckets is 0"]),
            (Call::put("/v1/pools/things", &json!({"buckets": 16})), Code::Fixed, &["kind", "fixed"]),
            (
                Call::put("/v1/pools/work", &json!({"max_concurrent_moves": 9, "version": 7})),
                Code::BadVersion,
                &["version 0", "7"],
            ),
            (join(json!({"name": "m", "weight": 0})), Code::BadMember, &["weight is 0"]),
            (join(json!({"name": "m", "weight": -1})), Code::BadJson, &["weight"]),
            (join(json!({"name": "m", "weight": 1_000_001})), Code::BadMember, &["weight is 1000001"]),
            (join(json!({"name": "m", "address": "x".repeat(1025)})), Code::BadMember, &["address"]),
            (join(json!({"name": "a/b"})), Code::BadName, &["'/'"]),
            (
                Call::post("/v1/pools/work/members", &json!({"name": "m"})),
                Code::BadRequest,
                &["rota-session"],
            ),
            (
                Call::post("/v1/pools/work/items", &json!({"name": "i", "persistent": true})),
                Code::BadRequest,
                &["hashed"],
            ),
            (
                Call::post("/v1/pools/things/items", &json!({"name": "i"})),
                Code::BadRequest,
                &["rota-session"],
            ),
            (Call::get("/v1/pools/things/items/i"), Code::NoItem, &["\"i\"", "\"things\""]),
            (Call::get("/v1/pools/things/owner?key=k"), Code::BadRequest, &["\"things\"", "named"]),
            (Call::get("/v1/pools/work/owner"), Code::BadRequest, &["key"]),
            (Call::get("/v1/pools/work/members/m"), Code::NoMember, &["\"m\"", "\"work\""]),
            (Call::get("/v1/pools/work/buckets/8"), Code::NoBucket, &["\"8\"", "\"work\""]),
        ],
    )
    .await;
    let untouched: PoolBody = cluster.ask(1, Call::get("/v1/pools/work")).await.ok().unwrap();
    assert_eq!((untouched.version, untouched.members), (0, 0), "nothing of all that was done");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_paths_follow_the_rules() {
    let cluster = Cluster::start(1).await;
    let create = |path: &str| Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default());
    let _: NodeBody = cluster.ask(1, create("/a")).await.ok().unwrap();
    let _: NodeBody = cluster.ask(1, create("/a/b")).await.ok().unwrap();
    let bad_paths =
        ["/a/../b", "/a/%2e%2e/b", "/a/./b", "/a//b", "/a/", "/a/x%01y", "/a/x%0ay", "/a/x%7f", "/a/%00"];
    let mut cases: Vec<Case<'_>> = Vec::new();
    for path in bad_paths {
        let at = format!("/v1/nodes{path}");
        for call in [Call::get(&at), create(path), Call::put(&at, &json!({"data": ""})), Call::delete(&at)] {
            cases.push((call, Code::BadPath, &["path"]));
        }
    }
    cases.push((Call::get(&format!("/v1/nodes/{}", "x".repeat(4096))), Code::BadPath, &["4096"]));
    cases.extend([
        (Call::get("/v1/nodes/a%ff"), Code::BadPath, &[][..]),
        (Call::get("/v1/watch?path=relative"), Code::BadPath, &["'/'"]),
        (Call::get("/v1/watch?path=/a/../b"), Code::BadPath, &["'..'"]),
        (Call::get("/v1/watch"), Code::BadRequest, &["path"]),
        (Call::get("/v1/nodes/none"), Code::NoNode, &["/none"]),
        (create("/none/x"), Code::NoNode, &["/none"]),
        (create("/a"), Code::Exists, &["/a"]),
        (Call::delete("/v1/nodes/a"), Code::NotEmpty, &["/a"]),
        (Call::delete("/v1/nodes/a/b?version=5"), Code::BadVersion, &["/a/b", "version 0", "5"]),
        (
            Call::put("/v1/nodes/a", &json!({"data": "x", "version": 9})),
            Code::BadVersion,
            &["/a", "version 0", "9"],
        ),
        (
            Call::put("/v1/nodes/a", &json!({"data": "xyz", "encoding": "hex"})),
            Code::BadRequest,
            &["hexadecimal"],
        ),
        (Call::post("/v1/nodes/e", &json!({"mode": "ephemeral"})), Code::BadRequest, &["session"]),
        (create("/rota/mine"), Code::Reserved, &["/rota/mine"]),
        // Only a multi that checks the bucket's row can write a checkpoint.
        (create("/rota/pools/work/checkpoints/0"), Code::Reserved, &["check_fence"]),
        (create("/rota/pools/work/checkpoints/0/below"), Code::Reserved, &["below"]),
        (
            Call::put("/v1/nodes/rota/pools/work/checkpoints/0", &json!({"data": "5"})),
            Code::Reserved,
            &["check_fence"],
        ),
        (
            Call::post(
                "/v1/multi",
                &json!({"ops": [
                    {"op": "check_fence", "path": "/rota/pools/work/buckets/1", "fence": 1},
                    {"op": "create", "path": "/rota/pools/work/checkpoints/0"},
                ]}),
            ),
            Code::Reserved,
            &["checkpoints/0"],
        ),
        (Call::delete("/v1/nodes/rota/pools"), Code::Reserved, &["/rota/pools"]),
    ]);
    refuses(&cluster, cases).await;

    let multi =
        |path: &str| json!({"ops": [{"op": "create", "path": "/new"}, {"op": "delete", "path": path}]});
    let error =
        cluster.ask(1, Call::post("/v1/multi", &multi("/none"))).await.refused(Code::NoNode, &["/none"]);
    assert_eq!(error.details["index"], 1, "it says which operation: {error:?}");
    let error =
        cluster.ask(1, Call::post("/v1/multi", &multi("/a/.."))).await.refused(Code::BadPath, &["/a/.."]);
    assert_eq!(error.details["index"], 1, "{error:?}");
    refuses(&cluster, [(Call::get("/v1/nodes/new"), Code::NoNode, &["/new"][..])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_headers_and_parameters_are_checked() {
    let cluster = Cluster::start(1).await;
    hashed(&cluster, "work").await;
    let text = |body: &str| {
        Call::new(Method::POST, "/v1/pools").header("content-type", "application/json").bytes(body.to_owned())
    };
    let bare = Call::new(Method::POST, "/v1/pools").bytes(r#"{"name":"p","kind":"hashed"}"#);
    let unknown = |path: &str, body: Value| Call::post(path, &body);
    let as_session = |value: &str| Call::post("/v1/nodes/x", &json!({})).header("rota-session", value);
    let read_as_session = Call::get("/v1/nodes/rota").header("rota-session", "nonsense");
    refuses(
        &cluster,
        [
            (text(r#"{"name":"#), Code::BadJson, &["column"][..]),
            (text(""), Code::BadJson, &[]),
            (text("[]"), Code::BadJson, &[]),
            (text(r#"{"name":1,"kind":"hashed"}"#), Code::BadJson, &["name", "string"]),
            (text("{\"name\":\"p\",\"kind\":\"hashed\"} more"), Code::BadJson, &[]),
            (bare, Code::BadJson, &["content-type", "application/json"]),
            (
                unknown("/v1/pools", json!({"name": "p", "kind": "hashed", "bukets": 4})),
                Code::BadJson,
                &["bukets"],
            ),
            (Call::put("/v1/pools/work", &json!({"nonsense": 4})), Code::BadJson, &["nonsense"]),
            (unknown("/v1/sessions", json!({"timeout": 4})), Code::BadJson, &["timeout"]),
            (unknown("/v1/nodes/x", json!({"dada": ""})), Code::BadJson, &["dada"]),
            (
                unknown("/v1/multi", json!({"ops": [{"op": "check", "path": "/a", "verzion": 1}]})),
                Code::BadJson,
                &["verzion"],
            ),
            (unknown("/v1/multi", json!({"ops": []})), Code::BadRequest, &["from 1"]),
            (
                unknown("/v1/cluster/servers", json!({"id": 2, "peer_address": "a:1", "x": 1})),
                Code::BadJson,
                &["x"],
            ),
            (as_session("nonsense"), Code::BadRequest, &["rota-session", "ID:PASSWORD"]),
            (as_session("0123456789abcdef:short"), Code::BadRequest, &["rota-session"]),
            (read_as_session, Code::BadRequest, &["rota-session"]),
            (Call::get("/v1/cluster").header("rota-min-zxid", "x"), Code::BadRequest, &["rota-min-zxid"]),
            (Call::get("/v1/pools/work/table?wait_ms=60001"), Code::BadRequest, &["wait_ms", "60000"]),
            (Call::get("/v1/pools/work/table?wait_ms=-1"), Code::BadRequest, &["wait_ms"]),
            (Call::get("/v1/pools/work/table?since=x"), Code::BadRequest, &["since"]),
            (Call::get("/v1/watch?path=/&wait_ms=99999999"), Code::BadRequest, &["wait_ms", "60000"]),
            (Call::get("/v1/pools/work/members/m/assignment?wait_ms=60001"), Code::BadRequest, &["wait_ms"]),
            (Call::get("/v1/nodes/rota?consistent=perhaps"), Code::BadRequest, &["consistent"]),
            // A misspelt condition is not a missing one.
            (Call::delete("/v1/nodes/x?verison=7"), Code::BadRequest, &["verison"]),
            (Call::get("/v1/pools?consistant=true"), Code::BadRequest, &["consistant"]),
            (Call::get("/v1/watch?path=/&recursiv=true"), Code::BadRequest, &["recursiv"]),
            (Call::get("/v1/pools/work/table?sinse=1"), Code::BadRequest, &["sinse"]),
            (Call::get("/v1/pools/work/owner?kee=a"), Code::BadRequest, &["kee"]),
            (Call::get("/v1/nothing"), Code::NoEndpoint, &["/v1/nothing", "openapi.json"]),
            (Call::get("/"), Code::NoEndpoint, &["/"]),
            (Call::new(Method::PATCH, "/v1/pools"), Code::BadMethod, &["PATCH", "/v1/pools"]),
            (Call::delete("/v1/cluster"), Code::BadMethod, &["DELETE", "/v1/cluster"]),
            (Call::get("/v1/sessions/nonsense"), Code::BadRequest, &["nonsense"]),
            (Call::delete("/v1/cluster/servers/x"), Code::BadPath, &[]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused() {
    let flags = ["--body-bytes-max", "4096"].map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(3, rota_tests::Settings { flags, ..Default::default() }).await;
    let body = |size: usize| NodeCreate { data: "x".repeat(size), ..NodeCreate::default() };
    for id in cluster.ids() {
        let create = |size| Call::post(&format!("/v1/nodes/n{id}"), &body(size));
        let _ = cluster.ask(id, create(5_000)).await.refused(Code::TooLarge, &["4096"]);
        let _: NodeBody = cluster.ask(id, create(3_000)).await.ok().unwrap();
    }
    // One that would be far too large is told before it has sent it all.
    let head = "POST /v1/nodes/n HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\nconnection: close\r\n\r\n";
    let request = [head.as_bytes(), b"{\"data\":\"", "x".repeat(5_000).as_bytes()].concat();
    let answer = raw(&cluster.http(1), &request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too_large"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_turned_away() {
    let cluster = Cluster::start(1).await;
    for request in ["GET /v1/nodes/a\x01b HTTP/1.1\r\nhost: x\r\n\r\n", "nonsense\r\n\r\n", "\0\0\0\x08rota"]
    {
        let answer = raw(&cluster.http(1), request.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{request:?}: {answer}");
    }
    // Neither a client at the servers' own port nor the other way round does harm.
    assert_eq!(raw(&cluster.peer(1), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap(), "");
    let _: NodeBody = cluster.ask(1, Call::get("/v1/nodes")).await.ok().unwrap();
}
