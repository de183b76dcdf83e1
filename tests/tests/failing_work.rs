//! Work that fails is in `rota status` for as long as it fails, and no longer: also
//! that of commands which never report progress.

use std::time::Duration;

use anyhow::ensure;
use rota_tests::{Cluster, Process, eventually};

/// A worker that recovers is taken for healthy after ten seconds.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_is_shown_until_it_has_recovered() {
    let cluster = Cluster::start(1).await;
    let made = cluster.operate(&["pool", "create", "p", "--buckets", "1"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let marker = cluster.dir().join("has-failed").display().to_string();
    // It fails until somebody helps, and never reports progress.
    let command = format!("test -e '{marker}' || exit 7; exec sleep 1000");
    let servers = cluster.addresses().join(",");
    let args = ["--servers", &servers, "worker", "--pool", "p", "--name", "w", "--exec", &command];
    let _worker = Process::start(args, &cluster.dir().join("worker.log"));
    let said = eventually("the failure is shown", LONG, async || {
        let ran = cluster.operate(&["status"]).await;
        ensure!(ran.err.contains("work fails on 1 bucket"), "{ran:?}");
        Ok(ran)
    })
    .await;
    said.failed(&["pool p: work fails on 1 bucket", "(w)", "7"]);
    std::fs::write(&marker, "").unwrap();
    eventually("nothing is shown any more", LONG, async || {
        let ran = cluster.operate(&["status"]).await;
        ensure!(ran.code == Some(0), "{ran:?}");
        Ok(())
    })
    .await;
}
