//! What happens in the demo, in order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{Cluster, PoolChange, PoolCreate, PoolKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::DemoArgs;
use super::application::{APP, Application, FILE};
use super::http::Probe;
use super::inputs::{Inputs, SYSTEM, Target};
use super::observer::{Cost, Observer, PoolSight};
use super::processes::{Cast, HOST, LOGS, MAIL};
use super::report::{Account, Lines, Tenures};
use super::view::View;
use crate::commands::services::told_to_stop;

/// How often the audience sees the cluster anew.
const LOOK_PERIOD: Duration = Duration::from_millis(300);
/// How long the cluster may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the last lines may take to be collected.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long after the leader's death the probe is looked at.
const GAP_WINDOW: Duration = Duration::from_secs(2);

/// Tells the whole story, and gives the account.
pub(super) async fn tell(args: &DemoArgs, show: bool) -> anyhow::Result<Account> {
    let home =
        tempfile::Builder::new().prefix("rota-demo-").tempdir().context("no place for the demo's data")?;
    let out = match &args.out {
        Some(out) => prepare_out(out)?,
        None => home.path().join("out"),
    };
    let mut stage = Stage::new(args, home.path(), out, show)?;
    let interrupted = CancellationToken::new();
    let told = {
        let story = stage.play(args, &interrupted);
        tokio::pin!(story);
        loop {
            tokio::select! {
                told = &mut story => break told,
                told = told_to_stop() => {
                    told?;
                    if interrupted.is_cancelled() {
                        bail!("interrupted twice: no account was taken");
                    }
                    interrupted.cancel();
                }
            }
        }
    };
    stage.cast.dismiss().await;
    told
}

/// The directory for what is collected: it must be empty, since whatever is in
/// it would be taken for collected.
fn prepare_out(out: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut entries = std::fs::read_dir(out).with_context(|| format!("cannot read {}", out.display()))?;
    if entries.next().is_some() {
        bail!("{} is not empty: give --out a new directory", out.display());
    }
    Ok(out.canonicalize()?)
}

struct Stage {
    cast: Cast,
    observer: Observer,
    client: Client,
    view: View,
    application: Application,
    inputs: Inputs,
    out: PathBuf,
    began: Instant,
    account: Account,
    cost: Cost,
}

impl Stage {
    fn new(args: &DemoArgs, home: &Path, out: PathBuf, show: bool) -> anyhow::Result<Self> {
        let cast = Cast::new(home)?;
        let client = Client::new(cast.servers())?;
        Ok(Self {
            observer: Observer::new(&client),
            client,
            cast,
            view: View::new(!show),
            application: Application::new(&home.join("shop"))?,
            inputs: Inputs::find(args.logs.as_deref())?,
            out,
            began: Instant::now(),
            account: Account::default(),
            cost: Cost::default(),
        })
    }

    async fn play(&mut self, args: &DemoArgs, interrupted: &CancellationToken) -> anyhow::Result<Account> {
        self.open(args.buckets).await?;
        let (probe, stop) = (Probe::default(), CancellationToken::new());
        let (application, writing) = (self.application.clone(), stop.clone());
        let (prober, servers, probing) = (probe.clone(), self.cast.servers(), stop.clone());
        let background =
            async move { tokio::join!(application.run(writing), prober.run(servers, probing)).0 };
        let acts = async {
            let played = self.acts(args.duration, interrupted, &probe).await;
            stop.cancel();
            played
        };
        let (wrote, played) = tokio::join!(background, acts);
        wrote?;
        played?;
        self.close().await
    }

