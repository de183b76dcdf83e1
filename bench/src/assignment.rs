//! What handing out work costs: plans of large pools, and how fast a row's change reaches those
//! whom it concerns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use rota_core::assign::{PlannerInputs, fast_path_step, reconcile_step};
use rota_core::pool::{DecodedWrites, Kind, Member, PoolView, Pools, Spec, layout, to_json};
use rota_core::state::{Actor, Command, CreateMode, Op, Password, SessionId, State, Timestamp};
use rota_protocol::http::{
    Assignment, JoinPool, MembersChange, PlanBody, PoolBody, PoolChange, PoolCreate, PoolKind, SessionOpened,
};
use rota_tests::{Call, Cluster, Http, LIVENESS, Settings, eventually};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Debug, Args)]
pub struct AssignmentArgs {
    /// Members of the pool that is planned.
    #[arg(long, default_value_t = 1000)]
    members: usize,
    /// Its buckets.
    #[arg(long, default_value_t = 100_000)]
    buckets: usize,
    /// Owners of each.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Its zones.
    #[arg(long, default_value_t = 10)]
    zones: usize,
    /// Workers that wait for what concerns them; 0 for none.
    #[arg(long, default_value_t = 1000)]
    workers: usize,
    /// Changes of rows that are measured with them.
    #[arg(long, default_value_t = 500)]
    changes: usize,
    /// Watchers of one table; 0 for none.
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
}

pub async fn run(args: &AssignmentArgs) -> anyhow::Result<()> {
    plans(args)?;
    if args.workers > 0 {
        workers(args).await?;
    }
    if args.watchers > 0 {
        watchers(args).await?;
    }
    Ok(())
}

/// A pool in a state of its own, without servers.
struct Planned {
    state: State,
    pools: Pools,
}

const POOL: &str = "planned";

impl Planned {
    fn new(args: &AssignmentArgs) -> anyhow::Result<Self> {
        let state = State::new();
        let mut planned = Self { pools: Pools::load(&state), state };
        let kind = Kind::Hashed { buckets: u32::try_from(args.buckets)? };
        let spec = Spec { replicas: u32::try_from(args.replicas)?, ..Spec::new(kind) };
        planned.write(None, layout::create_pool(POOL, to_json(&spec)))?;
        (0..args.members).try_for_each(|number| planned.join(args, number))?;
        Ok(planned)
    }

    fn apply(&mut self, command: Command) -> anyhow::Result<()> {
        let applied = self.state.apply(self.state.zxid() + 1, Timestamp::default(), command);
        self.pools.apply_events(&self.state, &applied.events, &DecodedWrites::default());
        applied.reply?;
        Ok(())
    }

    fn write(&mut self, session: Option<SessionId>, ops: Vec<Op>) -> anyhow::Result<()> {
        self.apply(Command::Multi { by: Actor::rota(session), ops })
    }

    fn join(&mut self, args: &AssignmentArgs, number: usize) -> anyhow::Result<()> {
        let session = SessionId(u64::try_from(number)? + 1);
        self.apply(Command::OpenSession { session, password: Password([0; 16]), timeout_ms: 1000 })?;
        let member = Member { zone: (number % args.zones).to_string(), ..Member::default() };
        let path = layout::member(POOL, &format!("w{number}"));
        self.write(Some(session), vec![Op::create(path, to_json(&member), CreateMode::Ephemeral)])
    }

    fn drain(&mut self, draining: bool) -> anyhow::Result<()> {
        let entry = self.view()?.members.get("w1").context("it is there")?;
        let member = Member { draining, ..entry.member.clone() };
        self.write(None, vec![Op::set(layout::member(POOL, "w1"), to_json(&member), None)])
    }

    fn view(&self) -> anyhow::Result<&PoolView> {
        self.pools.get(POOL).context("the pool is there")
    }

    /// Looks as the controller does, and says how long that took: first at what needs no planning.
    fn look(&mut self, what: &str) -> anyhow::Result<()> {
        let began = std::time::Instant::now();
        let quick = fast_path_step(self.view()?);
        let quick_took = began.elapsed();
        quick.multis.into_iter().try_for_each(|ops| self.write(None, ops))?;
        let began = std::time::Instant::now();
        let step = reconcile_step(self.state.tree(), self.view()?, &PlannerInputs::default())?;
        let took = began.elapsed();
        let report = &step.report;
        println!(
            "{what:<24} {:>6} ms, before that {} promoted in {} ms; {} moves (at least {}), {} placements, {} unplaced",
            took.as_millis(),
            quick.grants,
            quick_took.as_millis(),
            report.moves,
            report.moves_lower_bound,
            report.placements,
            report.unplaced
        );
        step.multis.into_iter().try_for_each(|ops| self.write(None, ops))
    }
}

