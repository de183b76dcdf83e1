//! The OpenAPI document is sound, and says what there is: no more, no less.

use std::collections::BTreeSet;

use http::Method;
use rota_protocol::http::{Code, OpenSession, SessionOpened};
use rota_tests::{Call, Cluster};
use serde_json::{Value, json};

/// Every endpoint of the API, as the design names them.
const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/cluster", &["get"]),
    ("/v1/cluster/servers", &["post"]),
    ("/v1/cluster/servers/{server}", &["delete"]),
    ("/v1/cluster/servers/{server}/promote", &["post"]),
    ("/v1/cluster/leader", &["post"]),
    ("/v1/cluster/snapshot", &["post"]),
    ("/v1/import", &["post"]),
    ("/v1/sessions", &["get", "post"]),
    ("/v1/sessions/{session}", &["delete", "get"]),
    ("/v1/sessions/{session}/keep-alive", &["post"]),
    ("/v1/nodes", &["get"]),
    ("/v1/nodes/{path}", &["delete", "get", "post", "put"]),
    ("/v1/multi", &["post"]),
    ("/v1/watch", &["get"]),
    ("/v1/pools", &["get", "post"]),
    ("/v1/pools/{pool}", &["delete", "get", "put"]),
    ("/v1/pools/{pool}/plan", &["get", "post"]),
    ("/v1/pools/{pool}/members", &["get", "post", "put"]),
    ("/v1/pools/{pool}/members/{member}", &["delete", "get"]),
    ("/v1/pools/{pool}/members/{member}/replace", &["post"]),
    ("/v1/pools/{pool}/members/{member}/drain", &["delete", "post"]),
    ("/v1/pools/{pool}/members/{member}/assignment", &["get"]),
    ("/v1/pools/{pool}/buckets/{bucket}", &["get"]),
    ("/v1/pools/{pool}/buckets/{bucket}/history", &["get"]),
    ("/v1/pools/{pool}/buckets/{bucket}/ready", &["post"]),
    ("/v1/pools/{pool}/buckets/{bucket}/release", &["post"]),
    ("/v1/pools/{pool}/buckets/{bucket}/step-down", &["post"]),
    ("/v1/pools/{pool}/items", &["get", "post"]),
    ("/v1/pools/{pool}/items/{item}", &["delete", "get"]),
    ("/v1/pools/{pool}/table", &["get"]),
    ("/v1/pools/{pool}/owner", &["get"]),
    ("/v1/pools/{pool}/checkpoints/{bucket}", &["delete", "get", "put"]),
];

/// Paths and methods in the document.
fn documented(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().expect("the document has paths");
    let methods = ["get", "put", "post", "delete", "patch", "head", "options"];
    let of_path = |(path, item): (&String, &Value)| {
        let item = item.as_object().expect("a path has methods").clone();
        let known = item.into_iter().map(|(method, _)| method).filter(|m| methods.contains(&m.as_str()));
        known.map(|method| (path.clone(), method)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

/// Everything that `$ref` names, anywhere.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

async fn document(cluster: &Cluster) -> Value {
    cluster.ask(1, Call::get("/v1/openapi.json")).await.ok().expect("the document is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_sound_and_complete() {
    let cluster = Cluster::start(1).await;
    let document = document(&cluster).await;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    assert_eq!(document["info"]["title"], "Rota");
    assert_eq!(document["components"]["securitySchemes"]["session"]["name"], "rota-session");
    for (path, item) in document["paths"].as_object().unwrap() {
        assert!(!path.contains('*'), "{path} is no template of OpenAPI's");
        let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        for name in named {
            let operations = item.as_object().unwrap().values().filter(|operation| operation.is_object());
            for parameters in operations.map(|operation| operation["parameters"].as_array().unwrap()) {
                assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"), "{path}: {name}");
            }
        }
    }
    let mut named = BTreeSet::new();
    references(&document, &mut named);
    assert!(named.len() > 20, "{named:?}");
    for reference in named {
        let pointer = reference.strip_prefix('#').expect("references stay within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let expected: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(move |m| ((*path).to_owned(), (*m).to_owned())))
        .collect();
    assert_eq!(documented(&document), expected);
    for (path, item) in document["paths"].as_object().unwrap() {
        let operations = item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters");
        for (method, operation) in operations {
            let says = operation["summary"].as_str().or(operation["description"].as_str());
            assert!(says.is_some_and(|text| !text.is_empty()), "{method} {path} does not say what it does");
            assert!(operation["responses"]["default"].is_object(), "{method} {path} has no error's body");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_path_is_there() {
    let cluster = Cluster::start(1).await;
    let opened = cluster.ask(1, Call::post("/v1/sessions", &OpenSession::default())).await;
    let session: SessionOpened = opened.ok().unwrap();
    let credentials = format!("{}:{}", session.session, session.password);
    for (path, method) in documented(&document(&cluster).await) {
        // Names that nothing has, so that little is done.
        let mut at = path.replace("{server}", "9").replace("{session}", "00000000000000aa");
        for name in ["{path}", "{pool}", "{member}", "{bucket}", "{item}"] {
            at = at.replace(name, "nothing");
        }
        let method: Method = method.to_uppercase().parse().unwrap();
        let call = Call::new(method.clone(), &at).header("rota-session", &credentials);
        let call = if matches!(method, Method::POST | Method::PUT) { call.json(&json!({})) } else { call };
        let answer = cluster.ask(1, call).await;
        let code = answer.code();
        let there = !matches!(code, Some(Code::NoEndpoint | Code::BadMethod | Code::Internal));
        assert!(there, "{method} {path}: {}: {}", answer.status, answer.text());
        assert!(answer.status.is_success() || code.is_some(), "{method} {path}: {}", answer.text());
    }
}