    /// Everyone comes on.
    async fn open(&mut self, buckets: u32) -> anyhow::Result<()> {
        self.view.event("three coordinators start");
        for id in 1..=3 {
            self.cast.start_coordinator(id)?;
        }
        self.leader().await?;
        let pool = |name: &str, kind, buckets| PoolCreate {
            name: name.to_owned(),
            kind,
            settings: PoolChange { buckets, ..PoolChange::default() },
        };
        for pool in [pool(MAIL, PoolKind::Hashed, Some(buckets)), pool(LOGS, PoolKind::Named, None)] {
            let _: serde_json::Value =
                self.client.request(Method::POST, "/v1/pools", Some(&pool), &[], Idempotency::Unsafe).await?;
        }
        self.view.event(format!(
            "two agents serve {} files below {} and an application's log; three collectors and four workers join",
            self.inputs.count(),
            self.inputs.base().display()
        ));
        let (glob, too_large) = self.inputs.globs();
        self.cast.start_agent(SYSTEM, &glob, too_large)?;
        self.cast.start_agent(APP, &self.application.glob(), &[])?;
        for n in 1..=3 {
            self.cast.start_collector(&format!("collector-{n}"), &self.out)?;
        }
        for n in 1..=4 {
            self.cast.start_worker(&format!("worker-{n}"))?;
        }
        self.settle(&["worker-1", "worker-2", "worker-3", "worker-4"]).await?;
        Ok(())
    }

