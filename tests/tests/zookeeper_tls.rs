//! Clients of ZooKeeper over TLS: who they are is in their certificate.

use std::path::Path;
use std::time::Duration;

use rota_tests::{Certificates, Cluster, Process, Settings, python};

/// Longer than it takes a client to give up.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_says_who_a_client_is() {
    let cluster = Cluster::start_with(3, Settings { tls: true, ..Settings::default() }).await;
    let files = cluster.certificates().unwrap();
    let mut command = python();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kazoo/tls.py"));
    command.args([cluster.zookeeper_tls_all(), cluster.zookeeper_all()]);
    command.args([&files.authority, &files.client, &files.client_key]).arg(Certificates::CLIENT);
    let mut client = Process::spawn(command, &cluster.dir().join("client.log"));
    let status = client.ended(PATIENCE).await;
    let said = client.said();
    assert!(status.success(), "{said}");
    assert_eq!(said.matches("ok ").count(), 3, "{said}");
}
