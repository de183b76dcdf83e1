//! `rota table owner`: who owns a key, asked of the coordinators or, while they
//! are away, of the copy of the table on disk.

use std::path::Path;
use std::process::ExitCode;

use rota_client::{Client, ClientError, Source, Table, TableCache};
use rota_protocol::http::{Code, ErrorBody, OwnerOfKey};
use serde::Serialize;

use super::owner_names;
use crate::operator::Operator;
use crate::output::{Fact, facts, say};

/// Asks the coordinators.
pub(super) async fn from_coordinator(
    operator: &Operator,
    pool: &str,
    key: String,
) -> anyhow::Result<ExitCode> {
    let path = Client::query(&Client::path(["v1", "pools", pool, "owner"]), [("key", Some(key))]);
    let body = operator.get(&path).await?;
    operator.output.body(&body, |owner| facts(owner_facts(owner)))?;
    Ok(verdict(&body.parse()?))
}

/// The API's body, and where it is from.
#[derive(Debug, Serialize)]
struct CachedOwner {
    #[serde(flatten)]
    owner: OwnerOfKey,
    source: &'static str,
    /// How long ago a coordinator confirmed it.
    age_ms: u64,
}

/// Asks the coordinators for the whole table and keeps it in `directory`; when
/// none answers, answers from there.
pub(super) async fn from_cache(
    operator: &Operator,
    pool: &str,
    key: &str,
    directory: &Path,
) -> anyhow::Result<ExitCode> {
    let cache = TableCache::open(operator.client.clone(), pool, Some(directory)).await?;
    let (table, source) = (cache.snapshot(), cache.source());
    let owner = look_up(&table, pool, key).map_err(ClientError::Refused)?;
    let age_ms = u64::try_from(source.age().as_millis()).unwrap_or(u64::MAX);
    let name = match source {
        Source::Coordinator { .. } => "coordinator",
        Source::Disk { .. } => "disk",
    };
    let cached = CachedOwner { owner, source: name, age_ms };
    operator.output.document(&cached, |cached| {
        let source = [("source", cached.source.to_owned()), ("confirmed", format!("{} ago", age(age_ms)))];
        facts([owner_facts(&cached.owner).as_slice(), &source].concat())
    })?;
    if matches!(source, Source::Disk { .. }) {
        let (place, age) = (directory.display(), age(age_ms));
        say(&format!("no coordinator answers: this is from the copy in {place}, confirmed {age} ago"));
    }
    Ok(verdict(&cached.owner))
}

/// What a coordinator would answer that had this table.
fn look_up(table: &Table, pool: &str, key: &str) -> Result<OwnerOfKey, ErrorBody> {
    let named = || {
        let message = format!("pool {pool:?} is named: its buckets are its items, not hashes of keys");
        ErrorBody::new(Code::BadRequest, message)
    };
    let bucket = table.bucket_of_key(key.as_bytes()).ok_or_else(named)?;
    let no_bucket =
        || ErrorBody::new(Code::NoBucket, format!("pool {pool:?} has no bucket {:?}", bucket.as_str()));
    let row = table.rows.get(&bucket).ok_or_else(no_bucket)?.clone();
    let address = row.owners.first().and_then(|owner| table.addresses.get(&owner.member)).cloned();
    Ok(OwnerOfKey { key: key.to_owned(), version: table.version, row, address })
}

/// A time that has passed, to two places of its unit.
fn age(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

fn owner_facts(owner: &OwnerOfKey) -> [Fact; 6] {
    [
        ("key", owner.key.clone()),
        ("bucket", owner.row.bucket.clone()),
        ("owner", owner_names(&owner.row)),
        ("address", owner.address.clone().unwrap_or_default()),
        ("fence", owner.row.fence.to_string()),
        ("table version", owner.version.to_string()),
    ]
}

/// Nobody is an answer, and it is no.
fn verdict(owner: &OwnerOfKey) -> ExitCode {
    if !owner.row.owners.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("nobody owns the key: bucket {} is vacant", owner.row.bucket));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;
    use rota_core::pool::{Bucket, Owner};
    use rota_protocol::http::RowBody;

    #[test]
    fn a_copy_answers_as_a_coordinator_would() {
        let owners = vec![Owner::new("w1", 2)];
        let row = RowBody { bucket: "0".into(), owners, fence: 9, version: 1, ..RowBody::default() };
        let table = Table {
            version: 9,
            hashed: Some(1),
            rows: [(Bucket::number(0), row)].into(),
            addresses: [("w1".to_owned(), "h:1".to_owned())].into(),
        };
        let owner = look_up(&table, "mail", "alice").unwrap();
        assert_eq!((owner.row.fence, owner.address.as_deref()), (9, Some("h:1")));
        let named = Table { hashed: None, ..table.clone() };
        assert_eq!(look_up(&named, "logs", "alice").unwrap_err().code, Code::BadRequest);
        let empty = Table { rows: [].into(), ..table };
        assert_eq!(look_up(&empty, "mail", "alice").unwrap_err().code, Code::NoBucket);
    }

    #[test]
    fn ages_for_people() {
        assert_eq!(
            [age(5), age(1540), age(61_000), age(7_260_000)],
            ["5 ms", "1.5 s", "1 min 1 s", "2 h 1 min"]
        );
    }
}