fn plans(args: &AssignmentArgs) -> anyhow::Result<()> {
    let AssignmentArgs { buckets, replicas, members, zones, .. } = *args;
    println!(
        "{buckets} buckets x {replicas} over {members} members in {zones} zones: a look of the controller"
    );
    let mut planned = Planned::new(args)?;
    planned.look("from nothing")?;
    planned.look("nothing to do")?;
    planned.apply(Command::CloseSession { session: SessionId(1) })?;
    planned.look("after a death")?;
    planned.drain(true)?;
    planned.look("a member is drained")?;
    planned.drain(false)?;
    planned.look("it is taken back")?;
    planned.join(args, members)?;
    planned.look("a member joins")
}

/// A thousand workers wait for what concerns them, and rows change: a member is drained and taken
/// back. Measured is the time from the release of a bucket until its next owner has been told.
async fn workers(args: &AssignmentArgs) -> anyhow::Result<()> {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let buckets = u32::try_from(args.workers * 10)?;
    let settings =
        PoolChange { buckets: Some(buckets), max_concurrent_moves: Some(16), ..PoolChange::default() };
    let create = PoolCreate { name: "rows".to_owned(), kind: PoolKind::Hashed, settings };
    let _: PoolBody = cluster.ask(1, Call::post("/v1/pools", &create)).await.ok()?;
    let http = Http::default();
    let released: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
    let (told, mut times) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for number in 0..args.workers {
        let server = cluster.http(u64::try_from(number % 3)? + 1);
        let worker = FakeWorker {
            http: http.clone(),
            server,
            name: format!("w{number}"),
            released: Arc::clone(&released),
            told: told.clone(),
        };
        tasks.spawn(worker.run());
    }
    let pool =
        async || -> anyhow::Result<PoolBody> { cluster.send(1, Call::get("/v1/pools/rows")).await?.ok() };
    eventually("all have their share", LIVENESS * 6, async || {
        let pool = pool().await?;
        ensure!(pool.members as usize == args.workers && pool.vacant == 0 && pool.moving == 0, "{pool:?}");
        let plan: PlanBody = cluster.send(1, Call::get("/v1/pools/rows/plan")).await?.ok()?;
        ensure!(plan.pending.is_empty() && plan.report.waiting.is_empty(), "{:?}", plan.report);
        Ok(())
    })
    .await;
    while times.try_recv().is_ok() {}
    released.lock().await.clear();
    let mut seen = Histogram::<u64>::new(3)?;
    for number in 0.. {
        if seen.len() as usize >= args.changes {
            break;
        }
        for draining in [true, false] {
            let members = vec![format!("w{}", number % args.workers)];
            let change = MembersChange { members, draining: Some(draining), ..MembersChange::default() };
            let answer = cluster.ask(2, Call::put("/v1/pools/rows/members", &change)).await;
            let _: serde_json::Value = answer.ok()?;
            for _ in 0..10 {
                let time: Duration = tokio::time::timeout(LIVENESS, times.recv())
                    .await
                    .context("a bucket has passed on")?
                    .context("workers wait")?;
                seen.record(u64::try_from(time.as_micros())?)?;
            }
        }
    }
    println!(
        "{} workers, {} buckets, {} passed on: from the release until the next owner was told: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        args.workers,
        buckets,
        seen.len(),
        seen.value_at_quantile(0.5) as f64 / 1000.0,
        seen.value_at_quantile(0.99) as f64 / 1000.0,
        seen.max() as f64 / 1000.0
    );
    tasks.abort_all();
    Ok(())
}

/// Waits for what concerns it, and lets go at once of what it is asked to.
struct FakeWorker {
    http: Http,
    server: String,
    name: String,
    released: Arc<Mutex<BTreeMap<String, Instant>>>,
    told: mpsc::UnboundedSender<Duration>,
}

impl FakeWorker {
    async fn run(self) -> anyhow::Result<()> {
        let opened = Call::post("/v1/sessions", &json!({"timeout_ms": 60_000}));
        let opened: SessionOpened = self.http.send(&self.server, opened).await?.ok()?;
        let secret = format!("{}:{}", opened.session, opened.password);
        let join = JoinPool { name: self.name.clone(), ..JoinPool::default() };
        let join = Call::post("/v1/pools/rows/members", &join).header("rota-session", &secret);
        let _: serde_json::Value = self.http.send(&self.server, join).await?.ok()?;
        let keep = {
            let (http, server, secret) = (self.http.clone(), self.server.clone(), secret.clone());
            let path = format!("/v1/sessions/{}/keep-alive", opened.session);
            async move {
                let mut beat = tokio::time::interval(Duration::from_secs(15));
                loop {
                    beat.tick().await;
                    let call = Call::post(&path, &json!({})).header("rota-session", &secret);
                    drop(http.send(&server, call).await);
                }
            }
        };
        tokio::select! {
            () = keep => Ok(()),
            followed = self.follow(&secret) => followed,
        }
    }

