//! Decoders of ZooKeeper's encodings on bytes of every kind: they end, with a value or
//! an error; a value that was read, written and read again is the same.
//!
//! Bytes are made from valid ones by changing, cutting, doubling and splicing them,
//! lengths above all. `ROTA_FUZZ_SECONDS` says how long each target is tried
//! (`make fuzz`); without it, a fixed number of times. The seed is printed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rota_core::state::{Acl, AclEntry, Identity, Stat};
use rota_protocol::zk::jute::Record;
use rota_protocol::zk::{
    Auth, Body, ClientInfo, ConnectRequest, ConnectResponse, Create, CreateTtl, MultiOp, OpCode, Part,
    PathNumber, PathVersion, PathWatch, ReadOp, Reconfig, Request, SetAcl, SetData, SetWatches, SetWatches2,
    disk, frame,
};

const ROUNDS: u32 = 20_000;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Chance(u64);

impl Chance {
    fn seeded(target: &str) -> Self {
        let given = std::env::var("ROTA_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = given.unwrap_or(u64::from(now.subsec_nanos()));
        println!("{target}: ROTA_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    /// Other bytes, made of these.
    fn mutate(&mut self, corpus: &[Bytes]) -> Bytes {
        let mut bytes = corpus[self.below(corpus.len())].to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.next() as u8),
                2 if at < bytes.len() => bytes[at] = self.next() as u8,
                3 if at + 4 <= bytes.len() => {
                    let lengths = [-1, -2, 0, 1, i32::MAX, i32::MIN, bytes.len() as i32];
                    let length = lengths[self.below(lengths.len())];
                    bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
                }
                4 => {
                    let other = corpus[self.below(corpus.len())].clone();
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                5 => {
                    let end = (at + self.below(16)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => bytes.extend((0..self.below(8)).map(|_| 0)),
            }
        }
        bytes.into()
    }
}

/// Tries a target for as long as is asked for.
fn try_out(target: &str, corpus: &[Bytes], mut run: impl FnMut(&mut Chance, Bytes)) {
    let mut chance = Chance::seeded(target);
    corpus.iter().for_each(|bytes| run(&mut chance, bytes.clone()));
    let seconds: Option<u64> = std::env::var("ROTA_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut rounds = 0;
    while end.map_or(rounds < ROUNDS, |end| rounds % 1024 != 0 || Instant::now() < end) {
        let bytes = chance.mutate(corpus);
        run(&mut chance, bytes);
        rounds += 1;
    }
    println!("{target}: {rounds} rounds");
}

fn written(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut to = BytesMut::new();
    write(&mut to);
    to.freeze()
}

fn path() -> String {
    "/a/b".to_owned()
}

fn data() -> Option<Bytes> {
    Some(Bytes::from_static(b"data"))
}

fn acl() -> Vec<AclEntry> {
    let digest = AclEntry { perms: 3, who: Identity::new("digest", "user:hash") };
    Acl::open().entries().into_iter().chain([digest]).collect()
}

fn stat() -> Stat {
    Stat::read(&mut (0..68u8).collect::<Bytes>()).unwrap()
}

fn requests() -> Vec<Request> {
    let create = |flags| Create { path: path(), data: data(), acl: acl(), flags };
    let read = |watch| PathWatch { path: path(), watch };
    let version = |version| PathVersion { path: path(), version };
    let number = |number| PathNumber { path: path(), number };
    let set = || SetData { path: path(), data: None, version: -1 };
    let ttl = || CreateTtl { create: create(5), ttl_ms: 1000 };
    let watches =
        || SetWatches { seen: 7, data: vec![path()], exist: vec![], children: vec![path(), path()] };
    let joining = Some("server.1=a:1:2;3".to_owned());
    vec![
        Request::Create(create(0)),
        Request::Create2(create(3)),
        Request::CreateContainer(create(4)),
        Request::CreateTtl(ttl()),
        Request::Delete(version(-1)),
        Request::DeleteContainer(path()),
        Request::SetData(set()),
        Request::SetAcl(SetAcl { path: path(), acl: acl(), version: 1 }),
        Request::Multi(vec![
            MultiOp::Create(create(0)),
            MultiOp::Create2(create(1)),
            MultiOp::CreateContainer(create(4)),
            MultiOp::CreateTtl(ttl()),
            MultiOp::Delete(version(2)),
            MultiOp::SetData(set()),
            MultiOp::Check(version(0)),
        ]),
        Request::Reconfig(Reconfig { joining, leaving: None, new_members: None, current: -1 }),
        Request::Exists(read(true)),
        Request::GetData(read(false)),
        Request::GetChildren(read(true)),
        Request::GetChildren2(read(true)),
        Request::GetAcl(path()),
        Request::GetEphemerals(path()),
        Request::GetAllChildrenNumber(path()),
        Request::MultiRead(vec![ReadOp::GetData(read(false)), ReadOp::GetChildren(read(true))]),
        Request::Sync(path()),
        Request::Ping,
        Request::WhoAmI,
        Request::Auth(Auth { auth_type: 0, scheme: "digest".into(), auth: data() }),
        Request::SetWatches(watches()),
        Request::SetWatches2(SetWatches2 {
            one_shot: watches(),
            persistent: vec![path()],
            recursive: vec![],
        }),
        Request::AddWatch(number(1)),
        Request::CheckWatches(number(3)),
        Request::RemoveWatches(number(2)),
        Request::CloseSession,
    ]
}

fn bodies() -> Vec<(OpCode, Body)> {
    vec![
        (OpCode::Create, Body::Path(path())),
        (OpCode::Create2, Body::PathStat(path(), stat())),
        (OpCode::Exists, Body::Stat(stat())),
        (OpCode::GetData, Body::DataStat(data(), stat())),
        (OpCode::GetAcl, Body::AclStat(acl(), stat())),
        (OpCode::GetChildren, Body::Names(vec![path(), path()])),
        (OpCode::GetChildren2, Body::NamesStat(vec![path()], stat())),
        (OpCode::GetAllChildrenNumber, Body::Number(7)),
        (OpCode::WhoAmI, Body::Clients(vec![ClientInfo { scheme: "ip".into(), user: "::1".into() }])),
        (
            OpCode::Multi,
            Body::Parts(vec![
                Part::Create(path()),
                Part::Create2(path(), stat()),
                Part::Delete,
                Part::SetData(stat()),
                Part::Check,
                Part::GetData(data(), stat()),
                Part::GetChildren(vec![path()]),
                Part::Error(-101),
            ]),
        ),
        (OpCode::Delete, Body::Nothing),
    ]
}

#[test]
fn what_was_written_is_read() {
    for request in requests() {
        let mut bytes = written(|to| request.write(to));
        assert_eq!(Request::read(request.op(), &mut bytes), Ok(request));
        assert!(bytes.is_empty());
    }
    for (op, body) in bodies() {
        let mut bytes = written(|to| body.write(to));
        assert_eq!(Body::read(op, &mut bytes), Ok(body));
        assert!(bytes.is_empty());
    }
}

#[test]
fn every_operation_is_tried() {
    // These two are not requests of their own.
    let others = [OpCode::Sasl, OpCode::Check];
    for op in OpCode::ALL {
        assert!(others.contains(op) || requests().iter().any(|request| request.op() == *op), "{op:?}");
    }
}

#[test]
fn requests_of_any_bytes() {
    let corpus: Vec<Bytes> = requests().iter().map(|request| written(|to| request.write(to))).collect();
    try_out("requests", &corpus, |chance, mut bytes| {
        let op = OpCode::ALL[chance.below(OpCode::ALL.len())];
        if let Ok(request) = Request::read(op, &mut bytes) {
            let mut again = written(|to| request.write(to));
            assert_eq!(Request::read(op, &mut again), Ok(request));
        }
    });
}

#[test]
fn answers_of_any_bytes() {
    let corpus: Vec<Bytes> = bodies().iter().map(|(_, body)| written(|to| body.write(to))).collect();
    try_out("answers", &corpus, |chance, mut bytes| {
        let op = OpCode::ALL[chance.below(OpCode::ALL.len())];
        if let Ok(body) = Body::read(op, &mut bytes) {
            let mut again = written(|to| body.write(to));
            assert_eq!(Body::read(op, &mut again), Ok(body));
        }
    });
}

#[test]
fn handshakes_of_any_bytes() {
    let password = Some(Bytes::from_static(&[7; 16]));
    let (protocol_version, timeout_ms, session) = (0, 4000, 8);
    let read_only = Some(true);
    let request = ConnectRequest {
        protocol_version,
        last_zxid_seen: 9,
        timeout_ms,
        session,
        password: password.clone(),
        read_only,
    };
    let response = ConnectResponse { protocol_version, timeout_ms, session, password, read_only: None };
    let corpus = [written(|to| request.write(to)), written(|to| response.write(to))];
    try_out("handshakes", &corpus, |_, mut bytes| {
        if let Ok(request) = ConnectRequest::read(&mut bytes.clone()) {
            let mut again = written(|to| request.write(to));
            assert_eq!(ConnectRequest::read(&mut again), Ok(request));
        }
        if let Ok(response) = ConnectResponse::read(&mut bytes) {
            let mut again = written(|to| response.write(to));
            assert_eq!(ConnectResponse::read(&mut again), Ok(response));
        }
    });
}

#[test]
fn streams_of_any_bytes() {
    let stream = |request: &Request| {
        written(|to| {
            frame::put(to, |to| request.write(to));
            frame::put(to, |_| {});
        })
    };
    let corpus: Vec<Bytes> = requests().iter().map(stream).collect();
    try_out("streams", &corpus, |_, bytes| {
        let mut stream = BytesMut::from(&bytes[..]);
        let mut taken = 0;
        while let Ok(Some(packet)) = frame::take(&mut stream, 1024) {
            assert!(packet.len() <= 1024);
            taken += packet.len() + frame::LEN_BYTES;
        }
        assert_eq!(taken + stream.len(), bytes.len());
    });
}

fn log(kind: i32, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let entry = written(|to| {
        disk::TxnHeader { session: 1, cxid: 2, zxid: 3, time_ms: 4, kind }.write(to);
        body(to);
    });
    written(|to| {
        to.extend_from_slice(b"ZKLG\0\0\0\x02\0\0\0\0\0\0\0\0");
        i64::from(adler2::adler32_slice(&entry)).write(to);
        Some(entry).write(to);
        to.extend_from_slice(b"B\0\0\0\0");
    })
}

fn snapshot() -> Bytes {
    written(|to| {
        to.extend_from_slice(b"ZKSN\0\0\0\x02\0\0\0\0\0\0\0\0");
        vec![disk::StoredSession { session: 5, timeout_ms: 1000 }].write(to);
        1i32.write(to);
        1i64.write(to);
        acl().write(to);
        // The root: its name, no data, list 1, and the rest.
        String::new().write(to);
        to.extend_from_slice(&[0; 4]);
        1i64.write(to);
        to.extend_from_slice(&[0; 60]);
        "/".to_owned().write(to);
        i64::from(adler2::adler32_slice(to)).write(to);
        "/".to_owned().write(to);
    })
}

#[test]
fn files_of_any_bytes() {
    assert_eq!(disk::Snapshot::read(snapshot()).unwrap().nodes.len(), 1);
    let set = |to: &mut BytesMut| {
        "/a".to_owned().write(to);
        data().write(to);
        3i32.write(to);
    };
    let multi = |to: &mut BytesMut| {
        1i32.write(to);
        5i32.write(to);
        Some(written(set)).write(to);
    };
    let logs = [log(5, set), log(2, |to| path().write(to)), log(-10, |to| 1000i32.write(to)), log(14, multi)];
    for log in &logs {
        let whole = disk::read_log(log.clone()).unwrap();
        assert_eq!((whole.txns.len(), whole.is_torn), (1, false));
        // Without the end of its record, and what was allocated ahead.
        assert!(disk::read_log(log.slice(..log.len() - 5)).unwrap().is_torn);
    }
    let corpus: Vec<Bytes> = logs.into_iter().chain([snapshot()]).collect();
    try_out("files", &corpus, |chance, bytes| {
        drop(disk::Snapshot::read(bytes.clone()));
        // With a checksum that is right, what stands in an entry is read.
        let kinds = [-11, -10, -1, 1, 2, 5, 7, 13, 14, 15, 16, 19, 20, 21];
        let body = bytes.slice(chance.below(bytes.len() + 1)..);
        drop(disk::read_log(log(kinds[chance.below(kinds.len())], |to| to.extend_from_slice(&body))));
        drop(disk::read_log(bytes));
    });
}
