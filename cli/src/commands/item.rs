//! `rota item`: what makes the buckets of a named pool exist.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{ItemBody, ItemCreate};

use super::pool::AffinityArgs;
use super::worker::label;
use crate::operator::{Operator, Reading};
use crate::output::{Table, labels};

/// Items: in a named pool, there is one bucket for each.
#[derive(Debug, Subcommand)]
pub(crate) enum ItemCommand {
    /// List a pool's items.
    #[command(after_help = "Example:\n  rota item list logs")]
    List {
        /// The pool.
        pool: String,
        #[command(flatten)]
        reading: Reading,
    },
    /// Add an item that stays until it is removed, or replace one.
    #[command(
        after_help = "Example:\n  rota item add logs app1:access --address 10.0.0.7:7730 --label app=shop"
    )]
    Add {
        /// The pool.
        pool: String,
        /// The item's name; its bucket has the same.
        name: String,
        /// Where its owner reaches it.
        #[arg(long, default_value = "")]
        address: String,
        /// Anything else that is known of it: KEY=VALUE, more than once.
        #[arg(long = "label", value_parser = label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
        /// How much work it is, relative to the other items'.
        #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
        weight: u32,
        #[command(flatten)]
        affinity: AffinityArgs,
    },
    /// Remove an item. Its bucket goes when its owner has let go of it.
    #[command(after_help = "Example:\n  rota item remove logs app1:access")]
    Remove {
        /// The pool.
        pool: String,
        /// The item.
        name: String,
    },
}

pub(crate) async fn run(operator: &Operator, command: ItemCommand) -> anyhow::Result<ExitCode> {
    match command {
        ItemCommand::List { pool, reading } => {
            let path = Client::query(&path(&pool), [reading.param()]);
            operator.show(&path, |items: &Vec<ItemBody>| table(items)).await?;
        }
        ItemCommand::Add { pool, name, address, labels, weight, affinity } => {
            let (labels, (require, prefer)) = (labels.into_iter().collect(), affinity.labels());
            let item =
                ItemCreate { name, address, labels, require, prefer, weight: Some(weight), persistent: true };
            let body = operator.ask(Method::POST, &path(&pool), Some(&item), Idempotency::Safe).await?;
            operator.output.body(&body, |item: &ItemBody| table(std::slice::from_ref(item)))?;
        }
        ItemCommand::Remove { pool, name } => {
            let path = Client::path(["v1", "pools", &pool, "items", &name]);
            let body = operator.ask(Method::DELETE, &path, None::<&()>, Idempotency::Unsafe).await?;
            operator.output.done(&body, &format!("item {name} of pool {pool} is removed"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(pool: &str) -> String {
    Client::path(["v1", "pools", pool, "items"])
}

fn table(items: &[ItemBody]) -> String {
    let row = |item: &ItemBody| [item.name.clone(), item.item.address.clone(), labels(&item.item.labels)];
    Table::new(["ITEM", "ADDRESS", "LABELS"], items.iter().map(row)).to_string()
}