    async fn follow(&self, secret: &str) -> anyhow::Result<()> {
        let (mut since, mut had) = (String::new(), BTreeMap::new());
        loop {
            let path = format!("/v1/pools/rows/members/{}/assignment?wait_ms=20000{since}", self.name);
            let call = Call::get(&path).header("rota-session", secret);
            let assignment: Assignment = self.http.send(&self.server, call).await?.ok()?;
            let now = Instant::now();
            since = format!("&since={}", assignment.version);
            let have: BTreeMap<String, u64> =
                assignment.grants.iter().map(|grant| (grant.bucket.clone(), grant.fence)).collect();
            for (bucket, fence) in &have {
                if had.get(bucket) != Some(fence)
                    && let Some(at) = self.released.lock().await.remove(bucket)
                {
                    let _ = self.told.send(now - at);
                }
            }
            for bucket in &assignment.release {
                let Some(fence) = have.get(bucket) else { continue };
                self.released.lock().await.insert(bucket.clone(), Instant::now());
                let path = format!("/v1/pools/rows/buckets/{bucket}/release");
                let call = Call::post(&path, &json!({"fence": fence})).header("rota-session", secret);
                drop(self.http.send(&self.server, call).await?);
            }
            had = have;
        }
    }
}

/// Ten thousand listeners of one table's stream of events: from a change until each of them has
/// heard of it.
async fn watchers(args: &AssignmentArgs) -> anyhow::Result<()> {
    let cluster = Cluster::start_with(3, Settings { alone: true, ..Settings::default() }).await;
    let settings = PoolChange { buckets: Some(1024), ..PoolChange::default() };
    let create = PoolCreate {
        name: "watched".to_owned(),
        kind: PoolKind::Named,
        settings: PoolChange { buckets: None, ..settings },
    };
    let _: PoolBody = cluster.ask(1, Call::post("/v1/pools", &create)).await.ok()?;
    for id in cluster.ids() {
        // A server that is behind would refuse its watchers: no such pool.
        let _: PoolBody = cluster.ask(id, Call::get("/v1/pools/watched?consistent=true")).await.ok()?;
    }
    let (heard, mut all) = mpsc::unbounded_channel::<(u64, Instant)>();
    let mut tasks = JoinSet::new();
    for number in 0..args.watchers {
        let (server, heard) = (cluster.http(u64::try_from(number % 3)? + 1), heard.clone());
        tasks.spawn(async move { listen(&server, &heard).await });
        if number % 500 == 499 {
            // Accept queues are short.
            tokio::task::yield_now().await;
        }
    }
    // Each is told once what there is.
    for _ in 0..args.watchers {
        tokio::select! {
            received = tokio::time::timeout(LIVENESS * 3, all.recv()) => {
                let _ = received.context("no first event for a watcher")?;
            }
            Some(ended) = tasks.join_next() => ended?.context("a watcher's stream ended")?,
        }
    }
    let mut seen = Histogram::<u64>::new(3)?;
    for round in 0..10 {
        let began = Instant::now();
        let item = json!({"name": format!("i{round}"), "persistent": true});
        let _: serde_json::Value = cluster.ask(1, Call::post("/v1/pools/watched/items", &item)).await.ok()?;
        let mut left = args.watchers;
        while left > 0 {
            let (_, at) = tokio::time::timeout(LIVENESS, all.recv())
                .await
                .context("all hear of it")?
                .context("watchers")?;
            seen.record(u64::try_from((at - began).as_micros())?)?;
            left -= 1;
        }
    }
    println!(
        "{} watchers of one table, 10 changes: from the request until each had heard: p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        args.watchers,
        seen.value_at_quantile(0.5) as f64 / 1000.0,
        seen.value_at_quantile(0.99) as f64 / 1000.0,
        seen.max() as f64 / 1000.0
    );
    tasks.abort_all();
    Ok(())
}

/// Reads a stream of events, and says when each came.
async fn listen(server: &str, heard: &mpsc::UnboundedSender<(u64, Instant)>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(server).await?;
    let mut stream = BufReader::with_capacity(1024, stream);
    let request = format!(
        "GET /v1/pools/watched/table HTTP/1.1\r\nhost: {server}\r\naccept: text/event-stream\r\n\r\n"
    );
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut line = String::new();
    loop {
        line.clear();
        anyhow::ensure!(stream.read_line(&mut line).await? > 0, "the server closed the connection");
        let refused = line.starts_with("HTTP/1.1") && !line.starts_with("HTTP/1.1 200");
        anyhow::ensure!(!refused, "{line}");
        if let Some(version) = line.trim_end().strip_prefix("id: ").and_then(|id| id.parse().ok()) {
            let _ = heard.send((version, Instant::now()));
        }
    }
}
