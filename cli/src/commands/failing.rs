//! Work that stands still: buckets of which their owners report failures. A part of
//! `rota status`.

use rota_client::{Client, ClientError};
use rota_protocol::http::{Code, FAILED, MemberBody, PoolBody};
use serde::Serialize;

use crate::output::{count, printable};

/// Most failing buckets of one pool that are shown.
const SHOWN_MAX: usize = 5;

/// The failing buckets of one pool.
#[derive(Debug, Serialize)]
pub(crate) struct FailingWork {
    pool: String,
    /// How many there are.
    count: usize,
    /// The first of them, by bucket.
    buckets: Vec<FailingBucket>,
}

/// A bucket whose owner reports no progress, but a failure.
#[derive(Debug, Serialize)]
struct FailingBucket {
    bucket: String,
    member: String,
    /// What the member reported last.
    reason: String,
}

/// The failing buckets of each pool that has any.
///
/// # Errors
/// When no server answers.
pub(crate) async fn failing_work(
    client: &Client,
    pools: &[PoolBody],
) -> Result<Vec<FailingWork>, ClientError> {
    let mut failing = Vec::new();
    for pool in pools.iter().filter(|pool| pool.members > 0) {
        match client.get::<Vec<MemberBody>>(&Client::path(["v1", "pools", &pool.name, "members"])).await {
            Ok(members) => failing.extend(FailingWork::of(&pool.name, &members)),
            // It was deleted just now.
            Err(error) if error.code() == Some(Code::NoPool) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(failing)
}

impl FailingWork {
    /// `None` if no work of the pool fails.
    fn of(pool: &str, members: &[MemberBody]) -> Option<Self> {
        let mut buckets: Vec<FailingBucket> = Vec::new();
        for member in members {
            let failed = member.progress.iter().filter_map(|(b, said)| Some((b, said.strip_prefix(FAILED)?)));
            buckets.extend(failed.map(|(bucket, reason)| FailingBucket {
                bucket: bucket.clone(),
                member: member.name.clone(),
                reason: reason.to_owned(),
            }));
        }
        buckets.sort_by(|a, b| (&a.bucket, &a.member).cmp(&(&b.bucket, &b.member)));
        let count = buckets.len();
        buckets.truncate(SHOWN_MAX);
        (count > 0).then(|| Self { pool: pool.to_owned(), count, buckets })
    }

    /// The same as a problem for people. Members may report anything, so it is
    /// escaped.
    pub(crate) fn problem(&self) -> String {
        let Self { pool, count: number, buckets } = self;
        let mut text = format!("pool {pool}: work fails on {}", count(*number as u64, "bucket"));
        for FailingBucket { bucket, member, reason } in buckets {
            text += &format!("\n  {} ({}): {}", printable(bucket), printable(member), printable(reason));
        }
        if *number > buckets.len() {
            text +=
                &format!("\n  and {} more: rota --output json member list {pool}", number - buckets.len());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, progress: &[(String, &str)]) -> MemberBody {
        let progress: std::collections::BTreeMap<_, _> = progress.iter().cloned().collect();
        let member = serde_json::json!({
            "name": name, "address": "", "weight": 1, "zone": "", "labels": {}, "joined": 1, "session": null,
            "buckets": 1, "primaries": 1, "progress": progress,
        });
        serde_json::from_value(member).unwrap()
    }

    #[test]
    fn work_that_fails_is_a_problem_with_its_reason() {
        let healthy = ("a@h:x.log".to_owned(), "incarnation 1 offset 2 behind 0");
        assert!(FailingWork::of("logs", &[member("k1", std::slice::from_ref(&healthy))]).is_none());
        let failed = ("a@h:y.log".to_owned(), "failed: /out/y.log: No space left on device\n\u{1b}[31m");
        let failing = FailingWork::of("logs", &[member("k1", &[healthy]), member("k2", &[failed])]).unwrap();
        let wanted = "pool logs: work fails on 1 bucket\n  a@h:y.log (k2): /out/y.log: No space left on device\\n\\u{1b}[31m";
        assert_eq!(failing.problem(), wanted);
    }

    #[test]
    fn many_of_them_are_counted() {
        let progress: Vec<_> = (0..9).map(|n| (format!("b{n}"), "failed: disk full")).collect();
        let text = FailingWork::of("logs", &[member("k1", &progress)]).unwrap().problem();
        assert!(text.starts_with("pool logs: work fails on 9 buckets\n  b0 (k1): disk full\n"), "{text}");
        assert!(text.ends_with("and 4 more: rota --output json member list logs"), "{text}");
    }
}
