//! Writers that write down what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rota_protocol::http::{NodeCreate, NodeSet};
use rota_worker::monotonic_ns;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::call::{Call, Http, Outcome};
use crate::eventually::eventually;

/// What writers were told, and what they tried.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Nodes whose creation was acknowledged, with their data.
    pub acknowledged: BTreeMap<String, String>,
    /// Nodes whose creation was tried, with their data; of those above, too.
    pub tried: BTreeMap<String, String>,
    /// Nodes whose data only ever grows, each written by one writer.
    pub marks: BTreeMap<String, Mark>,
    /// When something was acknowledged, in nanoseconds of `CLOCK_MONOTONIC`.
    pub times_ns: Vec<u64>,
}

impl Record {
    /// The longest time after `since_ns` in which nothing was acknowledged to
    /// anybody.
    #[must_use]
    pub fn longest_silence(&self, since_ns: u64) -> Duration {
        let mut times: Vec<u64> = self.times_ns.iter().copied().filter(|at| *at >= since_ns).collect();
        times.push(since_ns);
        times.sort_unstable();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_nanos(gaps.max().unwrap_or(u64::MAX))
    }
}

/// The number in a node that one writer sets again and again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    /// The last one that was acknowledged.
    pub acknowledged: u64,
    /// The last one that was tried.
    pub tried: u64,
}

/// Writers at work, until they are stopped.
#[derive(Debug)]
pub struct Load {
    writers: JoinSet<()>,
    stop: CancellationToken,
    record: Arc<Mutex<Record>>,
}

impl Load {
    /// Lets writers begin: `per_server` of them at each of `servers`, below the
    /// node `root`, which must exist and have no children.
    ///
    /// Each creates nodes of its own, one after the other, and after each sets a
    /// number in a node of its own, larger each time.
    #[must_use]
    pub fn begin(root: &str, servers: &[String], per_server: usize) -> Self {
        let mut load =
            Self { writers: JoinSet::new(), stop: CancellationToken::new(), record: Arc::default() };
        for (at, server) in servers.iter().enumerate() {
            for of_server in 0..per_server {
                let writer = Writer {
                    http: Http::default(),
                    server: server.clone(),
                    prefix: format!("{root}/s{at}w{of_server}"),
                    record: Arc::clone(&load.record),
                };
                load.writers.spawn(writer.run(load.stop.clone()));
            }
        }
        load
    }

    /// How many writes were acknowledged after `since_ns`.
    #[must_use]
    pub fn acknowledged_since(&self, since_ns: u64) -> usize {
        let record = self.record.lock().expect("writers do not panic");
        record.times_ns.iter().filter(|at| **at > since_ns).count()
    }

    /// Waits until `count` writes were acknowledged after `since_ns`.
    pub async fn acknowledges(&self, count: usize, since_ns: u64, within: Duration) {
        eventually(&format!("{count} writes are acknowledged"), within, async || {
            let done = self.acknowledged_since(since_ns);
            anyhow::ensure!(done >= count, "{done} of {count} writes were acknowledged");
            Ok(())
        })
        .await;
    }

    /// Has the writers stop, each after the request that is under way.
    pub async fn stop(mut self) -> Record {
        self.stop.cancel();
        while let Some(ended) = self.writers.join_next().await {
            ended.expect("writers do not panic");
        }
        std::mem::take(&mut *self.record.lock().expect("writers do not panic"))
    }
}

struct Writer {
    http: Http,
    server: String,
    prefix: String,
    record: Arc<Mutex<Record>>,
}

impl Writer {
    async fn run(self, stop: CancellationToken) {
        let mark = format!("{}-mark", self.prefix);
        let mut mark_exists = false;
        let mut number = 0;
        while !stop.is_cancelled() {
            number += 1;
            if !self.create(&format!("{}-{number}", self.prefix), number).await {
                self.http.until_there(&self.server, &stop).await;
                continue;
            }
            if !mark_exists {
                mark_exists = self.create(&mark, 0).await;
            } else {
                self.set(&mark, number).await;
            }
        }
    }

    fn note(&self, take: impl FnOnce(&mut Record)) {
        take(&mut self.record.lock().expect("writers do not panic"));
    }

    async fn create(&self, path: &str, number: u64) -> bool {
        let data = match path.ends_with("-mark") {
            true => "0".to_owned(),
            false => format!("{path} has {number}"),
        };
        self.note(|record| drop(record.tried.insert(path.to_owned(), data.clone())));
        let body = NodeCreate { data: data.clone(), ..NodeCreate::default() };
        let done = self.write(Call::post(&format!("/v1/nodes{path}"), &body)).await;
        if done {
            self.note(|record| drop(record.acknowledged.insert(path.to_owned(), data)));
        }
        done
    }

    async fn set(&self, mark: &str, number: u64) {
        self.note(|record| record.marks.entry(mark.to_owned()).or_default().tried = number);
        let body = NodeSet { data: number.to_string(), ..NodeSet::default() };
        if self.write(Call::put(&format!("/v1/nodes{mark}"), &body)).await {
            self.note(|record| record.marks.entry(mark.to_owned()).or_default().acknowledged = number);
        }
    }

    async fn write(&self, call: Call) -> bool {
        let done = matches!(self.http.write(&self.server, call).await, Outcome::Done(_));
        if done {
            self.note(|record| record.times_ns.push(monotonic_ns()));
        }
        done
    }
}