    /// What goes wrong, and what is done in order.
    async fn acts(
        &mut self,
        duration: Duration,
        interrupted: &CancellationToken,
        probe: &Probe,
    ) -> anyhow::Result<()> {
        let at = |part: f64| self.began + duration.mul_f64(part);
        let times = [0.15, 0.3, 0.45, 0.6, 0.75, 1.0].map(at);
        for (act, time) in times.into_iter().enumerate() {
            if !self.watch_until(time, interrupted).await? {
                self.view.event("interrupted: taking stock");
                return Ok(());
            }
            match act {
                0 => self.kill_a_collector().await?,
                1 => self.kill_a_worker().await?,
                2 => self.kill_the_leader(probe).await?,
                3 => self.add_two_workers().await?,
                4 => self.drain_a_worker().await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn kill_a_collector(&mut self) -> anyhow::Result<()> {
        self.view.event("collector-2 is killed (SIGKILL)");
        self.cast.kill("collector-2").await?;
        self.observer.settled(LOGS, &["collector-1", "collector-3"]).await?;
        self.view.event("its sources are with the others");
        Ok(())
    }

    async fn kill_a_worker(&mut self) -> anyhow::Result<()> {
        let before = self.observer.look_at(MAIL).await?;
        self.view.event("worker-2 is killed (SIGKILL)");
        self.cast.kill("worker-2").await?;
        let after = self.settle(&["worker-1", "worker-3", "worker-4"]).await?;
        self.charge(&before, &after);
        Ok(())
    }

    async fn kill_the_leader(&mut self, probe: &Probe) -> anyhow::Result<()> {
        let leader = self.leader().await?;
        let name = format!("coordinator-{leader}");
        self.view.event(format!("{name}, the leader, is killed (SIGKILL)"));
        let killed_at = Instant::now();
        self.cast.kill(&name).await?;
        self.watch_until(killed_at + GAP_WINDOW, &CancellationToken::new()).await?;
        let gap = probe.longest_gap_since(killed_at);
        self.account.leader_gap_ms = u64::try_from(gap.as_millis()).ok();
        self.view.event(format!("no write was acknowledged for {} ms", gap.as_millis()));
        self.cast.start_coordinator(leader)?;
        self.view.event(format!("{name} starts again, and catches up"));
        Ok(())
    }

    async fn add_two_workers(&mut self) -> anyhow::Result<()> {
        for (name, all) in [
            ("worker-5", &["worker-1", "worker-3", "worker-4", "worker-5"][..]),
            ("worker-6", &["worker-1", "worker-3", "worker-4", "worker-5", "worker-6"][..]),
        ] {
            let before = self.observer.look_at(MAIL).await?;
            self.view.event(format!("{name} joins"));
            self.cast.start_worker(name)?;
            let after = self.settle(all).await?;
            self.charge(&before, &after);
        }
        Ok(())
    }

    async fn drain_a_worker(&mut self) -> anyhow::Result<()> {
        let before = self.observer.look_at(MAIL).await?;
        self.view.event("worker-3 is drained");
        let path = Client::path(["v1", "pools", MAIL, "members", "worker-3", "drain"]);
        let _: serde_json::Value =
            self.client.request(Method::POST, &path, None::<&()>, &[], Idempotency::Safe).await?;
        let after = self.settle(&["worker-1", "worker-4", "worker-5", "worker-6"]).await?;
        self.charge(&before, &after);
        Ok(())
    }

    /// The end: what was written must have been collected.
    async fn close(&mut self) -> anyhow::Result<Account> {
        self.view.event("the application stops writing; the rest is collected");
        let written = self.application.written();
        let written = written.lock().expect("no code panics while it holds this").clone();
        let targets = self.inputs.targets(&self.out)?;
        let application_out = self.out.join(APP).join(HOST).join(FILE);
        let deadline = Instant::now() + COLLECT_TIMEOUT;
        loop {
            let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
            let application_done = size(&application_out) >= written.len() as u64;
            if application_done && targets.iter().all(Target::is_whole) {
                break;
            }
            if Instant::now() > deadline {
                let missing = targets.iter().filter(|target| !target.is_whole()).map(Target::name);
                let missing = missing.collect::<Vec<_>>().join(", ");
                self.account.faults.push(format!("not everything was collected in time: {missing}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for name in self.cast.fallen() {
            let words = self.cast.last_words(&name);
            self.account.faults.push(format!("{name} ended by itself:\n{words}"));
        }
        // From here on nothing is written: what is doubled now stays doubled.
        self.cast.dismiss().await;
        let collected = std::fs::read(&application_out).unwrap_or_default();
        self.account.lines.add(Lines::compare(&written, &collected));
        self.account.files = 1;
        for target in &targets {
            if let Some(lines) = target.compare()? {
                self.account.files += 1;
                self.account.lines.add(lines);
            }
        }
        self.judge_owners()?;
        self.account.moves = self.cost.moves;
        self.account.moves_lower_bound = self.cost.lower_bound;
        Ok(std::mem::take(&mut self.account))
    }

    fn judge_owners(&mut self) -> anyhow::Result<()> {
        let mut tenures = Tenures::default();
        let workers = (1..=6).map(|n| format!("worker-{n}"));
        for name in workers.chain((1..=3).map(|n| format!("collector-{n}"))) {
            tenures.read(&self.cast.history(&name), self.cast.killed.get(&name).copied())?;
        }
        if tenures.members().is_empty() {
            self.account.faults.push("no worker left a record of its work".to_owned());
        }
        self.account.two_owners = tenures.with_two_owners();
        if let Some(killed_at) = self.cast.killed.get("worker-2") {
            self.account.worker_takeover_ms = tenures.takeover_ms("worker-2", *killed_at);
        }
        self.account.drain_idle_ms = tenures.longest_idle_after_ms("worker-3");
        Ok(())
    }

    /// Shows the cluster until `time`. False if it was interrupted.
    async fn watch_until(&mut self, time: Instant, interrupted: &CancellationToken) -> anyhow::Result<bool> {
        while Instant::now() < time {
            if interrupted.is_cancelled() {
                return Ok(false);
            }
            // Nobody may lead just now: the next look shows more.
            if let Ok(sight) = self.observer.look().await {
                self.view.update(sight);
            }
            if let Some(name) = self.cast.fallen().first() {
                bail!("{name} has ended by itself:\n{}", self.cast.last_words(name));
            }
            let next = (Instant::now() + LOOK_PERIOD).min(time);
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = interrupted.cancelled() => {}
            }
        }
        Ok(!interrupted.is_cancelled())
    }

    async fn settle(&mut self, workers: &[&str]) -> anyhow::Result<PoolSight> {
        let sight = self.observer.settled(MAIL, workers).await?;
        if let Ok(all) = self.observer.look().await {
            self.view.update(all);
        }
        Ok(sight)
    }

    fn charge(&mut self, before: &PoolSight, after: &PoolSight) {
        let cost = after.cost_since(before);
        self.view.event(format!("{} buckets moved; the fewest possible: {}", cost.moves, cost.lower_bound));
        self.cost += cost;
    }

    async fn leader(&self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let cluster: Result<Cluster, _> =
                self.client.with_deadline(Duration::from_secs(1)).get("/v1/cluster").await;
            if let Ok(Cluster { leader: Some(leader), .. }) = cluster {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                bail!("no leader was elected:\n{}", self.cast.last_words("coordinator-1"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
