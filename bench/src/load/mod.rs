//! Load, from a process of its own: few threads, raw frames, answers counted as they
//! come. What this costs is measured and told with the rest.

mod codec;
mod connection;
mod etcd;
mod http;
mod record;
mod zookeeper;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::scheduler::cpu;
pub use codec::{Ask, Codec};
use connection::Script;
pub use etcd::Frames;
use record::Record;
pub use record::Report;

/// What a system speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// ZooKeeper's.
    Zookeeper,
    /// gRPC, as etcd's.
    Etcd,
    /// Rota's HTTP API.
    Http,
}

/// What is asked over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// New data for a key that is there.
    Set,
    /// A new key.
    Create,
    /// The data of a key.
    Get,
    /// Nine gets, then a set.
    Mix,
    /// New data for ten keys at once.
    Multi,
}

/// A value as it is written on a command line.
pub fn flag(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Keys that one multi changes.
const MULTI: u64 = 10;

/// How often it is told how much is done.
const TELL_PERIOD: Duration = Duration::from_millis(100);

/// Drive load at servers that run. Prints `ready`, `begin`, how much is `done`, and then
/// the report as JSON.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// What the servers speak.
    #[arg(long, value_enum)]
    pub protocol: Protocol,
    /// Where they serve: HOST:PORT, separated by commas. Connections are spread over them.
    #[arg(long, value_delimiter = ',', required = true)]
    pub servers: Vec<String>,
    /// What is asked. `lone` of compare is set, with one connection and one outstanding.
    #[arg(long, value_enum)]
    pub operation: Operation,
    /// Connections in all.
    #[arg(long, default_value_t = 20)]
    pub connections: u64,
    /// Requests of one connection that wait for their answers.
    #[arg(long, default_value_t = 16)]
    pub outstanding: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Keys that are there before it begins.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Whether they are there already. Otherwise they are made.
    #[arg(long)]
    pub filled: bool,
    /// How long it is measured, in seconds. An interrupt (SIGINT) ends it before.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// How long it runs before that, in seconds.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub warm_up: Duration,
    /// Distinguishes the keys of one run from those of another.
    #[arg(long, default_value_t = 0)]
    pub run: u64,
}

/// A number of seconds: `5`, `0.3`.
pub fn seconds(text: &str) -> anyhow::Result<Duration> {
    let number: f64 = text.parse().with_context(|| format!("{text:?} is no number of seconds"))?;
    Ok(Duration::try_from_secs_f64(number)?)
}

/// Runs it in this process, on one thread.
pub fn run(load: &Load) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match load.protocol {
            Protocol::Zookeeper => drive::<zookeeper::Frames>(load).await,
            Protocol::Etcd => drive::<Frames>(load).await,
            Protocol::Http => drive::<http::Requests>(load).await,
        }
    })
}

async fn drive<C: Codec + 'static>(load: &Load) -> anyhow::Result<()> {
    connection::fill::<C>(load).await.context("filling the servers")?;
    say("ready")?;
    let record = std::rc::Rc::new(Record::default());
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..load.connections {
        let script = Script::new(load, number);
        connections.spawn_local(connection::run::<C>(
            load.servers.clone(),
            script,
            std::rc::Rc::clone(&record),
        ));
    }
    tokio::time::sleep(load.warm_up).await;
    let own = std::process::id();
    let cpu_before = cpu(own)?;
    record.begin();
    say("begin")?;
    let began = Instant::now();
    let mut telling = tokio::time::interval(TELL_PERIOD);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(began + load.seconds) => break,
            told = &mut interrupted => break told?,
            _ = telling.tick() => say(&format!("done {}", record.total()))?,
            Some(ended) = connections.join_next() => bail!("a connection ended: {ended:?}"),
        }
    }
    let took = began.elapsed();
    let report = record.report(took, cpu(own)?.saturating_sub(cpu_before))?;
    say(&serde_json::to_string(&report)?)
}

/// For the process that started this one.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
