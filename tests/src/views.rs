//! What the servers of a cluster say of it: who leads, and how far they are.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rota_protocol::http::{Cluster as View, Code, OpenSession, SessionOpened};

use crate::call::Call;
use crate::cluster::{Cluster, LIVENESS};
use crate::eventually::eventually;

/// How long a server may take to say who leads before it is passed over: a
/// paused one would keep us waiting.
const LOOK: Duration = Duration::from_millis(500);

impl Cluster {
    /// The cluster as one server sees it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn view(&self, id: u64) -> anyhow::Result<View> {
        self.send(id, Call::get("/v1/cluster")).await?.ok()
    }

    /// The leader: the server that says so of itself, in the latest term.
    pub async fn leader(&self) -> u64 {
        eventually("a server leads", LIVENESS, async || self.leader_now().await.context("none leads")).await
    }

    /// The leader other than `old`.
    pub async fn leader_after(&self, old: u64) -> u64 {
        eventually("another server leads", LIVENESS, async || match self.leader_now().await {
            Some(leader) if leader != old => Ok(leader),
            other => bail!("{other:?} leads"),
        })
        .await
    }

    /// The server that says of itself that it leads, if one does.
    pub async fn leader_now(&self) -> Option<u64> {
        let mut leader = None;
        for id in self.ids() {
            if let Ok(Ok(view)) = tokio::time::timeout(LOOK, self.view(id)).await
                && view.leader == Some(id)
            {
                leader = leader.max(Some((view.term, id)));
            }
        }
        leader.map(|(_, id)| id)
    }

    /// Waits until every server that was started follows one leader.
    pub async fn all_follow_one_leader(&self) -> u64 {
        eventually("all servers follow one leader", LIVENESS, async || {
            let mut leaders = Vec::new();
            for id in self.started() {
                leaders.push(self.view(id).await?.leader);
            }
            leaders.dedup();
            match leaders[..] {
                [Some(leader)] => Ok(leader),
                _ => bail!("they follow {leaders:?}"),
            }
        })
        .await
    }

    /// Waits until a session of that timeout has ended that nobody kept alive: whoever
    /// gave no sign of life since this was called is gone too.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn outlasts(&self, timeout: Duration) {
        let timeout_ms = Some(u32::try_from(timeout.as_millis()).expect("tests are short"));
        // A server that is being stopped may still have said that it leads.
        let (asked, session): (u64, SessionOpened) =
            eventually("a session is opened", LIVENESS, async || {
                let leader = self.leader_now().await.context("none leads")?;
                let open = self.send(leader, Call::post("/v1/sessions", &OpenSession { timeout_ms }));
                Ok((leader, tokio::time::timeout(LOOK, open).await??.ok()?))
            })
            .await;
        let path = format!("/v1/sessions/{}", session.session);
        eventually("a session that nobody keeps alive ends", timeout + LIVENESS, async || {
            let shown = self.send(asked, Call::get(&path)).await?;
            ensure!(shown.code() == Some(Code::SessionExpired), "{}", shown.text());
            Ok(())
        })
        .await;
    }

    /// Waits until these servers have applied the same last write, and makes
    /// sure that their states are the same then. Returns the digest.
    pub async fn agree(&self, ids: &[u64]) -> String {
        eventually("the servers are at the same write", LIVENESS, async || {
            let mut points = Vec::new();
            for id in ids {
                let view = self.view(*id).await?;
                points.push((view.zxid, view.digest));
            }
            let (zxid, digest) = points[0].clone();
            ensure!(points.iter().all(|(z, _)| *z == zxid), "they are at {points:?}");
            assert!(points.iter().all(|(_, d)| *d == digest), "states differ: {points:?}");
            Ok(digest)
        })
        .await
    }
}
