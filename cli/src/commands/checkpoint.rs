//! `rota checkpoint`: the positions that travel with the buckets.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use rota_client::{Client, Idempotency};
use rota_protocol::http::{CheckpointBody, CheckpointPut, Encoding};

use crate::operator::{Operator, Reading};
use crate::output::say;

/// Checkpoints: positions that travel with the buckets.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Write a bucket's checkpoint to standard output.
    #[command(after_help = "Example:\n  rota checkpoint get mail 17")]
    Get {
        /// The pool.
        pool: String,
        /// The bucket.
        bucket: String,
        #[command(flatten)]
        reading: Reading,
    },
    /// Delete the checkpoint of a bucket that nobody works on now: of an item that is
    /// gone for good, or to have the work on it begin anew.
    #[command(after_help = "Example:\n  rota checkpoint delete logs nginx@web1:access.log")]
    Delete {
        /// The pool.
        pool: String,
        /// The bucket.
        bucket: String,
    },
    /// Write a bucket's checkpoint, as its owner: refused once the grant has ended.
    #[command(after_help = "Example:\n  rota checkpoint put mail 17 --fence 4711 'uid 8123'")]
    Put {
        /// The pool.
        pool: String,
        /// The bucket.
        bucket: String,
        /// The fence of the owner's grant: `rota table row` shows it.
        #[arg(long)]
        fence: u64,
        /// The position, in whatever form the work has.
        #[arg(allow_hyphen_values = true)]
        data: String,
    },
}

pub(crate) async fn run(operator: &Operator, command: CheckpointCommand) -> anyhow::Result<ExitCode> {
    match command {
        CheckpointCommand::Get { pool, bucket, reading } => {
            let path = Client::query(&path(&pool, &bucket), [reading.param()]);
            operator.show(&path, |found: &CheckpointBody| format!("{}\n", found.data)).await?;
        }
        CheckpointCommand::Delete { pool, bucket } => {
            let body =
                operator.ask(Method::DELETE, &path(&pool, &bucket), None::<&()>, Idempotency::Unsafe).await?;
            operator.output.done(&body, &format!("the checkpoint of bucket {bucket} is deleted"))?;
        }
        CheckpointCommand::Put { pool, bucket, fence, data } => {
            let put = CheckpointPut { fence, data, replaces: None, encoding: Encoding::Utf8 };
            // Written twice, it is the same; and a grant that ended is refused either way.
            let body =
                operator.ask(Method::PUT, &path(&pool, &bucket), Some(&put), Idempotency::Safe).await?;
            operator.output.body(&body, |_: &CheckpointBody| String::new())?;
            let written: CheckpointBody = body.parse()?;
            say(&format!("the checkpoint of bucket {bucket} is written (zxid {})", written.zxid));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(pool: &str, bucket: &str) -> String {
    Client::path(["v1", "pools", pool, "checkpoints", bucket])
}
