//! The agent over HTTP: what it answers, and how soon.

mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use rota_collector::collector::checkpoint::Checkpoint;
use rota_collector::collector::fetch::{Agents, Ask, Fetched};
use rota_collector::naming::url_segment;
use rota_collector::wire::{CHUNK_BYTES, GapReason, IncarnationState};
use rota_protocol::http::{Code, ErrorBody};
use support::{Running, Store, append, bench, get, item, log, sources, until_seen};
use tokio::time::{Instant, sleep};

const SCAN: Duration = Duration::from_secs(1);

fn ask<'a>(
    address: &'a str,
    item: &'a str,
    incarnation: Option<u64>,
    offset: u64,
    wait: Duration,
) -> Ask<'a> {
    Ask { address, item, incarnation, offset, wait, collected: None }
}

#[tokio::test]
async fn statuses_and_headers() {
    let dir = bench();
    fs::create_dir(log(dir.path(), "a")).unwrap();
    append(&log(dir.path(), "a/100% ü.log"), "one\ntwo\n");
    let agent = Running::start(dir.path(), "**/*.log", SCAN).await;
    let name = item("a/100% ü.log");
    let path = format!("/v1/sources/{}/data", url_segment(&name));

    let first = get(&agent.address, &path, &[]).await;
    assert_eq!((first.status(), &first.body()[..]), (StatusCode::PARTIAL_CONTENT, &b"one\ntwo\n"[..]));
    assert_eq!(first.headers()["content-range"], "bytes 0-7/8");
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();

    let tail = get(&agent.address, &path, &[("if-match", &tag), ("range", "bytes=4-")]).await;
    assert_eq!(
        (&tail.body()[..], &tail.headers()["content-range"]),
        (&b"two\n"[..], &"bytes 4-7/8".parse().unwrap())
    );
    let end = get(&agent.address, &path, &[("if-match", &tag), ("range", "bytes=8-")]).await;
    assert_eq!(
        (end.status(), end.headers()["etag"].to_str().unwrap()),
        (StatusCode::NO_CONTENT, tag.as_str())
    );

    let unknown = get(&agent.address, &path, &[("if-match", "\"7\""), ("range", "bytes=3-")]).await;
    assert_eq!(unknown.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(format!("\"{}\"", unknown.headers()["rota-incarnation"].to_str().unwrap()), tag);

    for (path, headers, code) in [
        ("/v1/sources/no@such:item/data", vec![], Code::NoItem),
        ("/v2", vec![], Code::NoEndpoint),
        (path.as_str(), vec![("range", "bytes=0-3")], Code::BadRequest),
        (path.as_str(), vec![("if-match", "x")], Code::BadRequest),
        (&format!("{path}?wait_ms=soon"), vec![], Code::BadRequest),
    ] {
        let refused = get(&agent.address, path, &headers).await;
        let body: ErrorBody = serde_json::from_slice(refused.body()).unwrap();
        assert_eq!((body.code, refused.status().as_u16()), (code, code.status()), "{path}: {}", body.message);
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_chunk_is_bounded() {
    let dir = bench();
    append(&log(dir.path(), "x.log"), &"z".repeat(CHUNK_BYTES + 5));
    let agent = Running::start(dir.path(), "*.log", SCAN).await;
    let (agents, name) = (Agents::default(), item("x.log"));
    let Fetched::Data { incarnation, bytes, size } =
        agents.fetch(&ask(&agent.address, &name, None, 0, Duration::ZERO)).await.unwrap()
    else {
        panic!("no data")
    };
    assert_eq!((bytes.len(), size), (CHUNK_BYTES, CHUNK_BYTES as u64 + 5));
    let rest = ask(&agent.address, &name, Some(incarnation), CHUNK_BYTES as u64, Duration::ZERO);
    let Fetched::Data { bytes, .. } = agents.fetch(&rest).await.unwrap() else { panic!("no data") };
    assert_eq!(bytes.len(), 5);
    agent.stop().await;
}

/// The scan comes too late for this: only events can make it.
#[tokio::test(flavor = "multi_thread")]
async fn events_make_new_files_and_new_bytes_quick() {
    let dir = bench();
    let agent = Running::start(dir.path(), "**/*.log", Duration::from_secs(3600)).await;
    let agents = Agents::default();
    fs::create_dir(log(dir.path(), "new")).unwrap();
    for file in ["x.log", "y.log", "new/z.log"] {
        let name = item(file);
        let began = Instant::now();
        append(&log(dir.path(), file), "one\n");
        let fetched = loop {
            match agents.fetch(&ask(&agent.address, &name, None, 0, Duration::from_secs(10))).await {
                Ok(fetched) => break fetched,
                Err(_) => sleep(Duration::from_millis(2)).await,
            }
            assert!(began.elapsed() < support::DEADLINE, "{file} is never served");
        };
        let Fetched::Data { incarnation, bytes, .. } = fetched else { panic!("{fetched:?}") };
        assert_eq!(bytes, "one\n");
        eprintln!("{file}: served after {:?}", began.elapsed());

        let more = ask(&agent.address, &name, Some(incarnation), 4, Duration::from_secs(50));
        let (fetched, ()) = tokio::join!(agents.fetch(&more), async {
            // Answered later than the other was asked.
            sources(&agent.address).await;
            append(&log(dir.path(), file), "two\n");
        });
        assert!(matches!(fetched.unwrap(), Fetched::Data { bytes, .. } if bytes == "two\n"));
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_and_truncation_send_the_reader_on() {
    let dir = bench();
    let path = log(dir.path(), "x.log");
    append(&path, "one\n");
    let store = Arc::new(Store::default());
    let agent = Running::start_with(dir.path(), "*.log", SCAN, Arc::clone(&store)).await;
    let (agents, name) = (Agents::default(), item("x.log"));
    let wait = Duration::from_secs(30);
    let fetch = async |incarnation, offset| {
        agents.fetch(&ask(&agent.address, &name, incarnation, offset, wait)).await.unwrap()
    };
    let Fetched::Data { incarnation: first, .. } = fetch(None, 0).await else { panic!("no data") };

    fs::rename(&path, log(dir.path(), "x.log.1")).unwrap();
    append(&path, "two\n");
    let Fetched::Ended { next, gap: None, .. } = fetch(Some(first), 4).await else { panic!("not ended") };
    assert!(matches!(fetch(Some(next), 0).await, Fetched::Data { bytes, .. } if bytes == "two\n"));

    append(&path, "unread\n");
    support::until_size(&agent.address, 11).await;
    fs::write(&path, "3\n").unwrap();
    let ended = fetch(Some(next), 4).await;
    let Fetched::Ended { next: third, gap, .. } = ended else { panic!("{ended:?}") };
    assert_eq!(gap, Some((4, None, GapReason::Truncated)));
    assert!(matches!(fetch(Some(third), 0).await, Fetched::Data { bytes, .. } if bytes == "3\n"));

    let listed = sources(&agent.address).await;
    let source = &listed.sources[0];
    assert_eq!((source.item.as_str(), source.gaps.len()), (name.as_str(), 0), "told is not recorded");
    assert!(source.reader.is_none(), "reading alone collects nothing");
    let checkpoint = Checkpoint { incarnation: third, offset: 2, ..Checkpoint::default() };
    store.set(Some(checkpoint));
    let told =
        Ask { collected: Some(checkpoint), ..ask(&agent.address, &name, Some(third), 2, Duration::ZERO) };
    assert_eq!(agents.fetch(&told).await.unwrap(), Fetched::Nothing);
    let reader = until_seen("the agent has read the checkpoint", async || {
        sources(&agent.address).await.sources[0].reader.ok_or_else(String::new)
    })
    .await;
    assert_eq!((reader.incarnation, reader.offset), (third, 2));
    // Whoever has nothing still gets what is on the disk.
    let Fetched::Data { incarnation, bytes, .. } = fetch(None, 0).await else { panic!("no data") };
    assert_eq!((incarnation, &bytes[..]), (first, &b"one\n"[..]));
    let source = &listed.sources[0];
    assert_eq!(source.incarnations.last().unwrap().state, IncarnationState::Live);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_long_polls() {
    let dir = bench();
    append(&log(dir.path(), "x.log"), "one\n");
    let agent = Running::start(dir.path(), "*.log", SCAN).await;
    let (agents, name, address) = (Agents::default(), item("x.log"), agent.address.clone());
    let Fetched::Data { incarnation, .. } = agents.fetch(&ask(&address, &name, None, 0, SCAN)).await.unwrap()
    else {
        panic!("no data")
    };
    let asked = ask(&address, &name, Some(incarnation), 4, Duration::from_secs(50));
    let (polled, ()) = tokio::join!(agents.fetch(&asked), async {
        // Answered later than the other was asked.
        sources(&address).await;
        tokio::time::timeout(Duration::from_secs(5), agent.stop()).await.expect("it stops");
    });
    assert_eq!(polled.unwrap(), Fetched::Nothing);
}
