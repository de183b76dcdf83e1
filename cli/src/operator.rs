//! What the operator's commands have in common: whom they ask, in whose name,
//! and how the answers are shown.

use std::time::Duration;

use clap::Args;
use http::Method;
use rota_client::{Client, ClientError, Idempotency};
use rota_protocol::http::HEADER_SESSION;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Global;
use crate::output::{Body, Output};

/// A cluster, and the form of its answers.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) client: Client,
    pub(crate) deadline: Duration,
    pub(crate) output: Output,
    headers: Vec<(&'static str, String)>,
}

/// How a read is made.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Reading {
    /// See every write that was acknowledged before: asks the leader. Without
    /// it, a server answers from what it has.
    #[arg(long)]
    consistent: bool,
}

impl Reading {
    /// The read's parameter.
    pub(crate) fn param(self) -> (&'static str, Option<String>) {
        ("consistent", self.consistent.then(|| "true".to_owned()))
    }
}

impl Operator {
    pub(crate) fn new(global: &Global) -> anyhow::Result<Self> {
        let client = crate::commands::client(global)?.with_refused_deadline(global.refused_deadline());
        let output = Output { format: global.output };
        Ok(Self { client, deadline: global.deadline(), output, headers: Vec::new() })
    }

    /// The same, asking in the name of a session: `ID:PASSWORD`.
    pub(crate) fn in_session(&self, credentials: Option<String>) -> Self {
        let headers = credentials.map(|credentials| (HEADER_SESSION, credentials));
        Self { headers: headers.into_iter().collect(), ..self.clone() }
    }

    /// The same, for what a coordinator may need so long to answer. Looking for one takes no longer
    /// for that.
    pub(crate) fn patient(&self, answer_time: Duration) -> Self {
        Self { client: self.client.with_answer_time(answer_time), ..self.clone() }
    }

    /// Reads.
    pub(crate) async fn get(&self, path: &str) -> Result<Body, ClientError> {
        self.ask(Method::GET, path, None::<&()>, Idempotency::Safe).await
    }

    /// Reads, and shows what came.
    pub(crate) async fn show<T: DeserializeOwned>(
        &self,
        path: &str,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        self.output.body(&self.get(path).await?, render)
    }

    /// Makes any request.
    pub(crate) async fn ask<B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        repeat: Idempotency,
    ) -> Result<Body, ClientError> {
        self.client.request(method, path, body, &self.headers, repeat).await
    }
}
